"""Labels of a run folder in a viewer: painted, undone, seen in 3D, killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_biomedparse.io.painting import PaintableLabels
from napari_biomedparse.runs.folder import LABELS, Run
from napari_biomedparse.runs.run import segment_to_folder
from napari_biomedparse.viewer import painting


@pytest.fixture
def run(tmp_path: Path) -> Run:
    grey = np.random.default_rng(0).integers(0, 255, (20, 300, 280), dtype=np.uint8)
    return segment_to_folder(grey, "bright things", tmp_path / "run", "tiny", tile=150)


def opened(viewer: Any, run: Run) -> Any:
    (layer,) = viewer.open(run.labels_path, plugin="napari-biomedparse")
    return layer


def test_painted_erased_filled_and_undone(make_napari_viewer: Any, run: Run) -> None:
    before = np.asarray(run.labels)
    viewer = make_napari_viewer()
    layer = opened(viewer, run)
    viewer.dims.set_current_step(0, 0)
    assert layer.editable
    layer.brush_size = 20
    layer.paint((0, 50, 60), 5)
    painted = np.asarray(layer.data)
    assert 300 < np.count_nonzero(painted != before) < 450
    assert layer._slice.image.raw[50, 60] == 5  # as shown
    layer.mode = "erase"
    layer.paint((0, 55, 60), 0)
    layer.fill((0, 43, 60), 7)
    after = np.asarray(layer.data)
    assert {0, 7} <= set(np.unique(after))
    layer.undo()
    layer.undo()
    np.testing.assert_array_equal(layer.data, painted)
    layer.redo()
    layer.redo()
    np.testing.assert_array_equal(layer.data, after)
    layer.data.flush()
    np.testing.assert_array_equal(run.labels, after)
    again = opened(make_napari_viewer(), run)
    np.testing.assert_array_equal(again.data, after)
    for _ in range(3):
        layer.undo()
    layer.data.flush()
    np.testing.assert_array_equal(run.labels, before)
    assert run.edited == 0


def test_large_labels_are_coarse_in_3d(
    make_napari_viewer: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "LARGEST_VOLUME", 0)
    viewer = make_napari_viewer()
    layer = opened(viewer, run)
    layer.paint((0, 50, 60), 5)
    viewer.dims.ndisplay = 3
    assert layer.multiscale
    assert layer._slice.image.raw.shape == (20, 150, 140)
    assert layer._slice.image.raw[0, 25, 30] == 5
    viewer.dims.ndisplay = 2
    assert isinstance(layer.data, PaintableLabels)
    assert layer.editable
    layer.paint((0, 80, 60), 6)
    assert layer.data[0, 80, 60] == 6
    layer.data.flush()


def test_planes_too_large_are_only_shown(
    make_napari_viewer: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "LARGEST_PLANE", 1000)
    layer = opened(make_napari_viewer(), run)
    assert layer.multiscale
    assert not layer.editable
    assert layer.name == LABELS.partition(".")[0]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_crash_costs_at_most_the_stroke_under_way(run: Run) -> None:
    script = Path(__file__).with_name("killed_strokes.py")
    said = subprocess.run(
        [sys.executable, str(script), str(run.folder), "20", "10000"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert "10000 strokes" in said.stdout
    assert run.edited > 1000
    assert PaintableLabels(run.labels_path)._journal._times > 0  # was shortened
