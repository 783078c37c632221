"""The plot of existence scores, kept in step with a run and with the viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject

from napari_biomedparse.io.output import label_colour

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_biomedparse.process.messages import Planned
    from napari_biomedparse.widgets.segment.existence_plot import ExistencePlot
    from napari_biomedparse.widgets.shared.eye import Eye
    from napari_biomedparse.widgets.shared.task import SegmentTask


class ScorePlot(QObject):
    """Shows the scores of one run until the next one begins.

    Parameters
    ----------
    plot : ExistencePlot
        Also the parent.
    eye : Eye
    task : SegmentTask
        Whose scores are shown.
    flat : bool
        Whether it is of single images, which have nothing to plot.
    why_fixed : str
        Why the threshold cannot be moved; empty if it can.
    """

    def __init__(
        self,
        plot: ExistencePlot,
        eye: Eye,
        task: SegmentTask,
        *,
        flat: bool,
        why_fixed: str,
    ) -> None:
        super().__init__(plot)
        self._plot = plot
        self._eye = eye
        self._task = task
        self._flat = flat
        self._why_fixed = why_fixed
        self._layer: Labels | None = None
        self._axis = 0
        self._colours = [
            "#" + bytes(label_colour(i)[:3]).hex() for i in task.prompts.ids
        ]

    def begin(self, layer: Labels, plan: Planned) -> None:
        """Show an empty plot, which fills.

        Parameters
        ----------
        layer : napari.layers.Labels
            Of the run.
        plan : Planned
        """
        self._layer, self._axis = layer, plan.axis
        self._plot.fix_threshold(self._why_fixed)
        self._plot.show_threshold(plan.parameters["existence_threshold"])
        self._plot.setVisible(not self._flat)
        self._eye.moved.connect(self.update)
        self.update()

    def update(self) -> None:
        """Show what is known now."""
        scores, layer = self._task.existence, self._layer
        if scores is None or layer is None:
            return
        if scores.ndim == 3:
            scores = scores[:, min(self._eye.time_of(layer), scores.shape[1] - 1)]
        self._plot.show_scores(scores, self._task.prompts.texts, self._colours)
        self._plot.show_current(self._eye.slice_of(layer, self._axis, flat=self._flat))

    def release(self) -> None:
        """Leave the plot to another run."""
        if self._layer is not None:
            self._eye.moved.disconnect(self.update)
            self._layer = None
