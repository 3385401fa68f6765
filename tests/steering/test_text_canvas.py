"""What a drag asks for: a frame holds every arm, a path every waypoint."""

import pytest
import torch

from backend.core.errors import NotFound
from backend.steering.arms import interventions_for
from backend.steering.text_canvas import frame as frame_of
from backend.steering.text_canvas import path as path_of
from backend.wire.text import PathRequest, TextCanvasRequest
from backend.worlds.calendar import TASKS

SITE = "tiny/1#resid_post"
PROMPTS = [prompt.text for prompt in TASKS["weekdays"].prompts()[:3]] + ["The day one days after Monday is"]


def test_a_frame_holds_every_arm(steerer):
    request = TextCanvasRequest(seq=4, model="tiny", prompt=PROMPTS[0], manifold="tiny-days", t=0.4,
                                arms=["off", "manifold", "chord", "chord_subspace", "random"])  # fmt: skip
    frame = frame_of(steerer, request)
    assert frame.seq == 4 and [arm.arm for arm in frame.arms] == request.arms
    off, manifold = frame.arms[0], frame.arms[1]
    assert frame.t_from == pytest.approx(off.landed, abs=1e-6)
    p = steerer.distribution(PROMPTS[0])
    assert torch.allclose(torch.tensor([*off.classes, off.other]), p, atol=1e-5)
    for arm in frame.arms:
        assert sum(arm.classes) + arm.other == pytest.approx(1.0, abs=1e-4)
        assert arm.coherence == pytest.approx(1 - arm.other, abs=1e-5) and arm.energy >= 0
    drawn = steerer.manifold.xyz(steerer.manifold.targets(SITE, 0.4))
    assert torch.allclose(torch.tensor(manifold.activation_xyz), drawn, atol=1e-3)
    with pytest.raises(NotFound):
        frame_of(steerer, request.model_copy(update={"manifold": "other"}))


def test_a_path_holds_every_waypoint(steerer):
    request = PathRequest(model="tiny", prompt=PROMPTS[0], manifold="tiny-days", t_from=0.0, t=3 / 7, points=9)
    path = path_of(steerer, request)
    assert path.fraction[0] == 0 and path.fraction[-1] == 1 and len(path.fraction) == 9
    assert [arm.arm for arm in path.arms] == ["manifold", "chord", "chord_subspace"]
    curve, _, chord = path.arms
    assert len(curve.classes) == 9 and len(curve.classes[0]) == 7
    for end in (0, -1):
        assert torch.allclose(torch.tensor(curve.classes[end]), torch.tensor(chord.classes[end]), atol=1e-3)
    middle = interventions_for(steerer.manifold, "manifold", 3 / 14)
    assert torch.allclose(torch.tensor(curve.classes[4]), steerer.distribution(PROMPTS[0], middle)[:-1], atol=1e-4)
