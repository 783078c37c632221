"""Runs that write as they go: the same labels after whatever cut them off."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import Cancelled, OptionError, OutputError
from napari_biomedparse.io import open_file, painting
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.plan import plan_parts
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.blocks import blocks_here, parts_to_folder
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.runs.manifest import describe_run
from napari_biomedparse.runs.reproduce import reproduce
from napari_biomedparse.runs.run import segment_to_folder

PROMPTS = {2: "liver", 5: "mitochondria in electron microscopy"}
MICRO = ("micrometer",) * 3


@pytest.fixture(scope="module")
def volume() -> Volume:
    """Grey levels, 37 slices of 40 x 30: three blocks."""
    grey = np.random.default_rng(0).integers(0, 255, (37, 40, 30), dtype=np.uint8)
    data = da.from_array(grey, chunks=(5, 40, 30))
    return Volume(
        data, ("z", "y", "x"), (2.0, 0.5, 0.5), MICRO, (1.0, 2.0, 3.0), "noise"
    )


@pytest.fixture(scope="module")
def expected(volume: Volume, tiny_model: BiomedParse) -> Any:
    result = segment(volume, PROMPTS, tiny_model, instances=True)
    assert len(np.unique(np.asarray(result.labels))) == 3
    return result


def _same(run: Run, expected: Any) -> None:
    assert run.finished
    np.testing.assert_array_equal(run.labels, expected.labels)
    np.testing.assert_array_equal(run.existence, expected.existence)
    if run.instances is not None:
        ours, theirs = np.asarray(run.instances), np.asarray(expected.instances)
        pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


class _Cut(Exception):
    """Ends a run from within."""


def _cut_after(slices: int) -> Callable[[int, int], None]:
    def check(done: int, total: int) -> None:
        if done >= slices:
            raise _Cut

    return check


def test_the_same_labels_as_in_memory(
    volume: Volume, expected: Any, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    run = segment_to_folder(
        volume,
        PROMPTS,
        tmp_path / "run",
        tiny_model,
        instances=True,
        on_progress=lambda *done: seen.append(done),
    )
    _same(run, expected)
    assert run.parameters == expected.parameters
    assert seen == [(16, 37), (32, 37), (37, 37)]
    assert sorted(p.name for p in run.folder.iterdir() if p.name != ".lock") == [
        "instances.ome.zarr",
        "labels.ome.zarr",
        "manifest.json",
    ]
    again = segment_to_folder(
        volume, PROMPTS, tmp_path / "run", tiny_model, instances=True
    )
    assert again.manifest == run.manifest


@pytest.mark.parametrize("axis", ["y", "x"])
def test_other_axes_and_a_range_of_slices(
    volume: Volume, tiny_model: BiomedParse, tmp_path: Path, axis: str
) -> None:
    options: dict[str, Any] = {"axis": axis, "slices": (3, 20), "instances": True}
    expected = segment(volume, PROMPTS, tiny_model, **options)
    run = segment_to_folder(volume, PROMPTS, tmp_path / "r", tiny_model, **options)
    _same(run, expected)


def test_an_interrupted_run_goes_on(
    volume: Volume, expected: Any, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    with pytest.raises(_Cut):
        segment_to_folder(
            volume, PROMPTS, tmp_path / "r", tiny_model, on_progress=_cut_after(16)
        )
    begun = Run(tmp_path / "r")
    assert not begun.finished
    assert np.isnan(begun.existence[:, -1]).all()
    done = begun.manifest.blocks
    assert 0 < len(done) < 3
    seen: list[int] = []
    run = segment_to_folder(
        volume,
        PROMPTS,
        tmp_path / "r",
        tiny_model,
        on_progress=lambda done, _: seen.append(done),
    )
    assert len(seen) == 3 - len(done)
    _same(run, expected)


def test_a_run_is_stopped_within_a_block(
    volume: Volume, expected: Any, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    given: Any = (volume, PROMPTS, tmp_path / "r", tiny_model)
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(len(list((tmp_path / "r").glob("blocks/*"))))
        return len(asked) == 6

    with pytest.raises(Cancelled):  # batches of four slices, blocks of sixteen
        segment_to_folder(*given, stopped=stopped)
    assert len(asked) == 6
    assert [block.start for block in Run(tmp_path / "r").manifest.blocks] == [0]
    _same(segment_to_folder(*given), expected)


def test_damaged_blocks_are_done_again(
    volume: Volume, expected: Any, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    with pytest.raises(_Cut):
        segment_to_folder(
            volume, PROMPTS, tmp_path / "r", tiny_model, on_progress=_cut_after(32)
        )
    chunk = tmp_path / "r" / "labels.ome.zarr" / "s0" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:10])
    _same(segment_to_folder(volume, PROMPTS, tmp_path / "r", tiny_model), expected)


def test_a_full_disk(
    volume: Volume,
    expected: Any,
    tiny_model: BiomedParse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, left = painting.SyncedStore.set, [1]

    async def full(self: Any, key: str, value: Any) -> None:
        left[0] -= "/c/" in key
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        await real(self, key, value)

    monkeypatch.setattr(painting.SyncedStore, "set", full)
    with pytest.raises(OutputError, match=r"No space left.*run the same again"):
        segment_to_folder(volume, PROMPTS, tmp_path / "r", tiny_model)
    assert len(Run(tmp_path / "r").manifest.blocks) >= 1
    left[0] = 1000
    _same(segment_to_folder(volume, PROMPTS, tmp_path / "r", tiny_model), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": {2: "kidney"}}, r"prompts\.2 was 'liver' and is 'kidney'"),
        ({"seed": 3}, r"parameters\.seed was 0 and is 3"),
        ({"volume": np.zeros((37, 40, 30), np.uint8)}, r"source\.voxels was"),
        ({"ome_zarr": "0.4"}, r"output\.ome_zarr was '0\.5' and is '0\.4'"),
    ],
)
def test_another_run_is_refused(
    volume: Volume,
    tiny_model: BiomedParse,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    given: dict[str, Any] = {"volume": volume, "prompts": PROMPTS}
    out = tmp_path / "r"
    with pytest.raises(_Cut):
        segment_to_folder(**given, out=out, model=tiny_model, on_progress=_cut_after(1))
    with pytest.raises(OutputError, match=message):
        segment_to_folder(**(given | changes), out=out, model=tiny_model)
    run = segment_to_folder(
        **(given | changes), out=out, model=tiny_model, overwrite=True
    )
    assert run.finished


@pytest.mark.parametrize("consensus", [False, True])
def test_a_run_goes_on_in_the_precision_it_was_begun_in(
    volume: Volume, tiny_model: BiomedParse, tmp_path: Path, consensus: bool
) -> None:
    def run(out: Path, precision: str, **how: Any) -> Run:
        how |= {"consensus": consensus, "force": True, "precision": precision}
        return segment_to_folder(volume, PROMPTS, out, tiny_model, **how)

    begun = tmp_path / "begun"
    with pytest.raises(_Cut):
        run(begun, "bfloat16", on_progress=_cut_after(1))
    message = r"parameters\.precision was 'bfloat16' and is 'float32'"
    with pytest.raises(OutputError, match=message):
        run(begun, "auto")  # which is float32 for a network as small as this
    found, whole = run(begun, "bfloat16"), run(tmp_path / "whole", "bfloat16")
    np.testing.assert_array_equal(found.labels, whole.labels)
    np.testing.assert_array_equal(found.existence, whole.existence)
    assert found.parameters["precision"] == "bfloat16"
    again, differences = reproduce(
        begun, tmp_path / "again", volume=volume, model=tiny_model
    )
    assert differences == [] and again.parameters["precision"] == "bfloat16"


def test_folders_that_cannot_be_used(
    volume: Volume, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for name, message in (("notes", "other files"), ("a.zarr", "without an extension")):
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=message):
                segment_to_folder(
                    volume, "a", tmp_path / name, tiny_model, overwrite=overwrite
                )
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"
    with pytest.raises(OptionError, match=r"0\.4 or 0\.5"):
        segment_to_folder(volume, "a", tmp_path / "b", tiny_model, ome_zarr="0.3")  # type: ignore[arg-type]


def test_two_writers_refuse(
    volume: Volume, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    def second(done: int, total: int) -> None:
        with pytest.raises(OutputError, match="another process"):
            segment_to_folder(volume, PROMPTS, tmp_path / "r", tiny_model)

    segment_to_folder(volume, PROMPTS, tmp_path / "r", tiny_model, on_progress=second)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_output_is_valid_and_opens(
    tiny_model: BiomedParse, tmp_path: Path, version: Any
) -> None:
    grey = np.random.default_rng(1).integers(0, 255, (3, 300, 520), dtype=np.uint8)
    volume = Volume(grey, ("z", "y", "x"), (2.0, 0.5, 0.5), MICRO, (1.0, 2.0, 3.0))
    run = segment_to_folder(
        volume, PROMPTS, tmp_path / "r", tiny_model, ome_zarr=version
    )
    (found,) = open_file(run.labels_path).labels
    assert found.volume.spacing == volume.spacing
    assert found.volume.units == volume.units
    assert found.volume.origin == volume.origin
    assert found.texts == PROMPTS
    assert set(found.colours) == set(PROMPTS)
    (half,) = found.volume.levels[:1]
    np.testing.assert_array_equal(half, np.asarray(run.labels)[:, ::2, ::2])
    models = pytest.importorskip("ome_zarr_models")
    if version == "0.4":
        from ome_zarr_models.v04.image_label import ImageLabel
    else:
        from ome_zarr_models.v05.image_label import ImageLabel  # type: ignore[assignment]
    assert models
    ImageLabel.from_zarr(zarr.open_group(str(run.labels_path), mode="r"))


def test_reproduce(tiny_model: BiomedParse, tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 255, (9, 30, 20), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", grey)
    run = segment_to_folder(
        tmp_path / "in.tif", PROMPTS, tmp_path / "r", "tiny", instances=True
    )
    again, differences = reproduce(tmp_path / "r" / "manifest.json", tmp_path / "again")
    assert differences == []
    np.testing.assert_array_equal(again.labels, run.labels)
    _, differences = reproduce(tmp_path / "r", tmp_path / "b", volume=255 - grey)
    assert any("have other labels" in one for one in differences)
    record = json.loads((tmp_path / "r" / "manifest.json").read_text())
    for source in ({"path": None}, {}):
        record["source"] = source
        (tmp_path / "mailed.json").write_text(json.dumps(record))
        with pytest.raises(OptionError, match="give the volume"):
            reproduce(tmp_path / "mailed.json", tmp_path / "c")


def test_labels_can_be_seen_while_they_grow(
    volume: Volume, expected: Any, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def look(done: int, total: int) -> None:
        if not seen:
            (labels,) = open_file(tmp_path / "r" / "labels.ome.zarr").labels
            seen.append(labels.volume.data)
        np.testing.assert_array_equal(
            np.asarray(seen[0][:done]), np.asarray(expected.labels)[:done]
        )

    segment_to_folder(volume, PROMPTS, tmp_path / "r", tiny_model, on_progress=look)
    assert len(seen) == 1


@pytest.mark.parametrize("tasks", [False, True], ids=["one process", "tasks"])
@pytest.mark.parametrize("chunk", [5, 16, 20])
def test_each_chunk_is_read_at_most_twice(
    tiny_model: BiomedParse, tmp_path: Path, chunk: int, tasks: bool
) -> None:
    reads: Counter[int] = Counter()

    def block(block_info: Any = None) -> np.ndarray[Any, Any]:
        (start, stop), *_ = block_info[None]["array-location"]
        reads[start] += 1
        return np.full((stop - start, 20, 10), start, np.uint8)

    sizes = da.core.normalize_chunks((chunk, 20, 10), (90, 20, 10))
    data = da.map_blocks(
        block, chunks=sizes, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )
    engine = Engine(tiny_model)
    parts = plan_parts(
        as_volume(data), "liver", SegmentOptions(), config=tiny_model.config
    )

    def in_tasks(
        plan: Any, folder: Path, manifest: Any, ranges: Iterable[tuple[int, int]]
    ) -> Iterator[Any]:
        cluster = pytest.importorskip("napari_biomedparse.runs.cluster")
        size = cluster.task_size(plan, 16)
        for span in ranges:
            for task in cluster.split_range(*span, size):
                yield from blocks_here(plan, folder, manifest, [task], engine=engine)

    def describe(plan: Any) -> Any:
        manifest = describe_run(plan, engine, {}, None, "0.5")
        reads.clear()  # three windows of it were looked at
        return manifest

    do = in_tasks if tasks else partial(blocks_here, engine=engine)
    parts_to_folder(parts, tmp_path / "r", describe, do)
    assert len(reads) == -(-90 // chunk)
    assert max(reads.values()) <= (2 if tasks else 1)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize(
    ("chunks", "options"),
    [
        ((5, 32, 32), {"tile": "none"}),
        ((5, 32, 32), {"tile": 64}),
        ((20, 32, 32), {"tile": 64}),
        ((1, 96, 80), {"tile": 64, "axis": "x"}),
        ((5, 32, 32), {"tile": 64, "instances": True, "slices": (7, 33)}),
    ],
    ids=["whole slices", "tiles", "thick chunks", "across", "a range"],
)
def test_each_chunk_on_disk_is_read_at_most_twice(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunks: tuple[int, ...],
    options: dict[str, Any],
    dtype: str,
) -> None:
    """To look at the volume before the run, and for the run itself."""
    monkeypatch.setattr("napari_biomedparse.io.lazy.BLOCK_BYTES", 2**14)
    monkeypatch.setattr("napari_biomedparse.slicing.read.SLAB_BYTES", 8 * 96 * 80)
    monkeypatch.setattr("napari_biomedparse.slicing.intensity.SAMPLE_VOXELS", 2**16)
    path, shape = tmp_path / "in.zarr", (40, 96, 80)
    grey = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    array = zarr.create_array(str(path), shape=shape, chunks=chunks, dtype=dtype)
    array[:] = grey
    reads: Counter[str] = Counter()
    real = zarr.storage.LocalStore.get

    async def get(self: Any, key: str, *more: Any, **others: Any) -> Any:
        if self.root == path and key.startswith("c/"):
            reads[key] += 1
        return await real(self, key, *more, **others)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", get)
    run = segment_to_folder(path, "liver", tmp_path / "r", "tiny", **options)
    assert run.finished
    if "slices" not in options:
        assert len(reads) == array.nchunks
    assert max(reads.values()) <= 2


KILLED = Path(__file__).with_name("killed_runs.py")


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize(
    "kills", [5, pytest.param(20, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_killed_at_any_moment(tmp_path: Path, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLED), str(tmp_path), str(kills)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} of {kills} equal" in done.stdout


def test_a_region_and_all_rules_of_prompts_and_objects_in_a_folder(
    volume: Volume, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "region": "y=5:35,x=3:28",
        "overlaps": "order",
        "instances": True,
        "edge_threshold": 0.4,
        "minimum_size": 4,
    }
    prompts = {5: PROMPTS[5], 2: PROMPTS[2]}
    expected = segment(volume, prompts, tiny_model, **options)
    run = segment_to_folder(volume, prompts, tmp_path / "r", tiny_model, **options)
    _same(run, expected)
    assert run.parameters == expected.parameters
    assert run.manifest.prompts.order == (5, 2)
    assert run.manifest.options.region == options["region"]
    assert run.manifest.objects == np.asarray(expected.instances).max()
    (labels,) = open_file(run.labels_path).labels
    assert labels.volume.origin == (1.0, 4.5, 4.5)
    with pytest.raises(OutputError, match=r"prompt_order was \[5, 2\] and is \[2, 5\]"):
        segment_to_folder(volume, PROMPTS, tmp_path / "r", tiny_model, **options)


def test_a_record_of_an_earlier_version_has_the_defaults(
    volume: Volume, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    run = segment_to_folder(volume, PROMPTS, tmp_path / "r", tiny_model)
    path = tmp_path / "r" / "manifest.json"
    record = json.loads(path.read_text())
    for name in ("region", "overlaps", "minimum_size", "prompt_order"):
        del record["parameters"][name]
    path.write_text(json.dumps(record))
    again = segment_to_folder(volume, PROMPTS, tmp_path / "r", tiny_model)
    assert again.manifest == run.manifest


def test_separate_labels_do_not_go_into_a_folder(
    volume: Volume, tiny_model: BiomedParse, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="a run folder holds a single one"):
        segment_to_folder(
            volume, PROMPTS, tmp_path / "r", tiny_model, overlaps="separate"
        )
    assert not (tmp_path / "r").exists()
