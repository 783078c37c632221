"""The commands in napari's menus and command palette; each acts like a button."""

from __future__ import annotations

from typing import cast

from napari import Viewer  # noqa: TC002  # napari reads the annotations

from napari_biomedparse.viewer.samples import REVIEW, WIDGET
from napari_biomedparse.widgets.segment.widget import SegmentWidget
from napari_biomedparse.widgets.shared.docks import open_widget
from napari_biomedparse.widgets.shared.position import go_to_labels


def run(viewer: Viewer) -> None:
    """Start the run of the Segment widget, which opens if necessary."""
    _widget(viewer).start()


def cancel(viewer: Viewer) -> None:
    """Cancel the run; finished slices are kept."""
    _widget(viewer).cancel()


def preview(viewer: Viewer) -> None:
    """Turn the preview of the slice in view on or off."""
    _widget(viewer).preview()


def next_slice(viewer: Viewer) -> None:
    """Go to the next slice that has labels."""
    go_to_labels(viewer, 1)


def previous_slice(viewer: Viewer) -> None:
    """Go to the previous slice that has labels."""
    go_to_labels(viewer, -1)


def accept_slice(viewer: Viewer) -> None:
    """Accept the slice in view, in the Review widget, which opens if necessary."""
    open_widget(viewer, REVIEW).accept()


def _widget(viewer: Viewer) -> SegmentWidget:
    """Return the viewer's Segment widget, docked and visible."""
    return cast(SegmentWidget, open_widget(viewer, WIDGET))
