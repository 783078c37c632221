"""Labels by other thresholds, without the network, are those of a run by these."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_v1 import tiny_v1

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import OptionError
from napari_biomedparse.networks.blocks.filters import CONTEXT, FILTERS
from napari_biomedparse.networks.network import Network
from napari_biomedparse.networks.taught import TaughtNetwork
from napari_biomedparse.pipeline import scores as score_store
from napari_biomedparse.pipeline.loop import run_plan
from napari_biomedparse.pipeline.plan import RunPlan, plan_run
from napari_biomedparse.pipeline.scores import ScoreStore, resolve_again
from napari_biomedparse.pipeline.segment import collect, segment

PROMPTS = {2: "liver", 5: "mitochondria in electron microscopy", 9: "a b c"}


@pytest.fixture(scope="module")
def grey() -> Any:
    return np.random.default_rng(0).integers(0, 255, (6, 70, 50), dtype=np.uint8)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def run(grey: Any, model: Any, options: SegmentOptions, **more: Any) -> ScoreStore:
    plan = plan_run(grey, PROMPTS, options, config=model.config)
    store = ScoreStore(plan, **more)
    for _ in run_plan(plan, Engine(model), front=lambda: 3, keep=store.add):
        pass
    return store


def changed(plan: RunPlan, **changes: Any) -> RunPlan:
    return replace(plan, options=replace(plan.options, **changes))


@pytest.mark.parametrize("tile", ["none", 32])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"existence_threshold": 0.3},
        {"overlap_threshold": 0.1},
        {"edge_threshold": 0.4, "minimum_size": 5},
        {"overlaps": "order"},
        {"overlaps": "separate", "existence_threshold": 0.4},
        {"overlaps": "confident"},
    ],
)
def test_it_equals_a_run_by_the_new_options(
    grey: Any, tiny_model: Any, tile: Any, changes: dict[str, Any]
) -> None:
    options = SegmentOptions(tile=tile, instances=True, batch_size=3)
    store = run(grey, tiny_model, options)
    plan = changed(store.plan, **changes)
    again = collect(plan, resolve_again(plan, store), "tiny", "float32")
    expected = segment(grey, PROMPTS, tiny_model, options, **changes)
    assert expected.labels.any()
    np.testing.assert_array_equal(again.labels, expected.labels)
    np.testing.assert_array_equal(again.instances, expected.instances)
    np.testing.assert_array_equal(again.existence, expected.existence)


@pytest.mark.parametrize("tile", ["none", 32])
def test_the_threshold_of_p_is_applied_again(grey: Any, tile: Any) -> None:
    model = tiny_v1()
    options = SegmentOptions(tile=tile, kind="Endoscopy", axis=0)
    prompts = {2: "polyp", 5: "cat", 9: "non-neoplastic polyp"}
    plan = plan_run(grey, prompts, options, config=model.config)
    store = ScoreStore(plan)
    for _ in run_plan(plan, Engine(model), keep=store.add):
        pass
    p = segment(grey, prompts, model, options).existence
    for threshold in (0.0, float(np.median(p[0])), 1.0):
        new = changed(plan, p_threshold=threshold)
        again = collect(new, resolve_again(new, store), "tiny", "float32")
        expected = segment(grey, prompts, model, new.options)
        np.testing.assert_array_equal(again.labels, expected.labels)
        np.testing.assert_array_equal(again.existence, p)
        assert again.labels.any()
    assert set(np.unique(again.labels)) == {0, 5}  # which has no table
    options = replace(options, kind="OCT")
    other = plan_run(grey, prompts, options, config=model.config)
    with pytest.raises(OptionError, match="what masks are compared with changed"):
        list(resolve_again(other, store))


def taught_on(base: Network, *texts: str) -> TaughtNetwork:
    """Have heads that change a mask, whatever they were taught from."""
    size = 2 + base.basis.shape[1] + sum(FILTERS) + sum(CONTEXT)
    heads = torch.randn(len(texts), 2, size, generator=torch.Generator().manual_seed(0))
    heads[..., 2:] *= 0.02
    gates = torch.tensor([0.5, -0.5])[: len(texts)]
    return TaughtNetwork(base, texts, heads, gates, base.basis).eval()


@pytest.mark.parametrize("tile", ["none", 32])
@pytest.mark.parametrize("apart", [False, True])
def test_what_corrections_teach_needs_no_network(
    grey: Any, tiny_model: Any, tile: Any, apart: bool
) -> None:
    options = SegmentOptions(tile=tile, instances=True, prompts_apart=apart)
    taught = taught_on(tiny_model, "liver", "a b c")
    expected = segment(grey, PROMPTS, taught, options)
    plain = segment(grey, PROMPTS, tiny_model, options)
    assert (expected.labels != plain.labels).any()
    for model in (tiny_model, taught):  # both keep what the base found
        store = run(grey, model, options)
        plan = store.plan
        for engine, labels in ((Engine(taught), expected), (Engine(tiny_model), plain)):
            slices = resolve_again(plan, store, engine=engine)
            again = collect(plan, slices, "tiny", "float32")
            np.testing.assert_array_equal(again.labels, labels.labels)
            np.testing.assert_array_equal(again.instances, labels.instances)
            np.testing.assert_array_equal(again.existence, labels.existence)
    other = taught_on(tiny_model, "liver")
    other.basis = other.basis.flip(1)
    with pytest.raises(OptionError, match="the directions of the features changed"):
        list(resolve_again(plan, store, engine=Engine(other)))


def test_corrections_of_whole_slices_are_as_fine_as_the_slices(tiny_model: Any) -> None:
    grey = np.random.default_rng(1).integers(0, 255, (3, 150, 200), dtype=np.uint8)
    taught = taught_on(tiny_model, "liver")
    found = segment(grey, ["liver"], taught, tile="none")
    plain = segment(grey, ["liver"], tiny_model, tile="none")
    # Labels of the network's 64 pixels are blocks of three voxels, and more.
    assert _thinnest(plain.labels) >= 3
    assert _thinnest(found.labels) == 1
    options = SegmentOptions(tile="none")
    plan = plan_run(grey, ["liver"], options, config=tiny_model.config)
    store = ScoreStore(plan)
    for _ in run_plan(plan, Engine(tiny_model), keep=store.add):
        pass
    slices = resolve_again(plan, store, engine=Engine(taught))
    again = collect(plan, slices, "tiny", "float32")
    np.testing.assert_array_equal(again.labels, found.labels)


def _thinnest(labels: np.ndarray) -> int:
    """Return the least distance between two borders in a row."""
    found = 99
    for row in labels.reshape(-1, labels.shape[-1]).astype(int):
        borders = np.flatnonzero(np.diff(row))
        found = min([found, *np.diff(borders)])
    return int(found)


def test_p_is_that_of_corrected_masks(grey: Any) -> None:
    model = tiny_v1()
    options = SegmentOptions(kind="Endoscopy", axis=0)
    taught = taught_on(model, "polyp")
    expected = segment(grey, ["polyp"], taught, options)
    plan = plan_run(grey, ["polyp"], options, config=model.config)
    store = ScoreStore(plan)
    for _ in run_plan(plan, Engine(model), keep=store.add):
        pass
    slices = resolve_again(plan, store, engine=Engine(taught))
    again = collect(plan, slices, "tiny", "float32")
    np.testing.assert_array_equal(again.labels, expected.labels)
    np.testing.assert_array_equal(again.existence, expected.existence)


def test_slices_come_in_the_order_they_are_asked_for(
    grey: Any, tiny_model: Any
) -> None:
    store = run(grey, tiny_model, SegmentOptions(slices=(1, 5)))
    found = [part.start for part in resolve_again(store.plan, store, [4, 0, 2])]
    assert found == [4, 2]
    assert [part.start for part in resolve_again(store.plan, store)] == [1, 2, 3, 4]


def test_beyond_its_bound_it_forgets_what_came_first(
    grey: Any, tiny_model: Any
) -> None:
    one = run(grey, tiny_model, SegmentOptions(slices=(0, 1))).bytes_used
    store = run(grey, tiny_model, SegmentOptions(), most_bytes=3 * one)
    # The order was 3, 2, 4, 1, 5, 0.
    assert store.kept == [(0, 2), (5, 6)]
    assert store.has(0, 2) and not store.has(1, 3)
    assert store.bytes_used == 3 * one
    assert len(list(store._folder.iterdir())) == 3
    assert [part.start for part in resolve_again(store.plan, store)] == [0, 1, 5]
    assert run(grey, tiny_model, SegmentOptions(), most_bytes=one - 1).kept == []


def test_its_files_go_with_it(grey: Any, tiny_model: Any, temporary: Path) -> None:
    store = run(grey, tiny_model, SegmentOptions())
    store.close()
    assert store.kept == [] and not list(temporary.glob("*/*"))
    store = run(grey, tiny_model, SegmentOptions())
    assert list(temporary.glob("*/*"))
    del store
    assert not list(temporary.glob("*/*"))


def test_a_full_disk_only_costs_the_scores(
    grey: Any,
    tiny_model: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(score_store.np, "savez", full)
    store = run(grey, tiny_model, SegmentOptions())
    assert store.kept == []
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "the seed"),
        ({"axis": "y"}, "how slices are cut"),
        ({"instances": True}, "separate objects"),
        ({"region": "y=0:70"}, None),
        ({"region": "y=1:61"}, "the volume"),
    ],
)
def test_what_needs_the_network_is_refused(
    grey: Any, tiny_model: Any, changes: dict[str, Any], name: str | None
) -> None:
    store = run(grey, tiny_model, SegmentOptions(slices=(0, 1)))
    options = replace(store.plan.options, **changes)
    plan = plan_run(grey, PROMPTS, options, config=tiny_model.config)
    if name is None:
        assert list(resolve_again(plan, store))
        return
    with pytest.raises(OptionError, match=f"another run .*{name}"):
        list(resolve_again(plan, store))
    other = plan_run(grey, ["a", "b", "c"], config=tiny_model.config)
    with pytest.raises(OptionError, match="the prompts changed"):
        list(resolve_again(other, store))


def test_the_network_is_not_asked(
    grey: Any, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = run(grey, tiny_model, SegmentOptions())
    monkeypatch.setattr(torch.nn.Module, "__call__", None)
    assert len(list(resolve_again(store.plan, store))) == 6
