"""Low-rank adapters: nothing at first, then changes of low rank, then plain weights."""

from __future__ import annotations

from pathlib import Path

import torch
from training.data_folder import write_folder

from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.training.adapters import add_adapters, merged_state_dict
from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.module import prepare
from napari_biomedparse.training.options import FinetuneOptions

RANK = 2
OPTIONS = FinetuneOptions(
    epochs=1, batch_size=8, prompts=2, learning_rate=1e-2, max_steps=2, rank=RANK
)


def adapted() -> BiomedParse:
    model = load_model("tiny")
    prepare(model, OPTIONS)
    return model


def test_at_first_nothing_changes() -> None:
    plain, model = load_model("tiny"), adapted()
    slices = torch.rand((1, 3, 64, 64)) * 255
    with torch.no_grad():
        for one, other in zip(
            plain.backbone(slices), model.backbone(slices), strict=True
        ):
            assert torch.equal(one, other)
    merged = merged_state_dict(model)
    assert merged.keys() == plain.state_dict().keys()
    assert all(torch.equal(merged[k], v) for k, v in plain.state_dict().items())


def test_little_is_trained() -> None:
    trained = sum(p.numel() for p in adapted().parameters() if p.requires_grad)
    everything = sum(p.numel() for p in adapted().parameters())
    assert 0 < trained < 0.05 * everything


def test_parts_that_are_kept_get_no_adapters() -> None:
    model = load_model("tiny")
    model.requires_grad_(False)
    add_adapters(model, RANK, 0)
    assert not any(p.requires_grad for p in model.parameters())
    assert model.state_dict().keys() == load_model("tiny").state_dict().keys()


def test_the_result_is_a_plain_checkpoint_of_low_rank_changes(tmp_path: Path) -> None:
    result = finetune(
        write_folder(tmp_path / "d"), tmp_path / "o", "tiny", OPTIONS, device="cpu"
    )
    before, after = load_model("tiny").state_dict(), load_model(result.checkpoint)
    changed = 0
    for name, value in after.state_dict().items():
        if value.ndim == 2 and min(value.shape) > RANK:
            difference = (value - before[name]).double()
            values = torch.linalg.svdvals(difference)
            assert float(values[RANK:].max()) <= 1e-3 * float(values[0]) + 1e-6
            changed += bool(values[0] > 1e-4)
        elif value.ndim > 2:
            assert torch.equal(value, before[name])
    assert changed > 20
