"""A run whose labels go to a folder, followed from the window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from napari_biomedparse.process import Found, Planned, Run, Status, Written
from napari_biomedparse.report.findings import Finding, combine_findings, findings
from napari_biomedparse.widgets.shared.task import SegmentTask, Step

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_biomedparse.data.prompts import PromptSet


class FolderTask(SegmentTask):
    """One run whose labels are written to a folder.

    Parameters
    ----------
    begin : callable
        Starts the run; may take a second.
    prompts : PromptSet
        What is looked for.
    """

    def __init__(self, begin: Callable[[], Run], prompts: PromptSet) -> None:
        super().__init__(prompts)
        self._begin = begin
        self._found: Found | None = None

    @property
    def total(self) -> int:
        """Slices of the run; 0 before it is planned."""
        return 0 if self.plan is None else self.plan.total

    @property
    def existence(self) -> npt.NDArray[np.float32] | None:
        """Existence probabilities, once all is done."""
        return None if self._found is None else self._found.existence

    @property
    def can_resume(self) -> bool:
        """Whether it was begun: the folder knows how far it is."""
        return self.plan is not None and self._found is None

    def findings(self) -> tuple[Finding, ...]:
        """Return what was found, one entry a prompt; empty before the end."""
        if self._found is None:
            return ()
        scores, voxels = self._found.existence, self._found.voxels
        if scores.ndim == 2:
            return findings(self.prompts, scores, voxels)
        times = range(scores.shape[1])
        parts = [findings(self.prompts, scores[:, t], voxels[:, t]) for t in times]
        return combine_findings(parts)

    def _follow_all(self) -> Iterator[Step]:
        for event in self._events(self._begin):
            if isinstance(event, Planned):
                self.plan = event
            if isinstance(event, Found):
                self._found = event
            if isinstance(event, Status | Planned | Written):
                yield event
