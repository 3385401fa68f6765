"""How ``tabletop-dino-blocks`` and ``tabletop-sdxl-blocks`` are made: featurizers, their atlases, rings without labels.

    dino   patch tokens of one layer of ``tabletop-dino``                                     (64 × 192 a picture)
           (``dino-wide``: the same tokens, few wide blocks)
    sdxl   the update at an 8 × 8 site of ``tabletop-sdxl``'s UNet, on its own forward passes
           over noised latents of rendered scenes, at two sampler times                       (64 × 64 a picture)

A Grassmannian featurizer (Fel et al. 2606.25234) is trained on scenes of the train split. Rings are then looked for in
every block's codes without any label (``backend.manifolds.block_ring``). Only when they are found, the factors of
half of the held-out scenes name them, and those of the other half say how well the name fits. A ring of the UNet that
follows a cyclic factor becomes a steerable manifold (``hue-ring``), meant for the positions where its block is active.

``python -m backend.recipes.tabletop_blocks dino`` (or ``sdxl``): a few minutes of training, a few of atlas; with
``--atlas`` the atlas alone, of the featurizer that is there, and with ``--atoms`` its companion of single directions
(as many numbers, b = 1), with which the atlas shows what shatters each block. Not covered: choosing (G, b, k) by
description length.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.activations.harvest import slug
from backend.core.errors import NotFound
from backend.core.settings import assets_dir
from backend.featurizers import statistics
from backend.featurizers.atoms import FOLDER, write_atoms
from backend.featurizers.browse import BlockShape, Data, Layout, build_browse
from backend.featurizers.featurizer import Featurizer
from backend.featurizers.grassmannian import Grassmannian
from backend.featurizers.trainer import Quality, Run, Training, measure
from backend.featurizers.union import greedy_union
from backend.manifolds.block_ring import BlockRing, find_rings, shape_of_block
from backend.manifolds.turning import find_turns
from backend.models.adapter import Adapter
from backend.models.reader import FactorReader
from backend.models.registry import available, folder_of, load
from backend.recipes import gates, loop
from backend.recipes.tabletop_activations import TIMES, Factors, Images, read, scenes
from backend.recipes.tabletop_rings import Named, name_rings, save_rings
from backend.recipes.tabletop_spread import spread
from backend.worlds import tabletop


@dataclass(frozen=True)
class Plan:
    """One featurizer: where it reads, how large it is, how long it trains."""

    name: str
    model: str
    site: str
    title: str
    n_blocks: int
    d_block: int
    k: int
    training: Training
    n_train: int
    """Scenes of the train split."""
    n_atlas: int = 2000
    """Scenes of the test split, for quality, rings' names and the atlas."""


PLANS: dict[str, Plan] = {
    "dino": Plan("tabletop-dino-blocks", "tabletop-dino", "tabletop-dino/3#resid_post",
                 "Patches of the vision transformer", 192, 3, 6,
                 Training(steps=2500, batch=2048, lr=2e-3), n_train=5000),
    # Few wide blocks hold whole factors, many narrow ones shatter them (study lighting).
    "dino-wide": Plan("tabletop-dino-wide-blocks", "tabletop-dino", "tabletop-dino/3#resid_post",
                      "Patches of the vision transformer, wide blocks", 16, 8, 4,
                      Training(steps=2000, batch=2048, lr=2e-3), n_train=5000),
    "sdxl": Plan("tabletop-sdxl-blocks", "tabletop-sdxl", "tabletop-sdxl/up.1.2#update",
                 "Updates of the picture model", 24, 4, 3,
                 Training(steps=2000, batch=4096, lr=2e-3), n_train=4000),
}  # fmt: skip


def factor_table(table: statistics.CodeTable, factors: Factors, *, seed: int = 0) -> dict[str, dict]:
    """For every cyclic factor: held-out R² of the best single block, of the best union, and of all blocks together."""
    features, halves = statistics.pooled(table), statistics.Halves.draw(table.n, seed=seed)
    overlap = statistics.co_activation(table)
    out = {}
    for name in tabletop.CYCLIC:
        y = statistics.targets(factors[name], kind="cyclic")
        union = greedy_union(features, y, halves, overlap=overlap)
        out[name] = {"single": round(union.r2[0], 4), "union": round(union.best_r2, 4), "union_blocks": union.blocks,
                     "all": round(statistics.all_blocks_r2(features, y, halves), 4)}  # fmt: skip
    return out


def sample(featurizer: Featurizer, x: Tensor) -> Tensor:
    """Normalised activations of one scene in a few, ``(m, T, d)`` of ``x`` (n, T, d): enough for a shape."""
    return featurizer.normalise(x[:: max(1, len(x) * x.shape[1] // 120_000)])


def rings_in(featurizer: Featurizer, some: Tensor, *, seed: int = 0) -> dict[int, BlockRing]:
    """Rings and rings of directions on normalised ``some`` (m, T, d), by block; labels are not looked at."""
    turns = find_turns(featurizer, some, seed=seed)
    return {ring.block: ring for ring in (*turns, *find_rings(featurizer, some.flatten(0, 1), seed=seed))}


def write_atlas(featurizer: Featurizer, x: Tensor, images: Images, factors: Factors, texts: Sequence[str], *,
                out: Path, found: Mapping[int, BlockRing], manifolds: Mapping[int, str], layout: Layout | None = None,
                seed: int = 0) -> None:  # fmt: skip
    """Write the atlas of raw activations ``x`` (n, T, d), one row a scene, beside the featurizer in ``out``."""

    def shape_of(block: int, code: np.ndarray, rows: np.ndarray) -> BlockShape:
        # The ring that was found, and named, is the one that the atlas lays examples along.
        return found[block].shape if block in found else shape_of_block(code, rows)

    shown = {k: factors[k] for k in (*tabletop.FACTORS, *tabletop.DERIVED)}
    data = Data(x, images, shown, cyclic=tabletop.CYCLIC, names={"shape": tabletop.SHAPES}, captions=texts)
    build_browse(featurizer, data, out, shape_of=shape_of, manifolds=manifolds, layout=layout, seed=seed)


def remake_atlas(plan: Plan, adapter: Adapter, *, out: Path, train: tuple[Images, Factors],
                 held: tuple[Images, Factors], layout: Layout | None = None, seed: int = 0) -> None:  # fmt: skip
    """Write the atlas anew of the featurizer in ``out``, which ``make`` wrote from the same scenes."""
    featurizer = Featurizer.from_pretrained(out)
    card = json.loads((out / "card.json").read_text())
    saved = {ring["block"]: ring["manifold"] for ring in card["rings"] if ring["manifold"]}
    x = read(adapter, plan.site, *train, seed=seed, times=TIMES[:1])[0]
    found = rings_in(featurizer, sample(featurizer, x), seed=seed)
    x_held, texts, _ = read(adapter, plan.site, *held, seed=seed + 1, times=TIMES[:1])
    write_atlas(featurizer, x_held, *held, texts, out=out, found=found, manifolds=saved, layout=layout, seed=seed)


def make_atoms(plan: Plan, adapter: Adapter, *, out: Path, train: tuple[Images, Factors],
               held: tuple[Images, Factors], seed: int = 0, say: Callable[[str], None] = print) -> Path:  # fmt: skip
    """Train G·b single directions, k·b active, on the scenes of the featurizer in ``out``; write ``atoms.json`` there.

    Raises ``NotFound`` where ``out`` holds no featurizer or no atlas.
    """
    blocks = Featurizer.from_pretrained(out)
    x = read(adapter, plan.site, *train, seed=seed)[0]
    atoms = Grassmannian(x.shape[-1], blocks.n_blocks * blocks.d_block, d_block=1, k=blocks.k * blocks.d_block,
                         aux="dead", generator=torch.Generator().manual_seed(seed))  # fmt: skip
    atoms.fit_centring(iter(x.split(256)))
    run = Run(atoms, x, training=plan.training)
    work = f"{plan.name}+atoms+{slug(plan.site)}+{adapter.revision[:8]}+{atoms.n_blocks}k{atoms.k}"
    loop.run(work, plan.training.steps, modules=run.modules, optimizer=run.optimizer, step=run.step)
    run.finish()
    x_held = read(adapter, plan.site, *held, seed=seed + 1, times=TIMES[:1])[0]
    quality = measure(atoms, atoms.normalise(x_held).flatten(0, 1))
    say(f"{plan.name}: {atoms.n_blocks} directions, held-out R2 {quality.r2:.3f}; looking into the blocks")
    atoms.info = {"name": f"{plan.name} atoms", "model": plan.model, "site": plan.site, "r2": round(quality.r2, 4)}
    atoms.save_pretrained(out / FOLDER)
    return write_atoms(out, atoms, x_held)


def make(plan: Plan, adapter: Adapter, *, out: Path, manifolds: Path, train: tuple[Images, Factors],
         held: tuple[Images, Factors], reader: FactorReader | None = None, seed: int = 0,
         layout: Layout | None = None, say: Callable[[str], None] = print) -> dict:  # fmt: skip
    """Harvest, train, look for rings, name them, write featurizer, atlas and manifolds; returns the card.

    With a ``reader`` of pictures, a named ring is fitted at the sites that move its factor, else it stays in its block.
    """
    say(f"{plan.name}: reading {len(train[0])} scenes at {plan.site}")
    x, _, rows_each = read(adapter, plan.site, *train, seed=seed)
    # Of each scene the least noisy time: for shapes, and for the atlas.
    first = slice(0, None, rows_each)
    featurizer = Grassmannian(x.shape[-1], plan.n_blocks, d_block=plan.d_block, k=plan.k, aux="dead",
                              generator=torch.Generator().manual_seed(seed))  # fmt: skip
    featurizer.fit_centring(iter(x.split(256)))
    run = Run(featurizer, x, training=plan.training)
    # A checkpoint of another site, model or size must not be taken for this one's.
    work = f"{plan.name}+{slug(plan.site)}+{adapter.revision[:8]}+{plan.n_blocks}x{plan.d_block}k{plan.k}"
    seconds = loop.run(work, plan.training.steps, modules=run.modules, optimizer=run.optimizer, step=run.step)
    run.finish()
    x_held, texts, _ = read(adapter, plan.site, *held, seed=seed + 1)
    factors = {k: np.repeat(v, rows_each) for k, v in held[1].items()}
    factors["row"] = np.repeat(np.arange(len(held[0])), rows_each)
    quality = measure(featurizer, featurizer.normalise(x_held).flatten(0, 1))
    say(f"{plan.name}: held-out R2 {quality.r2:.3f}, dead {quality.dead:.3f}; looking for rings")
    some = sample(featurizer, x[first])
    found = rings_in(featurizer, some, seed=seed)
    named = name_rings(featurizer, list(found.values()), x_held, factors, seed=seed)
    saved: dict[int, str] = {}
    if adapter.kind == "image":
        fit = reader and partial(spread, featurizer, adapter=adapter, reader=reader, site=plan.site,
                                 progress=lambda share, words: say(f"{share:.2f} {words}"))  # fmt: skip
        saved = save_rings(featurizer, named, some.flatten(0, 1), model=plan.model, site=plan.site, name=plan.name,
                           folder=manifolds, fit=fit)  # fmt: skip
    table = statistics.read_codes(featurizer, x_held[first])
    card = write_card(plan, featurizer, quality, named, factor_table(table, held[1], seed=seed), saved, seconds, out)
    write_atlas(featurizer, x_held[first], *held, texts, out=out, found=found, manifolds=saved, layout=layout,
                seed=seed)  # fmt: skip
    return card


def write_card(plan: Plan, featurizer: Grassmannian, quality: Quality, named: Sequence[Named], held: dict[str, dict],
               saved: dict[int, str], seconds: float, out: Path) -> dict:  # fmt: skip
    """Write the featurizer with its ``card.json`` and ``README.md``."""
    target = next((key for key, known in PLANS.items() if known.name == plan.name), "")
    command = f"manifold-atlas train tabletop-blocks {target}"
    rings = [{
        "block": n.ring.block, "factor": n.factor, "follows": n.follows,
        "confidence": round(n.ring.evidence.confidence, 3),
        "antipodal": round(n.ring.evidence.antipodal, 3), "correlation": round(n.name.correlation, 3),
        "median_error_deg": round(float(np.degrees(n.name.median_error)), 1), "manifold": saved.get(n.ring.block),
    } for n in named]  # fmt: skip
    featurizer.info = {
        "name": plan.name, "title": plan.title, "model": plan.model, "site": plan.site, "r2": round(quality.r2, 4),
        "dead": round(quality.dead, 4), "description": f"Grassmannian featurizer of {plan.site}.",
    }  # fmt: skip
    featurizer.save_pretrained(out)
    card = {
        "name": plan.name, "kind": "featurizer", "title": plan.title, "model": plan.model, "site": plan.site,
        "variant": featurizer.variant, "n_blocks": plan.n_blocks, "d_block": plan.d_block, "k": plan.k,
        "steps": plan.training.steps, "seconds": round(seconds, 1), "n_train": plan.n_train, "n_rings": len(named),
        "frame_error": featurizer.frame_error(),
        "quality": {"r2": round(quality.r2, 4), "dead": round(quality.dead, 4)},
        "gates": [gates.at_least("held-out R²", quality.r2, 0.8)], "rings": rings, "factors": held, "command": command,
        "licence": "same as the project",
    }  # fmt: skip
    card = gates.write(out, card)
    lines = "\n".join(f"| {f} | {v['single']:.2f} | {v['union']:.2f} ({', '.join(map(str, v['union_blocks']))}) | "
                      f"{v['all']:.2f} |" for f, v in held.items())  # fmt: skip
    found = "\n".join(
        f"- block {r['block']}: {'follows' if r['follows'] else 'does not follow'} {r['factor']} (circular correlation "
        f"{r['correlation']:.2f}, median error {r['median_error_deg']:.0f}°, mirror symmetry {r['antipodal']:.2f})"
        for r in rings
    )
    (out / "README.md").write_text(f"""# {plan.name}

A Grassmannian block-sparse featurizer ({plan.n_blocks} blocks of {plan.d_block}, {plan.k} active) of `{plan.site}`,
trained for {seconds:.0f} s on {plan.n_train} scenes. Held-out R² {quality.r2:.3f}; {quality.dead:.1%} of the blocks
never fire. Re-create it with `{command}`.

## What is held of the cyclic factors

Ridge from the blocks' codes pooled over positions to sine and cosine; blocks are chosen on one half of the held-out
scenes, R² is of the other half.

| factor | best block | best union (blocks) | all blocks |
|---|---|---|---|
{lines}

## Rings found without labels

{found or "None: no block's codes have a ridge around a hole that Gaussians of their spectrum lack."}
""")
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", choices=[*PLANS, []], help="dino, sdxl; else those whose model is there")
    parser.add_argument("--site", default=None, help="read another site of the same model")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--scenes", type=int, default=None, help="scenes to train on")
    parser.add_argument("--out", type=Path, default=None, help="folder of the featurizer; rings go to OUT/manifolds")
    parser.add_argument("--atlas", action="store_true", help="only write the atlas anew, of what is there")
    parser.add_argument("--atoms", action="store_true", help="only train b = 1 atoms beside it, for what is there")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    which = args.which or [w for w, plan in PLANS.items() if plan.model in available()]
    if not which:
        raise NotFound("The block featurizers were asked for.", "Neither tabletop-dino nor tabletop-sdxl is there.",
                       "Make them first: manifold-atlas train tabletop-dino.")  # fmt: skip
    for target in which:
        plan = PLANS[target]
        training = replace(plan.training, steps=args.steps or plan.training.steps, seed=args.seed)
        plan = replace(plan, site=args.site or plan.site, n_train=args.scenes or plan.n_train, training=training)
        out = args.out or assets_dir() / "featurizers" / plan.name
        manifolds = args.out / "manifolds" if args.out else assets_dir() / "manifolds"
        adapter = load(plan.model)
        both = {"train": scenes("train", plan.n_train, seed=args.seed), "held": scenes("test", plan.n_atlas)}
        if args.atlas:
            remake_atlas(plan, adapter, out=out, seed=args.seed, **both)
            continue
        if args.atoms:
            print(make_atoms(plan, adapter, out=out, seed=args.seed, **both))
            continue
        folder = folder_of("tabletop-reader") if adapter.kind == "image" else None
        reader = None if folder is None else FactorReader.from_pretrained(folder).eval()
        card = make(plan, adapter, out=out, manifolds=manifolds, seed=args.seed, reader=reader, **both)
        print(json.dumps({k: card[k] for k in ("name", "quality", "factors", "rings")}, indent=1))


if __name__ == "__main__":
    main()
