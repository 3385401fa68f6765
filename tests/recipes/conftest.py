"""What tests of several recipes start from: a few rendered scenes, and a picture model with random weights."""

from __future__ import annotations

import pytest
import torch

from backend.models.diffusion import ImageAdapter
from backend.models.random_weights import tiny_sdxl
from backend.worlds import tabletop


@pytest.fixture(scope="module")
def pictures():
    factors = tabletop.sample_factors(24, torch.Generator().manual_seed(0))
    done = tabletop.render(factors, size=128)
    return done.images.numpy(), {k: v.numpy() for k, v in done.factors.items()}


@pytest.fixture(scope="module")
def sdxl():
    return ImageAdapter(tiny_sdxl(), name="tabletop-sdxl")
