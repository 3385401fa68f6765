"""What a drag on the language page asks for: every arm's next-token distribution, and the paths between two places.

    landed    mean coordinate of the classes under p
    energy    distance of p to the behaviour manifold; coherence is 1 − p_other

("Manifold Steering", arXiv 2605.05115, sec. 3.4).
"""

from __future__ import annotations

import time

import torch

from backend.manifolds.behaviour import Coherence, coherence
from backend.manifolds.display import triples
from backend.manifolds.manifold import mean_coordinate
from backend.steering.arms import interventions_for, path_interventions
from backend.steering.text import Row, TextSteerer
from backend.wire.text import ArmDistribution, ArmPath, PathRequest, PathResponse, TextCanvasRequest, TextFrame


def landed(steerer: TextSteerer, p: torch.Tensor) -> torch.Tensor:
    """Manifold coordinate ``(...,)`` of distributions ``p (..., W + 1)``: mean coordinate of the classes."""
    manifold = steerer.need()
    return mean_coordinate(p[..., :-1], manifold.label_t, kind=manifold.kind)


def judge(steerer: TextSteerer, p: torch.Tensor) -> tuple[torch.Tensor, Coherence, torch.Tensor]:
    """Energy ``(...,)``, coherence and the drawing's ``(..., 3)`` of distributions ``p (..., W + 1)``."""
    behaviour = steerer.need().behaviour
    if behaviour is None:
        return torch.zeros(p.shape[:-1]), coherence(p[..., None, :]), torch.zeros(*p.shape[:-1], 3)
    return behaviour.distance(p), coherence(p[..., None, :]), behaviour.xyz(p)


def written(steerer: TextSteerer, x: torch.Tensor, row: Row) -> torch.Tensor:
    """Drawing coordinates ``(3,)`` of the first site's activation ``x (d,)`` after a row's interventions."""
    manifold = steerer.need()
    site, entry = next(iter(manifold.sites.items()))
    for each in row:
        if str(each.site) != site:
            continue
        frame = each.frame.float()
        z = x @ frame
        new = z
        if each.lo is not None or each.hi is not None:
            new = torch.clamp(z, each.lo[0].float() if each.lo is not None else None,
                              each.hi[0].float() if each.hi is not None else None)  # fmt: skip
        if each.shift is not None:
            new = new + each.shift[0].float()
        x = x + each.gate * (new - z) @ (frame if each.out is None else each.out.float()).T
    return manifold.xyz((x @ entry.frame)[None])


def frame(steerer: TextSteerer, request: TextCanvasRequest) -> TextFrame:
    """The next-token distribution of the request's prompt for each of its arms."""
    began = time.perf_counter()
    manifold = steerer.need(request.manifold)
    x = steerer.residuals([request.prompt])
    plain = steerer.sweep_logits(request.prompt, [()])
    t_from = request.t_from
    if t_from is None:
        t_from = float(landed(steerer, steerer.classes(plain)[0]))
    looked = time.perf_counter()
    rows = [
        interventions_for(manifold, arm, request.t, t_from=t_from, strength=request.strength)
        for arm in request.arms
    ]
    logits = steerer.sweep_logits(request.prompt, rows)
    p = steerer.classes(logits)
    energy, coherent, xyz = judge(steerer, p)
    places = landed(steerer, p)
    first = x[next(iter(manifold.sites))][0]
    arms = [
        ArmDistribution(
            arm=arm, classes=_floats(p[i, :-1]), other=float(p[i, -1]), top=steerer.top(logits[i]),
            landed=float(places[i]), energy=float(energy[i]), coherence=float(coherent.mean[i]),
            activation_xyz=triples(written(steerer, first, rows[i])[None])[0], behaviour_xyz=triples(xyz[i : i + 1])[0],
        )
        for i, arm in enumerate(request.arms)
    ]  # fmt: skip
    done = time.perf_counter()
    timing = {"read": 1e3 * (looked - began), "steer": 1e3 * (done - looked), "total": 1e3 * (done - began)}
    return TextFrame(
        seq=request.seq, model=request.model, prompt=request.prompt, manifold=manifold.name, t=request.t,
        t_from=t_from, labels=steerer.labels, arms=arms, timing_ms=timing,
    )  # fmt: skip


def path(steerer: TextSteerer, request: PathRequest) -> PathResponse:
    """Class probabilities at equal shares of the way from ``t_from`` to ``t``, for each of the request's arms."""
    began = time.perf_counter()
    manifold = steerer.need(request.manifold)
    x = steerer.residuals([request.prompt])
    first = x[next(iter(manifold.sites))][0]
    share = torch.linspace(0, 1, request.points).tolist()
    rows = [
        path_interventions(manifold, arm, request.t_from, request.t, s)
        for arm in request.arms
        for s in share
    ]
    p = steerer.sweep(request.prompt, rows).reshape(len(request.arms), len(share), -1)
    energy, coherent, xyz = judge(steerer, p)
    n = len(share)
    arms = [
        ArmPath(
            arm=arm, classes=[_floats(v) for v in p[i, :, :-1]], other=_floats(p[i, :, -1]),
            energy=_floats(energy[i]), coherence=_floats(coherent.mean[i]),
            activation_xyz=triples(torch.stack([written(steerer, first, row) for row in rows[i * n : (i + 1) * n]])),
            behaviour_xyz=triples(xyz[i]),
        )
        for i, arm in enumerate(request.arms)
    ]  # fmt: skip
    timing = {"total": 1e3 * (time.perf_counter() - began)}
    return PathResponse(labels=steerer.labels, fraction=share, arms=arms, timing_ms=timing)


def _floats(values: torch.Tensor) -> list[float]:
    return [float(v) for v in values]
