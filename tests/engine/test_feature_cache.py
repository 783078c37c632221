"""The bound on remembered features, and which of them go."""

from __future__ import annotations

import torch

from napari_biomedparse.engine.feature_cache import FeatureCache
from napari_biomedparse.networks.v2.mask_decoder import ImageFeatures

SIZE = 4 * 100


def _slice(number: int) -> torch.Tensor:
    return torch.full((1, 3, 4, 4), number, dtype=torch.int32)


def _encoder(calls: list[int]):  # type: ignore[no-untyped-def]
    def encode(slices: torch.Tensor) -> ImageFeatures:
        calls.append(int(slices[0, 0, 0, 0]))
        return ImageFeatures(torch.zeros(1, 1, 10, 10), (), (), ())

    return encode


def test_least_recently_used_go_first_within_the_bound() -> None:
    calls: list[int] = []
    cache = FeatureCache(2 * SIZE)
    for number in (0, 1, 0, 2, 0, 1):
        cache.get(_slice(number), _encoder(calls))
        assert cache.bytes_used <= 2 * SIZE
    assert calls == [0, 1, 2, 1]
    assert len(cache) == 2
    cache.clear()
    assert (len(cache), cache.bytes_used) == (0, 0)


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    calls: list[int] = []
    for most in (0, SIZE - 1):
        cache = FeatureCache(most)
        for _ in range(2):
            cache.get(_slice(5), _encoder(calls))
        assert len(cache) == 0
    assert calls == [5] * 4


def test_neighbours_belong_to_the_key() -> None:
    calls: list[int] = []
    cache = FeatureCache(10 * SIZE)
    other = _slice(1)
    other[0, 2] = 7
    for slices in (_slice(1), other, _slice(1)):
        cache.get(slices, _encoder(calls))
    assert calls == [1, 1]
