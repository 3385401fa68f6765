"""Read-back: coordinates, distances and how far the other factors moved."""

from __future__ import annotations

import math

import pytest
import torch

from backend.steering import readback
from backend.worlds.tabletop import RANGES


def seen(**values):
    return {"shape": 1.0, "hue": 1.0, "light_azimuth": 2.0, "yaw": 0.5, "light_elevation": 0.8, "size": 0.9, "x": 0.0,
            "y": 0.1, **values}  # fmt: skip


def test_coordinates():
    assert readback.coordinate("light_azimuth", seen(light_azimuth=math.pi)) == pytest.approx(0.5)
    assert readback.coordinate("hue", seen(hue=-0.1)) == pytest.approx(1 - 0.1 / (2 * math.pi))
    assert readback.coordinate("size", seen(size=sum(RANGES["size"]) / 2)) == pytest.approx(0.5)
    assert readback.coordinate("size", seen(size=9.0)) < 1.0
    assert readback.coordinate("shape", seen()) is None
    assert readback.coordinate(None, seen()) is None and readback.coordinate("age", seen()) is None


def test_distances_are_the_short_way_and_in_the_factors_unit():
    assert readback.distance("light_azimuth", 0.95, 0.05) == pytest.approx(36.0)
    assert readback.distance("light_azimuth", 0.05, 0.95) == pytest.approx(36.0)
    low, high = RANGES["light_elevation"]
    assert readback.distance("light_elevation", 0.0, 0.5) == pytest.approx(math.degrees(high - low) / 2)
    assert readback.distance("size", 0.25, 0.75) == pytest.approx((RANGES["size"][1] - RANGES["size"][0]) / 2)


def test_moved_is_a_share_of_the_range():
    half = (RANGES["size"][1] - RANGES["size"][0]) / 2
    after = seen(hue=2 * math.pi - 0.1, size=0.9 + half, shape=2.0, light_azimuth=5.0)
    shares = readback.moved(seen(hue=0.1), after, but=("light_azimuth",))
    assert shares["hue"] == pytest.approx(0.2 / math.pi) and shares["size"] == pytest.approx(0.5)
    assert shares["shape"] == 1.0 and shares["yaw"] == 0.0 and "light_azimuth" not in shares
    assert readback.moved(seen(), seen(hue=1.0 + math.pi))["hue"] == pytest.approx(1.0)


def test_report():
    back = readback.report(seen(light_azimuth=math.pi), before=seen(), sent={"light_azimuth": 0.25})
    assert back.landed == pytest.approx(0.5) and back.error == pytest.approx(90.0) and back.shape == "cube"
    assert back.factors["light_azimuth"] == pytest.approx(180.0) and back.factors["size"] == 0.9
    assert back.factors["light_elevation"] == pytest.approx(math.degrees(0.8)) and "shape" not in back.factors
    assert readback.report(seen(light_azimuth=0.0), sent={"light_azimuth": 1.0}).error == pytest.approx(0.0)
    assert readback.report(seen()).landed is None


def test_the_real_reader_can_be_read():
    from backend.models.reader import FactorReader, FactorReaderConfig

    reader = FactorReader(FactorReaderConfig(image_size=32, d_stages=[8, 8, 8], d_squeeze=4, d_features=16)).eval()
    found = readback.read(reader, torch.rand(3, 3, 32, 32))
    assert len(found) == 3 and set(found[0]) == set(seen())
    assert 0 <= readback.report(found[0], sent={"hue": 0.2}).error <= 180
