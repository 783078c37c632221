"""Recognition in an image's own grid, by Python and the command line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from golden_v1 import enlarged, prepared
from tiny_v1 import tiny_v1
from typer.testing import CliRunner

from napari_biomedparse import recognize, segment
from napari_biomedparse.cli import app
from napari_biomedparse.data.volume import volume_of
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.errors import OptionError, VolumeError
from napari_biomedparse.labels.likeness import mask_statistics, p_value, read_table
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.pipeline.recognize import TARGETS, label, recognize_slice
from napari_biomedparse.pipeline.segment import single_plan

IMAGE = np.random.default_rng(3).integers(0, 256, (50, 70, 3), np.uint8)
KIND = "Endoscopy"
POLYPS = ("neoplastic polyp", "non-neoplastic polyp")


def test_all_targets_are_looked_for_one_by_one() -> None:
    model = tiny_v1()
    found = recognize(IMAGE, KIND, model, threshold=None, device="cpu")
    assert found.targets == POLYPS
    assert found.labels.shape == IMAGE.shape[:2]
    assert any(found.found)
    for index, target in enumerate(POLYPS, start=1):
        alone = segment(IMAGE, [target], model).labels > 0
        assert not ((found.labels == index) & ~alone).any()
    squares, engine = prepared(IMAGE, model.image_size), Engine(model)
    for target, found_p in zip(POLYPS, found.p_values, strict=True):
        logits = engine.predict(squares, engine.encode_prompts([target])).mask_logits
        (mask,) = enlarged(logits[0], IMAGE.shape[:2])
        expected = p_value(mask_statistics(IMAGE, mask), read_table()[KIND][target])
        assert found_p == pytest.approx(expected, rel=1e-6)


def test_the_threshold_drops_and_grey_is_taken() -> None:
    model = tiny_v1()
    grey = IMAGE[..., 0]
    found = recognize(grey, KIND, model, threshold=1.0, device="cpu")
    assert found.found == (False, False)
    assert not found.labels.any()


def test_a_target_without_a_table_has_no_p_value() -> None:
    found = recognize(IMAGE, "CT-Liver", tiny_v1(), device="cpu")
    assert found.p_values == (None, None)


def test_what_became_of_each_target() -> None:
    masks = np.zeros((6, 4, 8), np.float32)
    masks[0, :, :4] = 0.9  # found
    masks[1, :, :4] = 0.8  # covered by the first
    masks[2, :, 4:] = 0.7  # implausible
    masks[4, :, 2:] = 0.2  # nothing above a half
    masks[3, 3, 4:] = 0.6  # found, beside the first
    masks[5, 0, 7], masks[5, :, :4] = 0.7, 0.2  # has votes of 1 of 17 pixels
    labels, outcomes = label(masks, [0.9, 0.5, 0.01, 0.4, 0.6, None], 0.05)
    assert outcomes == (
        "found",
        "covered by a likelier mask",
        "p below 0.05",
        "found",
        "nothing there",
        "outvoted by other masks",
    )
    np.testing.assert_array_equal(np.unique(labels, return_counts=True)[1], [12, 16, 4])


def test_targets_are_counted_as_they_are_looked_for() -> None:
    engine, kind = Engine(tiny_v1()), "CT-Chest"
    plans = {
        tile: single_plan(
            IMAGE, list(TARGETS[kind]), engine, None, "cpu",
            {"tile": tile, "prompts_apart": True, "batch_size": 1},
        )[0]
        for tile in ("none", 30)
    }  # fmt: skip
    assert len(plans[30].tiles.corners) > 1
    for plan in plans.values():
        counts: list[int] = []
        recognize_slice(plan, engine, on_target=counts.append)
        assert counts == sorted(counts)
        assert counts[-1] == 3
    np.testing.assert_array_equal(
        counts, np.arange(1, len(counts) + 1) * 3 // len(counts)
    )


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="needs BiomedParse v1"):
        recognize(IMAGE, KIND, "tiny", device="cpu")
    with pytest.raises(OptionError, match="'Photo' is unknown; choose one of CT-Abd"):
        recognize(IMAGE, "Photo", tiny_v1())
    other = tmp_path / "t.json"
    other.write_text(json.dumps({"OCT": {"edema": [[1, 2]] * 4}}))
    with pytest.raises(OptionError, match=r"'Endoscopy', which t\.json does not have"):
        recognize(IMAGE, KIND, tiny_v1(), table=other)
    with pytest.raises(VolumeError, match="has 4 slices"):
        recognize(np.zeros((4, 30, 30), np.uint8), KIND, tiny_v1(), device="cpu")


def test_the_command_line_writes_the_same(tmp_path: Path) -> None:
    model = tiny_v1()
    save_weights(tmp_path / "v1.safetensors", model.state_dict(), config=model.config)
    tifffile.imwrite(tmp_path / "in.tif", IMAGE, photometric="rgb")
    table, out = tmp_path / "t.csv", tmp_path / "out.tif"
    asked = ["recognize", str(tmp_path / "in.tif"), "--kind", KIND, "--threshold=0"]
    asked += ["-m", str(tmp_path / "v1.safetensors"), "-o", str(out), "--device=cpu"]
    told = CliRunner().invoke(app, [*asked, "--csv", str(table)])
    assert told.exit_code == 0, told.output
    assert POLYPS[1] in told.output
    expected = recognize(IMAGE, KIND, model, threshold=None, device="cpu")
    np.testing.assert_array_equal(tifffile.imread(out), expected.labels)
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["target"] for row in rows] == list(POLYPS)
    assert [row["outcome"] for row in rows] == list(expected.outcomes)
    again = CliRunner().invoke(app, asked)
    assert again.exit_code != 0
    assert "exists already" in again.output
    new = [text.replace(str(out), str(tmp_path / "new.tif")) for text in asked]
    again = CliRunner().invoke(app, [*new, "--csv", str(table)])
    assert again.exit_code != 0
    assert "exists already" in again.output
    again = CliRunner().invoke(app, [*new, "--csv", str(tmp_path / "." / "new.tif")])
    assert again.exit_code != 0
    assert "choose two names" in again.output
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({KIND: dict.fromkeys(TARGETS, [[1, 2]] * 4)}))
    asked = [*new, "--table", str(mine), "--csv", str(mine), "--overwrite"]
    assert CliRunner().invoke(app, asked).exit_code != 0
    assert json.loads(mine.read_text())  # an input is never replaced
    assert not (tmp_path / "new.tif").exists()


def test_a_slice_of_nifti_is_looked_at_as_published() -> None:
    picture = IMAGE[:40, :, 0]
    stored = replace(volume_of(picture), header=b"of a NIfTI file")
    for kind in ("CT-Liver", "MRI-T1-Gd-Brain"):
        found = recognize(stored, kind, tiny_v1(), threshold=None, device="cpu")
        shown = recognize(picture.T, kind, tiny_v1(), threshold=None, device="cpu")
        np.testing.assert_array_equal(found.labels, shown.labels.T)
        assert found.outcomes == shown.outcomes
        assert found.p_values == pytest.approx(shown.p_values)
        assert found.labels.any()
