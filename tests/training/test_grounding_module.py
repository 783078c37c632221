"""v1 learns: all heads, its rates, images beside each other, and a whole training."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from tiny_v1 import CONFIG, tiny_v1

from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.networks.v1.biomedparse import BiomedParseV1
from napari_biomedparse.networks.weights import config_of, is_fine_tuned, load_model
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.training import grounding
from napari_biomedparse.training.adapters import merged_state_dict
from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.folder import BEST, LAST, LOG
from napari_biomedparse.training.grounding_module import GroundingModule
from napari_biomedparse.training.module import prepare
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.slices import Batch, Sample, SliceBatches
from napari_biomedparse.training.volumes import TrainingVolume
from napari_biomedparse.training.wordings import Wordings

OPTIONS = FinetuneOptions(
    epochs=2, batch_size=2, prompts=2, learning_rate=3e-3, save_every=2, freeze=()
)


def squares(count: int = 2) -> Batch:
    """A square in the first slices, and a bar in the first one alone."""
    image = np.full((3, 64, 64), 60, np.uint8)
    image[:2, 16:40, 16:40] = 200
    image[0, 50:60, 4:60] = 130
    labels = np.where(image == 200, 1, np.where(image == 130, 2, 0))
    wordings = Wordings({1: ("square",), 2: ("a long bar",)})
    volume = TrainingVolume("a", "a", image, labels, wordings, (0,))
    samples = [Sample(0, 0, place) for place in range(count)]
    options = replace(OPTIONS, batch_size=count)
    return SliceBatches([volume], samples, options, 64, None, alone=True)[0]


def module(options: FinetuneOptions = OPTIONS) -> GroundingModule:
    model = tiny_v1()
    prepare(model, options)
    return GroundingModule(model, options)


def test_the_loss_falls() -> None:
    trained, losses = module().train(), []
    optimizer = trained.configure_optimizers()["optimizer"]  # type: ignore[index,call-overload]
    for _ in range(8):
        loss = trained.total(trained.losses_and_masks(squares())[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_every_head_counts_and_an_image_reads_its_own_prompts_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def noted(head, sought, *others):  # type: ignore[no-untyped-def]
        seen.append((head, sought))
        return grounding.grounding_losses(head, sought, *others)

    name = "napari_biomedparse.training.grounding_module.grounding_losses"
    monkeypatch.setattr(name, noted)
    trained, batch = module().eval(), squares(3)
    with torch.no_grad():
        losses, masks = trained.losses_and_masks(batch)
    assert len(seen) == CONFIG.decoder_layers + 1
    assert [len(own.masks) for own in seen[0][1]] == [2, 1, 0]
    assert torch.equal(seen[0][1][1].masks[0], batch.targets.masks[1, 0])
    assert float(trained.total(losses)) > 0
    decoder, model = trained.model.mask_decoder, trained.model
    with torch.no_grad():
        tokens = model.encode_prompts(batch.ids)
        for image, prompts in ((0, [0, 1]), (1, [0])):
            own = tokens[prompts] * batch.real[prompts][..., None]
            features = model.encode_image(batch.slices[image : image + 1])
            found = decoder(features, own, None).mask_logits[0]
            torch.testing.assert_close(masks[image, prompts], found)


def test_an_image_without_targets_has_gradients_of_0() -> None:
    trained, batch = module().train(), squares()
    targets = batch.targets._replace(exists=torch.zeros_like(batch.targets.exists))
    losses, _ = trained.losses_and_masks(batch._replace(targets=targets))
    trained.total(losses).backward()
    for name, parameter in trained.model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_rates_are_lower_for_backbone_and_text_and_fall_towards_the_end() -> None:
    trained = module(replace(OPTIONS, weight_decay=0.1, learning_rate=1e-3))
    trained.steps = 1000
    both = trained.configure_optimizers()
    made = both["optimizer"]  # type: ignore[index,call-overload]
    (rate, *_) = both["lr_scheduler"]["scheduler"].lr_lambdas  # type: ignore[index,call-overload]
    found = {
        id(parameter): (group["initial_lr"], group["weight_decay"])
        for group in made.param_groups
        for parameter in group["params"]
    }
    model = trained.model
    decoder = model.mask_decoder
    assert len(found) == len(list(model.parameters()))
    block = model.backbone.layers[0].blocks[0]  # type: ignore[union-attr,index]
    assert found[id(block.mlp.fc1.weight)] == pytest.approx((1e-4, 0.1))
    assert found[id(block.norm1.weight)] == pytest.approx((1e-4, 0.0))
    table = decoder.text_encoder.lang_encoder.token_embedding  # type: ignore[union-attr]
    assert found[id(table.weight)] == pytest.approx((1e-4, 0.0))
    assert found[id(decoder.query_feat.weight)] == pytest.approx((1e-3, 0.0))  # type: ignore[union-attr]
    assert found[id(decoder.class_embed)] == pytest.approx((1e-3, 0.1))
    shares = [rate(step) for step in (0, 888, 889, 962, 963)]
    assert shares == pytest.approx([1, 1, 0.1, 0.1, 0.01])


# --- a whole training ----------------------------------------------------------------


def write(folder: Path, count: int = 4) -> Path:
    """Discs with a cup inside, 48 x 40 pixels in color."""
    for part in ("train", "train_mask"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image = np.full((48, 40, 3), 40, np.uint8)
        disc, cup = np.zeros((2, 48, 40), np.uint8)
        disc[4 + number : 34 + number, 6:36] = 255
        cup[12 + number : 24 + number, 14:26] = 255
        image += np.stack([disc // 3, disc // 4 + cup // 3, cup // 4], axis=-1)
        files = {
            f"train/{number}_Fundus_retina.png": image,
            f"train_mask/{number}_Fundus_retina_optic+disc.png": disc,
            f"train_mask/{number}_Fundus_retina_optic+cup.png": cup,
        }
        for name, pixels in files.items():
            (folder / name).write_bytes(imagecodecs.png_encode(pixels))
    return folder


def test_it_goes_on_after_a_stop_and_the_result_is_a_v1_network(tmp_path: Path) -> None:
    data, start = write(tmp_path / "data"), tmp_path / "v1.safetensors"
    save_weights(start, tiny_v1().state_dict(), config=CONFIG)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finetune(data, whole, start, OPTIONS, device="cpu")
    seen: list[int] = []
    finetune(
        data, stopped, start, OPTIONS, device="cpu",
        on_progress=lambda now: seen.append(now.step), stop=lambda: len(seen) == 2,
    )  # fmt: skip
    again = finetune(data, stopped, start, OPTIONS, device="cpu")
    for name in (BEST, LAST):
        once, other = (load_model(folder / name) for folder in (whole, stopped))
        assert isinstance(once, BiomedParseV1) and once.config == CONFIG
        torch.testing.assert_close(once.state_dict(), other.state_dict())
    assert config_of(str(whole / BEST)) == CONFIG and is_fine_tuned(whole / BEST)
    with (whole / LOG).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[1]["loss"])
    assert {"mask_bce", "mask_dice", "choice", "val_dice"} <= rows[1].keys()
    assert again.held_out.startswith("volumes ")
    image = np.full((1, 48, 40, 3), 40, np.uint8)
    found = segment(image, ["optic cup in retina Fundus"], whole / BEST, device="cpu")
    assert found.labels.shape == (1, 48, 40)


def test_adapters_of_v1_become_plain_weights() -> None:
    options = replace(OPTIONS, rank=2, freeze=("text",))
    trained = module(options).train()
    merged = merged_state_dict(trained.model)
    plain = tiny_v1().state_dict()
    assert merged.keys() == plain.keys()
    trained.total(trained.losses_and_masks(squares())[0]).backward()
    changed = [n for n, p in trained.model.named_parameters() if p.grad is not None]
    assert any("parametrizations" in name for name in changed)
    assert not any("lang_encoder" in name for name in changed)
