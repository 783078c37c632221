"""The page: everything in one file, nothing taken for HTML, and its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from napari_biomedparse.data.prompts import label_colour
from napari_biomedparse.evaluation.case import Overlay
from napari_biomedparse.evaluation.page import box_plot, draw_overlay, write_page
from napari_biomedparse.evaluation.scores import CaseScore, ClassLine, summarise


def test_names_and_prompts_are_shown_as_they_are(tmp_path: Path) -> None:
    scores = [CaseScore("a", (ClassLine(1, "<b>cells</b>", dsc=0.25),), 2.0, 300.0)]
    picture = tmp_path / "x.png"
    picture.write_bytes(b"PNG")
    write_page(
        tmp_path / "index.html",
        scores,
        summarise(scores),
        {"bad & worse": "<damaged>"},
        {"model": "demo"},
        {"dsc": picture},
        {"a: 0.25": picture},
    )
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "&lt;b&gt;cells&lt;/b&gt;" in page and "<b>" not in page
    assert "bad &amp; worse" in page and "&lt;damaged&gt;" in page
    assert "0.2500 ± 0.0000 (1)" in page and "<td>300</td>" in page
    assert page.count("base64,UE5H") == 2 and "http" not in page
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["index.html", "x.png"]


def test_an_overlay_shows_truth_and_prediction_beside_the_image(tmp_path: Path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[10:30, 10:50] = 1
    overlay = Overlay(np.full((40, 60), 255, np.uint8), truth, truth * 2, 7, 1.0)
    overlay.save(tmp_path / "kept.npz")
    draw_overlay(Overlay.read(tmp_path / "kept.npz"), "case", tmp_path / "p" / "x.png")
    picture = imread(tmp_path / "p" / "x.png")[..., :3]
    share = []
    for label in (1, 2):
        mixed = (np.array(label_colour(label)[:3]) / 255 + 1) / 2
        near = np.abs(picture - mixed).max(axis=-1) < 0.03
        share.append(np.nonzero(near)[1].mean() / picture.shape[1])
    assert 0.4 < share[0] < 0.6 < share[1]


def test_colour_slices_are_drawn(tmp_path: Path) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 0] = 200
    labels = np.zeros((20, 30), np.uint8)
    draw_overlay(Overlay(image, labels, labels, 0, 2.0), "x", tmp_path / "x.png")
    shown = imread(tmp_path / "x.png")[..., :3]
    assert (abs(shown - (200 / 255, 0, 0)).max(axis=-1) < 0.01).any()


def test_boxes_are_drawn_for_scores_that_there_are(tmp_path: Path) -> None:
    scores = [CaseScore("a", (ClassLine(1, "a rather long prompt " * 5, dsc=0.5),))]
    assert box_plot(scores, "dsc", tmp_path / "dsc.png")
    assert not box_plot(scores, "f1", tmp_path / "f1.png")
    assert [path.name for path in tmp_path.iterdir()] == ["dsc.png"]
