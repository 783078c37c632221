"""The authors' table, and what the goldens of statistics do not reach."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_biomedparse.errors import FormatError, OptionError
from napari_biomedparse.labels.likeness import (
    combine_masks,
    drop_covered,
    find_entries,
    mask_statistics,
    p_value,
    read_table,
)
from napari_biomedparse.pipeline.recognize import TARGETS


def test_the_table_is_that_of_the_authors() -> None:
    table = read_table()
    assert len(table) == 13
    assert sum(map(len, table.values())) == 61
    assert set(TARGETS) - set(table) == {"CT-Liver"}
    for kind in table:
        found = find_entries(TARGETS[kind], kind)
        assert [(one and one.target) for one in found] == list(TARGETS[kind])
        assert all(one.pairs == table[kind][one.target] for one in found if one)


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("neoplastic cells in breast pathology", "Pathology", "neoplastic cells"),
        ("liver in abdominal CT", "CT-Abdomen", "liver"),
        ("Aorta in abdomen MR", "MRI-Abdomen", "aorta"),
        ("covid-19 infection in chest CT", "CT-Chest", "COVID-19 infection"),
        ("left lung in chest X-Ray", "X-Ray-Chest", "left lung"),
        ("myocardium in heart MRI", "MRI-Cardiac", "myocardium"),
        ("edema in MRI FLAIR of the brain", "MRI-FLAIR-Brain", "edema"),
        ("tumor core in T1-Gd brain MRI", "MRI-T1-Gd-Brain", "tumor core"),
        ("optic disc in retinal fundus", "Fundus", "optic disc"),
    ],
)
def test_a_prompt_names_its_kind_of_image_and_target(
    text: str, kind: str, target: str
) -> None:
    (entry,) = find_entries([text])
    assert entry == (kind, target, read_table()[kind][target])


@pytest.mark.parametrize(
    "text",
    [
        "liver",  # of which kind?
        "pathology",
        "tumor core in brain MRI",  # which of two sequences?
        "COVID-19 infection in chest X-Ray",
        "microaneurysm in retinal fundus",
        "liver in CTA of abdomens",
    ],
)
def test_other_prompts_have_no_entry(text: str) -> None:
    assert find_entries([text, "edema in OCT"])[0] is None


def test_a_kind_that_is_given_counts() -> None:
    given = find_entries(["liver", "Spleen in chest MRI", "cat"], "CT-Abdomen")
    assert [one and one[:2] for one in given] == [
        ("CT-Abdomen", "liver"), ("CT-Abdomen", "spleen"), None,
    ]  # fmt: skip


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    path, pairs = tmp_path / "own.json", [[1, 2]] * 4
    path.write_text(json.dumps({"EM-Cell": {"nucleus": pairs}}))
    expected = (("EM-Cell", "nucleus", pairs),)
    assert find_entries(
        ["nucleus in a cell in EM of a cell"], "EM-Cell", str(path)
    ) == (None,)
    assert find_entries(["nucleus in cell EM"], path=str(path)) == expected
    assert find_entries(["nucleus"], "EM-Cell", str(path)) == expected


def test_a_kind_or_table_that_fits_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'Photo', which the authors' table does not"):
        find_entries(["cat"], "Photo")
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"EM-Cell": {"nucleus": [[1, 2]] * 4}}))
    with pytest.raises(OptionError, match=r"'OCT', which own\.json does .* EM-Cell"):
        find_entries(["edema"], "OCT", str(path))
    with pytest.raises(OptionError, match=r"No prompt names .* own\.json.*: EM-Cell"):
        find_entries(["nucleus", "edema in OCT"], path=str(path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"OCT": [1]}',
        '{"OCT": {"a": [[1]]}}',
        '{"OCT": {"a": [[1, 2], [1, 2], [1, 2], [0, 2]]}}',
        '{"OCT": {"a": [[1, 2], [1, 2], [1, 2], [NaN, 2]]}}',
    ],
)
def test_another_file_is_no_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(FormatError, match=r"t\.json"):
        read_table(tmp_path / "t.json")
    with pytest.raises(FormatError, match=r"none\.json"):
        read_table(tmp_path / "none.json")


def test_statistics_are_of_the_pixels_inside() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = 64, 128, 192
    probability = np.array([[1.0, 0.501], [0, 0]], np.float32)  # 0.501 is not inside
    found = mask_statistics(image, probability)
    np.testing.assert_allclose(found * 256, [255, 64, 128, 192])
    tensors = torch.from_numpy(image), torch.from_numpy(probability)
    np.testing.assert_array_equal(mask_statistics(*tensors), found)
    assert not mask_statistics(image, 0.501 * np.ones((2, 2), np.float32)).any()
    assert p_value(np.zeros(4), [[2, 3]] * 4) == 0


def test_a_mask_that_another_covers_is_dropped() -> None:
    masks = np.zeros((3, 4, 4), np.float32)
    masks[0, :2], masks[1, :3], masks[2, 3] = 0.9, 0.8, 0.7
    assert drop_covered(masks, [0.1, 0.5, 0.2]) == [1, 2]
    assert drop_covered(masks, [0.5, 0.5, 0.2]) == [0, 2]  # of equals the first


def test_disjoint_masks_are_the_most_probable_ones() -> None:
    masks = np.zeros((2, 1, 4), np.float32)
    masks[0, 0], masks[1, 0] = [0.9, 0.8, 0.6, 0.2], [0, 0.2, 0.7, 0.9]
    kept, found = combine_masks(masks)
    assert kept == [0, 1]
    np.testing.assert_array_equal(found[:, 0], [[1, 1, 0, 0], [0, 0, 1, 1]])
    kept, found = combine_masks(masks[:0])
    assert kept == []
    assert found.shape == (0, 1, 4)
