"""The demo model's recipe with tiny networks: all parts, cuts, and the average."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import parts as parts_module
import pytest
import torch
import train as train_module
from parts import AVERAGED, Averaging, _move
from phantom_cases import to_case
from train import PARTS, train

from napari_biomedparse.errors import OutputError
from napari_biomedparse.networks.checkpoint import read_checkpoint
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.samples import KINDS, make_phantom
from napari_biomedparse.training.folder import LAST, LOG

DEEP = replace(TINY, decoder_layers=6)
CONFIGS = (TINY, DEEP, DEEP, replace(DEEP, image_size=96))
STEPS = (1, 3, 1, 1)
RECIPE = tuple(
    replace(part, config=config, slices=1, steps=steps)
    for part, config, steps in zip(PARTS, CONFIGS, STEPS, strict=True)
)


def phantoms(folder: Path) -> None:
    """Lay small phantoms where the recipe looks for those it has made before."""
    (folder / "phantoms").mkdir(parents=True)
    for seed, kind in enumerate(KINDS):
        case = to_case(make_phantom(kind, seed, shape=(3, 128, 128)))
        np.savez(
            folder / "phantoms" / f"{kind}-{seed}.npz",
            image=case.image,
            labels=case.labels,
            objects=case.objects,
        )


@pytest.fixture(scope="module", autouse=True)
def often() -> object:
    """Write a checkpoint after every two batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_module, "SAVE_EVERY", 2)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    phantoms(folder)
    train(folder, seed=0, parts=RECIPE, phantoms=2)
    return folder


def test_every_part_goes_on_from_the_one_before(whole: Path) -> None:
    with (whole / "second" / LOG).open(encoding="utf-8", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "3"]
    models = [load_model(whole / part.name / AVERAGED) for part in RECIPE]
    assert [model.config for model in models] == list(CONFIGS)
    tables = [model.mask_decoder.query_feat_.weight.detach() for model in models]
    for before, after in pairwise(tables):
        change = float((after - before).abs().max())
        assert 0 < change < 0.1 * float(before.abs().max())


def test_what_is_shipped_lies_between_two_parts(whole: Path) -> None:
    shipped = load_model(whole / "demo.safetensors")
    assert shipped.config == CONFIGS[-1]
    earlier, last = (
        load_model(whole / name / AVERAGED).state_dict()
        for name in (train_module.EARLIER, RECIPE[-1].name)
    )
    for name, value in shipped.state_dict().items():
        expected = (1 - train_module.SHARE) * earlier[name] + train_module.SHARE * last[
            name
        ]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6)
    facts = read_checkpoint(whole / "demo.safetensors").metadata
    assert "--seed 0 --steps 1 3 1 1 --phantoms 2" in facts["command"]


def test_a_cut_run_goes_on_as_if_it_had_not_been_cut(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing tidies up after it."""

    asked = parts_module.ask_about_phantoms
    count = 0

    def dying(rng: np.random.Generator) -> object:
        nonlocal count
        count += 1
        if count == 6:  # probe and step of the first part, the second's third step
            raise Killed
        return asked(rng)

    phantoms(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(parts_module, "ask_about_phantoms", dying)
        train(tmp_path, seed=0, parts=RECIPE[:2], phantoms=2)
    assert (tmp_path / "first" / AVERAGED).exists()
    assert (tmp_path / "second" / LAST).exists()
    assert not (tmp_path / "second" / AVERAGED).exists()
    train(tmp_path, seed=0, parts=RECIPE[:2], phantoms=2)
    again, once = (
        read_checkpoint(f / "second" / AVERAGED).tensors for f in (tmp_path, whole)
    )
    assert (tmp_path / "second" / LOG).read_text("utf-8") == (
        whole / "second" / LOG
    ).read_text("utf-8")
    assert all(torch.equal(again[name], value) for name, value in once.items())


def test_a_part_cut_after_its_last_step_still_leaves_the_average(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError("no space left on device")

    phantoms(tmp_path)
    first = RECIPE[:1]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(parts_module, "save_weights", full)
        train(tmp_path, seed=0, parts=first, phantoms=2)
    monkeypatch.setattr(train_module, "EARLIER", "first")
    train(tmp_path, seed=0, parts=first, phantoms=2)
    again, once = (
        read_checkpoint(f / "first" / AVERAGED).tensors for f in (tmp_path, whole)
    )
    assert all(torch.equal(again[name], value) for name, value in once.items())


def test_another_recipe_in_the_folder_is_refused(whole: Path) -> None:
    other = (replace(RECIPE[0], steps=2), *RECIPE[1:])
    with pytest.raises(OutputError, match="another training, which differs in part"):
        train(whole, seed=0, parts=other, phantoms=2)


def test_checkpoints_hold_the_average_for_whoever_looks(whole: Path) -> None:
    seen = load_model(whole / "fourth" / LAST).state_dict()
    kept = load_model(whole / "fourth" / AVERAGED).state_dict()
    for name, value in kept.items():
        torch.testing.assert_close(seen[name], value, msg=name)


def test_the_average_follows_closely_at_first_and_slowly_later() -> None:
    for count, decay in ((1, 2 / 11), (90, 0.91), (10**6, 0.998)):
        mean = torch.tensor([1.0])
        _move([mean], [torch.tensor([0.0])], torch.tensor(count))
        assert float(mean) == pytest.approx(decay, rel=1e-4)
    assert Averaging().should_update(step_idx=0)
