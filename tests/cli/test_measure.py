"""The command `measure` on files as `segment` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from napari_biomedparse.cli import app
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.results import Segmentation
from napari_biomedparse.io import open_volume, save_labels
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.runs.folder import Run
from napari_biomedparse.samples import make_phantom

IMAGE = np.arange(4 * 16 * 16, dtype=np.uint16).reshape(4, 16, 16)


def files(folder: Path, name: str) -> tuple[str, str]:
    """Write an image with voxels of 3 x 1 x 1 and two labels, one in two parts."""
    image = folder / "stack.tif"
    tifffile.imwrite(
        image,
        IMAGE,
        imagej=True,
        resolution=(1.0, 1.0),
        metadata={"axes": "ZYX", "spacing": 3.0, "unit": "um"},
    )
    labels = np.zeros(IMAGE.shape, np.uint8)
    labels[1:3, 1:4, 1:4], labels[:, 10:12, 10:12], labels[3, 5, 5] = 1, 2, 1
    prompts = parse_prompts(["nuclei", "vessels"])
    save_labels(folder / name, labels, volume=open_volume(image), prompts=prompts)
    return str(folder / name), str(image)


@pytest.mark.parametrize("name", ["labels.ome.zarr", "labels.tif", "labels.npz"])
def test_pieces_of_labels_are_measured(tmp_path: Path, name: str) -> None:
    labels, image = files(tmp_path, name)
    table = tmp_path / "table.csv"
    done = CliRunner().invoke(app, ["measure", labels, "-i", image, "-o", str(table)])
    assert done.exit_code == 0, done.output
    assert "3 objects" in done.output
    rows = pd.read_csv(table).sort_values("voxels")
    assert rows["voxels"].tolist() == [1, 16, 18]
    assert rows["volume [micrometer^3]"].tolist() == pytest.approx([3.0, 48.0, 54.0])
    assert rows["mean_intensity"].iloc[0] == IMAGE[3, 5, 5]
    assert rows["prompt"].tolist() == ["nuclei", "vessels", "nuclei"]
    sums = pd.read_csv(tmp_path / "table_prompts.csv").set_index("prompt")
    assert sums["objects"].to_dict() == {"nuclei": 2, "vessels": 1}
    assert sums["total_volume [micrometer^3]"].to_dict() == {
        "nuclei": 57,
        "vessels": 48,
    }


@pytest.mark.parametrize("flag", ["--instances", "--objects"])
def test_label_values_can_be_objects_already(tmp_path: Path, flag: str) -> None:
    labels, image = files(tmp_path, "labels.npz")
    table = tmp_path / "table.csv"
    command = ["measure", labels, "-i", image, "-o", str(table), flag]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    assert ("renamed to --instances" in done.stderr) == (flag == "--objects")
    assert pd.read_csv(table)["voxels"].tolist() == [19, 16]


@pytest.mark.parametrize("channel", ["1", "nuclei"])
def test_a_channel_is_chosen_by_number_or_name(tmp_path: Path, channel: str) -> None:
    labels, _ = files(tmp_path, "labels.npz")
    image, table = tmp_path / "two.ome.tif", tmp_path / "table.csv"
    channels = {"Name": ["membrane", "nuclei"]}
    metadata = {"axes": "CZYX", "Channel": channels}
    tifffile.imwrite(image, np.stack([IMAGE, IMAGE + 7]), ome=True, metadata=metadata)
    command = ["measure", labels, "-i", str(image), "-o", str(table), "--overwrite"]
    done = CliRunner().invoke(app, [*command, "--channel", channel])
    assert done.exit_code == 0, done.output
    assert IMAGE[3, 5, 5] + 7 in pd.read_csv(table)["mean_intensity"].tolist()
    assert CliRunner().invoke(app, [*command, "--channel", "2"]).exit_code == 1
    assert CliRunner().invoke(app, command).exit_code == 0
    rows = pd.read_csv(table)
    gaps = rows["mean_intensity_nuclei"] - rows["mean_intensity_membrane"]
    assert gaps.tolist() == [7.0] * 3


def test_channels_may_have_numbers_as_names(tmp_path: Path) -> None:
    labels, _ = files(tmp_path, "labels.npz")
    image, table = tmp_path / "two.ome.tif", tmp_path / "table.csv"
    metadata = {"axes": "CZYX", "Channel": {"Name": ["405", "488"]}}
    tifffile.imwrite(image, np.stack([IMAGE, IMAGE + 7]), ome=True, metadata=metadata)
    command = ["measure", labels, "-i", str(image), "-o", str(table), "--overwrite"]
    for channel in ("488", "1"):
        done = CliRunner().invoke(app, [*command, "--channel", channel])
        assert done.exit_code == 0, done.output
        assert IMAGE[3, 5, 5] + 7 in pd.read_csv(table)["mean_intensity"].tolist()


def test_faults_are_told_in_one_line(tmp_path: Path) -> None:
    labels, image = files(tmp_path, "labels.npz")
    nowhere = str(tmp_path / "missing" / "table.csv")
    done = CliRunner().invoke(app, ["measure", labels, "-i", image, "-o", nowhere])
    assert done.exit_code == 1
    assert "missing does not exist; create it first" in done.output
    floats = tmp_path / "floats.tif"
    tifffile.imwrite(floats, IMAGE.astype(np.float32), photometric="minisblack")
    command = ["measure", str(floats), "-i", image, "-o", str(tmp_path / "t.csv")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "labels must be integers" in done.output


def test_an_input_is_never_replaced_and_others_when_asked(tmp_path: Path) -> None:
    labels, image = files(tmp_path, "labels.npz")
    before = Path(labels).read_bytes(), Path(image).read_bytes()
    command = ["measure", labels, "-i", image, "--overwrite", "-o"]
    for output in (labels, image):
        done = CliRunner().invoke(app, [*command, output])
        assert done.exit_code == 1
        assert "never replaced" in done.stderr
    segment = ["segment", image, "-p", "x", "-m", "tiny", "--overwrite", "-o", image]
    assert "never replaced" in CliRunner().invoke(app, segment).stderr
    assert (Path(labels).read_bytes(), Path(image).read_bytes()) == before
    table = tmp_path / "table.csv"
    table.write_text("precious")
    without = CliRunner().invoke(app, [*command[:4], "-o", str(table)])
    assert "exists already" in without.stderr
    assert table.read_text() == "precious"
    assert CliRunner().invoke(app, [*command, str(table)]).exit_code == 0
    nowhere = CliRunner().invoke(app, [*command, str(table / "out.csv")])
    assert "table.csv is a file, not a folder" in nowhere.stderr


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Segmentation]:
    """A phantom, and its objects as Python gives them."""
    phantom = make_phantom("em", 3, shape=(4, 96, 96))
    path = tmp_path_factory.mktemp("cells") / "cells.tif"
    size = dict(zip(("PhysicalSizeZ", "PhysicalSizeY"), phantom.spacing, strict=False))
    metadata = {"axes": "ZYX", **size, "PhysicalSizeX": phantom.spacing[2]}
    tifffile.imwrite(path, phantom.image, ome=True, metadata=metadata)
    result = segment(phantom.image, TARGETS, "demo", device="cpu", instances=True)
    return path, result


TARGETS = [
    "mitochondria in electron microscopy",
    "cell membranes in electron microscopy",
]


@pytest.mark.parametrize("name", ["o.npz", "o.tif", "o.ome.zarr", "o.nii.gz", "run"])
def test_objects_are_measured_with_their_own_prompt(
    tmp_path: Path, cells: tuple[Path, Segmentation], name: str
) -> None:
    image, expected = cells
    owners, labels = expected.owners, expected.labels
    assert owners is not None
    assert expected.instances is not None
    words = [part for text in TARGETS for part in ("-p", text)]
    command = ["segment", str(image), *words, "-m", "demo", "--device", "cpu"]
    done = CliRunner().invoke(
        app, [*command, "--instances", "-o", str(tmp_path / name)]
    )
    assert done.exit_code == 0, done.output
    found = tmp_path / name
    found = found if found.suffix else found / "instances.ome.zarr"
    table = tmp_path / "table.csv"
    command = ["measure", str(found), "-i", str(image), "-o", str(table), "--instances"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = pd.read_csv(table).sort_values("id")
    assert len(rows) == len(owners.labels) - 1 > 10
    voxels = np.bincount(expected.instances.ravel())
    sizes = rows.groupby("label")["voxels"].sum().to_dict()
    for label in (1, 2):  # but for voxels that objects of the other label grew into
        mine = owners.labels == label
        assert sizes[label] == voxels[mine].sum()
        assert sizes[label] == pytest.approx((labels == label).sum(), rel=0.1)
    assert {*zip(rows["label"], rows["prompt"], strict=True)} == {
        *enumerate(TARGETS, 1)
    }
    best = expected.existence.max(axis=1)
    assert rows["score"].between(0.5, best.max() + 1e-4).all()
    if name != "run":  # whose objects are numbered by blocks
        np.testing.assert_array_equal(rows["label"], owners.labels[1:])
        np.testing.assert_allclose(rows["score"], owners.scores[1:], atol=1e-4)
        return
    run = Run(found.parent)
    assert run.owners is not None
    np.testing.assert_array_equal(rows["label"], run.owners.labels[1:])


def test_slices_get_a_voxel_size_and_axes(tmp_path: Path) -> None:
    (tmp_path / "slices").mkdir()
    for i, plane in enumerate(IMAGE):
        path = tmp_path / "slices" / f"s{i}.tif"
        tifffile.imwrite(path, plane, resolution=(1e5, 1e5), resolutionunit=3)
    tifffile.imwrite(
        tmp_path / "stack.tif", IMAGE, imagej=True, metadata={"axes": "CYX"}
    )
    ones = np.ones(IMAGE.shape, np.uint8)
    tifffile.imwrite(tmp_path / "labels.tif", ones, photometric="minisblack")
    for image, more in (("slices", []), ("stack.tif", ["--axes", "ZYX"])):
        table = tmp_path / f"{image}.csv"
        words = ["measure", str(tmp_path / "labels.tif"), "-i", str(tmp_path / image)]
        words += ["-o", str(table), *more]
        done = CliRunner().invoke(app, [*words, "--voxel-size", "0.5,0.1,0.2um"])
        assert done.exit_code == 0, done.output
        (size,) = pd.read_csv(table)["volume [micrometer^3]"]
        assert size == pytest.approx(IMAGE.size * 0.01)
    done = CliRunner().invoke(app, [*words, "--voxel-size", "1,2", "--overwrite"])
    assert done.exit_code != 0
