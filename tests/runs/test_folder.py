"""A run's folder: who may write to it, and which blocks it is believed to hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from runs_manifests import FIRST, SECOND, a_manifest

from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io.formats.ome_labels import LabelStore, create_labels
from napari_biomedparse.io.painting import EDITS
from napari_biomedparse.runs.folder import (
    BLOCKS,
    COMPONENTS,
    EDGES,
    JOB,
    LABELS,
    LOCK,
    OBJECTS,
    PARTS,
    Run,
    checksum,
    finish,
    home_of,
    layout_of,
    open_folder,
    part_folders,
    record_block,
    recorded_blocks,
    verified_blocks,
)
from napari_biomedparse.runs.manifest import MANIFEST, Block, Manifest, read_manifest


class _Store:
    """Labels of two blocks in memory."""

    def __init__(self, damaged: int | None = None) -> None:
        self.damaged = damaged

    def as_written(self, start: int, stop: int, since: int) -> np.ndarray:
        if start == self.damaged:
            raise RuntimeError("error during blosc decompression")
        return np.arange(start, stop, dtype=np.uint8)


def _block(start: int, stop: int) -> Block:
    rows = [[0.5] * (stop - start)] * 2
    voxels = [[1] * (stop - start)] * 2
    labels = np.arange(start, stop, dtype=np.uint8)
    return Block(start, stop, rows, voxels, checksum([labels]))


def test_a_new_folder_gets_the_manifest_and_is_locked(tmp_path: Path) -> None:
    manifest, folder = a_manifest(), tmp_path / "deep" / "run"
    with open_folder(folder, manifest, overwrite=False) as found:
        assert found == manifest
        assert read_manifest(folder) == manifest
        with (
            pytest.raises(OutputError, match="being written by another process"),
            open_folder(folder, manifest, overwrite=True),
        ):
            pass
    with open_folder(folder, manifest, overwrite=False) as found:  # released
        assert found == manifest


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    manifest = a_manifest()
    with (
        pytest.raises(OutputError, match=r"cannot be written: disk gone\. Finished"),
        open_folder(tmp_path, manifest, overwrite=False),
    ):
        raise OSError("disk gone")
    with open_folder(tmp_path, manifest, overwrite=False):
        pass


def test_the_same_run_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    manifest = a_manifest()
    with open_folder(tmp_path, manifest, overwrite=False):
        record_block(tmp_path, FIRST)
        (tmp_path / "x.partial").write_text("")
        (tmp_path / BLOCKS / "y.json.12.partial").write_text("")
        (tmp_path / "z.partial").mkdir()
    newer = replace(manifest, environment={"torch": "later"})
    with open_folder(tmp_path, newer, overwrite=False) as found:
        assert found == manifest  # that of the folder
        assert recorded_blocks(tmp_path) == {0: FIRST}
        assert not list(tmp_path.rglob("*.partial"))
    other = replace(manifest, model="tiny 0")
    with (
        pytest.raises(OutputError, match="holds another run: model was"),
        open_folder(tmp_path, other, overwrite=False),
    ):
        pass
    (tmp_path / LABELS / "s0").mkdir(parents=True)
    (tmp_path / OBJECTS).mkdir()
    (tmp_path / EDGES).mkdir()
    (tmp_path / "report.html").write_text("of the run before")
    with open_folder(tmp_path, other, overwrite=True) as found:
        assert found == other == read_manifest(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {LOCK, MANIFEST}


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_other_things_is_left_alone(
    tmp_path: Path, overwrite: bool
) -> None:
    for name in ("d", "c", "b", "a", JOB):
        (tmp_path / name).write_text("")
    with (
        pytest.raises(OutputError, match=r"holds other files \(a, b, c\); choose"),
        open_folder(tmp_path, a_manifest(), overwrite=overwrite),
    ):
        pass
    assert (tmp_path / "d").exists()
    assert not (tmp_path / MANIFEST).exists()


def test_things_beside_a_run_are_not_overwritten(tmp_path: Path) -> None:
    with open_folder(tmp_path, a_manifest(), overwrite=False):
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / LABELS).mkdir()
    other = replace(a_manifest(), model="tiny 0")
    with (
        pytest.raises(OutputError, match=r"holds other files \(notes\.txt\)"),
        open_folder(tmp_path, other, overwrite=True),
    ):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert read_manifest(tmp_path) == a_manifest()  # nor is the run removed
    assert (tmp_path / LABELS).is_dir()


def test_remains_of_removed_labels_do_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / LABELS / "s0" / "c").mkdir(parents=True)
    (tmp_path / "a.partial").write_text("")
    with open_folder(tmp_path, a_manifest(), overwrite=False):
        assert (tmp_path / MANIFEST).is_file()


def test_a_folder_is_not_called_as_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "labels.OME.zarr"
    with (
        pytest.raises(OutputError, match="Choose a name without an ext"),
        open_folder(folder, a_manifest(), overwrite=False),
    ):
        pass
    assert not folder.exists()


def test_blocks_are_recorded_one_by_one(tmp_path: Path) -> None:
    record_block(tmp_path, SECOND)
    record_block(tmp_path, FIRST)
    names = sorted(p.name for p in (tmp_path / BLOCKS).iterdir())
    assert names == ["00000000.json", "00000002.json"]
    assert recorded_blocks(tmp_path) == {0: FIRST, 2: SECOND}
    assert recorded_blocks(tmp_path, skip={0}) == {2: SECOND}
    assert recorded_blocks(tmp_path / "none") == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"start": 0}', "[" * 100_000])
def test_a_broken_record_is_named(tmp_path: Path, text: str) -> None:
    record_block(tmp_path, FIRST)
    (tmp_path / BLOCKS / "00000000.json").write_text(text)
    with pytest.raises(FormatError, match=r"00000000\.json is not the record of a"):
        recorded_blocks(tmp_path)


@pytest.mark.parametrize("damaged", [None, 0, 2])
def test_only_what_is_on_the_disk_as_recorded_is_believed(
    tmp_path: Path, damaged: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    for block in (_block(0, 2), _block(2, 3)):
        record_block(tmp_path, block)
    store: Any = _Store(damaged)
    good = verified_blocks(tmp_path, [store])
    expected = {0, 2} - {damaged}
    assert set(good) == set(recorded_blocks(tmp_path)) == expected
    assert ("are repeated" in caplog.text) == (damaged is not None)
    assert good == {start: _block(start, (start and 3) or 2) for start in expected}


def test_other_labels_are_not_believed(tmp_path: Path) -> None:
    record_block(tmp_path, replace(_block(0, 2), checksum="0" * 16))
    stores: Any = [_Store()]
    assert verified_blocks(tmp_path, stores) == {}
    record_block(tmp_path, _block(0, 2))
    assert verified_blocks(tmp_path, stores * 2) == {}  # edges are missing in it


def test_a_checksum_depends_on_each_value_and_part() -> None:
    a, b = np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones(2, np.uint8)
    assert len(checksum([a])) == 16
    assert checksum([a]) == checksum([np.asfortranarray(a)])
    assert len({checksum(one) for one in ([a], [a, b], [b, a], [a + 1])}) == 4


@pytest.mark.parametrize("keep_edges", [True, False])
def test_a_finished_run_is_tidy(tmp_path: Path, keep_edges: bool) -> None:
    for name in (BLOCKS, EDGES, COMPONENTS, PARTS, LABELS):
        (tmp_path / name).mkdir()
    done = finish(tmp_path, a_manifest(blocks=()), {0: FIRST}, keep_edges=keep_edges)
    assert done == read_manifest(tmp_path)
    assert done.blocks == (FIRST,)
    assert done.finished is not None
    assert done.finished.endswith("+00:00")
    left = {p.name for p in tmp_path.iterdir()} - {MANIFEST}
    assert left == ({LABELS, EDGES} if keep_edges else {LABELS})


def test_an_unfinished_run_is_read_with_its_blocks(tmp_path: Path) -> None:
    a_manifest(blocks=()).save(tmp_path)
    record_block(tmp_path, SECOND)
    run = Run(str(tmp_path))
    assert not run.finished
    assert run.kind == "volume"
    assert run.manifest.blocks == (SECOND,)
    assert np.isnan(run.existence).sum() == 6
    assert run.voxels.sum() == 11
    assert run.labels_path == tmp_path / LABELS
    assert run.instances_path is None
    assert run.instances is None
    assert run.prompts.ids == (2, 5)
    assert run.parameters["model"] == "tiny 123456789abc"
    with pytest.raises(FormatError, match=r"s0 is missing; run the same again"):
        _ = run.labels
    record_block(tmp_path, replace(SECOND, existence=[[0.1]], voxels=[[1]]))
    with pytest.raises(FormatError, match="records of blocks in"):
        Run(tmp_path)


def test_a_finished_run_is_read_from_its_manifest_alone(tmp_path: Path) -> None:
    done = a_manifest(finished="2026-11-24T00:00:00+00:00", objects=3)
    done.save(tmp_path)
    (tmp_path / BLOCKS).mkdir()
    (tmp_path / BLOCKS / "00000000.json").write_text("broken")
    run = Run(tmp_path)
    assert run.finished
    assert run.manifest == done
    assert run.instances_path == tmp_path / OBJECTS


def test_labels_and_objects_are_read_from_the_disk(tmp_path: Path) -> None:
    done = a_manifest(finished="2026-11-24T00:00:00+00:00", objects=3)
    done.save(tmp_path)
    layout, volume = layout_of(done), as_volume(np.zeros((4, 6, 5), np.uint8))
    values = np.arange(120, dtype=np.uint8).reshape(4, 6, 5)
    for name, added in ((LABELS, 0), (OBJECTS, 100)):
        create_labels(tmp_path / name, layout, volume, done.prompts)
        store = LabelStore(tmp_path / name, layout)
        for start in (0, 2):
            store.write(start, values[start : start + 2] + np.uint8(added))
    run = Run(tmp_path)
    assert run.instances is not None
    np.testing.assert_array_equal(run.labels.compute(), values)
    np.testing.assert_array_equal(run.instances.compute(), values + np.uint8(100))


def test_where_parts_of_runs_are() -> None:
    folder, one = Path("/run"), a_manifest()
    series = replace(
        one,
        parameters=one.parameters | {"times": [0, 2]},
        output=one.output | {"times": 2},
    )
    consensus = replace(one, output=one.output | {"along": ["z", "x"]})
    assert part_folders(folder, one) == []
    expected = [folder / PARTS / "t000000", folder / PARTS / "t000001"]
    assert part_folders(folder, series) == expected
    expected = [folder / PARTS / "along_z", folder / PARTS / "along_x"]
    assert part_folders(folder, consensus) == expected
    assert home_of(folder, one) == folder
    timed: Any = SimpleNamespace(output={"time": 0})
    assert home_of(folder / PARTS / "t000000", timed) == folder


def test_parts_that_have_begun_are_read(tmp_path: Path) -> None:
    one = a_manifest(blocks=())
    series: Manifest = replace(
        one,
        parameters=one.parameters | {"times": [0, 2]},
        output=one.output | {"times": 2},
    )
    series.save(tmp_path)
    part = tmp_path / PARTS / "t000001"
    part.mkdir(parents=True)
    begun = replace(one, output=one.output | {"time": 1})
    begun.save(part)
    (tmp_path / PARTS / "t000000").mkdir()
    assert Run(tmp_path).manifest.parts == (begun,)
    assert json.loads((tmp_path / MANIFEST).read_text())["parts"] == []


@pytest.mark.parametrize("name", [LABELS, LOCK, MANIFEST, BLOCKS, PARTS, EDITS, JOB])
def test_no_link_is_followed_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    with open_folder(folder, a_manifest(), overwrite=False):
        pass
    if (folder / name).is_file():
        (folder / name).unlink()
    outside.mkdir()
    (outside / "mine.json").write_text("mine")
    (folder / name).symlink_to(outside)
    for overwrite in (False, True):
        with (
            pytest.raises(OutputError, match="is a link, which is not followed"),
            open_folder(folder, a_manifest(), overwrite=overwrite),
        ):
            pass
    assert [path.name for path in outside.iterdir()] == ["mine.json"]
    assert (outside / "mine.json").read_text() == "mine"


def test_no_link_is_followed_out_of_the_labels(tmp_path: Path) -> None:
    layout = layout_of(a_manifest())
    create_labels(
        tmp_path / LABELS,
        layout,
        as_volume(np.zeros(layout.shape, np.uint8)),
        a_manifest().prompts,
    )
    outside = tmp_path / "outside"
    (outside / "0" / "0").mkdir(parents=True)
    (outside / "0" / "0" / "0").write_text("mine")
    (tmp_path / LABELS / "s0" / "c").symlink_to(outside)
    store = LabelStore(tmp_path / LABELS, layout)
    for value in (1, 0):  # zeros remove a chunk
        with pytest.raises(FormatError, match="a link that leads out of it"):
            store.write(0, np.full((2, 6, 5), value, np.uint8))
    assert (outside / "0" / "0" / "0").read_text() == "mine"
    assert len([path for path in outside.rglob("*") if path.is_file()]) == 1
