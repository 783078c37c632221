"""Pictures: what people see of them is what is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagecodecs import png_encode
from napari.layers import Image as ImageLayer
from napari_builtins.io import napari_get_reader
from PIL import Image

from napari_biomedparse import open_volume
from napari_biomedparse.errors import FormatError, VolumeError
from napari_biomedparse.io import open_image, open_labels, recognise, save_labels
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.viewer.layers import get_reader, volume_from_layer

RNG = np.random.default_rng(17)
RGB = RNG.integers(0, 256, (40, 50, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (40, 50), np.uint8)
DEEP = RNG.integers(0, 2**16, (40, 50)).astype(np.uint16)
PALETTE = np.array([[255, 0, 0], [0, 40, 200], [9, 9, 9]], np.uint8)
INDICES = RNG.integers(0, 3, (40, 50), np.uint8)


def _palette() -> Image.Image:
    image = Image.fromarray(INDICES, "P")
    image.putpalette(PALETTE.tobytes())
    return image


def _rgba() -> Image.Image:
    return Image.fromarray(np.dstack([RGB, ALPHA]))


PICTURES: dict[str, tuple[Image.Image, Any]] = {
    "rgb.png": (Image.fromarray(RGB), RGB),
    "rgb.bmp": (Image.fromarray(RGB), RGB),
    "rgba.png": (_rgba(), RGB),
    "grey.png": (Image.fromarray(ALPHA), ALPHA),
    "grey.bmp": (Image.fromarray(ALPHA), ALPHA),
    "deep.png": (Image.fromarray(DEEP), DEEP),
    "palette.png": (_palette(), PALETTE[INDICES]),
    "bits.png": (Image.fromarray(ALPHA > 127), np.where(ALPHA > 127, 255, 0)),
}


def _saved(name: str, folder: Path) -> tuple[Path, Any]:
    image, expected = PICTURES[name]
    image.save(folder / name)
    return folder / name, expected


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_a_volume_of_one_slice(name: str, tmp_path: Path) -> None:
    path, expected = _saved(name, tmp_path)
    volume = open_volume(path)
    assert recognise(path) == "picture" and volume.flat
    assert volume.axes == ("z", "y", "x", "c")[: 1 + expected.ndim]
    assert volume.units[1:3] == ("pixel", "pixel") and volume.source == path
    np.testing.assert_array_equal(np.asarray(volume.data)[0], expected)
    part = np.asarray(open_image(path).data[5:9, 2:50])  # type: ignore[index]
    np.testing.assert_array_equal(part, expected[5:9, 2:50])


@pytest.mark.parametrize(
    "name", sorted(PICTURES.keys() - {"bits.png"})
)  # a mask, to napari
def test_a_layer_that_napari_opened_is_the_same(name: str, tmp_path: Path) -> None:
    path, expected = _saved(name, tmp_path)
    reader = napari_get_reader(str(path))  # which takes bits.png for a mask
    assert reader is not None
    ((data, *keywords),) = reader(str(path))
    layer = ImageLayer(np.asarray(data).astype(expected.dtype), **(keywords or [{}])[0])
    seen = np.asarray(volume_from_layer(layer).data)[0]
    np.testing.assert_array_equal(seen, expected)


def test_our_reader_makes_one_layer_of_the_colors(tmp_path: Path) -> None:
    path, _ = _saved("rgba.png", tmp_path)
    reader = get_reader(str(path))
    assert reader is not None
    ((data, keywords, kind),) = reader(str(path))
    layer = ImageLayer(data, **keywords)
    assert kind == "image" and layer.rgb and layer.name == "rgba"
    np.testing.assert_array_equal(np.asarray(layer.data), RGB)


def test_a_jpeg_is_recognised_whatever_its_name(tmp_path: Path) -> None:
    levels = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[None], 24, axis=0)
    for colour in (False, True):
        path = tmp_path / "named.png"
        pixels = np.dstack([levels] * 3) if colour else levels
        Image.fromarray(pixels).save(path, "jpeg", quality=95)
        found = np.asarray(open_volume(path).data)[0]
        assert found.shape == pixels.shape
        assert np.abs(found.astype(int) - pixels).max() <= 6


def test_indices_of_a_palette_are_labels(tmp_path: Path) -> None:
    path, _ = _saved("palette.png", tmp_path)
    labels = np.asarray(open_labels(path).volume.data)
    np.testing.assert_array_equal(labels[0], INDICES)


def test_labels_have_the_grid_of_the_picture(tmp_path: Path) -> None:
    path, _ = _saved("rgba.png", tmp_path)
    volume = open_volume(path)
    for suffix in (".tif", ".npz", ".zarr"):
        save_labels(tmp_path / f"a{suffix}", INDICES[None], volume=volume, prompts=None)
        back = open_labels(tmp_path / f"a{suffix}").volume
        np.testing.assert_array_equal(np.asarray(back.data)[0], INDICES)


def test_a_truncated_picture_names_its_file(tmp_path: Path) -> None:
    path, _ = _saved("rgb.png", tmp_path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(FormatError, match=r"rgb\.png cannot be read .* damaged"):
        np.asarray(open_volume(path).data)


@pytest.mark.parametrize("alpha", [False, True])
def test_colors_of_16_bits_are_taken_by_channel(tmp_path: Path, alpha: bool) -> None:
    path, colors = tmp_path / "a.png", np.stack([DEEP, DEEP // 3, DEEP // 7], -1)
    stored = np.dstack([colors, DEEP // 2]) if alpha else colors
    path.write_bytes(png_encode(stored.copy()))
    np.testing.assert_array_equal(open_image(path).data, colors)
    with pytest.raises(VolumeError, match=r"type uint16.*Convert it, or choose one"):
        segment(path, "cell", "tiny", device="cpu")
    green = open_volume(path, channel="green")
    np.testing.assert_array_equal(np.asarray(green.data)[0], DEEP // 3)
    reader = get_reader(str(path))
    assert reader is not None
    layers = reader(str(path))
    assert [keywords["name"] for _, keywords, _ in layers] == [
        f"a {name}" for name in ("red", "green", "blue")
    ]
    np.testing.assert_array_equal(layers[1][0], DEEP // 3)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(FormatError, match=r"a\.png cannot be read"):
        np.asarray(open_image(path).data)


def test_grey_of_16_bits_with_alpha_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_encode(np.dstack([DEEP, DEEP // 2]).copy()))
    np.testing.assert_array_equal(np.asarray(open_volume(path).data)[0], DEEP)
