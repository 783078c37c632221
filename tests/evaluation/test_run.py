"""Evaluation end to end: given predictions, a model, failures, and going on."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from evaluation.cases import SHAPE, TEXTS, truth, write_challenge, write_prediction
from PIL import Image
from tiny_v1 import tiny_v1

from napari_biomedparse.errors import FormatError, OptionError, OutputError
from napari_biomedparse.evaluation import case as case_module
from napari_biomedparse.evaluation.metrics import (
    evaluate_instances,
    evaluate_mask,
    evaluate_semantic,
)
from napari_biomedparse.evaluation.run import PAGE, Evaluation, evaluate
from napari_biomedparse.evaluation.scores import ClassLine, pair_scores
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline.segment import segment


def predicted(folder: Path, **changes: object) -> Evaluation:
    return evaluate(
        folder / "imgs",
        folder / "gts",
        folder / "out",
        predictions=folder / "pred",
        **changes,
    )


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A perfect prediction, and one with the second class moved and a false third."""
    for name in ("good", "shifted"):
        write_challenge(tmp_path, name)
    write_prediction(tmp_path / "pred" / "good.npz", truth())
    wrong = np.where(truth() == 2, 0, truth())
    wrong |= np.roll(truth() == 2, 3, axis=2) * np.uint8(2)
    wrong[0, :2] = 3
    write_prediction(tmp_path / "pred" / "shifted.tif", wrong)
    return tmp_path


def test_scores_are_those_of_the_metrics(two: Path) -> None:
    result = predicted(two)
    assert result.failures == {}
    good, shifted = result.scores
    assert [line.prompt for line in good.classes] == list(TEXTS.values())
    assert (good.mean("dsc"), good.mean("nsd")) == (1, 1)
    assert good.mean("existence_accuracy") == 1
    assert math.isnan(good.classes[2].dsc)
    labels = np.asarray(
        case_module.open_labels(two / "pred" / "shifted.tif").volume.data
    )
    assert (good.tolerance, good.unit) == (1.0, "millimeter")  # two voxels
    assert "1 millimeter" in (two / "out" / "index.html").read_text("utf-8")
    spacing = (2.0, 0.5, 0.5)
    expected = evaluate_semantic(truth(), labels, spacing=spacing, tolerance=1.0)
    for line in shifted.classes[:2]:
        assert line.dsc == expected[line.label].dsc
        assert line.nsd == expected[line.label].nsd
    assert shifted.classes[2].existence_accuracy == 0.75
    loose = evaluate_semantic(truth(), labels, spacing=(2.0, 0.5, 0.5), tolerance=0.1)
    strict = predicted(two, tolerance=0.1).scores[1]
    assert strict.classes[1].nsd == loose[2].nsd < expected[2].nsd


def test_tables_pictures_and_the_page_are_written(two: Path) -> None:
    result = predicted(two)
    with (two / "out" / "cases.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["case"] for line in lines] == ["good"] * 3 + ["shifted"] * 3
    assert lines[0]["dsc"] == "1" and lines[2]["dsc"] == ""
    with (two / "out" / "summary.csv").open(encoding="utf-8", newline="") as file:
        (first, *_) = csv.DictReader(file)
    mean = (result.scores[0].mean("dsc") + result.scores[1].mean("dsc")) / 2
    assert first["prompt"] == "all cases"
    assert float(first["mean"]) == pytest.approx(mean, rel=1e-5)
    stored = json.loads((two / "out" / "evaluation.json").read_text("utf-8"))
    assert stored["cases"][0]["classes"][2]["dsc"] is None
    names = sorted(path.name for path in (two / "out" / "pictures").iterdir())
    assert names == [
        "dsc.png", "existence_accuracy.png", "nsd.png",
        "worst-good.png", "worst-shifted.png",
    ]  # fmt: skip
    page = (two / "out" / PAGE).read_text("utf-8")
    assert page.count("data:image/png;base64,") == 5
    assert page.index("shifted: ") < page.index("good: 1.0000")


def test_a_model_is_scored_as_segment_would_label(
    tmp_path: Path, tiny_model: BiomedParse
) -> None:
    write_challenge(tmp_path, "a")
    result = evaluate(
        tmp_path / "imgs", tmp_path / "gts", tmp_path / "out", model=tiny_model
    )
    (score,) = result.scores
    image = tmp_path / "imgs" / "a.npz"
    with np.load(image) as arrays:
        found = segment(arrays["imgs"], TEXTS, tiny_model)
    expected = evaluate_semantic(truth(), found.labels, spacing=(2.0, 0.5, 0.5))
    assert score.classes[0].dsc == expected[1].dsc
    there = (truth() == 2).any(axis=(1, 2))
    right = (found.existence[1] >= 0.5) == there
    assert score.classes[1].existence_accuracy == right.mean()
    assert score.seconds > 0 and score.host_mib > 10 and score.slices == SHAPE[0]


def test_chosen_slices_alone_are_scored(
    tmp_path: Path, tiny_model: BiomedParse
) -> None:
    write_challenge(tmp_path, "a")
    folders = tmp_path / "imgs", tmp_path / "gts", tmp_path / "out"
    (score,) = evaluate(*folders, model=tiny_model, slices=(3, 4)).scores
    assert score.slices == 1
    assert math.isnan(score.classes[1].dsc) and not math.isnan(score.classes[0].dsc)


def test_objects_are_scored_where_the_file_says_so(tmp_path: Path) -> None:
    write_challenge(tmp_path, "cells", instance=1)
    labels = truth()
    labels[labels == 2] = 0
    labels[0, 15:, :4] = 7
    write_prediction(tmp_path / "pred" / "cells.tif", labels)
    (score,) = predicted(tmp_path).scores
    expected = evaluate_instances(truth(), labels)
    assert score.mean("f1") == expected.f1 == score.quality == pytest.approx(0.5)
    assert math.isnan(score.mean("dsc"))
    assert score.classes[0].prompt == "nuclei"


def test_failures_stop_nothing_and_are_tried_again(two: Path) -> None:
    write_challenge(two, "damaged")
    (two / "gts" / "damaged.npz").write_bytes(b"PK\x03\x04 cut short")
    write_prediction(two / "pred" / "damaged.npz", truth())
    write_challenge(two, "lonely")
    result = predicted(two)
    assert [score.name for score in result.scores] == ["good", "shifted"]
    assert "not a complete .npz" in result.failures["damaged"]
    assert "no predictions" in result.failures["lonely"]
    assert "not a complete .npz" in (two / "out" / PAGE).read_text("utf-8")
    write_challenge(two, "damaged")
    assert [s.name for s in predicted(two).scores] == ["damaged", "good", "shifted"]


def test_what_is_finished_is_not_done_again(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = predicted(two)
    scored: list[str] = []
    score = case_module.Case.score

    def watched(self: case_module.Case, *given: object) -> object:
        scored.append(self.pair.name)
        return score(self, *given)

    monkeypatch.setattr(case_module.Case, "score", watched)
    again = predicted(two)
    assert scored == []
    for before, after in zip(first.scores, again.scores, strict=True):
        assert after.to_json() == before.to_json()
    write_prediction(two / "pred" / "shifted.tiff", truth())
    (two / "pred" / "shifted.tif").unlink()
    assert predicted(two).scores[1].mean("dsc") == 1
    assert scored == ["shifted"]


def test_shapes_that_differ_are_named(tmp_path: Path) -> None:
    write_challenge(tmp_path, "a")
    np.savez(tmp_path / "gts" / "a.npz", gts=truth()[1:])
    result = evaluate(
        tmp_path / "imgs",
        tmp_path / "gts",
        tmp_path / "out",
        predictions=tmp_path / "gts",
    )
    assert "a.npz has the shape (3, 24, 20)" in result.failures["a"]


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    write_challenge(tmp_path, "a")
    with pytest.raises(OptionError, match="tolerance"):
        predicted(tmp_path, tolerance=-1.0)
    with pytest.raises(FormatError, match="No file to segment was found"):
        evaluate(tmp_path / "nothing*", tmp_path / "gts", tmp_path / "out")


def test_a_page_of_something_else_is_kept(two: Path) -> None:
    (two / "out").mkdir()
    (two / "out" / "index.html").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        predicted(two)
    assert [path.read_text() for path in (two / "out").iterdir()] == ["precious"]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def masks_of(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((40, 50), np.uint8)
    mask[5 : rng.integers(20, 35), 8 : rng.integers(25, 45)] = 255
    return mask


def test_the_published_layout_is_scored_pair_by_pair(tmp_path: Path) -> None:
    rng, model = np.random.default_rng(0), tiny_v1()
    expected, data = {}, tmp_path / "DATA"
    for name in ("1_CT_abdomen", "2_CT_abdomen"):
        image = rng.integers(0, 256, (40, 50, 4), np.uint8)
        save(data / "test" / f"{name}.png", image)
        for target in ("liver", "left+kidney"):  # which overlap
            mask = masks_of(rng)
            colours = np.zeros((40, 50, 4), np.uint8)
            colours[..., 1], colours[..., 3] = mask // 5, 255
            save(data / "test_mask" / f"{name}_{target}.png", colours)
            prompt = f"{target.replace('+', ' ')} in abdomen CT"
            labels = np.squeeze(segment(image[..., :3], prompt, model).labels)
            expected[f"{name}_{target}"] = prompt, evaluate_mask(mask > 0, labels > 0)
    result = evaluate(data, None, tmp_path / "out", model=model)
    assert result.failures == {}
    assert {score.name for score in result.scores} == set(expected)
    for score in result.scores:
        (line,) = score.classes
        prompt, found = expected[score.name]
        assert line.prompt == prompt
        assert {key: getattr(line, key) for key in found} == found
    pairs = [ClassLine(1, "", **found) for _, found in expected.values()]
    measured = {line.metric: line.mean for line in result.summary if line.label is None}
    for name, value in pair_scores(pairs).items():
        assert measured[name] == pytest.approx(value, rel=1e-6)
    assert measured["mIoU [%]"] > 0
    page = (tmp_path / "out" / PAGE).read_text("utf-8")
    assert f"mIoU {measured['mIoU [%]']:.2f} %" in page
    with (tmp_path / "out" / "cases.csv").open(encoding="utf-8", newline="") as file:
        (row, *_) = csv.DictReader(file)
    assert int(row["union"]) == expected[row["case"]][1]["union"]


def test_images_and_masks_of_the_same_names(tmp_path: Path) -> None:
    rng, model = np.random.default_rng(1), tiny_v1()
    image, mask = rng.integers(0, 256, (40, 50, 3), np.uint8), masks_of(rng)
    save(tmp_path / "imgs" / "a.png", image)
    save(tmp_path / "gts" / "a.png", mask)
    folders = tmp_path / "imgs", tmp_path / "gts", tmp_path / "out"
    (score,) = evaluate(*folders, prompts={3: "liver"}, model=model).scores
    labels = np.squeeze(segment(image, "liver", model).labels)
    (line,) = score.classes
    assert (line.label, line.prompt) == (3, "liver")
    assert line.intersection == np.count_nonzero((mask > 0) & (labels > 0)) > 0
    cells = {"instances": True, "separate_by": "shape"}
    (score,) = evaluate(*folders, prompts="cell", model=model, **cells).scores
    found = segment(image, "cell", model, **cells).instances
    assert found is not None and found.max() > 1
    expected = evaluate_instances((mask > 0)[None].astype(np.uint8), found[None])
    assert score.classes[0].false_positives == expected.false_positives
    with pytest.raises(OptionError, match="give the labels"):
        evaluate(tmp_path / "imgs", None, tmp_path / "other", model=model)
