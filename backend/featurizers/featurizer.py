"""What every block-sparse featurizer is: a dictionary of G blocks of b rows, of which a few are active at a time.

    a = pre_codes(x)            (N, G, b)   a linear code of every block
    z = keep the k blocks of largest norm, zero the rest          (signed codes; Fel et al. 2606.25234, eq. 4)
    x_hat = sum over active g of z_g D_g                          (no decoder bias)

The only thing selection sees of a block is its norm, because turning a block's frame (z_g -> z_g Q', D_g -> Q D_g)
changes nothing else: the gauge freedom of sec. 2.3. With b = 1 this is a TopK sparse autoencoder with signed codes.

A featurizer carries the centring and scale of the activations it was trained on (``normalise``), so that raw
activations of its site can be given to it. Not covered: BatchTopK, thresholds that abstain (see group_lasso.py).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backend.activations.centring import Centring
from backend.core.errors import Corrupt, Invalid, NotFound

Aux = Literal["none", "next", "dead"]
"""Which blocks the auxiliary loss trains: none, the next k by norm (the paper), or the next k among dead ones."""

DEAD_AFTER = 200
"""Training steps without firing after which a block counts as dead."""


class Selection(NamedTuple):
    """The active blocks of each row: ``block`` (N, k) indices, ``code`` (N, k, b). A zero code is an inactive slot."""

    block: Tensor
    code: Tensor


class Featurizer(nn.Module):
    """Base of the featurizers; a subclass gives ``pre_codes``, ``frames``, ``initialise`` and its constraint.

    Parameters
    ----------
    d_in : width of the activations.
    n_blocks, d_block, k : G, b and the number of active blocks.
    aux : which blocks the AuxK loss trains (App. D of the paper; weight 1/k).
    """

    variant: ClassVar[str] = ""
    variants: ClassVar[dict[str, type[Featurizer]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Featurizer.variants[cls.variant] = cls

    def __init__(self, d_in: int, n_blocks: int, *, d_block: int, k: int, aux: Aux = "none") -> None:
        super().__init__()
        if not (1 <= k <= n_blocks and 1 <= d_block <= d_in):
            raise Invalid(f"A featurizer of {n_blocks} blocks of {d_block}, {k} active, on width {d_in} was asked for.",
                          "k must lie in 1..n_blocks and d_block in 1..d_in.", "Change these numbers.")  # fmt: skip
        self.d_in, self.n_blocks, self.d_block, self.k, self.aux = d_in, n_blocks, d_block, k, aux
        self.info: dict[str, Any] = {}
        # Placeholders of width 1 position; ``fit_centring`` replaces them.
        self.register_buffer("centre", torch.zeros(1, d_in))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("idle", torch.zeros(n_blocks, dtype=torch.long))

    # --- to be given by a subclass -------------------------------------------------------------------------------

    def pre_codes(self, x: Tensor) -> Tensor:
        """Linear code of every block before selection, ``(N, d) -> (N, G, b)``."""
        raise NotImplementedError

    def pre_code(self, x: Tensor, block: int) -> Tensor:
        """Linear code of one block, ``(N, d) -> (N, b)``; the same as ``pre_codes(x)[:, block]``, at its own price."""
        raise NotImplementedError

    def frames(self) -> Tensor:
        """The decoder's blocks, ``(G, b, d)``."""
        raise NotImplementedError

    def initialise(self, x: Tensor) -> None:
        """Set the scale of the codes from a first batch ``(N, d)`` so that the reconstruction is unbiased at step 0."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Restore the decoder's constraint after optimiser step number ``step``."""

    def finish(self) -> None:
        """Restore the decoder's constraint exactly, once training is over."""

    def own_config(self) -> dict[str, Any]:
        """What a subclass needs besides the five common numbers."""
        return {}

    # --- encode, decode, loss ------------------------------------------------------------------------------------

    def fit_centring(self, x: Tensor | Iterable[Tensor]) -> None:
        """Take centre (one mean per position) and scale from raw activations ``(n, T, d)``, so that E‖x‖² = d after it.

        A stream of such tensors is read in one pass. Raises ``Invalid`` for activations that do not vary.
        """
        centring = Centring.fit(x, per_token=True)
        self.centre = centring.mean
        self.scale = torch.tensor(1.0 / centring.scale)

    def normalise(self, x: Tensor) -> Tensor:
        """Raw activations ``(..., T, d)`` (or ``(..., d)`` where there is one centre) to what ``encode`` takes."""
        return (x - self.centre.squeeze(0) if len(self.centre) == 1 else x - self.centre) * self.scale

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of ``normalise``."""
        return x / self.scale + (self.centre.squeeze(0) if len(self.centre) == 1 else self.centre)

    def select(self, x: Tensor) -> Selection:
        """The active blocks of each row of ``x`` (N, d) and their codes."""
        return self._top(self.pre_codes(x), self.k)

    @staticmethod
    def _top(a: Tensor, k: int, *, barred: Tensor | None = None) -> Selection:
        norm = a.detach().square().sum(-1)
        if barred is not None:
            norm = norm.masked_fill(barred, -1.0)
        block = norm.topk(k, dim=1).indices
        # (N, k, b): gathered, so that the gradient reaches the selected codes only
        code = a.gather(1, block.unsqueeze(-1).expand(-1, -1, a.shape[-1]))
        return Selection(block, code)

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(N, G, b)`` of ``x`` (N, d): zero in every block that is not active."""
        picked = self.select(x)
        z = picked.code.new_zeros(len(x), self.n_blocks, self.d_block)
        return z.scatter(1, picked.block.unsqueeze(-1).expand_as(picked.code), picked.code)

    def decode(self, z: Tensor) -> Tensor:
        """Reconstruction ``(N, d)`` of dense codes ``(N, G, b)``."""
        return z.flatten(1) @ self.frames().flatten(0, 1)

    def decode_selection(self, picked: Selection) -> Tensor:
        """Reconstruction ``(N, d)`` from the selected blocks alone: sums k·b dictionary rows instead of G·b."""
        rows = picked.block.unsqueeze(-1) * self.d_block + torch.arange(self.d_block, device=picked.block.device)
        return F.embedding_bag(rows.flatten(1), self.frames().flatten(0, 1), mode="sum",
                               per_sample_weights=picked.code.flatten(1))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.decode_selection(self.select(x))

    def loss(self, x: Tensor, *, target: Tensor | None = None) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error per dimension of ``target`` (default ``x``), plus AuxK where it is on; and what to log."""
        target = x if target is None else target
        a = self.pre_codes(x)
        picked = self._top(a, self.k)
        residual = target - self.decode_selection(picked)
        loss = residual.square().mean()
        log = {"mse": loss.item()}
        if self.training:
            self._count_idle(picked)
        if self.aux != "none":
            extra = self._aux_loss(a, picked, residual.detach())
            loss = loss + extra / self.k
        return loss, log

    def _count_idle(self, picked: Selection) -> None:
        self.idle += 1
        self.idle[picked.block.flatten().unique()] = 0

    def _aux_loss(self, a: Tensor, picked: Selection, residual: Tensor) -> Tensor:
        barred = torch.zeros(a.shape[:2], dtype=torch.bool, device=a.device).scatter(1, picked.block, True)
        k = min(self.k, self.n_blocks - self.k)
        if self.aux == "dead":
            dead = self.idle > DEAD_AFTER
            k = min(k, int(dead.sum()))
            barred = barred | ~dead
        if k <= 0:
            return a.new_zeros(())
        # The residual is a constant here: dead blocks learn from it, living ones are not pulled by them.
        return (residual - self.decode_selection(self._top(a, k, barred=barred))).square().mean()

    def dead(self) -> Tensor:
        """Mask (G,) of the blocks that have not fired for ``DEAD_AFTER`` training steps."""
        return self.idle > DEAD_AFTER

    # --- on disk -------------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        return {
            "architecture": f"bsf-{self.variant}", "d_in": self.d_in, "n_blocks": self.n_blocks,
            "d_block": self.d_block, "k": self.k, "aux": self.aux, **self.own_config(), "info": self.info,
        }  # fmt: skip

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``cfg.json`` and ``featurizer.safetensors`` into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in self.state_dict().items() if k != "idle"}
        save_file(tensors, folder / "featurizer.safetensors")
        (folder / "cfg.json").write_text(json.dumps(self.config(), indent=1) + "\n")
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load any variant; raises ``NotFound`` without cfg.json, ``Corrupt`` where the files disagree."""
        folder = Path(folder)
        if not (folder / "cfg.json").exists():
            raise NotFound(f"A featurizer was to be loaded from {folder}.", "It holds no cfg.json.",
                           "Give a folder that save_pretrained wrote.")  # fmt: skip
        for name in ("grassmannian", "vanilla", "group_lasso"):
            importlib.import_module(f"backend.featurizers.{name}")
        try:
            cfg = json.loads((folder / "cfg.json").read_text())
            variant = cfg.pop("architecture").removeprefix("bsf-")
            info = cfg.pop("info", {})
            featurizer = Featurizer.variants[variant](cfg.pop("d_in"), cfg.pop("n_blocks"), **cfg)
            tensors = load_file(folder / "featurizer.safetensors")
            featurizer.centre = tensors["centre"]
            tensors["idle"] = featurizer.idle
            featurizer.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
            raise Corrupt(f"The featurizer in {folder} was to be loaded.", f"Its files do not agree: {error}.",
                          "Write it again with save_pretrained.") from error  # fmt: skip
        featurizer.info = info
        return featurizer.eval()


def unbiased_gain(x: Tensor, x_hat: Tensor) -> float:
    """The positive factor by which ``x_hat`` best explains ``x``: Σ⟨x, x_hat⟩ / Σ‖x_hat‖²."""
    return max(float((x * x_hat).sum() / x_hat.square().sum().clamp_min(1e-12)), 1e-4)
