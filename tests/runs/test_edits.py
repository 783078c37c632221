"""What a person changed in a run folder outlives all that a machine does to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_biomedparse.errors import OutputError
from napari_biomedparse.io.painting import EDITS, PaintableLabels
from napari_biomedparse.runs import blocks
from napari_biomedparse.runs.folder import BLOCKS, EDGES, LABELS, OBJECTS, Run
from napari_biomedparse.runs.reproduce import reproduce
from napari_biomedparse.runs.run import segment_to_folder

GREY = np.random.default_rng(0).integers(0, 255, (40, 48, 40), dtype=np.uint8)


def run_in(folder: Path, **more: Any) -> Run:
    return segment_to_folder(GREY, "liver", folder, "tiny", device="cpu", **more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_in(folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def paint(folder: Path, name: str = LABELS) -> tuple[np.ndarray, np.ndarray]:
    """Paint across two blocks; return the labels before and after."""
    labels = PaintableLabels(folder / name)
    before = np.asarray(labels)
    labels[10:20, 5:15, 5:15] = 7
    labels[12, 6, 6] = 0
    labels.flush()
    return before, np.asarray(labels)


def test_edits_are_not_overwritten(folder: Path) -> None:
    _, edited = paint(folder)
    with pytest.raises(OutputError, match=r"has 999 voxels that were edited by hand"):
        run_in(folder, overwrite=True)
    np.testing.assert_array_equal(Run(folder).labels, edited)
    assert Run(folder).edited == 999
    shutil.rmtree(folder / EDITS)
    assert run_in(folder, overwrite=True, existence_threshold=0.1).edited == 0


def test_undone_strokes_are_no_edits(folder: Path) -> None:
    before, _ = paint(folder)
    labels = PaintableLabels(folder / LABELS)
    labels[10:20] = before[10:20]
    labels.flush()
    assert Run(folder).edited == 0
    run_in(folder, overwrite=True, existence_threshold=0.1)
    assert not (folder / EDITS).exists()


def test_lost_labels_are_run_again_and_edits_put_on_top(folder: Path) -> None:
    before, edited = paint(folder)
    for damage in (spoil_a_chunk, remove_labels, remove_a_level):
        damage(folder)
        run = run_in(folder)
        assert run.finished
        np.testing.assert_array_equal(run.labels, edited)
        assert not (folder / BLOCKS).exists()
    assert (before != edited).sum() == 999


def test_accepted_slices_outlive_a_run_that_finds_others(
    folder: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = PaintableLabels(folder / LABELS)
    labels[12, 6:9] = 3
    labels.accept({0: [12, 30]})
    labels.flush()
    with pytest.raises(OutputError, match="edited by hand"):
        run_in(folder, overwrite=True)
    expected = 1 - (np.asarray(Run(finished).labels) > 0)
    expected[[12, 30]] = labels[[12, 30]]
    remove_labels(folder)
    network = blocks._fill

    def other(*given: Any) -> Any:  # what another machine may find
        for block in network(*given):
            parts = [(part == 0).astype(part.dtype) for part in block.parts]
            yield block._replace(parts=parts)

    monkeypatch.setattr(blocks, "_fill", other)
    run = run_in(folder)
    np.testing.assert_array_equal(run.labels, expected)
    assert PaintableLabels(folder / LABELS).accepted == {0: [12, 30]}
    assert run_in(folder).manifest == run.manifest  # whole


def test_accepted_slices_are_not_overwritten(folder: Path) -> None:
    labels = PaintableLabels(folder / LABELS)
    labels.accept({0: [3, 4]})
    labels.flush()
    with pytest.raises(OutputError, match="has 2 slices that were accepted, and"):
        run_in(folder, overwrite=True)


def spoil_a_chunk(folder: Path) -> None:
    (chunk, *_) = (folder / LABELS / "s0" / "c" / "1").rglob("0")
    chunk = next(p for p in [chunk, *chunk.rglob("*")] if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-3])


def remove_labels(folder: Path) -> None:
    shutil.rmtree(folder / LABELS)


def remove_a_level(folder: Path) -> None:
    (folder / LABELS / "s0" / "zarr.json").unlink()


def test_a_finished_run_that_is_whole_is_left_alone(folder: Path) -> None:
    (folder / BLOCKS).mkdir()  # killed before it was tidied
    (folder / EDGES).mkdir()
    paint(folder)
    at = (folder / "manifest.json").stat().st_mtime_ns
    calls: list[int] = []
    assert run_in(folder, on_progress=lambda done, _: calls.append(done)).finished
    assert not calls
    assert (folder / "manifest.json").stat().st_mtime_ns == at
    assert not {BLOCKS, EDGES} & {path.name for path in folder.iterdir()}


def test_resume_leaves_edits_on_top(folder: Path, finished: Path) -> None:
    machine = np.asarray(Run(finished).labels)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / BLOCKS).mkdir()
    for block in manifest["blocks"][:2]:
        name = f"{block['start']:08d}.json"
        (folder / BLOCKS / name).write_text(json.dumps(block))
    manifest |= {"blocks": [], "finished": None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    labels = PaintableLabels(folder / LABELS)
    labels[30:36] = 9  # partly in the block that was not run
    labels.flush()
    run = run_in(folder)
    expected = machine.copy()
    expected[30:36] = 9
    np.testing.assert_array_equal(run.labels, expected)
    assert run.manifest.blocks == Run(finished).manifest.blocks  # of the machine
    assert run_in(folder).manifest == run.manifest  # whole


def test_objects_are_mended_and_edited_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole = np.asarray(run_in(folder, instances=True).instances)
    _, edited = paint(folder, OBJECTS)
    run_in(folder, instances=True)
    np.testing.assert_array_equal(Run(folder).instances, edited)
    shutil.rmtree(folder / OBJECTS)
    mended = np.asarray(run_in(folder, instances=True).instances)
    np.testing.assert_array_equal(mended, edited)
    assert (mended != whole).any()


def test_a_series_is_mended_at_one_time_point(tmp_path: Path) -> None:
    film = tmp_path / "film.ome.tif"
    grey = GREY[:24].reshape(2, 12, *GREY.shape[1:])
    tifffile.imwrite(film, grey, ome=True, metadata={"axes": "TZYX"})
    given: tuple[Any, ...] = (film, "liver", tmp_path / "run", "tiny")
    run = segment_to_folder(*given, device="cpu")
    before = np.asarray(run.labels)
    assert before.any()
    (chunk,) = (
        p for p in (run.labels_path / "s0" / "c" / "1").rglob("*") if p.is_file()
    )
    chunk.write_bytes(b"")
    seen: list[int] = []
    again = segment_to_folder(
        *given, device="cpu", on_progress=lambda done, _: seen.append(done)
    )
    assert again.finished
    assert seen == [24]  # the first time point is not run again
    np.testing.assert_array_equal(again.labels, before)
    for one, other in zip(again.manifest.parts, run.manifest.parts, strict=True):
        assert one.blocks == other.blocks


def test_reproduce_compares_what_the_machine_made(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "edited"))
    paint(folder)
    _, differences = reproduce(folder, tmp_path / "again", volume=GREY)
    assert differences == []
    assert "999 voxels were edited by hand" in caplog.text
