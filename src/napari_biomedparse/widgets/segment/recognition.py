"""Recognition: the kind of image to choose, and what became of its targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container, PushButton
from qtpy.QtWidgets import QTreeWidget, QTreeWidgetItem

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import OptionError
from napari_biomedparse.pipeline.recognize import FOUND, LOWEST_P, TARGETS
from napari_biomedparse.widgets.prompts.model import swatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicgui.widgets.bases import ValueWidget

    from napari_biomedparse.data.prompts import PromptSet
    from napari_biomedparse.process.messages import Recognized
    from napari_biomedparse.report.findings import Finding


def targets_of_kind(kind: str) -> PromptSet:
    """Return all targets of a kind of image as prompts; raises OptionError of none."""
    if kind not in TARGETS:
        raise OptionError("Choose the kind of image whose targets to look for.")
    return parse_prompts(list(TARGETS[kind]))


class KindChoice(Container[Any]):
    """The kind of image, and a button to look for everything that it may show."""

    def __init__(self, kind: ValueWidget[Any]) -> None:
        self.button = PushButton(
            text="Recognise",
            tooltip="Look for all targets of this kind of image in the slice in view, "
            f"one by one. Those whose p is below {LOWEST_P}, or whose mask a likelier "
            "one covers, are dropped. The prompts above are not used.",
        )
        super().__init__(
            widgets=[kind, self.button],
            layout="horizontal",
            labels=False,
            label=kind.label,
            tooltip=kind.tooltip,
        )
        self.margins = (0, 0, 0, 0)


class Outcomes(QTreeWidget):
    """A table of what became of each target; hidden while there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.setHeaderLabels(["Target", "p", "Pixels", "Outcome"])
        self.setRootIsDecorated(False)
        self.setAccessibleName("What was recognised")
        self.setToolTip(
            "p: how well a mask looks like its target, 0 to 1. Targets in grey were "
            "dropped."
        )
        self.setSizeAdjustPolicy(self.SizeAdjustPolicy.AdjustToContents)
        self.hide()

    def show_outcomes(self, found: Recognized, findings: Sequence[Finding]) -> None:
        """Show a row for each target."""
        self.clear()
        each = zip(findings, found.p_values, found.outcomes, strict=True)
        for finding, p, outcome in each:
            shown = "no table" if p is None else f"{p:.3f}"
            row = [finding.prompt.text, shown, f"{finding.voxels:,}", outcome]
            item = QTreeWidgetItem(self, row)
            item.setIcon(0, swatch(finding.prompt.id))
            item.setDisabled(outcome != FOUND)
        for column in range(self.columnCount()):
            self.resizeColumnToContents(column)
        self.updateGeometry()
