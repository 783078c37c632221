"""The whole network: names and shapes, and what must not change its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from napari_biomedparse.networks.blocks.decoder import SeededField
from napari_biomedparse.networks.config import TINY, V2
from napari_biomedparse.networks.v2.biomedparse import BiomedParse


@pytest.fixture
def field() -> SeededField:
    return SeededField(0, TINY.heads, TINY.queries, torch.device("cpu"))


@pytest.fixture
def slices() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand((2, 3, 64, 64), generator=generator) * 255


def test_state_dict_of_v2_equals_the_manifest(shared: Path) -> None:
    manifest = json.loads(
        (shared / "reference" / "state_dict_manifest.json").read_text()
    )["keys"]
    with torch.device("meta"):
        state = BiomedParse(V2).state_dict()
    found = {
        name: [list(x.shape), str(x.dtype).removeprefix("torch.")]
        for name, x in state.items()
    }
    assert len(found) == 1050
    assert found == {
        name: [shape, dtype.removeprefix("torch.")]
        for name, (shape, dtype) in manifest.items()
    }


def test_shapes_follow_the_config(
    tiny_model: BiomedParse, slices: torch.Tensor, field: SeededField
) -> None:
    with torch.inference_mode():
        image = tiny_model.encode_image(slices)
        tokens = tiny_model.encode_prompts(torch.tensor([[1, 2, 3]] * 4))
        decoded = tiny_model.decode(image, tokens, field)
    assert tokens.shape == (4, 3, TINY.dim)
    assert decoded.mask_logits.shape == (2, 4, 16, 16)
    assert decoded.edge_logits.shape == (2, 4, 16, 16)
    assert decoded.existence.shape == (2, 4)


def test_a_slice_and_a_prompt_do_not_depend_on_their_company(
    tiny_model: BiomedParse, slices: torch.Tensor, field: SeededField
) -> None:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn((3, 5, TINY.dim), generator=generator)
    with torch.inference_mode():
        together = tiny_model.decode(tiny_model.encode_image(slices), tokens, field)
        image = tiny_model.encode_image(slices[1:])
        alone = tiny_model.decode(image, tokens[2:], field)
    for joint, single in zip(together, alone, strict=True):
        torch.testing.assert_close(joint[1:, 2:], single, rtol=1e-4, atol=1e-4)


def test_padding_tokens_take_part(
    tiny_model: BiomedParse, slices: torch.Tensor, field: SeededField
) -> None:
    """ARCHITECTURE section 4: there is no key-padding mask anywhere."""
    tokens = torch.randn((1, 5, TINY.dim))
    padded = torch.cat([tokens, torch.zeros((1, 4, TINY.dim))], dim=1)
    with torch.inference_mode():
        image = tiny_model.encode_image(slices)
        short = tiny_model.decode(image, tokens, field).existence
        long = tiny_model.decode(image, padded, field).existence
    assert (short - long).abs().max() > 1e-3


def test_gradients_reach_every_tensor_that_influences_the_output() -> None:
    torch.manual_seed(0)
    model = BiomedParse(TINY)
    field = SeededField(0, TINY.heads, TINY.queries, torch.device("cpu"))
    image = model.encode_image(torch.rand((1, 3, 64, 64)) * 255)
    tokens = model.encode_prompts(torch.tensor([[49406, 5, 49407]]))
    sum(x.square().mean() for x in model.decode(image, tokens, field)).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    predictor = "sem_seg_head.predictor"
    assert without == {
        f"{predictor}.class_embed",
        f"{predictor}.language_encoder.logit_scale",
    }
