"""What a request to train a featurizer means on a model: where it reads, what is held out, how much is kept.

Not covered: the data itself (``featurizer_data``) and what all of it costs (``featurizer_cost``).
"""

from __future__ import annotations

import numpy as np
import torch

from backend.activations.site import Site
from backend.core.errors import Invalid, Refused
from backend.featurizers.featurizer import Featurizer
from backend.models.adapter import Adapter, listing
from backend.wire.training import FeaturizerRequest

HELD_SHARE = 0.1
LEAST_ROWS = 64
SHARD_BYTES = 64 * 2**20
ATLAS_ROWS = 160_000
"""Most rows (tokens, patches) that an atlas is made from."""
ATLAS_SAMPLES = 2_000


def sites_of(adapter: Adapter, site: str) -> tuple[str, str]:
    """A site as it is named, and as it is read: a picture model is read in its few-step UNet, which a drag steers.

    Raises ``Refused`` listing the sites there are.
    """
    parsed = Site.parse(site, model=adapter.name)
    if str(parsed) not in adapter.site_names():
        raise Refused(f"A featurizer of '{parsed}' was asked for.", f"{adapter.name} has no such site.",
                      f"Choose one of {listing(adapter.site_names(), at_most=12)}.")  # fmt: skip
    few = f"{adapter.name}-lcm"
    return str(parsed), str(parsed.on(few)) if few in adapter.models else str(parsed)


def split(n: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Samples to train on and samples held out, in random order; raises ``Invalid`` for fewer than two."""
    if n < 2:
        raise Invalid("A featurizer was to be trained.", f"There is {n} sample; one has to be held out.",
                      "Give two pictures or texts at least.")  # fmt: skip
    order = np.random.default_rng(seed).permutation(n).tolist()
    n_held = max(1, round(HELD_SHARE * n))
    return order[n_held:], order[:n_held]


def make_featurizer(request: FeaturizerRequest, d_in: int) -> Featurizer:
    """A fresh featurizer of the request's variant; raises ``Invalid`` for sizes that do not go together."""
    kind = Featurizer.of_variant(request.variant)
    # Shrunk codes give a dead block nothing to learn from: the Group-Lasso has no auxiliary loss.
    aux = "none" if request.variant == "group_lasso" else "dead"
    return kind(d_in, request.n_blocks, d_block=request.d_block, k=request.k, aux=aux,
                generator=torch.Generator().manual_seed(request.seed))  # fmt: skip
