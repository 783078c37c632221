"""The plugin's widgets in napari's window: one of each, however it was opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npe2 import PluginManager
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

from napari_biomedparse.viewer.samples import PLUGIN

if TYPE_CHECKING:
    from napari import Viewer


class SharedTabs(QObject):
    """Puts a widget of the plugin, when first shown, onto the others as a tab.

    napari's menu puts them one above the other, which makes its window higher than
    small screens. A child of the widget; what users do with the docks later, stays.

    Parameters
    ----------
    widget : QWidget
        Not docked yet.
    """

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        widget.installEventFilter(self)

    def eventFilter(self, widget: QObject | None, event: QEvent | None) -> bool:
        """See to the first time that the widget is shown; Qt's own name."""
        if event is not None and event.type() == QEvent.Type.Show:
            assert isinstance(widget, QWidget)
            widget.removeEventFilter(self)
            _join_others(widget.parentWidget())
        return False


def _join_others(dock: QWidget | None) -> None:
    """Make a dock a tab of one that has another widget of the plugin beside it."""
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


def open_widget(viewer: Viewer, name: str) -> Any:
    """Return a widget of the plugin, docked and in sight, and open it if need be.

    The dock has the name that napari's Plugins menu gives it: else a widget from there
    and one from here would stand side by side, each with runs of its own.

    Parameters
    ----------
    viewer : napari.Viewer
    name : str
        As the manifest says it.

    Returns
    -------
    QWidget
    """
    docks = viewer.window.dock_widgets
    plugins = PluginManager.instance()
    title = f"{name} ({plugins.get_manifest(PLUGIN).display_name})"
    by_script = f"{name} ({PLUGIN})"  # of napari's `add_plugin_dock_widget`
    widget = docks.get(title) or docks.get(by_script)
    if widget is None:
        offered = (w for w in plugins.iter_widgets() if w.plugin_name == PLUGIN)
        kind = next(w for w in offered if w.display_name == name).get_callable()
        widget = kind(viewer)
        viewer.window.add_dock_widget(widget, name=title)
    dock = widget.parent()
    dock.show()
    dock.raise_()
    return widget
