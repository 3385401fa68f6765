"""What the image page asks for: its state, as the URL holds it, and the requests that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import param

from backend.wire.base import Arm
from backend.wire.canvas import CanvasRequest, FilmstripRequest, Steer
from backend.wire.capabilities import ManifoldInfo, ModelInfo

EXAMPLES = ("a red cube on a table", "a blue sphere", "a photo of a green cone", "a violet torus on a table")
STOPS = 12


class State(param.Parameterized):
    """What the URL holds."""

    prompt = param.String(default=EXAMPLES[0])
    seed = param.Integer(default=7, bounds=(0, 2**31 - 1))
    manifold = param.String(default="")
    t = param.Number(default=None, allow_None=True, bounds=(0.0, 1.0))
    strength = param.Number(default=None, allow_None=True, bounds=(0.0, 4.0))
    steps = param.Integer(default=0, bounds=(0, 50), doc="0: as many as the model likes best.")
    start = param.Number(default=0.0, bounds=(0.0, 1.0))
    stop = param.Number(default=1.0, bounds=(0.0, 1.0))
    arms = param.String(default="off,manifold,chord")
    also = param.String(default="", doc="A second manifold, and where on it.")
    also_t = param.Number(default=0.0, bounds=(0.0, 1.0))


class ImageRequests:
    """Requests of one page; ``manifolds`` and ``models`` are what the backend holds.

    ``sliding`` holds the values (``strength``, ``also_t``) of sliders that still move: the state, and with it the
    address and the browser's history, gets them when they are let go.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.sliding: dict[str, float] = {}
        self.manifolds: Mapping[str, ManifoldInfo] = {}
        self.models: Mapping[str, ModelInfo] = {}

    @property
    def info(self) -> ManifoldInfo | None:
        """The chosen manifold."""
        return self.manifolds.get(self.state.manifold)

    @property
    def strength(self) -> float:
        """How far along the way to the manifold's target; 1 is there."""
        strength = self.sliding.get("strength", self.state.strength)
        return 1.0 if strength is None else strength

    @property
    def key(self) -> tuple:
        """What a film-strip depends on: everything but the place on the manifold."""
        s = self.state
        return (s.prompt, s.seed, s.steps, s.manifold, s.strength, s.start, s.stop, s.also, s.also_t)

    def _shared(self) -> dict:
        s, info = self.state, self.info
        model = self.models.get(info.model) if info else next(iter(self.models.values()), None)
        if model is None:
            return {"prompt": s.prompt, "seed": s.seed}
        steps = s.steps or model.default_steps
        return {
            "model": model.name,
            "prompt": s.prompt,
            "seed": s.seed,
            "steps": steps,
            "guidance": model.default_guidance,
        }

    def _steer(self, t: float, t_from: float | None) -> list[Steer]:
        s, info = self.state, self.info
        if info is None:
            return []
        window = (s.start, s.stop)
        first = Steer(manifold=info.name, t=t, t_from=t_from, strength=self.strength, window=window)
        if s.also not in self.manifolds:
            return [first]
        return [first, Steer(manifold=s.also, t=self.sliding.get("also_t", s.also_t), window=window)]

    def canvas(
        self, t: float | None, shown: Sequence[Arm], *, preview: bool, landed: float | None, known: bool
    ) -> CanvasRequest:
        """Pictures of the ``shown`` arms at ``t``, or of the unsteered one alone where ``t`` is ``None``.

        ``landed`` is where the unsteered picture lies and ``known`` whether it is on the page already: a drag does not
        ask for it again, because it cannot change. Without ``t`` the manifold is named all the same, so that the
        reader says where on it the unsteered picture lies. Raises ``ValidationError`` for a prompt that is too long.
        """
        arms: list[Arm] = list(shown)
        if t is None or self.info is None:
            arms = ["off"]
        elif preview and known:
            arms = [a for a in arms if a != "off"] or ["off"]
        elif not known and "off" not in arms:
            arms = ["off", *arms]
        return CanvasRequest(seq=0, **self._shared(), steer=self._steer(t or 0.0, landed), arms=arms, preview=preview,
                             format="webp" if preview else "png")  # fmt: skip

    def filmstrip(self) -> FilmstripRequest:
        """Every stop of the manifold, the same in all else."""
        return FilmstripRequest(**self._shared(), stops=STOPS, format="webp", steer=self._steer(0.0, None))
