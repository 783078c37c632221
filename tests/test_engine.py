from __future__ import annotations

import pytest
import torch

from napari_biomedparse.engine import Engine, available_devices, find_device
from napari_biomedparse.errors import DeviceError
from napari_biomedparse.model.biomedparse import BiomedParse


@pytest.fixture
def slices() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    size = (3, 3, 64, 64)
    return torch.randint(0, 256, size, generator=generator, dtype=torch.int32)


def test_prompts_are_padded_with_zeros_to_the_longest(tiny_model: BiomedParse) -> None:
    tokens = Engine(tiny_model).encode_prompts(["liver", "the left kidney in CT"])
    assert tokens.shape[:2] == (2, 7)
    assert tokens[0, :3].abs().min() > 0
    assert not tokens[0, 3:].any()


def test_each_prompt_is_encoded_once(
    tiny_model: BiomedParse, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny_model)
    calls = []
    encode = tiny_model.encode_prompts
    monkeypatch.setattr(
        tiny_model, "encode_prompts", lambda ids: calls.append(1) or encode(ids)
    )
    first = engine.encode_prompts(["liver", "kidney"])
    again = engine.encode_prompts(["kidney", "liver", "liver"])
    assert len(calls) == 2
    assert torch.equal(first, again[[1, 0]])


def test_company_changes_no_bit(tiny_model: BiomedParse, slices: torch.Tensor) -> None:
    engine = Engine(tiny_model)
    tokens = engine.encode_prompts(["liver", "kidney", "spleen"])
    together = engine.predict(slices, tokens)
    for i in range(3):
        for p in range(3):
            alone = engine.predict(slices[i : i + 1], tokens[p : p + 1])
            for joint, single in zip(together, alone, strict=True):
                assert torch.equal(joint[i, p], single[0, 0])


def test_the_seed_decides(tiny_model: BiomedParse, slices: torch.Tensor) -> None:
    tokens = Engine(tiny_model).encode_prompts(["liver"])
    results = [
        Engine(tiny_model, seed=seed).predict(slices, tokens).mask_logits
        for seed in (0, 0, 1)
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_missing_devices_are_named() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert str(find_device("auto")) == available_devices()[0]
    with pytest.raises(DeviceError, match=r"no device 'warp'.*cpu"):
        find_device("warp")
    with pytest.raises(DeviceError, match=r"no device 'cuda:99'.*cpu"):
        find_device("cuda:99")
