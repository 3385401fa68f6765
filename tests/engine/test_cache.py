"""The byte-bounded cache."""

from __future__ import annotations

import random

from backend.engine.cache import ByteCache


def test_the_oldest_goes_first_and_a_hit_makes_young():
    cache = ByteCache(30)
    for key in "abc":
        cache.put(key, key.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert cache.get("b") is None and [cache.get(k) for k in "acd"] == ["A", "C", "D"]
    assert (cache.hits, cache.misses, cache.n_bytes) == (4, 1, 30)


def test_too_large_an_entry_is_not_kept_and_harms_nobody():
    cache = ByteCache(10)
    cache.put("a", 1, 5)
    cache.put("b", 2, 11)
    assert "b" not in cache and cache.get("a") == 1
    cache.put("a", 3, 11)  # the old value under this key is out of date, so it goes
    assert cache.get("a") is None and cache.n_bytes == 0


def test_the_bound_holds_for_random_traffic():
    draw, cache = random.Random(0), ByteCache(1000)
    sizes = {}
    for _ in range(5000):
        key = draw.randrange(200)
        sizes[key] = draw.randrange(1, 300)
        cache.put(key, key, sizes[key])
        assert cache.n_bytes <= 1000
        assert cache.get(draw.randrange(200)) in (None, *range(200))
    assert cache.n_bytes == sum(n for _, n in cache._entries.values())
