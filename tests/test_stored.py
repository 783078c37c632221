"""What users have on their disks from before: it opens, resumes and is reproduced.

The files in ``stored`` were made by commit 72bbd5f, see ``stored/make.py``; how a test
lays them out is in ``stored/content.py``. On a processor of the kind they were made on,
results are equal to the bit; on another one a few voxels may lie on the other side of a
threshold.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from stored.content import (
    FINETUNE,
    HERE,
    PROMPTS,
    TRAINING,
    cube_of,
    film_of,
    made_here,
    place,
    place_training,
    training_data,
    unpack,
)

import napari_biomedparse as biomedparse
from napari_biomedparse.networks.checkpoint import read_checkpoint
from napari_biomedparse.networks.weights import model_identity
from napari_biomedparse.widgets.segment.form_state import state_of
from napari_biomedparse.widgets.segment.widget import SegmentWidget
from napari_biomedparse.widgets.shared import settings

SHARE = 1e-3
"""Voxels that may differ on another kind of processor."""
CLOSE = 1e-3
"""How far existence and losses may be apart there."""
RUNS = ("run", "begun", "begun_array", "series", "consensus")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def grey() -> npt.NDArray[np.uint8]:
    return tifffile.imread(HERE / "volume.tif")


def assert_labels(found: Any, expected: Any) -> None:
    """Compare labels, or which voxels belong to objects."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert expected.any()
    assert (found != expected).mean() <= (0 if made_here() else SHARE)


def assert_existence(found: Any, expected: Any) -> None:
    if made_here():
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, atol=CLOSE)


def assert_one_sentence(error: BaseException, *words: str) -> None:
    """Expect a short message for users, without a traceback in it."""
    text = str(error)
    assert text.count("\n") == 0
    assert text.endswith(".")
    for word in words:
        assert word in text


def volume_for(name: str, run: Path, grey: npt.NDArray[np.uint8]) -> Any:
    """Return what the stored run was given."""
    given = {
        "begun_array": grey,
        "series": film_of(grey),
        "consensus": cube_of(grey),
    }
    return given.get(name, run.parent / "volume.tif")


def again(name: str, run: Path, grey: Any, **more: Any) -> Any:
    """Call what made a stored run once more."""
    options: dict[str, Any] = {
        "run": {"instances": True},
        "begun": {"instances": True},
        "begun_array": {},
        "series": {"instances": True},
        "consensus": {"consensus": True},
    }[name]
    volume = volume_for(name, run, grey)
    return biomedparse.segment_to_folder(
        volume, PROMPTS, run, "demo", device="cpu", **options, **more
    )


@pytest.mark.parametrize("name", RUNS)
def test_a_stored_run_opens(name: str) -> None:
    run = biomedparse.Run(HERE / name)
    assert run.finished == (name in ("run", "consensus"))
    assert run.kind == {"series": "series", "consensus": "consensus"}.get(
        name, "volume"
    )
    assert np.unique(np.asarray(run.labels)).tolist() == [0, 1, 2]
    assert run.prompts.ids == (1, 2)
    assert dict(zip(run.prompts.ids, run.prompts.texts, strict=True)) == PROMPTS
    assert run.existence.shape[0] == 2
    longest = run.existence[:, 1] if run.kind == "consensus" else run.existence
    assert np.isnan(longest).any() == (name not in ("run", "consensus"))
    assert run.voxels.sum() > 0
    if name == "run":
        assert np.asarray(run.instances).max() == run.manifest.objects > 1
    contents = biomedparse.open_file(run.labels_path)
    (labels,) = contents.labels
    np.testing.assert_array_equal(labels.volume.data, run.labels)


@pytest.mark.parametrize("name", RUNS)
def test_a_stored_run_continues(name: str, grey: Any, tmp_path: Path) -> None:
    path = place(name, tmp_path)
    before = biomedparse.Run(path)
    records = {p: p.read_bytes() for p in sorted((path / "blocks").glob("*"))}
    seen: list[tuple[int, int]] = []
    run = again(name, path, grey, on_progress=lambda *done: seen.append(done))
    assert run.finished
    if before.finished:
        assert run.manifest == before.manifest
        assert not seen or seen == [(seen[0][1],) * 2]
        return
    assert records or name == "series"
    total = {"begun": 20, "begun_array": 20, "series": 16}[name]
    first = {"series": 8}.get(name, 16)
    assert seen[-1] == (total, total)
    assert all(done > first for done, _ in seen), "finished blocks are done again"
    model = biomedparse.load_model("demo")
    volume = volume_for(name, path, grey)
    if name == "series":
        fresh = [
            biomedparse.segment(
                volume.select(t=time), PROMPTS, model, instances=True, device="cpu"
            )
            for time in range(2)
        ]
        assert_labels(run.labels, np.stack([one.labels for one in fresh]))
        expected = np.stack([one.existence for one in fresh], axis=1)
        assert_existence(run.existence, expected)
        objects = np.stack([one.instances > 0 for one in fresh])
        assert_labels(np.asarray(run.instances) > 0, objects)
        return
    stored = biomedparse.Run(HERE / "run")
    assert_labels(run.labels, stored.labels)
    assert_existence(run.existence, stored.existence)
    if name == "begun":
        assert_labels(np.asarray(run.instances) > 0, np.asarray(stored.instances) > 0)
        assert (run.manifest.objects == stored.manifest.objects) or not made_here()


@pytest.mark.parametrize("name", ["run", "consensus"])
def test_a_stored_run_is_reproduced(name: str, grey: Any, tmp_path: Path) -> None:
    path = place(name, tmp_path)
    array = None if name == "run" else volume_for(name, path, grey)
    run, differences = biomedparse.reproduce(path, tmp_path / "again", volume=array)
    stored = biomedparse.Run(HERE / name)
    assert_labels(run.labels, stored.labels)
    assert_existence(run.existence, stored.existence)
    if made_here():
        assert differences == []


def test_a_run_on_another_file_is_refused(grey: Any, tmp_path: Path) -> None:
    """The path in the record is none of here: the stored folder as it is."""
    shutil.copytree(HERE / "begun", tmp_path / "begun")
    shutil.copy(HERE / "volume.tif", tmp_path)
    with pytest.raises(biomedparse.OutputError) as caught:
        again("begun", tmp_path / "begun", grey)
    assert_one_sentence(caught.value, "another run", "source.path")
    record = json.loads((tmp_path / "begun" / "manifest.json").read_text("utf-8"))
    record["source"]["path"] = str(tmp_path / "gone.tif")
    (tmp_path / "begun" / "manifest.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(biomedparse.BiomedParseError) as missing:
        biomedparse.reproduce(tmp_path / "begun", tmp_path / "again")
    assert_one_sentence(missing.value, "gone.tif")


def test_a_run_of_another_version_is_refused(grey: Any, tmp_path: Path) -> None:
    path = place("begun_array", tmp_path)
    record = json.loads((path / "manifest.json").read_text("utf-8"))
    record["parameters"]["napari_biomedparse"] = "0.0.1"
    (path / "manifest.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(biomedparse.OutputError) as caught:
        again("begun_array", path, grey)
    assert_one_sentence(caught.value, "0.0.1", "Choose another folder")


def test_a_record_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = place("run", tmp_path)
    record = json.loads((path / "manifest.json").read_text("utf-8"))
    (path / "manifest.json").write_text(json.dumps(record | {"version": 99}), "utf-8")
    with pytest.raises(biomedparse.FormatError) as caught:
        biomedparse.Run(path)
    assert_one_sentence(caught.value, "later version")


def test_converted_weights_load(grey: Any, tmp_path: Path) -> None:
    weights = tmp_path / "smallest.safetensors"
    unpack(HERE / f"{weights.name}.xz", weights)
    model = biomedparse.load_model(weights)
    assert model.config.image_size == 32
    assert read_checkpoint(weights).metadata["source"] == "smallest.ckpt"
    found = biomedparse.segment(grey[:4], PROMPTS, model, device="cpu")
    assert model_identity(model) == found.parameters["model"]
    with np.load(HERE / "smallest_labels.npz") as stored:
        assert_labels(found.labels, stored["labels"])
        assert_existence(found.existence, stored["existence"])


def test_stored_training_continues(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    folder, weights = place_training(tmp_path)
    assert biomedparse.load_model(folder / "finetuned.safetensors")
    assert biomedparse.load_model(folder / "last.ckpt").config.image_size == 32
    options = biomedparse.FinetuneOptions(**FINETUNE)
    steps: list[int] = []
    done = biomedparse.finetune(
        training_data(),
        folder,
        weights,
        options,
        device="cpu",
        on_progress=lambda now: steps.append(now.step),
    )
    assert steps[0] == TRAINING["killed_at"], "it does not begin at its last checkpoint"
    found = (folder / "log.csv").read_text("utf-8").splitlines()
    # What comes after the kill has the loss of today: masks are averaged over all.
    expected = (HERE / "training_log.csv").read_text("utf-8").splitlines()
    if made_here():
        assert found == expected
    else:
        assert [_step(row) for row in found] == [_step(row) for row in expected]
    assert done.step == int(_step(expected[-1]))
    assert biomedparse.load_model(done.checkpoint).config.image_size == 32
    with pytest.raises(biomedparse.OutputError) as caught:
        other = biomedparse.FinetuneOptions(**FINETUNE | {"seed": 2})
        biomedparse.finetune(training_data(), folder, weights, other, device="cpu")
    assert_one_sentence(caught.value, "another training", "options")


def _step(row: str) -> str:
    return row.split(",")[1]


@pytest.fixture
def stored_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have napari find the stored settings as its own."""
    napari_settings = pytest.importorskip("napari.settings")
    folder = tmp_path / "napari"
    shutil.copytree(HERE / "settings", folder)
    monkeypatch.setattr(napari_settings, "_CFG_PATH", str(folder / "settings.yaml"))
    monkeypatch.setattr(napari_settings, "_PLUGIN_SETTINGS", {})
    last = folder / "napari-biomedparse-last.json"
    monkeypatch.setattr(settings, "_last_file", lambda: last)
    return last


def test_stored_settings_are_taken_over(
    stored_settings: Path, make_napari_viewer: Any
) -> None:
    kept = json.loads(stored_settings.read_text("utf-8"))
    assert kept["prompts"] == [[1, "nuclei", True], [7, "cell membranes", False]]
    chosen = settings.settings()
    assert (chosen.device, chosen.existence_threshold) == ("cpu", 0.25)
    assert (chosen.model, chosen.cache_gigabytes) == ("demo", 0.5)
    viewer = make_napari_viewer()
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget)
    new = {"prompts_apart": False, "separate_by": "edges", "diameter": 0.0}
    new |= {"orientation": "published", "mode": "auto"}
    new |= {"kind": "auto", "table": "", "p_threshold": 0.0, "precision": "auto"}
    kept["options"] |= new
    assert state_of(widget.form) == kept
    widget.session.close()
