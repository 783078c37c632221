"""The small picture of what the network sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qtpy.QtGui import QColor

from napari_biomedparse.widgets.segment.seen_picture import SeenPicture


def middle(seen):
    image = seen.picture.pixmap().toImage()
    return QColor(image.pixel(image.width() // 2, image.height() // 2)).getRgb()[:3]


@pytest.mark.parametrize("colour", [False, True])
def test_the_slice_in_view_as_the_network_gets_it(desk_that, colour):
    desk = desk_that("works")
    values = np.zeros((3, 30, 30), np.uint16)
    values[:] = np.linspace(1000, 3000, 30)
    values[1] = 2500  # of 1000 to 3000: three quarters
    if colour:
        values = np.stack([values // 20] * 2 + [np.zeros_like(values)], -1).astype("u1")
    desk.viewer.add_image(values, rgb=colour)
    desk.viewer.dims.set_point(0, 1)
    seen = desk.widget.findChild(SeenPicture)
    assert seen.picture.pixmap().isNull()  # nobody looks
    desk.qtbot.wait(200)
    assert seen.picture.pixmap().isNull()
    seen.show()
    desk.wait_until(lambda: not seen.picture.pixmap().isNull())
    expected = (125, 125, 0) if colour else (191, 191, 191)
    assert middle(seen) == pytest.approx(expected, abs=4)
    before = seen.text.text()
    assert before
    if not colour:
        desk.viewer.dims.set_point(0, 0)
        desk.wait_until(lambda: middle(seen)[0] < 140)
        desk.form.set_option("modality", "ct")
        desk.wait_until(lambda: seen.text.text() != before)
        assert middle(seen) == (255, 255, 255)


def test_without_an_image_it_says_so(desk_that):
    desk = desk_that("works")
    seen = desk.widget.findChild(SeenPicture)
    seen.show()
    desk.wait_until(lambda: seen.text.text() == "There is no image.")


@pytest.mark.parametrize("by_name", [True, False])
def test_v1_gets_a_square(desk_that, tmp_path, by_name):
    desk = desk_that("works")
    desk.viewer.add_image(np.zeros((3, 20, 60), np.uint8))
    seen = desk.widget.findChild(SeenPicture)
    path = tmp_path / "mine.pt"
    torch.save({"sem_seg_head.predictor.lang_encoder.lang_proj": torch.ones(1)}, path)
    desk.form.model.choose("v1" if by_name else str(path))
    seen.show()
    desk.wait_until(lambda: not seen.picture.pixmap().isNull())
    size = seen.picture.pixmap().size()
    assert size.width() == size.height()
