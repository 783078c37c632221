"""The demo without a window: what it writes, and that it is told where."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from skimage.io import imread
from typer.testing import CliRunner

from napari_biomedparse import cli, samples
from napari_biomedparse.cli import _show
from napari_biomedparse.cli._demo import run_demo
from napari_biomedparse.errors import OutputError
from napari_biomedparse.io import open_file
from napari_biomedparse.networks.catalogue import available_models
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.samples import make_phantom


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("em", 3, shape=(4, 64, 48))


def test_labels_picture_and_table_agree(phantom, tmp_path):
    table = run_demo(phantom, tmp_path / "new", model="tiny", device="cpu")
    with pytest.raises(OutputError, match=r"labels\.zarr exists already"):
        run_demo(phantom, tmp_path / "new", model="tiny", device="cpu")
    run_demo(phantom, tmp_path / "new", model="tiny", device="cpu", overwrite=True)
    found = segment(phantom.volume, phantom.demo_prompts, "tiny", device="cpu")
    (labels,) = open_file(tmp_path / "new" / "labels.zarr").labels
    np.testing.assert_array_equal(np.asarray(labels.volume.data), found.labels)
    assert labels.volume.spacing == pytest.approx(phantom.spacing)
    assert table["label"].tolist() == list(phantom.demo_prompts.ids)
    for row in table.itertuples():
        assert row.voxels == (found.labels == row.label).sum()
    with (tmp_path / "new" / "table.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["prompt"] for row in written] == list(phantom.demo_prompts.texts)
    assert imread(tmp_path / "new" / "overlay.png").shape == (24 + 192, 432, 3)


def test_unwritable_folder_is_refused(phantom, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file is a file, not a folder"):
        run_demo(phantom, tmp_path / "file", model="tiny")


@pytest.mark.skipif("demo" not in available_models(), reason="no demo weights")
def test_command_without_a_display(tmp_path, monkeypatch):
    monkeypatch.setattr(_show.out, "width", 200)
    small = make_phantom("em", 3, shape=(3, 128, 128))
    monkeypatch.setattr(samples, "sample_em", lambda: small)
    result = CliRunner().invoke(cli.app, ["demo", "--no-window", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "mitochondria in electron microscopy" in result.stdout
    assert str(tmp_path) in result.stdout
    assert (tmp_path / "overlay.png").is_file()


def test_unknown_sample_is_a_usage_error():
    result = CliRunner().invoke(cli.app, ["demo", "--sample", "xray"])
    assert result.exit_code == 2
    assert "light-sheet" in result.stderr
