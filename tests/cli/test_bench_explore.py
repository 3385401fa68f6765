"""The bench of the explore pages at toy size: what it plants is what the atlas shows, and the server is measured."""

from __future__ import annotations

import numpy as np
import pytest

from backend.cli import bench_explore
from backend.cli.bench_explore import CLOUD, KINDS, NAME, Setting
from backend.featurizers.browser import BlockBrowser

TOY = Setting(n_blocks=24, k=4, d=16, n_pictures=40, positions=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bench_explore.make(TOY, tmp_path_factory.mktemp("home"))


def test_the_atlas_holds_what_was_planted(folder):
    browser = BlockBrowser(folder)
    blocks = browser.blocks().blocks
    assert len(blocks) > 16 and {b.topology for b in blocks} <= set(KINDS)
    assert "ring" in {b.topology for b in blocks} and all(b.graph_xy for b in blocks)
    always = next(b for b in blocks if b.index == 0)
    assert always.firing_rate > 0.9, "block 0 is the one with a point a position"
    header, body = browser.cloud(0)
    assert header.n > 0.9 * 40 * 9 and len(body) == 2 * header.n * (3 + len(header.columns))


def test_it_is_made_once(folder):
    before = (folder / "browse.json").stat().st_mtime_ns
    assert bench_explore.make(TOY, folder.parents[1]) == folder
    assert (folder / "browse.json").stat().st_mtime_ns == before


def test_dense_is_few_blocks_on_a_hundred_thousand_positions():
    dense = Setting().dense
    assert dense.name == CLOUD != NAME and dense.n_pictures * dense.positions >= 100_000 and dense.n_blocks < 100


def test_the_report_shows_what_was_measured():
    row = {"median": 1.25, "p90": 2.5, "first": 9.0, "bytes": 2048.0}
    table = bench_explore.report({"blocks": 4096, "server": {"map": row}, "browser": None})
    cells = [list(column.cells) for column in table.columns]
    assert table.title == "4,096 blocks" and [c[0] for c in cells] == ["server", "map", "1.2", "2.5", "9.0", "2.0"]


def test_planted_codes_have_their_kinds():
    rng = np.random.default_rng(0)
    block = np.array([[0], [1], [2]])
    codes = np.stack([bench_explore._codes(block, np.array([0, 1, 2]), {"hue": h, "light_azimuth": h, "size": 0.9}, 3,
                                           rng) for h in rng.uniform(0, 6.28, 400)])  # fmt: skip
    spread = codes[:, :, 0, :2].std(0)
    assert spread[0].min() > 1.0, "a ring fills two axes"
    assert spread[2].max() < 0.7, "a point none"
