"""The b = 1 atoms that share a block's manifold among them, drawn inside the block.

A featurizer of single directions, trained on the same activations with as many numbers (G b atoms, k b active), tends
to tile a manifold: each atom fires on a patch of it (Bhalla et al. 2604.28119 call that shattering; Fel et al.
2606.25234, fig. 1). With F the orthonormal basis of a block's frame and u an atom's unit direction,

    inside      ‖F u‖, the length of the atom inside the block
    share       Σ (z ‖F u‖)² over the block's firings, of the sum over all atoms
    along       mean of |z| ‖F u‖ in equal bins of the block's coordinate t
    arrow       the mean contribution of the atom inside the block, on the axes of the block's cloud

Atoms are listed by share; those of less than one in a hundred, or mostly outside (inside < 0.3), are left out. The
control is the share itself: a direction that fires anywhere has a flat ``along``. Not covered: atoms that fire where
the block is silent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.core.errors import Invalid
from backend.featurizers.browser import BlockBrowser
from backend.featurizers.featurizer import Featurizer

FOLDER = "atoms"
"""Where a block featurizer's folder keeps its companion of single directions."""
N_ATOMS, N_BINS = 12, 24


@torch.no_grad()
def write_atoms(folder: Path, atoms: Featurizer, x: Tensor, *, n: int = N_ATOMS,
                progress: Callable[[float, str], None] | None = None) -> Path:  # fmt: skip
    """Write ``atoms.json`` beside the atlas in ``folder``: of raw ``x`` (n, T, d), the atoms inside every block.

    Raises ``Invalid`` for atoms of more than one dimension, or of another width.
    """
    featurizer, browser = Featurizer.from_pretrained(folder), BlockBrowser(folder)
    if atoms.d_block != 1 or atoms.d_in != featurizer.d_in:
        raise Invalid(f"The atoms inside the blocks of {folder.name} were asked for.",
                      f"They have {atoms.d_block} dimensions and read width {atoms.d_in}; the blocks read "
                      f"{featurizer.d_in}.", "Give a featurizer with d_block 1 of the same activations.")  # fmt: skip
    tell = progress or (lambda fraction, message: None)
    rows = featurizer.normalise(x.float()).flatten(0, 1)
    own = atoms.normalise(x.float()).flatten(0, 1)
    picked = featurizer.select(rows)
    fired = atoms.select(own)
    # Codes of the atoms are in units of their own scale.
    size = float(featurizer.scale / atoms.scale)
    direction = atoms.frames()[:, 0] * size
    found: dict[str, list[dict]] = {}
    listed = [b.index for b in browser.blocks().blocks]
    for number, block in enumerate(listed):
        if number % 16 == 0:
            tell(number / max(len(listed), 1), f"block {block}")
        row, slot = ((picked.block == block) & (picked.code.square().sum(-1) > 0)).nonzero(as_tuple=True)
        axes = browser.axes(block)
        if not len(row) or axes is None:
            continue
        t = browser.coordinates(block, picked.code[row, slot].numpy())
        frame = featurizer.frames()[block]
        # The code that explains a direction best: exact where the frame is orthonormal.
        inside = direction @ torch.linalg.pinv(frame)
        basis = torch.linalg.qr(frame.T).Q
        length = (direction @ basis).norm(dim=1)
        atom, code = fired.block[row], fired.code[row][..., 0]
        put = (code * length[atom]).abs() * (code != 0)
        energy = torch.zeros(atoms.n_blocks).index_add_(0, atom.flatten(), put.square().flatten())
        times = torch.zeros(atoms.n_blocks).index_add_(0, atom.flatten(), (put > 0).float().flatten())
        signed = torch.zeros(atoms.n_blocks).index_add_(0, atom.flatten(), code.flatten())
        share = energy / energy.sum().clamp_min(1e-12)
        unit = length / direction.norm(dim=1).clamp_min(1e-12)
        order = [a for a in share.argsort(descending=True)[: 4 * n].tolist() if share[a] >= 0.01 and unit[a] >= 0.3]
        bins = (t * N_BINS).astype(int).clip(0, N_BINS - 1)
        count = np.maximum(np.bincount(bins, minlength=N_BINS), 1)
        along = {a: np.bincount(bins, ((atom == a) * put).sum(1).numpy(), N_BINS) / count for a in order[:n]}
        top = max((float(v.max()) for v in along.values()), default=1.0) or 1.0
        found[str(block)] = [{
            "atom": a, "inside": round(float(unit[a]), 4), "share": round(float(share[a]), 4),
            "firing_rate": round(float(times[a]) / len(row), 4),
            "arrow": [round(float(v), 4) for v in
                      axes.place(float(signed[a] / times[a].clamp_min(1)) * inside[a].numpy())],
            "along": [round(float(v) / top, 4) for v in curve],
        } for a, curve in along.items()]  # fmt: skip
    path = folder / "atoms.json"
    about = {"featurizer": f"{atoms.n_blocks} directions, {atoms.k} active", "blocks": found}
    path.write_text(json.dumps(about, separators=(",", ":")) + "\n")
    tell(1.0, "done")
    return path
