"""The main path: the same labels however a volume is held, cut and asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import torch
import zarr
from torch.nn import functional as F

from napari_biomedparse.data.options import region_text
from napari_biomedparse.data.volume import Volume, as_volume
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import FormatError, OptionError, PromptError, VolumeError
from napari_biomedparse.labels.instances import split_instances
from napari_biomedparse.labels.resolve import probability, resolve, resolve_separately
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.loop import run_plan
from napari_biomedparse.pipeline.plan import SegmentOptions, plan_run
from napari_biomedparse.pipeline.segment import (
    Segmentation,
    iter_segment,
    segment,
    segment_lazy,
)
from napari_biomedparse.process.messages import Voxels
from napari_biomedparse.process.serve import RemoteArray
from napari_biomedparse.slicing.read import slice_batches

PROMPTS = {2: "liver", 5: "mitochondria in electron microscopy", 9: "a b c"}


@pytest.fixture(scope="module")
def volume() -> np.ndarray[Any, Any]:
    """Grey levels, 13 slices of 70 x 50."""
    return np.random.default_rng(0).integers(0, 255, (13, 70, 50), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(volume: np.ndarray[Any, Any], tiny_model: BiomedParse) -> Segmentation:
    result = segment(volume, PROMPTS, tiny_model)
    assert len(np.unique(result.labels)) > 1
    return result


def _same(result: Segmentation, expected: Segmentation) -> None:
    np.testing.assert_array_equal(np.asarray(result.labels), expected.labels)
    np.testing.assert_array_equal(result.existence, expected.existence)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batch_size_changes_no_label(
    volume: Any, expected: Segmentation, tiny_model: BiomedParse, batch_size: int
) -> None:
    _same(segment(volume, PROMPTS, tiny_model, batch_size=batch_size), expected)


@pytest.mark.parametrize("chunks", [(5, 32, 32), (1, 70, 50), (13, 8, 8)])
def test_dask_and_zarr_input_change_no_label(
    volume: Any, expected: Segmentation, tiny_model: BiomedParse, chunks: Any
) -> None:
    for lazy in (
        da.from_array(volume, chunks=chunks),
        zarr.array(volume, chunks=chunks),
    ):
        result = segment(lazy, PROMPTS, tiny_model)
        assert isinstance(result.labels, da.Array)
        _same(result, expected)


def test_streaming_equals_the_whole_volume_at_once(
    volume: Any, expected: Segmentation, tiny_model: BiomedParse
) -> None:
    plan = plan_run(volume, PROMPTS, config=tiny_model.config)
    engine = Engine(tiny_model)
    (whole,) = slice_batches(plan.volume, plan.geometry, plan.intensity, 0, 13, 13)
    prediction = engine.predict(whole.slices, engine.encode_prompts(plan.prompts.texts))
    resolved = resolve(
        prediction.mask_logits, prediction.existence, plan.prompts.ids, (64, 64)
    )
    labels = plan.geometry.restore(resolved.labels)
    np.testing.assert_array_equal(labels, expected.labels)


def test_generator_and_lazy_form_give_the_same(
    volume: Any, expected: Segmentation, tiny_model: BiomedParse
) -> None:
    labels = np.zeros_like(expected.labels)
    for done in iter_segment(volume, PROMPTS, tiny_model, batch_size=3):
        labels[done.where] = done.labels
    np.testing.assert_array_equal(labels, expected.labels)
    lazy = segment_lazy(volume, PROMPTS, tiny_model)
    assert lazy.dtype == expected.labels.dtype
    np.testing.assert_array_equal(lazy[6:8].compute(), expected.labels[6:8])
    np.testing.assert_array_equal(lazy.compute(), expected.labels)


def test_an_open_batch_size_is_what_suits_the_device(
    volume: Any, tiny_model: BiomedParse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "suited_batch", lambda engine, prompts: 3 * prompts)
    parts = iter_segment(volume, ["liver", "kidney"], tiny_model)
    assert next(parts).stop == 6
    parts.close()
    parts = iter_segment(volume, "liver", tiny_model, batch_size=2)
    assert next(parts).stop == 2
    parts.close()


def test_a_range_of_slices_equals_that_part_of_the_whole(
    volume: Any, expected: Segmentation, tiny_model: BiomedParse
) -> None:
    result = segment(volume, PROMPTS, tiny_model, slices=(5, 9))
    np.testing.assert_array_equal(result.labels[5:9], expected.labels[5:9])
    assert not result.labels[:5].any()
    assert np.isnan(result.existence[:, :5]).all()
    np.testing.assert_array_equal(result.existence[:, 5:9], expected.existence[:, 5:9])


@pytest.mark.parametrize("axis", [1, 2])
def test_the_slicing_axis_only_turns_the_result(
    volume: Any, expected: Segmentation, tiny_model: BiomedParse, axis: int
) -> None:
    turned = np.moveaxis(volume, 0, axis)
    result = segment(turned, PROMPTS, tiny_model, axis=axis)
    np.testing.assert_array_equal(np.moveaxis(result.labels, axis, 0), expected.labels)


def test_one_and_two_slices(volume: Any, tiny_model: BiomedParse) -> None:
    for depth in (1, 2):
        result = segment(volume[:depth], PROMPTS, tiny_model)
        assert result.labels.shape == (depth, 70, 50)
        assert np.isfinite(result.existence).all()


@pytest.mark.parametrize("lazy", [False, True])
def test_a_single_image_is_one_slice_and_its_labels_are_flat(
    volume: Any, tiny_model: BiomedParse, lazy: bool
) -> None:
    expected = segment(volume[:1], PROMPTS, tiny_model, mode="2d")
    image = da.from_array(volume[0], chunks=16) if lazy else volume[0]
    result = segment(image, PROMPTS, tiny_model, instances=True)
    assert result.labels.shape == (70, 50)
    np.testing.assert_array_equal(np.asarray(result.labels), expected.labels[0])
    np.testing.assert_array_equal(result.existence, expected.existence)
    assert result.instances is not None and result.instances.shape == (70, 50)
    promised = segment_lazy(image, PROMPTS, tiny_model)
    np.testing.assert_array_equal(promised.compute(), expected.labels[0])


@pytest.mark.parametrize("depth", [None, 1, 5])
@pytest.mark.parametrize("samples", [3, 4])
def test_colours_are_the_network_s_three_channels(
    tiny_model: BiomedParse, depth: int | None, samples: int
) -> None:
    """Red, green, blue are channels 0, 1, 2; against the network called by hand."""
    shape = (48, 48, samples) if depth is None else (depth, 48, 48, samples)
    colours = np.random.default_rng(1).integers(0, 255, shape, dtype=np.uint8)
    result = segment(colours, PROMPTS, tiny_model, batch_size=2)
    assert result.labels.shape == shape[:-1]
    engine, size = Engine(tiny_model), tiny_model.config.image_size
    tokens = engine.encode_prompts(tuple(PROMPTS.values()))
    ids = tuple(PROMPTS)
    for i, image in enumerate(colours.reshape(-1, 48, 48, samples)):
        planes = np.moveaxis(image[..., :3], -1, 0)
        square = torch.from_numpy(planes.astype(np.float32))[None]
        channels = F.interpolate(square, size, mode="bicubic")
        found = engine.predict(channels, tokens)
        by_hand = resolve(
            found.mask_logits, found.existence, ids, (48, 48), overlap_threshold=1.0
        ).labels[0]
        labels = result.labels if depth is None else result.labels[i]
        np.testing.assert_array_equal(labels, by_hand)
        expected = probability(found.existence)[0].numpy()
        np.testing.assert_array_equal(result.existence[:, i], expected)
    lazy = segment(da.from_array(colours, chunks=20), PROMPTS, tiny_model)
    np.testing.assert_array_equal(np.asarray(lazy.labels), result.labels)
    promised = segment_lazy(colours, PROMPTS, tiny_model)
    np.testing.assert_array_equal(promised.compute(), result.labels)


def test_labels_are_ids_and_existence_probabilities(expected: Segmentation) -> None:
    assert set(np.unique(expected.labels)) <= {0, *PROMPTS}
    assert expected.ids == (2, 5, 9)
    assert expected.existence.shape == (3, 13)
    assert ((expected.existence > 0) & (expected.existence < 1)).all()


def test_instances_are_parts_of_the_labels(
    volume: Any, expected: Segmentation, tiny_model: BiomedParse
) -> None:
    result = segment(volume, PROMPTS, tiny_model, instances=True)
    _same(result, expected)
    assert result.instances is not None
    assert not result.instances[result.labels == 0].any()
    for number in np.unique(result.instances)[1:20]:
        assert len(np.unique(result.labels[result.instances == number])) == 1


def test_existence_threshold_gates(volume: Any, tiny_model: BiomedParse) -> None:
    result = segment(volume, "liver", tiny_model, existence_threshold=1.0)
    assert not result.labels.any()


@pytest.mark.parametrize("tile", ["auto", 32])
def test_prompts_apart_are_those_of_runs_of_their_own(
    volume: Any, tiny_model: BiomedParse, tile: Any
) -> None:
    texts = ["liver", "a very long description of the left kidney, of all words", "eye"]

    def run(*chosen: str, apart: bool = True) -> Segmentation:
        options = SegmentOptions(
            prompts_apart=apart, overlaps="separate", existence_threshold=0, tile=tile
        )
        return segment(volume, chosen, tiny_model, options, device="cpu")

    together, padded = run(*texts), run(*texts, apart=False)
    for at, text in enumerate(texts):
        alone = run(text, apart=False)
        mine = np.where(together.labels[at] > 0, 1, 0)
        np.testing.assert_array_equal(mine, alone.labels[0])
        np.testing.assert_array_equal(together.existence[at], alone.existence[0])
    assert not np.array_equal(together.existence, padded.existence)
    assert together.parameters["prompts_apart"] is True


def test_equal_prompts_are_refused(volume: Any, tiny_model: BiomedParse) -> None:
    with pytest.raises(PromptError, match="'liver' and 'Liver'"):
        segment(volume, {1: "liver", 4: "Liver"}, tiny_model)


def test_parameters_say_what_made_the_labels(expected: Segmentation) -> None:
    assert expected.parameters["model"].startswith("tiny ")
    assert expected.parameters["precision"] == "float32"  # which auto became
    assert expected.parameters["seed"] == 0
    assert expected.parameters["intensity"] == "8-bit values, used as they are"


def test_unknown_options_are_named(volume: Any, tiny_model: BiomedParse) -> None:
    with pytest.raises(OptionError, match=r"no option tiles; choose from axes, axis"):
        segment(volume, "liver", tiny_model, tiles=4)
    options = SegmentOptions(batch_size=2)
    assert (
        segment(volume[:1], "liver", tiny_model, options).parameters["batch_size"] == 2
    )


def test_temporary_labels_go_with_the_result(
    volume: Any,
    tiny_model: BiomedParse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = segment(da.from_array(volume), "liver", tiny_model, slices=(0, 2))
    assert len(list(tmp_path.glob("*/*"))) == 1
    del result
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"overlaps": "separate"},
        {"minimum_size": 9},
        {"axis": "x"},
        {"consensus": True},
        {"time": (0, 2)},
    ],
    ids=str,
)
def test_instances_on_disk_are_those_in_memory(
    volume: Any, tiny_model: BiomedParse, how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_biomedparse.labels.blockwise.BLOCK_VOXELS", 2000)
    grey = volume[:3, :40, :30]
    if "time" in how:
        grey = Volume(
            np.stack([grey, grey[::-1]]),
            ("t", "z", "y", "x"),
            (1.0,) * 4,
            ("second", *("micrometer",) * 3),
            (0.0,) * 4,
            "series",
        )
    lazy = da.from_array(grey.data if "time" in how else grey, chunks=1)
    lazy = replace(grey, data=lazy) if "time" in how else lazy
    prompts = ["liver", "kidney"]
    expected = segment(grey, prompts, tiny_model, instances=True, **how).instances
    found = segment(lazy, prompts, tiny_model, instances=True, **how).instances
    assert isinstance(found, da.Array)
    assert found.dtype == expected.dtype
    assert expected.max() > 1
    np.testing.assert_array_equal(found, expected)


PEAK_MEMORY = """
import resource, sys
import zarr
from napari_biomedparse import load_model, segment
model = load_model("tiny")
for path in sys.argv[1:]:
    segment(zarr.open_array(path, mode="r"), ["liver", "kidney"], model)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is asked of POSIX")
@pytest.mark.parametrize(
    ("depths", "most"),
    [
        ((32, 512), 1.05),
        pytest.param((64, 1024), 1.1, marks=pytest.mark.slow),
    ],
    ids=["few", "many"],
)
def test_peak_memory_does_not_grow_with_depth(
    tmp_path: Path, depths: tuple[int, int], most: float
) -> None:
    """Slices of 512 x 512, sixteen times as many: less than 10 % more.

    Half as many are allowed half as much more: the same number of bytes a slice.
    """
    noise = np.random.default_rng(0).integers(0, 255, (16, 512, 512), dtype=np.uint8)
    paths = [str(tmp_path / f"{depth}.zarr") for depth in depths]
    for path, depth in zip(paths, depths, strict=True):
        array = zarr.create_array(
            path,
            shape=(depth, 512, 512),
            chunks=(16, 512, 512),
            dtype="u1",
            compressors=None,
        )
        for start in range(0, depth, 16):
            array[start : start + 16] = noise
    command = [sys.executable, "-c", PEAK_MEMORY, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    assert many < most * few, (few, many)


# --- overlaps, sizes, edges, a region -------------------------------------------------


def test_a_region_is_that_part_alone_and_in_place(
    volume: Any, tiny_model: BiomedParse
) -> None:
    """Also of a volume that is elsewhere, as with the model process."""
    box = {"y": (10, 60), "x": (4, 40), "z": (2, 9)}
    options = SegmentOptions(region=region_text(box), slices=(1, 5), instances=True)
    expected = segment(volume[2:9, 10:60, 4:40], PROMPTS, tiny_model, slices=(1, 5))
    assert expected.labels.any()
    far = RemoteArray(
        Voxels(1, volume.shape, volume.dtype.str, None),
        lambda ranges: volume[tuple(slice(*pair) for pair in ranges)],
    )
    for data in (volume, da.from_array(volume, chunks=(5, 32, 32)), far):
        result = segment(data, PROMPTS, tiny_model, options)
        _same(result, expected)
        assert result.parameters["region"] == "y=10:60,x=4:40,z=2:9"
    plan = plan_run(volume, PROMPTS, options, config=tiny_model.config)
    assert plan.volume.origin == (2.0, 10.0, 4.0)


@pytest.mark.parametrize("axis", [0, 2])
def test_separate_labels_are_all_that_each_prompt_claims(
    volume: Any, tiny_model: BiomedParse, axis: int
) -> None:
    options = SegmentOptions(
        overlaps="separate", axis=axis, instances=True, minimum_size=3
    )
    result = segment(volume, PROMPTS, tiny_model, options)
    assert (np.count_nonzero(result.labels, axis=0) > 1).any()
    plan = plan_run(volume, PROMPTS, options, config=tiny_model.config)
    engine = Engine(tiny_model)
    depth, parts = plan.geometry.depth, []
    (whole,) = slice_batches(
        plan.volume, plan.geometry, plan.intensity, 0, depth, depth
    )
    found = engine.predict(whole.slices, engine.encode_prompts(plan.prompts.texts))
    for logits in (found.mask_logits, found.edge_logits):
        labels = resolve_separately(logits, found.existence, plan.prompts.ids, (64, 64))
        planes = [plan.geometry.restore(one) for one in labels.unbind(1)]
        parts.append(np.moveaxis(np.stack(planes), 1, axis + 1))
    np.testing.assert_array_equal(result.labels, parts[0])
    np.testing.assert_array_equal(result.instances, split_instances(*parts, 3))
    lazy = segment(da.from_array(volume), PROMPTS, tiny_model, options)
    np.testing.assert_array_equal(np.asarray(lazy.labels), result.labels)
    promised = segment_lazy(volume, PROMPTS, tiny_model, options)
    np.testing.assert_array_equal(promised.compute(), result.labels)
    flat = segment(volume[0], PROMPTS, tiny_model, overlaps="separate")
    assert flat.labels.shape == (3, 70, 50)


def test_in_order_the_first_prompt_wins(volume: Any, tiny_model: BiomedParse) -> None:
    separate = segment(volume, PROMPTS, tiny_model, overlaps="separate").labels > 0
    for ranked in ((2, 5, 9), (9, 2, 5)):
        prompts = {label: PROMPTS[label] for label in ranked}
        result = segment(volume, prompts, tiny_model, overlaps="order")
        expected = np.zeros_like(result.labels)
        for label in reversed(ranked):
            expected[separate[list(PROMPTS).index(label)]] = label
        np.testing.assert_array_equal(result.labels, expected)
        assert result.parameters["prompt_order"] == list(ranked)


def test_less_sure_edges_split_more(volume: Any, tiny_model: BiomedParse) -> None:
    plan = plan_run(
        volume, PROMPTS, SegmentOptions(instances=True), config=tiny_model.config
    )
    counts = []
    for threshold in (0.2, 0.5, 0.8):
        options = replace(plan.options, edge_threshold=threshold)
        parts = list(run_plan(replace(plan, options=options), Engine(tiny_model)))
        counts.append(sum(np.count_nonzero(part.edges) for part in parts))
        assert all((part.edges is not None) for part in parts)
    assert counts[0] > counts[1] > counts[2]


def test_small_objects_are_dropped_but_not_their_labels(
    volume: Any, expected: Segmentation, tiny_model: BiomedParse
) -> None:
    result = segment(volume, PROMPTS, tiny_model, instances=True, minimum_size=20)
    _same(result, expected)
    assert result.instances is not None
    assert np.bincount(result.instances.ravel()).min() >= 20


def test_a_path_is_opened(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack")
    expected = segment(stack, "liver", "tiny").labels
    for given in (path, str(path)):
        np.testing.assert_array_equal(segment(given, "liver", "tiny").labels, expected)
    assert segment_lazy(path, "liver", "tiny").shape == stack.shape
    assert sum(d.stop - d.start for d in iter_segment(path, "liver", "tiny")) == 3
    many = np.zeros((5, 32, 32), np.uint8)
    tifffile.imwrite(path, many, imagej=True, metadata={"axes": "CYX"})
    named = {"axes": "ZYX"}
    assert segment(path, "liver", "tiny", **named).labels.shape == many.shape
    assert segment_lazy(path, "liver", "tiny", **named).shape == many.shape
    assert (
        sum(d.stop - d.start for d in iter_segment(path, "liver", "tiny", **named)) == 5
    )
    with pytest.raises(FormatError, match="does not exist"):
        segment(tmp_path / "b.tif", "liver", "tiny")
    with pytest.raises(VolumeError, match=r"is a path.* open_volume"):
        as_volume("a.tif")  # type: ignore[arg-type]
