"""Estimates of the right size, before a run."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.labels.instances import split_instances
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.runs.estimate import (
    Estimate,
    _output_bytes,
    estimate,
    estimate_run,
)
from napari_biomedparse.runs.run import segment_to_folder

GREY = np.random.default_rng(0).integers(0, 255, (12, 40, 40), dtype=np.uint8)


@pytest.mark.parametrize("lazy", [False, True])
def test_an_estimate_grows_with_the_slices(tiny_model: BiomedParse, lazy: bool) -> None:
    engine = Engine(tiny_model)
    data: Any = da.from_array(GREY, chunks=(1, 40, 40)) if lazy else GREY
    plan = plan_run(data, {300: "liver"}, config=tiny_model.config)
    found = estimate(plan, engine)
    assert found.seconds > 0
    assert found.disk == round(GREY.size * 2 * 4 / 3)
    assert found.device_memory is None
    assert found.memory is None or found.memory > 50e6
    options = SegmentOptions(slices=(3, 4))
    one = estimate(plan_run(data, "liver", options, config=tiny_model.config), engine)
    assert one.seconds < found.seconds


def test_an_estimate_in_words() -> None:
    how = "cuda:0 in bfloat16"
    found = Estimate(5400.0, 2_500_000_000, 7_000_000_000, 300_000_000, how)
    assert found.describe() == (
        "about 1 h 30 min on cuda:0 in bfloat16, 2.5 GB of memory, 7.0 GB on the "
        "device, at most 0.30 GB on disk"
    )
    short = Estimate(3.2, None, None, 10**9, "cpu in float32").describe()
    assert short.startswith("about 3.2 s on cpu in float32, at most")


@pytest.mark.parametrize("instances", [False, True])
def test_the_disk_suffices(
    tiny_model: BiomedParse, tmp_path: Path, instances: bool
) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (20, 300, 310), dtype=np.uint8)
    engine = Engine(tiny_model)
    plan = plan_run(
        grey, "liver", SegmentOptions(instances=instances), config=tiny_model.config
    )
    found = estimate(plan, engine, to_folder=True)
    folder = tmp_path / "r"
    most = 0

    def weigh(done: int, total: int) -> None:
        nonlocal most
        sizes = (p.stat().st_size for p in folder.rglob("c/**/*") if p.is_file())
        most = max(most, sum(sizes))

    segment_to_folder(
        grey, "liver", folder, tiny_model, instances=instances, on_progress=weigh
    )
    weigh(20, 20)
    assert 0 < most < found.disk


def test_series_and_consensus_take_more(tiny_model: BiomedParse) -> None:
    one = estimate_run(GREY, "liver", tiny_model)
    film = np.stack([GREY] * 6)[:, None]
    series = estimate_run(film, "liver", tiny_model)
    assert series.disk == 6 * one.disk
    assert estimate_run(film, "liver", tiny_model, time=(1, 3)).disk == 2 * one.disk
    assert series.seconds > one.seconds
    agreed = estimate_run(GREY, "liver", tiny_model, consensus=True)
    assert agreed.disk == 4 * one.disk
    assert agreed.seconds > 0


def test_reading_sets_the_pace_if_it_is_slow(tiny_model: BiomedParse) -> None:
    import time

    def slow(block: Any) -> Any:
        time.sleep(0.5)
        return block

    data = da.from_array(GREY, chunks=(4, 40, 40)).map_blocks(slow, meta=GREY[:0])
    plan = plan_run(data, "liver", config=tiny_model.config)
    found = estimate(plan, Engine(tiny_model))
    assert found.seconds >= 3 * 0.5  # three chunks


def test_telling_objects_apart_is_counted_in_the_memory(
    tiny_model: BiomedParse,
) -> None:
    """Against what numpy really takes; cc3d's own tables are not seen by this."""
    rng = np.random.default_rng(0)
    labels = (rng.random((8, 500, 500)) < 0.3).astype(np.uint8)
    edges = (rng.random(labels.shape) < 0.1).astype(np.uint8)
    plans = [
        plan_run(labels, "a", SegmentOptions(instances=some), config=tiny_model.config)
        for some in (False, True)
    ]
    without, with_objects = (_output_bytes(plan, to_folder=False) for plan in plans)
    assert without == labels.nbytes
    tracemalloc.start()
    split_instances(labels, edges)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= with_objects - labels.nbytes - edges.nbytes <= 1.3 * peak
