"""Added layers: they change nothing at first, but they can learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from deepen import deepened

from napari_biomedparse.networks.blocks.decoder import SeededField
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.network import SlicePrediction
from napari_biomedparse.networks.v2.biomedparse import BiomedParse

DEEP = replace(TINY, decoder_layers=6)


def run(model: BiomedParse) -> SlicePrediction:
    """Decode two prompts in one slice of noise."""
    generator = torch.Generator().manual_seed(1)
    slices = torch.rand((1, 3, 64, 64), generator=generator) * 255.0
    ids = torch.randint(1, 1000, (2, 7), generator=generator)
    field = SeededField(0, TINY.heads, TINY.queries, torch.device("cpu"))
    return model.decode(model.encode_image(slices), model.encode_prompts(ids), field)


@pytest.fixture
def shallow() -> BiomedParse:
    torch.manual_seed(0)
    return BiomedParse(TINY).eval()


def test_new_layers_change_nothing_at_first(shallow: BiomedParse) -> None:
    deep = deepened(shallow, DEEP, run).eval()
    assert len(deep.mask_decoder.transformer_ffn_layers) == 6
    with torch.no_grad():
        before, after = run(shallow), run(deep)
    for old, new in zip(before[:2], after[:2], strict=True):
        torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-3 * float(old.std()))
    # The classifier reads through norms that were only measured, and a new level.
    torch.testing.assert_close(after.existence, before.existence, rtol=0, atol=0.02)


def test_new_layers_learn(shallow: BiomedParse) -> None:
    deep = deepened(shallow, DEEP, run)
    decoded = run(deep)
    (decoded.mask_logits.square().mean() + decoded.existence.sum()).backward()
    for stack in ("transformer_ffn_layers", "classifier_ffn_layers"):
        for layer in getattr(deep.mask_decoder, stack)[3:]:
            assert bool(layer.linear2.weight.grad.any())
