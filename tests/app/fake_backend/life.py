"""What one stand-in keeps while it runs: how slow it is, the newest request of each canvas, and its jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Life:
    delay: float
    """What one picture "costs", in seconds."""
    newest: dict[str, int] = field(default_factory=dict)
    running: dict[str, dict] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
