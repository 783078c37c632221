"""The benchmark's naive evaluation gives the numbers of the product."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.labels import resolve as postprocess
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.v2.biomedparse import BiomedParse

TEXTS = ["liver in abdominal CT", "left kidney", "spleen"]


@pytest.fixture
def naive(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    import naive

    return naive


def _field(call: int, keys: int) -> torch.Tensor:
    """Zeros and ones, so that rounding hardly ever changes what is hidden."""
    generator = torch.Generator().manual_seed(100 * call + keys)
    shape = (TINY.heads, TINY.queries, keys)
    return (torch.rand(shape, generator=generator) >= 0.9).float()


@pytest.mark.parametrize("prompts", [1, 3])
def test_naive_and_product_give_the_same(
    naive: ModuleType, tiny_model: BiomedParse, prompts: int
) -> None:
    slices = torch.randint(
        256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)
    )
    engine = Engine(tiny_model, field=_field)
    with torch.inference_mode():
        tokens = naive.encode_prompts(tiny_model, TEXTS[:prompts])
        expected = engine.encode_prompts(TEXTS[:prompts])
        torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)
        product = engine.predict(slices, expected)
        features = naive.encode_backbone(tiny_model, slices)
        pixels = naive.decode_pixels(tiny_model, features)
        decoder = naive.NaiveDecoder(tiny_model, _field)
        found = decoder.decode(pixels, tokens)
        labels = naive.resolve([found], range(1, prompts + 1), (64, 64))
    assert len(decoder.logits) == TINY.decoder_layers + 1
    for ours, theirs in zip(product, found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    resolved = postprocess.resolve(
        product.mask_logits, product.existence, range(1, prompts + 1), (64, 64)
    )
    assert (resolved.labels != labels).float().mean() < 1e-3


def test_templates_are_as_many_as_the_original_s(
    naive: ModuleType, tiny_model: BiomedParse, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(tiny_model, "encode_prompts", lambda ids: seen.append(ids))
    naive.encode_templates(tiny_model)
    assert sum(len(ids) for ids in seen) == 1377
    assert {ids.shape[1] for ids in seen} == {TINY.context_length}
