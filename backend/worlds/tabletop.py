"""The tabletop world: one lit object on a table, with exact ground truth for everything that varies.

Factors, each a tensor of length n:

    shape            0..5, an index into SHAPES
    hue              radians, uniform on the circle (0 is red, 2 pi / 3 green)
    size             height scale in table units
    x, y             place on the table; x to the right, y away from the camera
    yaw              radians, uniform on the circle; each object wears a pale band on one side so yaw is a full cycle
    light_azimuth    radians, uniform on the circle; where the light comes from, 0 right, pi / 2 from behind
    light_elevation  radians above the table
    shadow_area      (from the render) share of the visible table that lies in shadow
    luminance        (from the render) mean relative luminance, linear light, 0 to 1

All are independent of each other, so whatever a model entangles it entangled by itself. Not covered: several
objects, camera motion, textures.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from backend.core.errors import Corrupt, Invalid, NotFound
from backend.core.settings import atlas_home
from backend.worlds import tabletop_geometry, tabletop_render
from backend.worlds.tabletop_captions import HUE_NAMES, caption, hue_of_name, nearest_hue_name
from backend.worlds.tabletop_geometry import SHAPES
from backend.worlds.tabletop_render import Rendered, render

__all__ = [
    "CYCLIC", "FACTORS", "HUE_NAMES", "RANGES", "SHAPES", "Rendered", "caption", "contact_sheet", "dataset_folder",
    "hue_of_name", "load_rendered", "nearest_hue_name", "render", "render_dataset", "rendered",
    "sample_factors", "version",
]  # fmt: skip

FACTORS: tuple[str, ...] = ("shape", "hue", "size", "x", "y", "yaw", "light_azimuth", "light_elevation")
DERIVED: tuple[str, ...] = ("shadow_area", "luminance")
CYCLIC: tuple[str, ...] = ("hue", "yaw", "light_azimuth")
RANGES: dict[str, tuple[float, float]] = {
    "hue": (0.0, 2 * math.pi),
    "size": (0.75, 1.15),
    "x": (-0.5, 0.5),
    "y": (-0.45, 0.45),
    "yaw": (0.0, 2 * math.pi),
    "light_azimuth": (0.0, 2 * math.pi),
    "light_elevation": (math.radians(28), math.radians(58)),
}


def sample_factors(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw ``n`` scenes: shape uniform over SHAPES, everything else uniform over its ``RANGES``."""
    factors = {"shape": torch.randint(len(SHAPES), (n,), generator=generator)}
    for name, (low, high) in RANGES.items():
        factors[name] = low + (high - low) * torch.rand(n, generator=generator)
    return factors


def version() -> str:
    """Digest of every constant that shapes a picture: two sets with the same digest, seed and n are the same."""
    parts = [RANGES, SHAPES]
    for module in (tabletop_geometry, tabletop_render):
        parts.append({k: v for k, v in vars(module).items() if k.isupper() and isinstance(v, (int, float, tuple))})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def dataset_folder(split: str) -> Path:
    """Where a rendered split lies: ``ATLAS_HOME/worlds/tabletop-SPLIT``."""
    return atlas_home() / "worlds" / f"tabletop-{split}"


def render_dataset(folder: Path, n: int, seed: int, *, batch: int = 240, size: int = 128) -> Path:
    """Render ``n`` scenes into ``folder`` (images.npy, factors.safetensors, meta.json), going on where it stopped.

    Scenes come in batches drawn from ``(seed, batch number)``, so a longer set begins with the shorter one. Raises
    ``Invalid`` where the folder holds another seed, size or version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"world": "tabletop", "seed": seed, "n": n, "size": size, "batch": batch, "version": version(), "written": 0}
    path = folder / "meta.json"
    factors = {name: np.zeros(n, np.int64 if name == "shape" else np.float32) for name in (*FACTORS, *DERIVED)}
    if path.exists():
        old = json.loads(path.read_text())
        if {k: v for k, v in old.items() if k != "written"} != {k: v for k, v in meta.items() if k != "written"}:
            raise Invalid(f"{n} scenes of seed {seed} were asked for in {folder}.", f"It holds {old}.",
                          "Choose another folder or remove this one.")  # fmt: skip
        meta = old
        factors = load_file(folder / "factors.safetensors")
    mode = "r+" if meta["written"] else "w+"
    images = np.lib.format.open_memmap(folder / "images.npy", mode, np.uint8, (n, size, size, 3))
    bar = tqdm(total=n, initial=meta["written"], desc=folder.name, unit="scene", mininterval=5.0)
    while meta["written"] < n:
        start = meta["written"]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start // batch)
        drawn = sample_factors(batch, generator)
        stop = min(start + batch, n)
        done = render({k: v[: stop - start] for k, v in drawn.items()}, size=size)
        images[start:stop] = done.images.numpy()
        images.flush()
        for name, values in done.factors.items():
            factors[name][start:stop] = values.numpy()
        meta["written"] = stop
        save_file(factors, folder / "factors.safetensors.new")
        os.replace(folder / "factors.safetensors.new", folder / "factors.safetensors")
        (folder / "meta.json.new").write_text(json.dumps(meta, indent=1))
        os.replace(folder / "meta.json.new", path)
        bar.update(stop - start)
    bar.close()
    return folder


def load_rendered(folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """``(images, factors)`` of a rendered set: images (n, size, size, 3) uint8 memory-mapped, as many as are written.

    A set still being rendered can be read. Raises ``NotFound`` where there is none, ``Corrupt`` where files disagree.
    """
    if not (folder / "meta.json").exists():
        raise NotFound(f"The rendered set in {folder} was asked for.", "It holds no meta.json.",
                       "Render it first with render_dataset.")  # fmt: skip
    written = json.loads((folder / "meta.json").read_text())["written"]
    images = np.load(folder / "images.npy", mmap_mode="r")
    factors = load_file(folder / "factors.safetensors")
    if len(images) < written or any(len(v) != len(images) for v in factors.values()):
        raise Corrupt(f"The rendered set in {folder} was read.", "Its images and factors differ in length.",
                      "Remove the folder and render it again.")  # fmt: skip
    return images[:written], {k: v[:written] for k, v in factors.items()}


STANDARD: dict[str, tuple[int, int]] = {"train": (20_000, 1), "test": (2_000, 2)}
"""Scenes and seed of the two splits that every recipe and study uses."""


def rendered(split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """``load_rendered`` of a standard split, rendering first what is missing (about 20 ms a scene on one core)."""
    folder = dataset_folder(split)
    if not (folder / "meta.json").exists() or len(load_rendered(folder)[0]) < STANDARD[split][0]:
        render_dataset(folder, *STANDARD[split])
    return load_rendered(folder)


def contact_sheet(n: int, seed: int, *, columns: int = 8, size: int = 128, gap: int = 4) -> Image.Image:
    """``n`` sampled scenes side by side."""
    images = render(sample_factors(n, torch.Generator().manual_seed(seed)), size=size).images.numpy()
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (size + gap) + gap, columns * (size + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (size + gap), gap + i % columns * (size + gap)
        sheet[top : top + size, left : left + size] = image
    return Image.fromarray(sheet)


if __name__ == "__main__":
    import sys

    split, count, chosen = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    render_dataset(dataset_folder(split), count, chosen)
