"""First use without weights: everything is offered in the widget, nothing is modal."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from qtpy.QtWidgets import QWidget

from napari_biomedparse.errors import Cancelled, CheckpointError
from napari_biomedparse.networks.catalogue import PUBLISHED
from napari_biomedparse.widgets.weights import (
    model_choice as _model_choice,
    weights_panel as _weights_panel,
)
from napari_biomedparse.widgets.weights.model_choice import ModelChoice
from napari_biomedparse.widgets.weights.weights_panel import WeightsPanel


class Hub:
    """Stands for the download: told what to do, and what was asked."""

    def __init__(self) -> None:
        self.downloaded = False
        self.calls = []
        self.problem = ""
        self.may_go_on = threading.Event()
        self.ended = threading.Event()

    def fetch(self, file, *, token, on_progress, confirm):
        self.calls.append((file, token, confirm(file.licence)))
        try:
            on_progress(1_000_000_000, file.size)
            assert self.may_go_on.wait(20)
            on_progress(2_000_000_000, file.size)
            if self.problem:
                raise CheckpointError(self.problem)
            self.downloaded = True
            return Path(file.name)
        except Cancelled:
            raise CheckpointError("broke off") from None
        finally:
            self.ended.set()


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setattr(_weights_panel, "fetch", hub.fetch)
    monkeypatch.setattr(_weights_panel, "is_downloaded", lambda _: hub.downloaded)
    return hub


@pytest.fixture
def panel(hub, qtbot):
    window = QWidget()
    qtbot.addWidget(window)
    model = ModelChoice()
    panel = WeightsPanel(model)
    panel.setParent(window)
    panel.model = model
    window.show()
    model.value = "demo"
    yield panel
    hub.may_go_on.set()


def test_shown_only_where_it_is_needed(panel, hub):
    assert not panel.isVisible()
    panel.require()
    panel.model.value = "v2"
    assert panel.isVisible()
    assert PUBLISHED.page in panel.terms.text()
    assert "CC BY-NC-SA" in panel.terms.text()
    assert "4.5 GB" in panel.download.text()
    with pytest.raises(CheckpointError, match="Below Model"):
        panel.require()
    assert not hub.calls
    panel.demo.click()
    assert panel.model.value == "demo"
    assert not panel.isVisible()
    hub.downloaded = True
    panel.model.value = "v2"
    assert not panel.isVisible()


def test_download_shows_how_far_it_is(panel, hub, qtbot):
    panel.model.value = "v2"
    panel.token.setText(" secret ")
    panel.download.click()
    assert not panel.download.isVisible()
    qtbot.waitUntil(lambda: panel.bar.text() == "1.00 of 4.46 GB")
    assert panel.bar.value() == 224
    assert hub.calls == [(PUBLISHED, "secret", True)]
    hub.may_go_on.set()
    qtbot.waitUntil(lambda: not panel.isVisible())
    assert panel.model.value == "v2"
    assert panel.token.text() == ""
    panel.require()


def test_a_failure_is_told_in_place_and_can_be_tried_again(panel, hub, qtbot):
    hub.problem = "Access was denied (401)."
    hub.may_go_on.set()
    panel.model.value = "v2"
    panel.download.click()
    qtbot.waitUntil(lambda: panel.problem.text() == hub.problem)
    assert panel.problem.isVisible()
    assert panel.download.isVisible()
    hub.problem = ""
    panel.download.click()
    assert not panel.problem.isVisible()
    qtbot.waitUntil(lambda: not panel.isVisible())
    assert [token for _, token, _ in hub.calls] == [None, None]


def test_cancel_ends_it_without_a_word(panel, hub, qtbot):
    panel.model.value = "v2"
    panel.download.click()
    qtbot.waitUntil(lambda: bool(hub.calls))
    panel.cancel.click()
    assert panel.download.isVisible()
    hub.may_go_on.set()
    assert hub.ended.wait(20)
    qtbot.wait(50)
    assert panel.problem.text() == ""
    assert not hub.downloaded


def test_closing_the_widget_ends_it(panel, hub, qtbot):
    panel.model.value = "v2"
    panel.download.click()
    qtbot.waitUntil(lambda: bool(hub.calls))
    panel.abandon()
    hub.may_go_on.set()
    assert hub.ended.wait(20)
    assert not hub.downloaded


def test_a_file_instead(panel, tmp_path, monkeypatch):
    path = str(tmp_path / "mine.safetensors")
    panel.model.value = "v2"
    answers = iter([("", ""), (path, "")])
    monkeypatch.setattr(
        _model_choice.QFileDialog, "getOpenFileName", lambda *_, **__: next(answers)
    )
    panel.file.click()
    assert panel.isVisible()
    panel.file.click()
    assert panel.model.value == path
    assert not panel.isVisible()
    monkeypatch.setattr(
        _model_choice.QFileDialog, "getOpenFileName", lambda *_, **__: ("", "")
    )
    panel.model.value = _model_choice.FROM_FILE
    assert panel.model.value == path
