"""The ESM pieces: frame canvas, manifold pad, film-strip, rotatable space, distribution bars, head board.

Each is a dependency-free module beside its Python class. They talk to Python by messages, not by parameter changes,
because a message skips the 50 ms that Panel waits before it reacts to a changed parameter.
"""

from app.components.bars import DistributionBars
from app.components.board import HeadBoard
from app.components.frames import FrameCanvas
from app.components.pad import ManifoldPad
from app.components.space import SpaceView
from app.components.strip import FilmStrip

__all__ = ["DistributionBars", "FilmStrip", "FrameCanvas", "HeadBoard", "ManifoldPad", "SpaceView"]
