"""Files as layers, and volumes from layers; all but one test need no window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import nibabel
import numpy as np
import pytest
import tifffile
from made_dicom import write
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import notification_manager
from npe2 import PluginManager

from napari_biomedparse.data.prompts import PromptSet, label_colour, parse_prompts
from napari_biomedparse.data.volume import colours_of
from napari_biomedparse.errors import OutputError, VolumeError
from napari_biomedparse.io import open_file, open_volume
from napari_biomedparse.viewer.layers import (
    METADATA_KEY,
    get_reader,
    labels_layer_kwargs,
    prompts_of_values,
    read_layers,
    volume_from_layer,
    voxel_size,
    voxels_of_labels,
    voxels_of_prompts,
    write_labels,
)

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = parse_prompts({1: "mitochondria", 4: "nuclei"})
STACK = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
MICRO = ("micrometer",) * 3


@pytest.fixture
def plugins() -> None:
    """Have npe2 know the plugins, as it does once a viewer was opened."""
    PluginManager.instance().discover()


def read(path: Path) -> list[Layer]:
    reader = get_reader(str(path))
    assert reader is not None
    return [Layer.create(*layer) for layer in reader(str(path))]


def paths_of(shared: Path) -> list[Path]:
    patterns = ("*.tif", "*.npz", "*.zarr", "*.nii", "*.nii.gz")
    found = [path for pattern in patterns for path in shared.rglob(pattern)]
    return sorted(path for path in found if path.suffix != ".zarr" or path.is_dir())


def test_every_shared_file_opens_as_layers(shared: Path) -> None:
    paths = paths_of(shared / "data")
    assert paths
    for path in paths:
        contents = open_file(path)
        layers = read(path)
        count = sum(
            v.shape[v.axes.index("c")] if "c" in v.axes and not colours_of(v) else 1
            for v in contents.images
        )
        assert len(layers) == count + len(contents.labels)
        volumes = [
            v.select(c=0) if "c" in v.axes else v for v in contents.images
        ] * count
        volumes = volumes[:count] + [labels.volume for labels in contents.labels]
        for layer, volume in zip(layers, volumes, strict=True):
            finest = layer.data[0] if layer.multiscale else layer.data
            assert isinstance(finest, da.Array)
            assert layer.multiscale == bool(volume.levels)
            assert tuple(layer.scale) == volume.spacing
            assert tuple(layer.translate) == volume.origin
            assert tuple(map(str, layer.units)) == volume.units
            assert layer.axis_labels == volume.axes
            assert layer.metadata["biomedparse"]["source"] == str(volume.source)
            assert volume.source is not None
            assert volume.source.is_relative_to(path)


def test_prompts_come_with_the_image(shared: Path) -> None:
    (layer,) = read(shared / "data/challenge_npz/imgs/CT_AMOS_amos_0018.npz")
    known = layer.metadata["biomedparse"]
    assert (
        known["text_prompts"][4] == "CT scan of the gallbladder in the abdominal region"
    )
    assert known["instance_label"] == 0


def test_channels_become_layers(shared: Path) -> None:
    first, second = read(shared / "data/formats/derived_nuclei_czyx.ome.tif")
    assert first.name == "derived_nuclei_czyx nuclei"
    assert (second.blending, second.ndim) == ("additive", 3)
    (colours,) = read(shared / "data/formats/thirdparty_test_image.ome.tif")
    assert (colours.rgb, colours.axis_labels) == (True, ("y", "x"))


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_become_one_layer_that_is_the_volume_of_a_command(
    planar: str, alpha: bool, tmp_path: Path
) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (6, 7, 9, 3 + alpha), np.uint8)
    stored = np.moveaxis(rgb, -1, 1) if planar == "separate" else rgb
    extra = {"extrasamples": ["unassalpha"]} if alpha else {}
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, **extra
    )
    (layer,) = read(tmp_path / "a.tif")
    assert layer.rgb
    found, opened = volume_from_layer(layer), open_volume(tmp_path / "a.tif")
    assert (found.axes, found.shape) == (opened.axes, (6, 7, 9, 3))
    np.testing.assert_array_equal(np.asarray(found.data), rgb[..., :3])
    np.testing.assert_array_equal(np.asarray(opened.data), rgb[..., :3])


def test_three_channels_are_no_colours(tmp_path: Path) -> None:
    stack = np.zeros((3, 6, 7, 9), np.uint8)
    names = {"Channel": {"Name": ["Red", "DAPI", "Blue"]}}
    for name, data, more in (
        ("named.ome.tif", stack, {"metadata": {"axes": "CZYX", **names}}),
        ("deep.tif", np.zeros((7, 9, 3), np.uint16), {"photometric": "rgb"}),
    ):
        tifffile.imwrite(tmp_path / name, data, **more)
        layers = read(tmp_path / name)
        assert [layer.rgb for layer in layers] == [False] * 3, name


def test_a_real_viewer_opens_files_through_the_manifest(
    make_napari_viewer: Any, shared: Path
) -> None:
    viewer = make_napari_viewer()
    path = shared / "data" / "formats" / "derived_em_v05.ome.zarr"
    image, labels = viewer.open(str(path), plugin="napari-biomedparse")
    assert (image.name, labels.name) == ("derived_em_v05", "organelles")
    assert tuple(map(str, labels.units)) == MICRO
    keywords = _on(image)
    found = viewer.add_labels(np.zeros((8, 192, 192), np.uint8), **keywords)
    np.testing.assert_array_equal(found.extent.world, image.extent.world)


def test_several_files_and_files_of_others(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.tif", "b.tif")]
    for path in paths:
        tifffile.imwrite(path, STACK[0], photometric="minisblack")
    reader = get_reader(paths)
    assert reader is not None
    assert [keywords["name"] for _, keywords, _ in reader(paths)] == ["a", "b"]
    (tmp_path / "c.tif").write_text("no image")
    assert get_reader(str(tmp_path / "c.tif")) is None
    assert get_reader([*paths, str(tmp_path / "c.tif")]) is None
    assert get_reader(str(tmp_path / "none.tif")) is None
    assert get_reader(str(tmp_path)) is None
    assert get_reader([]) is None


def test_names_and_colours_of_labels(tmp_path: Path) -> None:
    layer = Labels(STACK[0] % 5, **_on(Image(STACK[0])))
    path = str(tmp_path / "a.zarr")
    write_labels(path, *layer.as_layer_data_tuple()[:2])
    (found,) = read(tmp_path / "a.zarr")
    assert isinstance(found, Labels)
    assert found.features["prompt"].tolist() == ["background", "mitochondria", "nuclei"]
    np.testing.assert_allclose(found.get_color(4), np.divide(label_colour(4), 255))
    assert found.metadata["biomedparse"]["text_prompts"] == {
        1: "mitochondria",
        4: "nuclei",
    }


def _on(layer: Image, prompts: PromptSet = PROMPTS) -> dict[str, Any]:
    return labels_layer_kwargs(layer, prompts, name="found")


def test_a_volume_of_a_layer() -> None:
    layer = Image(
        STACK[0],
        name="cells",
        scale=(3, 0.5, 0.25),
        translate=(1, 2, 3),
        units=MICRO,
        axis_labels=("z", "y", "x"),
    )
    volume = volume_from_layer(layer)
    assert volume.data is not None
    np.testing.assert_array_equal(np.asarray(volume.data), STACK[0])
    assert (volume.name, volume.axes, volume.units) == ("cells", ("z", "y", "x"), MICRO)
    assert (volume.spacing, volume.origin) == ((3, 0.5, 0.25), (1, 2, 3))


PLACES: dict[str, dict[str, Any]] = {
    "affine": {"affine": np.diag([5.0, 0.8, 0.8, 1])},
    "scale and affine": {"scale": (5, 1, 1), "affine": np.diag([1.0, 0.8, 0.8, 1])},
    "rotate": {"scale": (5, 0.8, 0.8), "rotate": 30.0},
    "rotate about three": {"scale": (5, 0.8, 0.8), "rotate": (10, 20, 30)},
    "shear": {"scale": (5, 0.8, 0.8), "shear": (0.5, 0, 0)},
    "mirror": {"scale": (-5, 0.8, -0.8), "translate": (1, 2, 3)},
    "permuted": {
        "affine": np.array(
            [[0, 0, 0.8, 1], [0, 0.8, 0, 2], [5, 0, 0, 3], [0, 0, 0, 1.0]]
        )
    },
}


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
@pytest.mark.parametrize("name", PLACES)
def test_all_transforms_of_a_layer_place_its_volume(name: str, tmp_path: Path) -> None:
    layer = Image(STACK[0], units=MICRO, axis_labels=("z", "y", "x"), **PLACES[name])
    volume = volume_from_layer(layer)
    corner = np.array([2.0, 1.0, 3.0])
    where = volume.origin + volume.steps @ corner
    np.testing.assert_allclose(where, layer.data_to_world(corner), atol=1e-12)
    np.testing.assert_allclose(abs(np.linalg.det(volume.steps)), 3.2)
    edges = np.linalg.norm(volume.steps, axis=0)
    np.testing.assert_allclose(volume.spacing, edges)
    np.testing.assert_allclose(voxel_size(layer), edges)
    np.testing.assert_allclose(
        volume.crop(z=(1, 3), x=(2, 4)).origin, layer.data_to_world((1, 0, 2))
    )
    keywords = _on(layer) | {"units": MICRO}
    labels = Labels(STACK[0] % 5, **keywords)
    data, meta, _ = labels.as_layer_data_tuple()
    write_labels(str(tmp_path / "a.nii.gz"), data, meta)
    affine = nibabel.load(tmp_path / "a.nii.gz").affine  # x first
    expected = np.asarray(volume.steps)[::-1, ::-1]
    np.testing.assert_allclose(affine[:3, :3], expected, atol=1e-6)
    np.testing.assert_allclose(affine[:3, 3], volume.origin[::-1], atol=1e-6)


def test_what_a_format_cannot_hold_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in (".ome.zarr", ".tif", ".npz", ".nii"):
        for name in ("affine", "mirror"):
            layer = Labels(STACK[0] % 5, units=MICRO, **PLACES[name])
            path = tmp_path / f"{name}{suffix}"
            caplog.clear()
            write_labels(str(path), *layer.as_layer_data_tuple()[:2])
            (found,) = open_file(path).labels or open_file(path).images
            spacing = getattr(found, "volume", found).spacing
            np.testing.assert_allclose(
                spacing,
                (5, 0.8, 0.8) if suffix != ".npz" else (0.005, 0.0008, 0.0008),
                rtol=1e-6,
            )
            told = "mirrored" in caplog.text
            assert told == (name == "mirror" and suffix != ".nii"), path


def test_the_finest_level_stays_lazy() -> None:
    data = [da.from_array(STACK[0]), da.from_array(STACK[0, :, ::2, ::2])]
    volume = volume_from_layer(Image(data, multiscale=True))
    assert isinstance(volume.data, da.Array)
    assert volume.shape == (3, 4, 5)
    assert (volume.axes, volume.units) == (("z", "y", "x"), ("pixel",) * 3)


@pytest.mark.parametrize("step", [0, 1])
def test_the_position_shown_is_taken(step: int) -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(
        STACK, channel_axis=None, scale=(10, 1, 1, 1), translate=(5, 0, 0, 0)
    )
    viewer.dims.set_current_step(0, step)
    volume = volume_from_layer(layer, viewer.dims)
    np.testing.assert_array_equal(np.asarray(volume.data), STACK[step])
    np.testing.assert_array_equal(np.asarray(volume_from_layer(layer).data), STACK[0])


def test_channels_in_the_middle_are_known_by_their_label() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(
        STACK, axis_labels=("z", "c", "y", "x"), scale=(3, 1, 0.5, 0.25)
    )
    viewer.dims.set_current_step(1, 2)
    volume = volume_from_layer(layer, viewer.dims)
    np.testing.assert_array_equal(np.asarray(volume.data), STACK[:, 2])
    assert (volume.axes, volume.spacing) == (("z", "y", "x"), (3, 0.5, 0.25))
    assert tuple(_on(layer)["scale"]) == (3, 0.5, 0.25)


def test_a_layer_in_other_units_than_the_viewer() -> None:
    viewer = ViewerModel()
    viewer.add_image(STACK, units=("second", *MICRO), scale=(1.0, 1, 1, 1))
    layer = viewer.add_image(
        STACK, units=("millisecond", *MICRO), scale=(1000.0, 1, 1, 1)
    )
    viewer.dims.set_current_step(0, 1)
    volume = volume_from_layer(layer, viewer.dims)
    np.testing.assert_array_equal(np.asarray(volume.data), STACK[1])


def test_a_single_image_in_grey_and_in_colour() -> None:
    flat = volume_from_layer(Image(STACK[0, 0], name="flat", scale=(2, 3)))
    assert (flat.shape, flat.flat, flat.spacing[1:]) == ((1, 4, 5), True, (2, 3))
    np.testing.assert_array_equal(np.asarray(flat.data[0]), STACK[0, 0])
    values = np.arange(2 * 8 * 9 * 4, dtype=np.uint8).reshape(2, 8, 9, 4)
    picture = volume_from_layer(Image(values[0], rgb=True))
    assert (picture.is_colour, picture.flat) == (True, True)
    np.testing.assert_array_equal(np.asarray(picture.data[:]), values[:1, ..., :3])
    stack = volume_from_layer(Image(values[..., :3], rgb=True, scale=(4, 2, 2)))
    assert (stack.is_colour, stack.flat) == (True, False)
    assert (stack.grid, stack.spacing) == ((2, 8, 9), (4, 2, 2, 1))
    np.testing.assert_array_equal(np.asarray(stack.data), values[..., :3])


def test_a_channel_of_a_single_image_is_the_one_shown() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(STACK[0], axis_labels=("c", "y", "x"))
    viewer.dims.set_current_step(0, 2)
    volume = volume_from_layer(layer, viewer.dims)
    assert (volume.shape, volume.flat) == ((1, 4, 5), True)
    np.testing.assert_array_equal(np.asarray(volume.data[0]), STACK[0, 2])
    assert Labels(STACK[0, 0], **_on(layer)).ndim == 2


TRANSFORMS: dict[str, dict[str, Any]] = {
    "scale and translate": {"scale": (3, 0.5, 0.25), "translate": (1, -2, 3)},
    "rotate": {"scale": (3, 2, 1), "rotate": (10, 20, 30)},
    "shear": {"shear": (0.1, 0.2, 0.3)},
    "affine": {"affine": np.vstack([np.eye(4)[:3] + 0.1, [0, 0, 0, 1]])},
    "all": {
        "scale": (3, 2, 1),
        "translate": (1, 2, 3),
        "rotate": (10, 20, 30),
        "shear": (0.1, 0.2, 0.3),
        "affine": np.vstack([np.eye(4)[:3] + 0.1, [0, 0, 0, 1]]),
        "units": MICRO,
        "axis_labels": ("depth", "row", "column"),
    },
}


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_labels_lie_on_their_image(name: str) -> None:
    layer = Image(STACK[0], **TRANSFORMS[name])
    labels = Labels(np.zeros((3, 4, 5), np.uint8), **_on(layer))
    for point in np.random.default_rng(0).uniform(0, 5, (5, 3)):
        np.testing.assert_allclose(
            labels.data_to_world(point), layer.data_to_world(point)
        )
    assert labels.units == layer.units
    assert labels.axis_labels == layer.axis_labels
    assert labels.name == "found"


def test_labels_of_one_time_point_lie_on_it() -> None:
    layer = Image(
        STACK,
        scale=(9, 3, 2, 1),
        translate=(7, 1, 2, 3),
        rotate=np.kron(np.eye(2), [[0.8, -0.6], [0.6, 0.8]]),
    )
    labels = Labels(np.zeros((3, 4, 5), np.uint8), **_on(layer))
    whole = layer._transforms[1:].simplified.set_slice([1, 2, 3])
    for point in np.random.default_rng(0).uniform(0, 5, (5, 3)):
        np.testing.assert_allclose(labels.data_to_world(point), whole(point))


def test_each_prompt_has_a_row_and_a_colour() -> None:
    labels = Labels(STACK[0] % 5, **_on(Image(STACK[0])))
    assert labels.features["index"].tolist() == [0, 1, 4]
    assert labels.features["prompt"].tolist()[1:] == ["mitochondria", "nuclei"]
    for label in PROMPTS.ids:
        expected = np.divide(label_colour(label), 255)
        np.testing.assert_allclose(labels.get_color(label), expected)
    assert "nuclei" in str(
        labels.get_status(np.unravel_index(4, (3, 4, 5)), world=True)
    )


def test_instances_keep_naparis_colours() -> None:
    keywords = _on(Image(STACK[0]), PromptSet(PROMPTS.prompts, instance=True))
    assert not {"colormap", "features"} & set(keywords)


SUFFIXES = ("npz", "tif", "ome.tif", "zarr", "ome.zarr", "nii", "nii.gz")


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_napari_saves_labels_through_the_manifest(
    suffix: str, rank: int, tmp_path: Path
) -> None:
    """`layer.save` finds the writer by npe2, as the File menu does."""
    values = np.arange(2 * 3 * 8 * 9, dtype=np.uint16).reshape(2, 3, 8, 9) % 5
    values = values[(0,) * (4 - rank)]
    image = Image(values, scale=(2, 3, 0.5, 0.25)[-rank:], axis_labels="tzyx"[-rank:])
    keywords = _on(image) if rank < 4 else {"axis_labels": "tzyx", "scale": image.scale}
    path = tmp_path / f"a.{suffix}"
    layer = Labels(values, **keywords)
    assert layer.save(str(path), plugin="napari-biomedparse") == [str(path)]
    (found,) = open_file(path).labels
    np.testing.assert_array_equal(np.asarray(found.volume.data), values)
    if suffix != "npz":
        assert found.volume.spacing[-3:] == tuple(layer.scale)[-3:]


def test_labels_on_a_dicom_series_lie_where_the_patient_is(tmp_path: Path) -> None:
    sides = [0.8, 0.6, 0.0, -0.6, 0.8, 0.0]
    for number, place in enumerate((5.0, 2.0)):
        about = {"ImagePositionPatient": [7.0, 8.0, place], "PixelSpacing": [0.5, 0.25]}
        grey = np.full((4, 6), number, np.uint8)
        write(tmp_path / f"s/{number}", grey, ImageOrientationPatient=sides, **about)
    (one,) = read_layers(str(tmp_path / "s"))
    layer = Layer.create(*one)
    volume = open_volume(tmp_path / "s")
    assert volume_from_layer(layer).directions == volume.directions
    keywords = labels_layer_kwargs(layer, parse_prompts("liver"), name="labels")
    data, meta, _ = Labels(
        np.ones(volume.shape, np.uint8), **keywords
    ).as_layer_data_tuple()
    (path,) = write_labels(str(tmp_path / "a.nii.gz"), data, meta)
    found = nibabel.load(path).affine
    expected = [[-0.2, 0.3, 0, -7], [-0.15, -0.4, 0, -8], [0, 0, 3, 2], [0, 0, 0, 1]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.usefixtures("plugins")
def test_labels_on_a_nifti_image_keep_its_affine(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "formats" / "nibabel_anatomical.nii"
    (image,) = read(source)
    assert isinstance(image, Image)
    layer = Labels(np.ones(image.data.shape, np.uint8), **_on(image))
    layer.save(str(tmp_path / "a.nii.gz"), plugin="napari-biomedparse")
    found: Any = nibabel.load(tmp_path / "a.nii.gz")
    expected: Any = nibabel.load(source)
    np.testing.assert_array_equal(found.affine, expected.affine)
    (again,) = read(tmp_path / "a.nii.gz")
    assert isinstance(again, Labels)


@pytest.mark.parametrize("name", ["a.npz", "a.tif", "a.zarr"])
def test_a_labels_layer_is_saved(name: str, tmp_path: Path) -> None:
    image = Image(STACK[0], scale=(3, 0.5, 0.25), units=("millimeter",) * 3)
    data, meta, _ = Labels(STACK[0] % 5, **_on(image)).as_layer_data_tuple()
    for _ in range(2):
        assert write_labels(str(tmp_path / name), data, meta) == [str(tmp_path / name)]
    contents = open_file(tmp_path / name)
    (labels,) = contents.labels
    assert contents.prompts == PROMPTS
    assert labels.volume.spacing == (3, 0.5, 0.25)
    assert labels.volume.units == ("millimeter",) * 3
    np.testing.assert_array_equal(np.asarray(labels.volume.data), STACK[0] % 5)


def test_a_layer_that_was_painted_by_hand_is_saved(tmp_path: Path) -> None:
    data, meta, _ = Labels(STACK[0].astype(int) * 3).as_layer_data_tuple()
    write_labels(str(tmp_path / "a.tif"), data, meta)
    (labels,) = open_file(tmp_path / "a.tif").labels
    assert labels.texts == {}
    assert labels.volume.dtype == np.uint8


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_voxels_of_labels_have_three_axes(shape):
    layer = Labels(np.ones(shape, np.uint8))
    voxels = voxels_of_labels(layer)
    assert voxels.shape == (1,) * (3 - len(shape)) + shape and voxels.all()


def test_labels_of_more_axes_are_refused():
    with pytest.raises(VolumeError, match="4 axes"):
        voxels_of_labels(Labels(np.ones((2, 3, 4, 5), np.uint8)))


def test_instances_become_the_prompts_that_they_belong_to():
    instances = np.array([[[0, 1, 2, 3]]])
    prompts = parse_prompts({2: "liver", 7: "kidney"})
    layer = Labels(instances)
    assert voxels_of_prompts(layer, instances, prompts).tolist() == [[[0, 2, 2, 2]]]
    layer.features = {"index": [0, 1, 3], "prompt": ["background", "kidney", "liver"]}
    assert voxels_of_prompts(layer, instances, prompts).tolist() == [[[0, 7, 2, 2]]]
    named = prompts_of_values(np.array([0, 3, 3, 5]))
    assert dict(zip(named.ids, named.texts, strict=True)) == {
        3: "label 3",
        5: "label 5",
    }


def test_the_image_that_was_segmented_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    path.write_text("precious")
    provenance = {"source": {"path": str(path)}}
    meta = {"name": "labels", "metadata": {METADATA_KEY: {"provenance": provenance}}}
    with pytest.raises(OutputError, match="never replaced"):
        write_labels(str(path), np.ones((2, 3, 4), np.uint8), meta)
    assert path.read_text() == "precious"


def test_what_is_told_about_a_file_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((80, 8, 9), np.uint8), imagej=True)
    with notification_manager:
        (layer,) = read_layers(path)
    assert layer[1]["axis_labels"] == ("z", "y", "x")
    assert "taken as slices" in notification_manager.records[-1].message
