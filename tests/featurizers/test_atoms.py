"""The b = 1 atoms inside a block: planted wedges of a ring are found in their places."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from backend.core.errors import Invalid
from backend.featurizers import statistics
from backend.featurizers.atoms import write_atoms
from backend.featurizers.browse import BlockShape, Data, Layout, build_browse
from backend.featurizers.browser import BlockBrowser
from backend.featurizers.grassmannian import Grassmannian


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """One block with a ring in it; six atoms in its plane that each take a third of a turn, two that lie outside."""
    patch = pytest.MonkeyPatch()
    patch.setattr(statistics, "block_map", lambda overlap, seed=0: np.zeros((len(overlap), 2)))
    generator = torch.Generator().manual_seed(0)
    n, d = 500, 12
    angle = 2 * torch.pi * torch.rand(n, generator=generator)
    model = Grassmannian(d, 3, d_block=2, k=1, generator=generator)
    plane = model.frame[0].detach()
    x = (torch.stack([angle.cos(), angle.sin()], 1) @ plane)[:, None] * 3
    x = x + 0.02 * torch.randn(n, 1, d, generator=generator)
    model.fit_centring(x)
    model.initialise(model.normalise(x).flatten(0, 1))
    folder = tmp_path_factory.mktemp("featurizers") / "planted"
    data = Data(x, np.zeros((n, 8, 8, 3), np.uint8), {"hue": angle.numpy()}, cyclic=("hue",))

    def shape(block, code, rows):
        return BlockShape("ring", 0.1, lambda z: np.arctan2(z[:, 1], z[:, 0]) / (2 * np.pi) % 1.0)

    build_browse(model, data, folder, shape_of=shape, layout=Layout(n_cloud=500, n_pool=50, thumbnail=8, min_fired=20))
    model.save_pretrained(folder)
    atoms = Grassmannian(d, 8, d_block=1, k=1, generator=generator)
    turn = 2 * torch.pi * torch.arange(6) / 6
    with torch.no_grad():
        # Directions are signed: three lines would do; six half lines share them by the sign of noise, so turn by 30°.
        atoms.frame[:6, 0] = torch.stack([(turn / 2).cos(), (turn / 2).sin()], 1) @ plane
        outside = torch.linalg.svd(model.frame.flatten(0, 1)[:2]).Vh[-2:]
        atoms.frame[6:, 0] = outside
    atoms.fit_centring(x)
    atoms.initialise(atoms.normalise(x).flatten(0, 1))
    patch.undo()
    return folder, atoms, x, angle


def test_atoms_stand_in_the_block_where_they_fire(planted):
    folder, atoms, x, angle = planted
    assert BlockBrowser(folder).detail(0)[0].atoms == [] and BlockBrowser(folder).detail(0)[0].atoms_from == ""
    write_atoms(folder, atoms, x)
    detail, _ = BlockBrowser(folder).detail(0)
    assert {a.atom for a in detail.atoms} == set(range(6)), "those outside the plane are left out"
    assert sum(a.share for a in detail.atoms) == pytest.approx(1, abs=0.01) and "8 directions" in detail.atoms_from
    assert all(a.inside == pytest.approx(1, abs=1e-3) for a in detail.atoms)
    assert sum(a.firing_rate for a in detail.atoms) == pytest.approx(1, abs=0.01)
    for atom in detail.atoms:
        along = np.array(atom.along)
        # A signed direction takes two opposite wedges of a twelfth each.
        wide = (along > 0.25 * along.max()).mean()
        assert wide < 0.35, "an atom is a wedge"
        want = atom.atom / 12 % 0.5
        peak = (along.argmax() + 0.5) / len(along) % 0.5
        assert min(abs(peak - want), 0.5 - abs(peak - want)) < 0.07


def test_an_arrow_is_a_code_on_the_axes_of_the_cloud(planted):
    folder, *_ = planted
    browser = BlockBrowser(folder)
    axes = browser.axes(0)
    codes = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    origin = np.array(browser.detail(0)[0].origin)
    assert axes.place(codes) + origin == pytest.approx(axes.place(codes - axes.mean), abs=1e-4)
    assert np.linalg.norm(axes.place(codes), axis=1) == pytest.approx(np.linalg.norm(codes, axis=1) / axes.extent)


def test_blocks_are_no_atoms(planted):
    folder, _, x, _ = planted
    wide = Grassmannian(12, 4, d_block=2, k=1)
    with pytest.raises(Invalid, match="2 dimensions"):
        write_atoms(folder, wide, x)


def test_a_card_that_knows_how_says_how_to_train_them(planted, tmp_path):
    folder = planted[0]
    for path in folder.glob("browse*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "card.json").write_text(json.dumps({"command": "manifold-atlas train tabletop-blocks sdxl"}))
    assert BlockBrowser(tmp_path).detail(0)[0].atoms_command.endswith("tabletop-blocks sdxl --atoms")
    (tmp_path / "card.json").write_text(json.dumps({"command": "manifold-atlas train featurizer"}))
    assert BlockBrowser(tmp_path).detail(0)[0].atoms_command == ""
