"""The same file by all doors: napari, worker, command line, run folder and Python."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from made_dicom import write
from napari.layers import Layer
from PIL import Image
from tiny_v1 import tiny_v1
from typer.testing import CliRunner

from napari_biomedparse import segment, segment_to_folder
from napari_biomedparse.cli import app
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.io import open_volume
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.process.messages import SegmentRequest
from napari_biomedparse.viewer.layers import get_reader

PROMPT = "bright things"


def picture(folder: Path) -> Path:
    colours = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(colours).save(folder / "a.png")
    return folder / "a.png"


def dicom(folder: Path) -> Path:
    grey = np.random.default_rng(1).integers(0, 4096, (50, 70), np.uint16)
    about = {"PixelSpacing": [0.5, 0.7], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    scale = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    return write(folder / "a.dcm", grey, **about, **scale)


def nifti(folder: Path) -> Path:
    grey = np.random.default_rng(2).integers(-900, 900, (40, 50, 3), np.int16)
    image = nibabel.Nifti1Image(grey, np.diag([-2.0, -1.0, 3.0, 1.0]))
    nibabel.save(image, folder / "a.nii.gz")
    return folder / "a.nii.gz"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path, model = tmp_path_factory.mktemp("weights") / "v1.safetensors", tiny_v1()
    save_weights(path, model.state_dict(), config=model.config)
    return str(path)


def test_all_doors_give_the_same_labels(desk_that, weights, tmp_path):
    desk = desk_that(None)
    desk.form.model.choose(weights)
    runs = [
        (picture, {}),
        (dicom, {"modality": "ct-chest-v1"}),
        (nifti, {"axis": "z"}),
        (nifti, {"axis": "y", "orientation": "radiological"}),
    ]
    found = []
    for number, (make, options) in enumerate(runs):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = make(folder)
        given = {"model": weights, "device": "cpu", **options}
        run = segment(path, PROMPT, **given)
        expected = np.asarray(run.labels)
        assert 0.01 < (expected > 0).mean() < 0.99
        found.append(expected)

        kept = segment_to_folder(path, PROMPT, folder / "run", **given)
        np.testing.assert_array_equal(np.squeeze(kept.labels), expected)
        for name in ("orientation", "turned"):
            assert kept.parameters.get(name) == run.parameters.get(name)

        flags = [f"--{name}={value}" for name, value in given.items()]
        command = ["segment", str(path), "-p", PROMPT, *flags]
        told = CliRunner().invoke(app, [*command, "-o", str(folder / "labels.tif")])
        assert told.exit_code == 0, told.output
        np.testing.assert_array_equal(tifffile.imread(folder / "labels.tif"), expected)
        assert f"Grey levels: {run.parameters['intensity']}" in told.output
        turned = run.parameters.get("turned")
        assert (f"Turned for the network: {turned}" in told.output) == bool(turned)

        request = SegmentRequest(
            volume=open_volume(path),
            options=SegmentOptions(**options),
            prompts=parse_prompts(PROMPT),
            model=weights,
            device="cpu",
        )
        labels = np.zeros(request.volume.grid, np.uint8)
        for event in desk.widget.session.start(request):
            if isinstance(event, SegmentedSlices):
                labels[event.where] = event.labels
        np.testing.assert_array_equal(np.squeeze(labels), expected)

        desk.viewer.layers.clear()
        (layer,) = (Layer.create(*one) for one in get_reader(str(path))(str(path)))
        desk.viewer.add_layer(layer)
        for name in ("modality", "axis", "orientation"):
            value = options.get(name, SegmentOptions.__dataclass_fields__[name].default)
            desk.form.set_option(name, value)
        shown = desk.start()
        desk.wait_for_end()
        np.testing.assert_array_equal(np.squeeze(shown.data), expected)
    assert found[2].shape == found[3].shape == (3, 50, 40)
