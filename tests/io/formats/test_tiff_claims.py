"""A cut copy, a missing member, or fewer planes than promised are never a volume."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io import open_file, open_volume

GREY = np.random.default_rng(0).integers(0, 4000, (6, 20, 30), dtype=np.uint16)
NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def apart(path: Path, **keywords: Any) -> None:
    """Write each page with its pixels behind its tags."""
    with tifffile.TiffWriter(path) as writer:
        for plane in GREY:
            writer.write(plane, contiguous=False, metadata=None, **keywords)


def pyramid(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(GREY, subifds=1, metadata={"axes": "ZYX"})
        writer.write(GREY[:, ::2, ::2], subfiletype=1)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: tifffile.imwrite(path, GREY),
        lambda path: tifffile.imwrite(path, GREY, metadata=None),
        lambda path: tifffile.imwrite(path, GREY, imagej=True),
        lambda path: tifffile.imwrite(path, GREY, ome=True),
        lambda path: tifffile.imwrite(path, GREY, bigtiff=True, compression="zlib"),
        lambda path: tifffile.imwrite(path, GREY, rowsperstrip=3, compression="lzw"),
        lambda path: tifffile.imwrite(path, GREY, tile=(16, 16), byteorder=">"),
        apart,
        pyramid,
    ],
)
def test_a_copy_cut_anywhere(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "whole.tif")
    whole = (tmp_path / "whole.tif").read_bytes()
    expected = np.asarray(open_file(tmp_path / "whole.tif").images[0].data)
    for kept in np.linspace(9, len(whole) - 1, 25).astype(int):
        (tmp_path / "cut.tif").write_bytes(whole[:kept])
        try:
            (found,) = open_file(tmp_path / "cut.tif").images
        except FormatError as error:
            assert "cut.tif" in str(error)
        else:  # tifffile ends some files with bytes of no use
            assert len(whole) - kept < 20
            np.testing.assert_array_equal(np.asarray(found.data), expected)


def test_a_copy_whose_rest_is_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in GREY:
            writer.write(plane, contiguous=False, metadata=None)
    half = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:half] + bytes(half))
    with pytest.raises(FormatError, match="ends before the end of page 3"):
        open_volume(path)


def hyperstack(path: Path, planes: float) -> Path:
    """Write an ImageJ file with one page that stands for twenty planes."""
    text = "ImageJ=1.53t\nimages=20\nslices=20\n"
    tifffile.imwrite(path, GREY[0], description=text, metadata=None)
    rest = bytes(int((planes - 1) * GREY[0].nbytes))
    path.write_bytes(path.read_bytes() + rest)
    return path


def test_one_page_for_many_planes(tmp_path: Path) -> None:
    assert open_volume(hyperstack(tmp_path / "a.tif", 20)).shape == (20, 20, 30)
    for planes in (1, 1.5, 3, 19.5):
        with pytest.raises(FormatError, match="lacks some of the 20 images"):
            open_volume(hyperstack(tmp_path / "a.tif", planes))


@pytest.mark.parametrize(
    ("keywords", "old", "new"),
    [
        ({"imagej": True}, "images=6", "images=9"),
        ({"imagej": True, "compression": "zlib"}, "slices=6", "slices=9"),
        ({"ome": True}, 'SizeZ="6"', 'SizeZ="9"'),
        ({"ome": True, "compression": "zlib"}, 'SizeZ="6"', 'SizeZ="9"'),
        ({}, '"shape": [6', '"shape": [9'),
        ({"compression": "zlib"}, '"shape": [6', '"shape": [9'),
    ],
)
def test_fewer_planes_than_promised(
    keywords: dict[str, Any], old: str, new: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, metadata={"axes": "ZYX"}, **keywords)
    changed = path.read_bytes().replace(old.encode(), new.encode())
    path.write_bytes(changed.replace(b"slices=6", b"slices=9"))
    with pytest.raises(FormatError, match=r"lacks|not a complete"):
        open_volume(path)


@pytest.mark.parametrize(
    ("keywords", "old", "new", "shape"),
    [
        ({"imagej": True}, "s=6", "s=4", (4, 20, 30)),
        ({"ome": True}, 'SizeZ="6"', 'SizeZ="4"', (4, 20, 30)),
    ],
)
def test_pages_that_no_metadata_describe_are_told(
    keywords: dict[str, Any],
    old: str,
    new: str,
    shape: tuple[int, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, metadata={"axes": "ZYX"}, **keywords)
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    assert open_volume(path).shape == shape
    assert f"has 6 pages and its metadata describe {shape[0]}" in caplog.text


@pytest.fixture
def members(tmp_path: Path) -> Path:
    """Six files of a slice each, which a companion describes."""
    parts = ""
    for i, plane in enumerate(GREY):
        parts += (
            f'<TiffData FirstZ="{i}" IFD="0" PlaneCount="1"><UUID FileName="z{i}.tif">'
            f"urn:uuid:{i}</UUID></TiffData>"
        )
        text = (
            f'<OME xmlns="{NAMESPACE}" UUID="urn:uuid:{i}"><BinaryOnly '
            'MetadataFile="set.companion.ome" UUID="urn:uuid:c"/></OME>'
        )
        path = tmp_path / f"z{i}.tif"
        tifffile.imwrite(path, plane, description=text, metadata=None)
    text = (
        f'<OME xmlns="{NAMESPACE}" UUID="urn:uuid:c"><Image ID="Image:0"><Pixels '
        'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="30" SizeY="20" '
        'SizeZ="6" SizeC="1" SizeT="1" PhysicalSizeX="0.1" PhysicalSizeY="0.1" '
        f'PhysicalSizeZ="0.5">{parts}</Pixels></Image></OME>'
    )
    (tmp_path / "set.companion.ome").write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["z0.tif", "z4.tif", "", "z*.tif"])
def test_a_companion_describes_its_members(name: str, members: Path) -> None:
    volume = open_volume(members / name)
    assert volume.spacing == (0.5, 0.1, 0.1)
    np.testing.assert_array_equal(np.asarray(volume.data), GREY)


def test_members_that_are_missing(members: Path) -> None:
    (members / "z4.tif").rename(members / "z4.bak")
    for path in (members / "z0.tif", members):
        with pytest.raises(FormatError, match=r"lacks 1 of the 6 .*\(z4\.tif is not"):
            open_volume(path)
    (members / "z4.tif").write_bytes((members / "z4.bak").read_bytes()[:-100])
    with pytest.raises(FormatError, match=r"z4\.tif ends before"):
        open_volume(members / "z0.tif")


@pytest.mark.parametrize("kept", [0, 300])
def test_a_companion_that_is_missing_or_cut(kept: int, members: Path) -> None:
    companion = members / "set.companion.ome"
    text = companion.read_text()
    companion.unlink()
    if kept:
        companion.write_text(text[:kept])
    for path in (members / "z0.tif", members):
        with pytest.raises(FormatError, match=r"set\.companion\.ome.*missing or incom"):
            open_volume(path)


@pytest.mark.parametrize("name", ["../z0.tif", "..", "z0.tif"])
def test_a_companion_elsewhere_or_without_an_image(name: str, members: Path) -> None:
    path = members / "z0.tif"
    text = path.read_bytes().replace(b"set.companion.ome", name.encode().ljust(17)[:17])
    path.write_bytes(text)
    with pytest.raises(FormatError, match=re.escape("z0.tif")):
        open_volume(path)


def test_damaged_ome_xml_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, GREY, ome=True, metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes().replace(b"<Pixels", b"<Pix<ls"))
    assert open_volume(path).shape == GREY.shape
    assert "OME-XML cannot be read" in caplog.text


def test_lists_that_overlap(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, rowsperstrip=1, metadata=None)
    with tifffile.TiffFile(path) as file:
        places = [page.tags["StripOffsets"] for page in file.pages]
        count = path.stat().st_size // 4 - places[0].valueoffset // 4
    raw = bytearray(path.read_bytes())
    for tag in places:  # each has a list of all that follows
        raw[tag.offset + 4 : tag.offset + 8] = count.to_bytes(4, "little")
        raw[tag.offset + 8 : tag.offset + 12] = places[0].valueoffset.to_bytes(
            4, "little"
        )
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=r"more bytes than it has|ends before"):
        open_volume(path)
