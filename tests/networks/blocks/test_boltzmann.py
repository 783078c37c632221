"""The fast paths of the mask decoder beside the plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from napari_biomedparse.networks.blocks import layers
from napari_biomedparse.networks.blocks.boltzmann import BoltzmannDecoder, ImageFeatures
from napari_biomedparse.networks.blocks.decoder import SeededField
from napari_biomedparse.networks.blocks.pixel_decoder import PixelFeatures
from napari_biomedparse.networks.config import TINY


def _one_slice(image: ImageFeatures, index: int) -> ImageFeatures:
    cut = slice(index, index + 1)
    levels = (tuple(x[cut] for x in level) for level in image[1:])
    return ImageFeatures(image.mask_features[cut], *levels)


def _decoder() -> tuple[BoltzmannDecoder, PixelFeatures]:
    torch.manual_seed(0)
    decoder = BoltzmannDecoder(TINY).eval().requires_grad_(False)
    sizes = (2, 4, 8)
    levels = tuple(torch.randn(2, TINY.dim, s, s).relu() for s in sizes)
    return decoder, PixelFeatures(torch.randn(2, TINY.dim, 16, 16), levels)


def test_sampling_features_first_equals_sampling_masks() -> None:
    decoder, pixels = _decoder()
    image = decoder.prepare(pixels)
    embedding = torch.randn(2, 5, TINY.dim)
    masks = torch.einsum("bqc,bchw->bqhw", embedding, pixels.mask_features)
    for features, level in zip(image.level_mask_features, pixels.levels, strict=True):
        expected = F.interpolate(masks, size=level.shape[-2:], mode="bilinear")
        found = embedding @ features
        torch.testing.assert_close(found, expected.flatten(2), atol=1e-4, rtol=1e-4)


def test_mean_of_embeddings_equals_mean_of_masks() -> None:
    decoder, pixels = _decoder()
    seen = []
    decoder.mask_embed.register_forward_hook(lambda *a: seen.append(a[-1]))
    field = SeededField(0, TINY.heads, TINY.queries, torch.device("cpu"))
    tokens = torch.randn(3, 4, TINY.dim)
    decoded = decoder(decoder.prepare(pixels), tokens, field)
    assert len(seen) == TINY.decoder_layers + 1
    embedding = seen[-1].view(2, 3, TINY.queries, TINY.dim)
    masks = torch.einsum("bpqc,bchw->bpqhw", embedding, pixels.mask_features)
    border = TINY.queries - TINY.edge_queries
    torch.testing.assert_close(
        decoded.mask_logits, masks[:, :, :border].mean(2), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        decoded.edge_logits, masks[:, :, border:].mean(2), atol=1e-4, rtol=1e-4
    )


def test_one_slice_of_the_features() -> None:
    decoder, pixels = _decoder()
    image = decoder.prepare(pixels)
    field = SeededField(0, TINY.heads, TINY.queries, torch.device("cpu"))
    tokens = torch.randn(1, 4, TINY.dim)
    both, second = (
        decoder(image, tokens, field),
        decoder(_one_slice(image, 1), tokens, field),
    )
    for joint, single in zip(both, second, strict=True):
        torch.testing.assert_close(joint[1:], single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("apart", [True, False])
def test_a_field_may_differ_by_slice_and_prompt(
    monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    monkeypatch.setattr(layers, "apart", lambda x: apart)
    decoder, pixels = _decoder()
    image, tokens = decoder.prepare(pixels), torch.randn(3, 4, TINY.dim)

    def field(call: int, keys: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(10 * call + keys)
        shape = (2, 3, TINY.heads, TINY.queries, keys)
        return (torch.rand(shape, generator=generator) >= 0.5).float()

    together = decoder(image, tokens, field)
    for i in range(2):
        for p in range(3):
            alone = decoder(
                _one_slice(image, i),
                tokens[p : p + 1],
                lambda *a: field(*a)[i, p],  # noqa: B023
            )
            for joint, single in zip(together, alone, strict=True):
                torch.testing.assert_close(
                    joint[i, p], single[0, 0], atol=1e-4, rtol=1e-4
                )
