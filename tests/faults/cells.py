"""The fault matrix: what can go wrong, at which stage of a run, for which format.

``python tests/faults/table.py`` tries every cell and writes the table in
``docs/faults.md``; the tests leave out cells that are much like others, as slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

STROKES = {
    "process killed (20 times, 10,000 strokes)": (
        "at most the stroke under way is lost",
        "viewer/test_painting.py::test_a_crash_costs_at_most_the_stroke_under_way",
    ),
    "process killed before the labels are written": (
        "they are written when the run is opened",
        "io/test_painting.py::test_strokes_of_a_crash_are_recovered",
    ),
    "process killed while another paints": (
        "the strokes of both are kept",
        "io/test_painting.py::test_two_painters_keep_the_strokes_of_both",
    ),
    "stroke cut off": (
        "the strokes before it are kept",
        "io/test_journal.py::test_an_incomplete_stroke_is_cut_off",
    ),
    "zeros after a power loss": (
        "all strokes are kept",
        "io/test_journal.py::test_zeros_after_a_power_loss_are_cut_off",
    ),
    "stroke damaged": (
        "all others are kept, and a warning names it",
        "io/test_journal.py::test_a_damaged_stroke_costs_no_other",
    ),
    "labels damaged or removed": (
        "they are made again, the strokes on top",
        "runs/test_edits.py::test_lost_labels_are_run_again_and_edits_put_on_top",
    ),
    "journal long": (
        "it is shortened, and says the same",
        "io/test_journal.py::test_a_shortened_journal_says_the_same",
    ),
    "slices accepted, and labels made otherwise": (
        "accepted slices stay as they were, and are accepted",
        "runs/test_edits.py::test_accepted_slices_outlive_a_run_that_finds_others",
    ),
    "run resumed": (
        "the strokes stay on top",
        "runs/test_edits.py::test_resume_leaves_edits_on_top",
    ),
    "run overwritten": (
        "is refused",
        "runs/test_edits.py::test_edits_are_not_overwritten",
    ),
}
"""What disturbs painting into a run folder: what comes of it, and its test."""
FORMATS = ("zarr", "tiff", "nifti", "npz")
HERE = {
    "read error": ("looking", "reading"),
    "memory full": ("reading",),
    "device memory full": ("predicting",),
    "write error": ("labels", "edges", "record", "components", "objects", "manifest"),
    "disk full": ("labels", "objects"),
    "disk read-only": ("labels",),
    "permission lost": ("reading", "labels"),
    "volume removed": ("reading",),
    "volume replaced": ("reading",),
    "labels removed": ("labels", "objects"),
    "run folder removed": ("labels",),
    "clock jump": ("labels",),
}
"""Faults that the process of the run survives."""
APART = {
    "process killed": (
        "labels",
        "record",
        "components",
        "objects",
        "manifest",
    ),
    "SIGINT": ("reading", "predicting", "objects"),
}
"""Faults that end the process of the run."""
CLUSTER = {"worker killed": ("predicting",)}
FILES = {
    "temporary files full": ("labels",),
    "output not writable": ("looking",),
    "output under a file": ("looking",),
    "output is the input": ("looking",),
    "scratch of a killed run": ("looking",),
    "name not UTF-8": ("labels",),
    "prompt with markup": ("showing",),
    "console without letters": ("showing",),
}
"""Faults of a run to a file, by the command line."""
CONTINUES = (
    "clock jump",
    "worker killed",
    "scratch of a killed run",
    "name not UTF-8",
    "prompt with markup",
    "console without letters",
)
"""Faults that a run does not even notice."""
UNPACKED = ("permission lost", "reading", "npz")
"""Nor does a run notice this one: the member is in a temporary file by then."""


@dataclass(frozen=True)
class Cell:
    """One combination.

    Parameters
    ----------
    fault, stage, format : str
    """

    fault: str
    stage: str
    format: str

    def __str__(self) -> str:
        """Return its name among the tests."""
        return f"{self.fault}, {self.stage}, {self.format}"

    @property
    def continues(self) -> bool:
        """Whether the run does not notice the fault."""
        if (self.fault, self.stage, self.format) == UNPACKED:
            return True
        return self.fault in CONTINUES

    @property
    def is_slow(self) -> bool:
        """Whether the format hardly matters, and a Zarr is tried anyway."""
        return self.format != FORMATS[0] and self.stage not in ("looking", "reading")


def cells(faults: dict[str, tuple[str, ...]]) -> list[ParameterSet]:
    """Return all cells of some faults, one format after the other."""
    every = [
        Cell(fault, stage, name)
        for name in FORMATS
        for fault, stages in faults.items()
        for stage in stages
    ]
    return [
        pytest.param(cell, id=str(cell), marks=[pytest.mark.slow] * cell.is_slow)
        for cell in every
    ]
