"""The tabletop world: planted factors come out in the picture, and captions say only what they may."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from backend.core.errors import Invalid, NotFound
from backend.worlds import tabletop as tt
from backend.worlds.tabletop_geometry import OUTLINES, SHAPES, TORUS_RING, TORUS_TUBE, meet, normal
from backend.worlds.tabletop_render import _camera, hue_to_linear, light_direction

SIZE = 64


def scenes(n: int = 1, **changes) -> dict[str, torch.Tensor]:
    base = {"shape": 0, "hue": 0.0, "size": 1.0, "x": 0.0, "y": 0.0, "yaw": 0.3, "light_azimuth": 2.4,
            "light_elevation": 0.7}  # fmt: skip
    return {k: torch.as_tensor(changes.get(k, v)).expand(n).clone() for k, v in base.items()}


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().mean())


def test_factors_are_in_range_and_reproducible():
    drawn = tt.sample_factors(4000, torch.Generator().manual_seed(3))
    again = tt.sample_factors(4000, torch.Generator().manual_seed(3))
    assert set(drawn) == set(tt.FACTORS)
    for name, (low, high) in tt.RANGES.items():
        assert torch.equal(drawn[name], again[name])
        assert low <= drawn[name].min() and drawn[name].max() <= high
        assert abs(float(drawn[name].mean()) - (low + high) / 2) < 0.05 * (high - low)
    assert torch.bincount(drawn["shape"]).min() > 500
    other = tt.sample_factors(4000, torch.Generator().manual_seed(4))
    assert not torch.equal(drawn["hue"], other["hue"])


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_meet_the_surface_from_both_ends(shape):
    """A ray shot at the object and one shot back from beyond it enclose it, and normals face the ray."""
    outline = OUTLINES[shape]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(400, 3, generator=generator)
    start[:, 2] = start[:, 2].abs() + 0.3  # from above the table, where camera and light are
    start = start / start.norm(dim=1, keepdim=True) * 4
    aim = torch.tensor([0.0, 0.0, outline.centre]) + 0.2 * torch.randn(400, 3, generator=generator)
    d = (aim - start) / (aim - start).norm(dim=1, keepdim=True)
    t, hit = meet(shape, tuple(start.T), tuple(d.T))
    assert hit.float().mean() > 0.5
    point = start + t[:, None] * d
    centre = torch.tensor([0.0, 0.0, outline.centre])
    assert (point[hit] - centre).norm(dim=1).max() < outline.radius + 0.02
    end = start + 8 * d
    back, hit_back = meet(shape, tuple(end.T), tuple(-d.T))
    assert (hit == hit_back).float().mean() > 0.98
    both = hit & hit_back
    # The march stops within 0.004 of the torus; on a grazing ray that is a longer way along it.
    assert ((8 - back)[both] >= t[both] - (0.03 if shape == "torus" else 1e-3)).all()
    facing = sum(a * b for a, b in zip(normal(shape, tuple(point[hit].T)), d[hit].T, strict=True))
    assert (facing < 0.05).float().mean() > 0.97


def test_torus_hole_is_open():
    zero = torch.zeros(1)
    down = (zero, zero, -torch.ones(1))
    _, through = meet("torus", (zero, zero, torch.full((1,), 3.0)), down)
    t, met = meet("torus", (torch.full((1,), TORUS_RING), zero, torch.full((1,), 3.0)), down)
    assert not through.item() and met.item()
    assert t.item() == pytest.approx(3 - 2 * TORUS_TUBE, abs=0.01)


@pytest.mark.parametrize("azimuth", [0.0, 1.0, 2.5, 4.0, 5.5])
def test_shadow_falls_away_from_the_light(azimuth):
    """Dark table pixels, weighted by how dark they got, lie at azimuth + pi from the object."""
    lit = tt.render(scenes(light_azimuth=azimuth), size=128).images[0].float().sum(-1)
    bare = tt.render(scenes(light_azimuth=azimuth, x=40.0), size=128).images[0].float().sum(-1)
    ground = _camera(128).ground.mean(-1).view(2, 128, 128)
    colour = tt.render(scenes(light_azimuth=azimuth), size=128).images[0].float()
    grey = (colour.amax(-1) - colour.amin(-1)) < 50
    drop = ((bare - lit).clamp_min(0) * grey) * ((bare - lit) > 150)
    gx, gy = (float((drop * g).sum() / drop.sum()) for g in ground)
    error = (math.atan2(gy, gx) - azimuth - math.pi + math.pi) % (2 * math.pi) - math.pi
    assert abs(math.degrees(error)) < 25


def test_lower_light_gives_a_longer_shadow_and_a_darker_table():
    low, high = (tt.render(scenes(light_elevation=e, light_azimuth=1.5), size=SIZE) for e in (0.5, 1.0))
    assert low.factors["shadow_area"] > 1.3 * high.factors["shadow_area"]
    assert low.factors["luminance"] < high.factors["luminance"]
    assert 0 < float(low.factors["shadow_area"]) < 0.5


def test_no_object_in_view_means_no_shadow():
    assert float(tt.render(scenes(x=40.0), size=SIZE).factors["shadow_area"]) == 0.0


def test_luminance_is_that_of_the_picture():
    done = tt.render(tt.sample_factors(8, torch.Generator().manual_seed(0)), size=SIZE)
    code = done.images.double() / 255
    linear = torch.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    weights = torch.tensor([0.2126, 0.7152, 0.0722]).double()
    assert torch.allclose((linear @ weights).mean((1, 2)), done.factors["luminance"].double(), atol=2e-3)


@pytest.mark.parametrize("kind", range(len(SHAPES)))
@pytest.mark.parametrize("name", ["hue", "yaw", "light_azimuth"])
def test_cyclic_factors_close_and_are_full_cycles(kind, name):
    turn = 2 * math.pi
    values = torch.tensor([0.4, 0.4 + turn, 0.4 + turn / 4, 0.4 + turn / 2, 0.4 + 3 * turn / 4])
    images = tt.render(scenes(5, shape=kind, **{name: 0.0}) | {name: values}, size=SIZE).images
    assert difference(images[0], images[1]) < 0.05
    for other in images[2:]:
        assert difference(images[0], other) > 0.3


@pytest.mark.parametrize("kind", range(len(SHAPES)))
def test_mirroring_the_picture_mirrors_the_factors(kind):
    """Left-right flip is x -> -x, yaw and azimuth -> pi - angle, up to the asymmetric sampling of the sun's disc."""
    one = scenes(shape=kind, x=0.3, y=0.1, yaw=1.1, light_azimuth=3.7)
    two = scenes(shape=kind, x=-0.3, y=0.1, yaw=math.pi - 1.1, light_azimuth=math.pi - 3.7)
    a, b = tt.render(one, size=128).images, tt.render(two, size=128).images
    assert difference(a, b.flip(2)) < 0.6
    assert difference(a, b) > 3


def test_scenes_do_not_leak_into_each_other():
    factors = tt.sample_factors(20, torch.Generator().manual_seed(1))
    together = tt.render(factors, size=SIZE)
    for i in (0, 7, 19):
        alone = tt.render({k: v[i : i + 1] for k, v in factors.items()}, size=SIZE)
        assert difference(together.images[i], alone.images[0]) < 0.01
        assert alone.factors["shadow_area"][0] == pytest.approx(float(together.factors["shadow_area"][i]), abs=1e-5)


def test_hue_zero_is_red_and_a_third_is_green():
    red, green, blue = hue_to_linear(torch.tensor([0.0, 2 * math.pi / 3, 4 * math.pi / 3]))
    assert red.argmax() == 0 and green.argmax() == 1 and blue.argmax() == 2
    assert torch.allclose(red, green[[1, 2, 0]], atol=1e-5)


def test_light_direction_is_a_unit_vector_towards_the_light():
    d = light_direction(torch.tensor([0.0, math.pi / 2]), torch.tensor([0.5, 0.5]))
    assert torch.allclose(d.norm(dim=1), torch.ones(2))
    assert d[0, 0] > 0.8 and d[1, 1] > 0.8 and (d[:, 2] > 0).all()


def test_bad_factors_are_refused():
    with pytest.raises(Invalid):
        tt.render({k: v for k, v in scenes().items() if k != "yaw"})
    with pytest.raises(Invalid):
        tt.render(scenes() | {"yaw": torch.zeros(2)})
    with pytest.raises(Invalid):
        tt.render(scenes(shape=6))


def test_captions_name_shape_mostly_colour_never_light():
    factors = tt.sample_factors(600, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(9)
    texts = [tt.caption(factors, i, generator) for i in range(600)]
    coloured = 0
    for i, text in enumerate(texts):
        words = text.split()
        assert text == text.lower()
        assert SHAPES[int(factors["shape"][i])] in words
        assert not {"light", "lit", "shadow", "sun", "small", "large", "big", "rotated", "turned"} & set(words)
        named = [w for w in words if w in tt.HUE_NAMES]
        coloured += len(named)
        for word in named:
            gap = abs((float(factors["hue"][i]) - tt.hue_of_name(word) + math.pi) % (2 * math.pi) - math.pi)
            assert gap <= math.radians(15) + 1e-6
        assert "a orange" not in text and "a azure" not in text
    assert 0.80 < coloured / 600 < 0.90
    assert len({t.replace(w, "") for t in texts for w in t.split() if w in tt.HUE_NAMES}) > 20
    assert any("left" in t for t in texts) and sum("left" in t for t in texts) < 60


def test_colour_words_are_centred():
    assert len(tt.HUE_NAMES) == 12
    for name in tt.HUE_NAMES:
        assert tt.nearest_hue_name(tt.hue_of_name(name)) == name
        assert tt.nearest_hue_name(tt.hue_of_name(name) + 0.25) == name
    assert tt.nearest_hue_name(2 * math.pi - 0.01) == "red"
    with pytest.raises(NotFound):
        tt.hue_of_name("beige")


def test_rendered_set_resumes_and_can_be_read_while_partly_written(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tt.render_dataset(whole, 10, 7, batch=4, size=32)
    calls = []

    def stop_at_second(factors, *, size):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(factors, size=size)

    real = tt.render
    monkeypatch.setattr(tt, "render", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        tt.render_dataset(parts, 10, 7, batch=4, size=32)
    images, factors = tt.load_rendered(parts)
    assert len(images) == 4 and all(len(v) == 4 for v in factors.values())
    monkeypatch.setattr(tt, "render", real)
    tt.render_dataset(parts, 10, 7, batch=4, size=32)
    images, factors = tt.load_rendered(parts)
    expected, truth = tt.load_rendered(whole)
    assert np.array_equal(images, expected) and images.dtype == np.uint8
    assert set(factors) == {*tt.FACTORS, "shadow_area", "luminance"}
    assert all(np.array_equal(factors[k], truth[k]) for k in truth)
    assert json.loads((parts / "meta.json").read_text())["version"] == tt.version()
    with pytest.raises(Invalid):
        tt.render_dataset(parts, 10, 8, batch=4, size=32)


def test_longer_set_begins_with_the_shorter(tmp_path):
    short, _ = tt.load_rendered(tt.render_dataset(tmp_path / "a", 3, 1, batch=4, size=32))
    long, _ = tt.load_rendered(tt.render_dataset(tmp_path / "b", 6, 1, batch=4, size=32))
    assert np.abs(short.astype(int) - long[:3].astype(int)).max() <= 1


def test_missing_set_is_named(tmp_path):
    with pytest.raises(NotFound):
        tt.load_rendered(tmp_path)


def test_contact_sheet_has_all_pictures():
    assert tt.contact_sheet(5, 0, columns=3, size=32, gap=2).size == (3 * 34 + 2, 2 * 34 + 2)
