"""Which files belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.inputs import (
    case_name,
    find_pairs,
)


def write(path: Path, dtype: str = "u1", shape: tuple[int, ...] = (3, 8, 9)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.ones(shape, dtype), photometric="minisblack")
    return path


def test_names_are_compared_without_endings(tmp_path: Path) -> None:
    for name in ("i/a.ome.tif", "i/b.1.tif", "l/a.tif", "l/b.1.tiff"):
        write(tmp_path / name)
    pairs = find_pairs(tmp_path / "i", tmp_path / "l")
    assert [(p.name, p.image.name, p.truth.name) for p in pairs] == [
        ("a", "a.ome.tif", "a.tif"),
        ("b.1", "b.1.tif", "b.1.tiff"),
    ]
    assert case_name(Path("x/scan.nii.gz")) == "scan"


def test_one_image_and_one_truth_are_a_pair_whatever_their_names(
    tmp_path: Path,
) -> None:
    image, labels = write(tmp_path / "img3d.tif"), write(tmp_path / "mask3d.tif")
    (pair,) = find_pairs(image, labels, labels)
    assert (pair.truth, pair.prediction, pair.missing) == (labels, labels, "")


def test_what_is_missing_is_told_with_the_pair(tmp_path: Path) -> None:
    for name in ("i/a.tif", "i/b.tif", "i/c.tif", "l/a.tif", "l/b.tif", "p/a.tif"):
        write(tmp_path / name)
    pairs = find_pairs(tmp_path / "i", tmp_path / "l", tmp_path / "p")
    assert [p.missing for p in pairs] == ["", "predictions", "labels"]
    with pytest.raises(FormatError, match="same name is needed, such as a"):
        find_pairs(tmp_path / "i", [write(tmp_path / "x.tif")])


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("i/a.tif", "i/a.tiff", "l/a.tif"):
        write(tmp_path / name)
    with pytest.raises(FormatError, match="same name"):
        find_pairs(tmp_path / "i", tmp_path / "l")
