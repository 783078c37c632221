"""v1's mask decoder beside the plain formulas, and what may not change its numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from napari_biomedparse.networks.blocks.decoder import SeededField
from napari_biomedparse.networks.blocks.pixel_decoder import PixelFeatures
from napari_biomedparse.networks.config import TINY, V1
from napari_biomedparse.networks.network import SlicePrediction
from napari_biomedparse.networks.v1.mask_decoder import MaskDecoder

CONFIG = replace(TINY, network="v1", queries=11, edge_queries=0)
FIELD = SeededField(0, CONFIG.heads, CONFIG.queries, torch.device("cpu"))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def decoder() -> MaskDecoder:
    torch.manual_seed(0)
    made = MaskDecoder(CONFIG).eval()
    for name, x in made.named_parameters():
        if name.endswith("weight"):
            x.mul_(2)  # so that the masks of queries differ
    return made


@pytest.fixture
def pixels() -> PixelFeatures:
    torch.manual_seed(1)
    levels = tuple(torch.randn(2, CONFIG.dim, s, s).relu() for s in (2, 4, 8))
    return PixelFeatures(torch.randn(2, CONFIG.dim, 16, 16), levels)


def tokens_of(*lengths: int) -> torch.Tensor:
    torch.manual_seed(2)
    words = [torch.randn(length, CONFIG.dim) * 3 for length in lengths]
    return torch.nn.utils.rnn.pad_sequence(words, batch_first=True)


def decode(
    decoder: MaskDecoder, pixels: PixelFeatures, tokens: torch.Tensor
) -> SlicePrediction:
    return decoder(decoder.prepare(pixels), tokens, FIELD)


def test_a_prompt_has_the_mask_of_the_query_most_like_its_end_token(
    decoder: MaskDecoder, pixels: PixelFeatures
) -> None:
    tokens = tokens_of(3, 5)
    found = decode(decoder, pixels, tokens)
    assert found.mask_logits.dtype == torch.float32
    assert found.mask_logits.shape == (2, 2, 16, 16)
    assert found.edge_logits.sigmoid().max() < 1e-30
    assert found.existence.sigmoid().eq(1).all()
    words = torch.cat([tokens[0, :3], tokens[1]]).expand(2, -1, -1)
    q = decoder.read(decoder.prepare(pixels), words)
    d = decoder.decoder_norm(q)
    v = F.normalize(d @ decoder.class_embed.double(), dim=-1)
    ends = torch.stack([tokens[0, 2], tokens[1, 4]])
    chosen = (v @ F.normalize(ends.double(), dim=-1).T).argmax(dim=1)  # [B, P]
    masks = torch.einsum(
        "bqc,bchw->bqhw", decoder.mask_embed(d), pixels.mask_features.double()
    )
    for b in range(2):
        for p in range(2):
            expected = masks[b, chosen[b, p]].float()
            torch.testing.assert_close(found.mask_logits[b, p], expected)


def test_prompts_influence_each_other_but_not_by_padding_or_order(
    decoder: MaskDecoder, pixels: PixelFeatures
) -> None:
    tokens = tokens_of(3, 5)
    found = decode(decoder, pixels, tokens).mask_logits
    longer = F.pad(tokens, (0, 0, 0, 4))
    assert torch.equal(decode(decoder, pixels, longer).mask_logits, found)
    turned = decode(decoder, pixels, tokens.flip(0)).mask_logits.flip(1)
    torch.testing.assert_close(turned, found, atol=1e-4, rtol=1e-4)
    alone = decode(decoder, pixels, tokens[:1, :3]).mask_logits
    assert (alone - found[:, :1]).abs().max() > 1e-2


def test_a_slice_does_not_depend_on_its_company(
    decoder: MaskDecoder, pixels: PixelFeatures
) -> None:
    tokens = tokens_of(4)
    found = decode(decoder, pixels, tokens).mask_logits
    second = PixelFeatures(
        pixels.mask_features[1:], tuple(level[1:] for level in pixels.levels)
    )
    assert torch.equal(decode(decoder, second, tokens).mask_logits, found[1:])


def test_words_that_fill_up_a_batch_change_nothing(
    decoder: MaskDecoder, pixels: PixelFeatures
) -> None:
    words = tokens_of(5).expand(2, -1, -1).clone()
    hidden = torch.zeros(2, 5, dtype=torch.bool)
    hidden[1, 3:] = True
    words[hidden] = 0
    image = decoder.prepare(pixels)
    filled = decoder.read(image, words, hidden)
    assert filled.isfinite().all()
    plain = decoder.read(image, words)
    torch.testing.assert_close(filled[0], plain[0])
    short = decoder.read(image, words[:, :3])
    torch.testing.assert_close(filled[1], short[1])


def test_a_query_sees_its_mask_or_everything(
    decoder: MaskDecoder, pixels: PixelFeatures
) -> None:
    image = decoder.prepare(pixels)
    q = torch.randn(2, CONFIG.queries, CONFIG.dim, dtype=torch.float64)
    for call, level in enumerate(pixels.levels):
        visible = decoder.visible_keys(q, image, call)
        embedding = decoder.mask_embed(decoder.decoder_norm(q))
        masks = torch.einsum("bqc,bchw->bqhw", embedding, pixels.mask_features.double())
        size = level.shape[-2:]
        inside = F.interpolate(masks, size, mode="bilinear").flatten(2) >= 0
        nowhere = ~inside.any(dim=-1, keepdim=True)
        assert torch.equal(visible[:, 0], inside | nowhere)


def test_just_below_a_logit_of_zero_is_visible_as_in_float32(
    decoder: MaskDecoder, pixels: PixelFeatures
) -> None:
    q = torch.ones(2, 1, CONFIG.dim, dtype=torch.float64)
    decoder.mask_embed.forward = torch.ones_like  # type: ignore[method-assign]
    for logit, seen in ((-1e-8, [1, 0]), (-1e-6, [0, 0]), (1e-6, [1, 0])):
        features = torch.zeros(2, CONFIG.dim, 3)
        features[:, 0] = torch.tensor([logit, -1.0, 1.0])
        image = decoder.prepare(pixels)._replace(level_mask_features=(features,) * 3)
        visible = decoder.visible_keys(q, image, 0)
        assert visible[0, 0, 0].int().tolist() == [*seen, 1]


def test_training_is_in_single_precision(
    decoder: MaskDecoder, pixels: PixelFeatures
) -> None:
    exact = decode(decoder, pixels, tokens_of(4)).mask_logits
    decoder.train()
    image = decoder.prepare(pixels)
    assert decoder.read(image, tokens_of(4).expand(2, -1, -1)).dtype == torch.float32
    rough = decode(decoder, pixels, tokens_of(4)).mask_logits
    torch.testing.assert_close(rough, exact, atol=1e-3, rtol=1e-3)


def test_the_published_sizes() -> None:
    assert (V1.image_size, V1.queries, V1.dim) == (1024, 101, 512)
