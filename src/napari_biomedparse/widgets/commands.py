"""What napari's menus and its command palette offer: each does what a button does."""

from __future__ import annotations

from typing import cast

from napari import Viewer  # noqa: TC002  # napari reads the annotations

from napari_biomedparse.viewer.samples import WIDGET
from napari_biomedparse.widgets.segment.widget import SegmentWidget
from napari_biomedparse.widgets.shared.docks import open_widget
from napari_biomedparse.widgets.shared.position import go_to_labels


def run(viewer: Viewer) -> None:
    """Run what the Segment widget says; opens it if need be."""
    _widget(viewer).start()


def cancel(viewer: Viewer) -> None:
    """Stop the run; what is done stays."""
    _widget(viewer).cancel()


def preview(viewer: Viewer) -> None:
    """Show what the slice in view gives, or do so no longer."""
    _widget(viewer).preview()


def next_slice(viewer: Viewer) -> None:
    """Go to the next slice that has labels."""
    go_to_labels(viewer, 1)


def previous_slice(viewer: Viewer) -> None:
    """Go to the previous slice that has labels."""
    go_to_labels(viewer, -1)


def _widget(viewer: Viewer) -> SegmentWidget:
    """Return the viewer's Segment widget, docked and shown."""
    return cast(SegmentWidget, open_widget(viewer, WIDGET))
