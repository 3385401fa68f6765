"""A language model's concept as a steerable manifold: activations, output distributions and class names go in.

    residuals (N, d) at the last token → PCA (at most 64, N − 1, d) → class centroids → ring or line through them,
    distributions (N, W + 1) of the same runs → behaviour manifold,
    three axes of the centroids for drawing, the raw full-space centroids for the chord

after "Manifold Steering" (arXiv 2605.05115, App. A.3 and A.4).

Not covered: running the model (``backend.steering.text``) and deciding whether the result is good enough to ship.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from backend.manifolds.behaviour import BehaviourManifold
from backend.manifolds.display import Display
from backend.manifolds.fit import (
    centroids,
    line_coordinates,
    natural_order,
    nearest_neighbours,
    pca,
    ring_coordinates,
)
from backend.manifolds.site_entry import SiteEntry
from backend.manifolds.steerable import SteerableManifold
from backend.wire.capabilities import ManifoldInfo, Tick


def concept_manifold(
    x: torch.Tensor,
    p: torch.Tensor,
    *,
    labels: torch.Tensor,
    classes: Sequence[str],
    kind: str,
    site: str,
    name: str,
    title: str = "",
    n_axes: int = 64,
    coordinates: torch.Tensor | None = None,
    **info,
) -> SteerableManifold:
    """Fit ``x (N, d)`` and ``p (N, W + 1)`` grouped by ``labels (N,)``; ``coordinates (W,)`` override the fitted ones.

    ``measured`` of the result holds how the classes are ordered and the share of the centroids' variance on three axes.
    """
    x, labels = x.float(), torch.as_tensor(labels)
    space = pca(x, n_axes)
    z = space.encode(x)
    knots = centroids(z, labels, n_classes=len(classes))
    if coordinates is None:
        coordinates = ring_coordinates(knots) if kind == "ring" else line_coordinates(len(classes))
    shown = pca(knots, 3)
    axes = torch.zeros(z.shape[1], 3)
    axes[:, : shown.frame.shape[1]] = shown.frame
    share = [float(v) / shown.total for v in shown.variance]
    cloud = (z - shown.mean) @ axes
    display = Display(axes, shown.mean, share + [0.0] * (3 - len(share)), cloud, coordinates[labels].float())
    entry = SiteEntry(
        frame=space.frame,
        knots_t=coordinates,
        knots=knots,
        mean=(space.mean @ space.frame)[None],
        full=centroids(x, labels, n_classes=len(classes)),
    )
    about = ManifoldInfo(
        name=name,
        title=title or name,
        model=site.rpartition("/")[0],
        kind=kind,
        sites=[site],
        ticks=[Tick(t=float(t), label=label) for t, label in zip(coordinates, classes, strict=True)],
        **info,
    )
    measured = {
        "n_rows": len(x),
        "n_axes": z.shape[1],
        # A line's coordinates are ranks: its order is read from distances alone.
        "natural_order": natural_order(coordinates, cyclic=True) if kind == "ring" else None,
        "nearest_is_neighbour": nearest_neighbours(knots, cyclic=kind == "ring"),
        "centroid_variance_3": sum(share[:3]),
        "variance_3": float(space.variance[:3].sum()) / space.total,
        "centroid_norm": float(centroids(x, labels).norm(dim=-1).mean()),
    }
    behaviour = BehaviourManifold.fit(p, labels, kind=kind)
    return SteerableManifold(about, {site: entry}, behaviour=behaviour, display=display, measured=measured)
