"""The plugin's dock widgets: what they share, and one of each however it is opened."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from npe2 import PluginManager
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QMainWindow, QPushButton, QWidget

from napari_biomedparse.viewer.samples import PLUGIN
from napari_biomedparse.widgets.shared.background import LatestWork, Work
from napari_biomedparse.widgets.shared.form import Problem
from napari_biomedparse.widgets.shared.parts import plain_text
from napari_biomedparse.widgets.shared.wheel import WheelGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer


class Dock(QWidget):
    """A dock widget that does one thing at a time, and says how it went."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        SharedTabs(self)
        self._viewer = viewer
        self.problem, self.status = Problem(), plain_text()
        by_mouse = Qt.TextInteractionFlag.TextSelectableByMouse
        self.status.setTextInteractionFlags(by_mouse)
        self._starters: list[QPushButton] = []
        """What cannot be pressed during work."""
        self._conclude: Callable[[Any], object] = lambda _: None
        self._work = LatestWork(self)
        self._work.done.connect(self._on_done)
        self._work.failed.connect(self._on_failed)

    def _submit(
        self, text: str, work: Work, conclude: Callable[[Any], object] | None = None
    ) -> None:
        """Do something in a background thread, and conclude with its result.

        By default, the result is a text to be shown.
        """
        self._set_busy(True, text)
        self.problem.tell("")
        self._conclude = conclude or self.status.setText
        self._work.submit(work)

    def _set_busy(self, busy: bool, text: str = "") -> None:
        for button in self._starters:
            button.setEnabled(not busy)
        self.status.setText(text)

    def _on_done(self, result: Any) -> None:
        self._set_busy(False)
        self._conclude(result)

    def _on_failed(self, message: str) -> None:
        self._set_busy(False)
        self.problem.fail(message)


class SharedTabs(QObject):
    """Makes a dock a tab of the plugin's other docks when it is first shown.

    napari stacks docks vertically, which makes its window taller than small screens.
    Whatever the user does with the docks afterwards is left alone, but one that the
    menu hides while it is behind another tab comes to the front. The wheel is guarded
    in each of them.
    """

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._front = True
        widget.installEventFilter(self)
        widget.setMinimumHeight(1)  # below others for a moment, it may need no room
        WheelGuard(widget)

    def eventFilter(self, widget: QObject | None, event: QEvent | None) -> bool:
        """Handle that the widget is shown; the first time it becomes a tab."""
        if event is not None and event.type() == QEvent.Type.Show:
            assert isinstance(widget, QWidget)
            dock = widget.parentWidget()
            if dock is not None and not widget.minimumHeight():
                QTimer.singleShot(0, lambda: to_front(dock))
                return False
            join_others(dock)
            widget.setMinimumHeight(0)
            if isinstance(dock, QDockWidget):
                dock.visibilityChanged.connect(self._on_front_changed)
        return False

    def _on_front_changed(self, front: bool) -> None:
        """Handle that the dock came to the front, went behind a tab or was hidden."""
        widget = self.parent()
        dock = widget.parentWidget() if isinstance(widget, QWidget) else None
        if dock is not None and dock.isHidden() and not self._front:
            QTimer.singleShot(0, lambda: to_front(dock))
        self._front = front


def to_front(dock: QWidget) -> None:
    """Show a dock in front, unless its window is being closed."""
    with suppress(RuntimeError):  # Qt has deleted it
        window = dock.parentWidget()
        if window is not None and window.isVisible():
            dock.show()
            dock.raise_()


def join_others(dock: QWidget | None) -> None:
    """Make a dock a tab of a visible dock of the plugin in the same area."""
    window = None if dock is None else dock.parentWidget()
    if not isinstance(dock, QDockWidget) or not isinstance(window, QMainWindow):
        return
    area = window.dockWidgetArea(dock)
    direct = Qt.FindChildOption.FindDirectChildrenOnly
    for other in window.findChildren(QDockWidget):
        widget = other.widget()
        ours = widget is not None and widget.findChild(SharedTabs, options=direct)
        beside = window.dockWidgetArea(other) == area and not other.isFloating()
        if other is not dock and ours and beside and not other.isHidden():
            if dock not in window.tabifiedDockWidgets(other):
                window.tabifyDockWidget(other, dock)
            dock.raise_()
            return


def docked(viewer: Viewer, name: str) -> Any:
    """Return a widget of the plugin that is docked, or None."""
    docks = viewer.window.dock_widgets
    title = PluginManager.instance().get_manifest(PLUGIN).display_name
    by_script = f"{name} ({PLUGIN})"  # of napari's `add_plugin_dock_widget`
    return docks.get(f"{name} ({title})") or docks.get(by_script)


def open_widget(viewer: Viewer, name: str) -> Any:
    """Return a widget of the plugin, docked and visible; open it if necessary.

    The dock has the name that napari's Plugins menu gives it. Otherwise the menu would
    open a second widget, with runs of its own.
    """
    widget = docked(viewer, name)
    if widget is None:
        plugins = PluginManager.instance()
        title = f"{name} ({plugins.get_manifest(PLUGIN).display_name})"
        offered = (w for w in plugins.iter_widgets() if w.plugin_name == PLUGIN)
        kind = next(w for w in offered if w.display_name == name).get_callable()
        widget = kind(viewer)
        viewer.window.add_dock_widget(widget, name=title)
    dock = widget.parent()
    dock.show()
    dock.raise_()
    return widget
