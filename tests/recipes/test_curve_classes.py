"""Classes of curve-inception: labels are centred on their names, and the configuration has a head for each."""

import torch

from backend.models.inception import CurveInception
from backend.recipes.curve_classes import LABELS, config, labels
from backend.worlds import curves


def test_the_shipped_configuration_has_half_a_million_parameters():
    with torch.device("meta"):
        model = CurveInception(config())
    assert 5e5 < sum(p.numel() for p in model.parameters()) < 1e6
    assert model.config.num_labels == len(LABELS) == 45


def test_labels_are_centred_on_their_names():
    sample = curves.sample(300, torch.Generator().manual_seed(0))
    target, radius = labels(sample)
    for i in range(300):
        kind, name = int(sample.kind[i]), LABELS[int(target[i])]
        if kind < 2:
            assert name.startswith(curves.KINDS[kind])
            turn = (360, 180)[kind]
            gap = abs((float(sample.orientation[i].rad2deg()) - float(name.split()[1]) + turn / 2) % turn - turn / 2)
            assert gap <= 7.6
        else:
            assert name == (curves.TEXTURES[sample.texture[i]] if kind == 2 else curves.SHAPES[sample.shape[i]])
    assert (radius[sample.kind != 0] == -100).all() and set(radius[sample.kind == 0].tolist()) == set(range(6))
