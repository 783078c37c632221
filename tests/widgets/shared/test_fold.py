"""What is folded away comes into view when it is opened."""

from __future__ import annotations

from qtpy.QtWidgets import QLabel

from napari_biomedparse.widgets.shared.fold import Fold, Scrolled


def test_what_is_opened_is_scrolled_to(qtbot):
    above, content = QLabel(), QLabel()
    above.setFixedHeight(300)
    content.setFixedHeight(400)
    button = Fold("More", content)
    area = Scrolled(above, button, content)
    qtbot.addWidget(area)
    area.resize(200, 200)
    with qtbot.waitExposed(area):
        area.show()
    bar = area.verticalScrollBar()
    button.click()
    qtbot.waitUntil(lambda: bar.value() == button.y() and bar.value() >= 300)
    assert button.text() == "▾ More"
    button.click()
    assert content.isHidden() and button.text() == "▸ More"
