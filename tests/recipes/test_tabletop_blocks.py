"""The recipe of the block featurizers, end to end on random tiny models: what it reads, writes and refuses to claim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from backend.featurizers import statistics
from backend.featurizers.browse import Layout
from backend.featurizers.browser import BlockBrowser
from backend.featurizers.featurizer import Featurizer
from backend.featurizers.trainer import Training
from backend.recipes import tabletop_blocks as recipe
from backend.server.disk_shelves import FeaturizerShelf
from backend.worlds import tabletop


def test_made_end_to_end(sdxl, pictures, home, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "block_map", lambda overlap, seed=0: np.zeros((len(overlap), 2)))
    monkeypatch.setenv("ATLAS_ASSETS", str(tmp_path))
    plan = replace(recipe.PLANS["sdxl"], n_blocks=12, k=3, training=Training(steps=21, batch=128))
    out = tmp_path / "featurizers" / plan.name
    card = recipe.make(plan, sdxl, out=out, manifolds=tmp_path / "manifolds", train=pictures, held=pictures,
                       layout=Layout(n_pool=20, n_cloud=40, min_fired=20), say=lambda text: None)  # fmt: skip
    featurizer = Featurizer.from_pretrained(out)
    assert featurizer.frame_error() < 1e-5 and featurizer.centre.shape == (64, 64)
    assert card["quality"]["r2"] > 0 and set(card["factors"]) == set(tabletop.CYCLIC)
    assert not any(ring["follows"] for ring in card["rings"]), "24 scenes of a random model name no ring"
    blocks = BlockBrowser(out).blocks()
    assert blocks.blocks and blocks.factors == [*tabletop.FACTORS, *tabletop.DERIVED]
    detail, body = BlockBrowser(out).detail(blocks.blocks[0].index)
    assert detail.examples and len(body) > 0
    infos, skipped = FeaturizerShelf().infos()
    assert [i.name for i in infos] == [plan.name] and infos[0].site == plan.site and not skipped
    # The atlas alone, from what lies there, is the same.
    atlas = (out / "browse.json").read_text()
    (out / "browse.json").unlink()
    recipe.remake_atlas(plan, sdxl, out=out, train=pictures, held=pictures,
                        layout=Layout(n_pool=20, n_cloud=40, min_fired=20))  # fmt: skip
    assert (out / "browse.json").read_text() == atlas
    # A second call finds the training done and gives the same featurizer.
    recipe.make(plan, sdxl, out=tmp_path / "again", manifolds=tmp_path / "manifolds", train=pictures, held=pictures,
                layout=Layout(n_pool=20, n_cloud=40, min_fired=20), say=lambda text: None)  # fmt: skip
    assert torch.allclose(Featurizer.from_pretrained(tmp_path / "again").frame, featurizer.frame, atol=1e-6)
