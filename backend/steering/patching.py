"""Where in depth is a concept complete? Patch class centroids at the last token and count how often the answer follows.

    flips(layer) = share of (prompt, class ≠ its answer) for which x := c_class there makes it the argmax

"Manifold Steering" (arXiv 2605.05115) takes block 28 of Llama-3.1's 32 for this reason. Before the concept is
there the answer does not follow; with centroids of shuffled labels it cannot.

Not covered: other positions than the last token, and heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from backend.manifolds.fit import centroids
from backend.steering.intervention import Intervention
from backend.steering.text import TextSteerer

PAPER_DEPTH = 29 / 32
"""Share of the blocks that have run at the paper's site."""


def flip_rates(
    steerer: TextSteerer,
    sites: Sequence[str],
    *,
    fit: tuple[Sequence[str], torch.Tensor],
    test: tuple[Sequence[str], torch.Tensor],
    n_targets: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Share of flipped answers at each site ``(S,)``: centroids of the ``fit`` prompts patched into ``test`` prompts.

    ``fit`` and ``test`` are (prompts, answer classes); ``n_targets`` classes are drawn for each prompt (all).
    """
    n_classes = len(steerer.labels)
    x = steerer.residuals(fit[0], sites=sites)
    middle = {site: centroids(x[site], fit[1], n_classes=n_classes) for site in sites}
    whole = torch.eye(next(iter(x.values())).shape[1])
    hits, n = torch.zeros(len(sites)), 0
    for prompt, truth in zip(test[0], test[1].tolist(), strict=True):
        targets = torch.tensor([c for c in range(n_classes) if c != truth])
        if n_targets is not None and n_targets < len(targets):
            targets = targets[torch.randperm(len(targets), generator=generator)[:n_targets]]
        for i, site in enumerate(sites):
            rows = [[Intervention.clamp(site, whole, middle[site][c])] for c in targets]
            hits[i] += (steerer.sweep(prompt, rows)[:, :-1].argmax(-1) == targets).sum()
        n += len(targets)
    return hits / n


def choose_layer(rates: torch.Tensor, *, slack: float = 0.02, depth: float = PAPER_DEPTH) -> int:
    """Index of the layer with the most flips; of those within ``slack`` of it, the nearest to the paper's ``depth``.

    The last of several layers is never chosen: behind it nothing runs, so a patch there only reads the centroid out.
    """
    rated = rates[:-1] if len(rates) > 1 else rates
    near = [i for i, rate in enumerate(rated.tolist()) if rate >= float(rated.max()) - slack]
    return min(near, key=lambda i: abs((i + 1) / len(rates) - depth))
