"""Keys of the Segment widget.

npe2 knows keybindings, but napari (0.9.2) makes nothing of them: these are Qt's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QShortcut

from napari_biomedparse.widgets.shared.position import go_to_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from qtpy.QtWidgets import QWidget

    from napari_biomedparse.widgets.segment.widget import SegmentWidget

RUN, CANCEL, PREVIEW = "Ctrl+Return", "Ctrl+.", "Ctrl+Shift+Return"
NEXT, PREVIOUS = "Ctrl+Right", "Ctrl+Left"


def add_shortcuts(widget: SegmentWidget, viewer: Viewer) -> None:
    """Make keys do what buttons do, and let the tooltips tell so.

    They work in the window that the widget is in, also while the canvas has the focus.

    Parameters
    ----------
    widget : SegmentWidget
    viewer : napari.Viewer
    """
    view = widget.view
    keys: list[tuple[str, Callable[[], object], QWidget | None]] = [
        (RUN, widget.start, None),  # its tooltip changes and tells the key itself
        (CANCEL, widget.cancel, view.cancel_button),
        (PREVIEW, widget.preview, view.preview_box),
        (NEXT, lambda: go_to_labels(viewer, 1), None),
        (PREVIOUS, lambda: go_to_labels(viewer, -1), None),
    ]
    for key, do, control in keys:
        shortcut = QShortcut(QKeySequence(key), widget)
        shortcut.activated.connect(lambda do=do: do())
        if control is not None:
            tell_key(control, key)


def tell_key(control: QWidget, key: str) -> None:
    """Add a key to a tooltip."""
    name = QKeySequence(key).toString(QKeySequence.SequenceFormat.NativeText)
    control.setToolTip(f"{control.toolTip()} ({name})")
