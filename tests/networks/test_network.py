"""The engine runs any network that derives from `Network`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.networks.blocks.decoder import RandomField
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.network import Network, SlicePrediction

SIZE = 16


class Means(NamedTuple):
    """One number a slice and pixel."""

    mean: Tensor

    @property
    def nbytes(self) -> int:
        return self.mean.nbytes


class Brightness(Network):
    """Finds what is bright, by one weight; prompts shift the threshold."""

    channels = "colours"
    largest_map = SIZE**2 * 4

    def __init__(self) -> None:
        super().__init__(replace(TINY, image_size=SIZE))
        self.weight = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.fields: list[tuple[int, ...]] = []

    def encode_image(self, slices: Tensor) -> Means:
        return Means(slices.float().mean(dim=1)[:, ::4, ::4] * self.weight)

    def join_features(self, each: Sequence[Means]) -> Means:
        return Means(torch.cat([one.mean for one in each]))

    def encode_prompts(self, ids: Tensor) -> Tensor:
        return ids[..., None].float()

    def decode(
        self, image: Means, tokens: Tensor, field: RandomField
    ) -> SlicePrediction:
        self.fields.append(tuple(field(0, 16).shape))
        lengths = (tokens != 0).sum(dim=(1, 2))
        logits = image.mean[:, None] - lengths[:, None, None]
        return SlicePrediction(logits, -logits, logits.amax(dim=(-2, -1)))

    def low_precision_weights(self) -> Iterator[Tensor]:
        yield self.weight


def test_a_network_of_another_kind_runs() -> None:
    network = Brightness()
    engine = Engine(network)
    tokens = engine.encode_prompts(["liver", "the left kidney"])
    slices = torch.arange(2 * 3 * SIZE**2).reshape(2, 3, SIZE, SIZE)
    found = engine.predict(slices, tokens)
    assert found.mask_logits.shape == (2, 2, 4, 4)
    expected = slices.float().mean(dim=1)[:, ::4, ::4] * 2
    assert torch.equal(found.mask_logits[:, 0], expected - 3)  # start, liver, end
    assert torch.equal(found.mask_logits[:, 1], expected - 5)
    assert set(network.fields) == {(*network.field_shape, 16)}
    engine.predict(slices[:1], tokens)
    assert engine.cache.currsize == 16 * 4


def test_the_network_says_which_weights_bear_half_precision() -> None:
    half = Engine(Brightness(), precision="bfloat16")
    assert half._network.weight.dtype == torch.bfloat16


def test_what_is_not_answered_is_refused() -> None:
    class Half(Brightness):
        decode = Network.decode

    with pytest.raises(TypeError, match="abstract method"):
        Half()
