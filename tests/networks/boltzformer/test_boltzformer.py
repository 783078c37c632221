"""BoltzFormer beside its plain formulas: output layer, scores, batches, drops."""

from __future__ import annotations

import pytest
import torch
from tiny_boltz import FOCAL, HIERA, tiny_boltz
from torch import Tensor
from torch.nn import functional as F

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.networks.boltzformer.boltzformer import DROP, BoltzFormer
from napari_biomedparse.networks.boltzformer.output import aggregate, pixel_logits

SIDE = HIERA.image_size


@pytest.fixture(scope="module")
def model() -> BoltzFormer:
    return tiny_boltz()


def slices(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator)


def test_folded_output_layer_equals_its_two_convolutions(model: BoltzFormer) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, SIDE, SIDE)
    features = torch.randn(2, HIERA.dim, SIDE // 4, SIDE // 4)
    embedding = torch.randn(4, HIERA.queries, HIERA.dim)  # two prompts a slice
    masks = torch.einsum("nqc,nchw->nqhw", embedding, features.repeat_interleave(2, 0))
    large = image.repeat_interleave(2, 0)
    quarter, half = (F.interpolate(large, scale_factor=s, mode="bilinear")
                     for s in (0.25, 0.5))  # fmt: skip
    c = model.output_conv(
        torch.cat([half, model.output_deconv(torch.cat([quarter, masks], 1))], 1)
    )
    mean = F.interpolate(masks.mean(1, keepdim=True), scale_factor=2.0, mode="bilinear")
    layer = model.output_deconv, model.output_conv
    pixels = pixel_logits(image, *layer).repeat_interleave(2, 0)
    found = aggregate(embedding, features, pixels, *layer)
    torch.testing.assert_close(found, (c + mean) / 2, atol=1e-4, rtol=1e-4)


def test_the_score_is_the_highest_logit_of_a_mask(model: BoltzFormer) -> None:
    engine = Engine(model, device="cpu")
    tokens = [engine.encode_prompts([text]) for text in ("liver", "a long prompt")]
    found = engine.predict(slices(2), tokens)
    assert found.mask_logits.shape == (2, 2, SIDE // 2, SIDE // 2)
    torch.testing.assert_close(found.existence, found.mask_logits.amax((-2, -1)))
    assert (found.edge_logits < -50).all()


def test_a_slice_is_the_same_alone_and_in_a_batch(model: BoltzFormer) -> None:
    engine = Engine(model, device="cpu", cache_bytes=0)
    tokens = [engine.encode_prompts(["liver"])]
    together = engine.predict(slices(3), tokens).mask_logits
    alone = engine.predict(slices(3)[1:2], tokens).mask_logits
    assert torch.equal(together[1:2], alone)
    features = engine.model.encode_image(slices(3)[:2])
    joined = model.join_features([model.encode_image(x[None]) for x in slices(3)[:2]])
    torch.testing.assert_close(joined.pixels, features.pixels)
    assert joined.nbytes == features.nbytes > features.pixels.nbytes > 0


def test_blocks_of_focalnet_are_left_out_only_in_training() -> None:
    model = BoltzFormer(FOCAL)
    last = model.backbone.layers[3].blocks[0]
    assert last.drop == DROP
    assert model.backbone.layers[0].blocks[0].drop == 0
    x = torch.ones(400, 1, 1, 2)
    torch.manual_seed(0)
    kept = last.train()._kept(x)
    assert set(kept.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - DROP)))}
    assert kept.mean() == pytest.approx(1.0, abs=0.1)
    assert torch.equal(last.eval()._kept(x), x)
