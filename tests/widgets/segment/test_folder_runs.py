"""Runs that write to a folder: shown as they grow, resumed, and found on a cluster."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr

from napari_biomedparse.io import open_image, open_volume
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.folder import JOB, Run
from napari_biomedparse.viewer.layers import METADATA_KEY
from napari_biomedparse.widgets.segment.which_slices import ALL_TIMES

TILE = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A Zarr of 48 slices: three blocks."""
    grey = np.random.default_rng(0).integers(0, 255, (48, 64, 48), dtype=np.uint8)
    path = tmp_path_factory.mktemp("source") / "in.zarr"
    array = zarr.create_array(
        str(path), shape=grey.shape, chunks=(16, 64, 48), dtype="u1"
    )
    array[:] = grey
    return path


@pytest.fixture(scope="module")
def expected(source, tiny_model):
    return segment(zarr.open_array(source)[:], "bright things", tiny_model, tile=TILE)


def opened(desk, source, folder):
    desk.viewer.open(source, plugin="napari-biomedparse")
    desk.form.folder.value = folder
    return desk


def wait_for_layer(desk):
    desk.view.run_button.click()
    desk.wait_until(lambda: len(desk.viewer.layers) > 1)
    return desk.viewer.layers[1]


def shown(layer):
    return np.asarray(layer.data[0] if layer.multiscale else layer.data)


def test_labels_are_written_and_shown_and_cancelled_runs_go_on(
    desk_that, source, expected, tmp_path
):
    desk = opened(desk_that(None), source, tmp_path / "run")
    desk.form.tiles.choose(TILE)  # a block takes longer than what the window does

    def cancel(event):
        desk.view.cancel_button.click()

    desk.viewer.layers.events.inserted.connect(cancel)
    layer = wait_for_layer(desk)
    desk.viewer.layers.events.inserted.disconnect(cancel)
    desk.wait_for_end()
    assert "Cancelled" in desk.view.status.text()
    begun = Run(tmp_path / "run")
    assert 0 < len(begun.manifest.blocks) < 3
    assert shown(layer).any()
    desk.viewer.layers.remove(layer)
    layer = wait_for_layer(desk)
    desk.wait_for_end()
    run = Run(tmp_path / "run")
    assert run.finished
    np.testing.assert_array_equal(shown(layer), expected.labels)
    assert "Done: 48 slices" in desk.view.status.text()
    (row,) = desk.form.prompts.model.rows
    assert row.result.voxels == np.count_nonzero(expected.labels)
    known = layer.metadata[METADATA_KEY]
    assert known["complete"]
    np.testing.assert_array_equal(known["existence"], expected.existence)
    for part in ("source", "model", "parameters", "environment"):
        assert known["provenance"][part] == getattr(run.manifest, part)
    desk.viewer.layers.remove(layer)
    wait_for_layer(desk)  # a finished run is only shown
    desk.wait_for_end()
    assert Run(tmp_path / "run").manifest.finished == run.manifest.finished
    painted = desk.viewer.layers[1]
    assert painted.editable
    painted.paint((47, 20, 10), 7)
    desk.viewer.layers.remove(painted)
    painted = wait_for_layer(desk)
    desk.wait_for_end()
    assert painted.data[47, 20, 10] == 7
    painted.data.flush()
    assert Run(tmp_path / "run").edited == (shown(painted) != expected.labels).sum() > 9


def test_objects_become_a_layer_of_their_own(desk_that, source, tiny_model, tmp_path):
    desk = opened(desk_that(None), source, tmp_path / "run")
    desk.form.scope.choose(0, 7)
    desk.form.instances.value = True
    wait_for_layer(desk)
    desk.wait_for_end()
    objects = desk.viewer.layers[-1]
    assert "objects, " in objects.name
    assert shown(objects).max() == Run(tmp_path / "run").manifest.objects > 0


def test_a_volume_in_memory_is_refused(desk_that, voxels, tmp_path, notes):
    desk = desk_that("works")
    desk.viewer.add_image(voxels)
    desk.form.folder.value = tmp_path / "run"
    desk.view.run_button.click()
    assert "in memory only" in notes[-1]
    desk.form.folder.value = None
    desk.form.scheduler.value = "tcp://127.0.0.1:1"
    desk.view.run_button.click()
    assert "run folder" in notes[-1]


def test_a_cluster_goes_on_when_napari_is_closed(desk_that, source, expected, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, memory_limit=0, dashboard_address=None
    ) as cluster:
        desk = opened(desk_that(None), source, tmp_path / "run")
        desk.form.scheduler.value = cluster.scheduler_address
        desk.form.tiles.choose(TILE)
        wait_for_layer(desk)
        assert (tmp_path / "run" / JOB).exists()
        desk.widget.session.close()  # as closing napari does
        desk.wait_for_end()
        again = opened(desk_that(None), source, tmp_path / "run")
        again.form.tiles.choose(TILE)
        layer = wait_for_layer(again)
        again.wait_for_end()
        assert Run(tmp_path / "run").finished
        np.testing.assert_array_equal(shown(layer), expected.labels)
        assert "Done" in again.view.status.text()


@pytest.fixture
def film(tmp_path):
    """Two time points of twelve slices, which are isotropic."""
    grey = np.random.default_rng(1).integers(0, 255, (2, 12, 14, 16), dtype=np.uint8)
    path = tmp_path / "film.ome.tif"
    tifffile.imwrite(path, grey, ome=True, metadata={"axes": "TZYX"})
    return path


def test_a_time_series_goes_to_a_folder(desk_that, film, tiny_model, tmp_path):
    expected = segment(open_image(film), "bright things", tiny_model)
    assert np.asarray(expected.labels).any()
    desk = opened(desk_that(None), film, tmp_path / "run")
    desk.form.stack.time.value = ALL_TIMES
    layer = wait_for_layer(desk)
    desk.wait_for_end()
    run = Run(tmp_path / "run")
    assert run.finished
    assert run.kind == "series"
    np.testing.assert_array_equal(shown(layer), expected.labels)
    np.testing.assert_array_equal(run.existence, expected.existence)
    assert "Done" in desk.view.status.text()
    layer.paint((1, 3, 4, 5), 7)
    layer.data.flush()
    assert run.labels[1, 3, 4, 5] == 7
    np.testing.assert_array_equal(run.labels[0], expected.labels[0])


def test_a_consensus_goes_to_a_folder(desk_that, film, tiny_model, tmp_path):
    volume = open_volume(film, time=1)
    expected = segment(volume, "bright things", tiny_model, consensus=True)
    assert np.asarray(expected.labels).any()
    desk = opened(desk_that(None), film, tmp_path / "run")
    desk.viewer.dims.set_current_step(0, 1)
    desk.form.consensus.value = True
    layer = wait_for_layer(desk)
    desk.wait_for_end()
    run = Run(tmp_path / "run")
    assert run.finished
    assert run.kind == "consensus"
    np.testing.assert_array_equal(shown(layer), expected.labels)
    assert "Done" in desk.view.status.text()
