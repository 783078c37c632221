"""Pictures: colours where labels are, and boxes where scores are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from napari_biomedparse.data.prompts import label_colour
from napari_biomedparse.evaluation.case import Overlay
from napari_biomedparse.evaluation.pictures import box_plot, draw_overlay
from napari_biomedparse.evaluation.scores import CaseScore, ClassLine


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
