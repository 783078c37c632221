"""Runs that wait for the one in progress."""

from __future__ import annotations

import numpy as np
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QApplication, QLabel, QToolButton


def test_runs_wait_for_each_other_and_can_be_removed(desk_that, voxels):
    desk = desk_that("slow")
    image = desk.viewer.add_image(voxels, name="first")
    other = desk.viewer.add_image(voxels[::-1], name="second")
    desk.form.image.value = image
    layer = desk.start()
    desk.form.image.value = other
    desk.form.prompts.value = "other things"
    for _ in range(2):
        desk.view.run_button.click()
    queue = desk.view.queue
    assert queue.isVisibleTo(desk.widget)
    assert len(queue) == 2
    assert queue.findChild(QLabel).text() == "Queued: second: other things"
    assert len(desk.viewer.layers) == 3  # those that wait have no layer yet
    queue.findChildren(QToolButton)[1].click()
    assert len(queue) == 1
    desk.wait_until(lambda: len(desk.viewer.layers) == 4)
    assert not queue.isVisibleTo(desk.widget)
    np.testing.assert_array_equal(layer.data, voxels > 100)
    desk.wait_for_end()
    np.testing.assert_array_equal(desk.viewer.layers[-1].data, voxels[::-1] > 100)
    assert desk.viewer.layers[-1].name == "other things, second (tiny)"


def test_a_long_prompt_loses_its_middle_and_the_tooltip_has_all(desk_that, voxels):
    desk = desk_that("slow")
    desk.viewer.add_image(voxels, name="stack")
    desk.start()
    desk.form.prompts.value = "nuclei in light-sheet microscopy, where n < 5 & round"
    desk.view.run_button.click()
    label = desk.view.queue.findChild(QLabel)
    long = f"Queued: stack: {desk.form.prompts.value}"
    assert label.text() == long

    def shown_in(width):
        label.resize(width, 20)
        QApplication.sendEvent(label, QResizeEvent(label.size(), label.size()))
        return QLabel.text(label)

    shown = shown_in(150)
    start, end = shown.split("…")
    assert 10 < len(shown) < len(long)
    assert long.startswith(start) and long.endswith(end) and start and end
    assert "n &lt; 5 &amp; round" in label.toolTip()
    assert shown_in(1000) == long
    assert label.minimumSizeHint().width() < 150


def test_cancel_lets_the_next_one_begin(desk_that, voxels):
    desk = desk_that("slow")
    desk.viewer.add_image(np.concatenate([voxels] * 9), name="long")
    desk.start()
    desk.viewer.add_image(voxels, name="short")
    desk.view.run_button.click()
    desk.view.cancel_button.click()
    desk.wait_until(lambda: "bright things, short (tiny)" in desk.viewer.layers)
    desk.wait_for_end()
    done = desk.viewer.layers["bright things, short (tiny)"].data
    np.testing.assert_array_equal(done, voxels > 100)


def test_a_run_that_waits_outlives_its_image(desk_that, voxels):
    desk = desk_that("slow")
    desk.viewer.add_image(voxels)
    desk.start()
    image = desk.viewer.add_image(voxels[::-1], name="gone")
    desk.view.run_button.click()
    desk.viewer.layers.remove(image)
    desk.wait_until(lambda: "bright things, gone (tiny)" in desk.viewer.layers)
    desk.wait_for_end()
    done = desk.viewer.layers["bright things, gone (tiny)"].data
    np.testing.assert_array_equal(done, voxels[::-1] > 100)


def test_what_waits_is_forgotten_with_the_widget(desk_that, voxels):
    desk = desk_that("stuck")
    desk.viewer.add_image(voxels)
    layer = desk.start()
    desk.view.run_button.click()
    desk.wait_for_slices(layer)
    session, count = desk.widget.session, len(desk.viewer.layers)
    desk.widget.close()
    desk.widget.deleteLater()
    desk.wait_until(lambda: session.pid is None)
    desk.qtbot.wait(100)
    assert len(desk.viewer.layers) == count
