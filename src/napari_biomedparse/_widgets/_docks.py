"""The plugin's widgets in napari's window: one of each, however it was opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npe2 import PluginManager

from napari_biomedparse._samples import PLUGIN

if TYPE_CHECKING:
    from napari import Viewer


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
    docks = getattr(viewer.window, "dock_widgets", None)
    if docks is None:  # napari 0.6.0 does not tell which there are
        return viewer.window.add_plugin_dock_widget(PLUGIN, name)[1]
    plugins = PluginManager.instance()
    title = f"{name} ({plugins.get_manifest(PLUGIN).display_name})"
    by_script = f"{name} ({PLUGIN})"  # of napari's `add_plugin_dock_widget`
    widget = docks.get(title) or docks.get(by_script)
    if widget is None:
        offered = (w for w in plugins.iter_widgets() if w.plugin_name == PLUGIN)
        kind = next(w for w in offered if w.display_name == name).get_callable()
        widget = kind(viewer)
        # As a tab: two of them, one above the other, are too high for small screens.
        viewer.window.add_dock_widget(widget, name=title, tabify=True)
    dock = widget.parent()
    dock.show()
    dock.raise_()
    return widget
