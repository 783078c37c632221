"""The fault matrix: what can go wrong, at which stage of a run, for which format.

`test_faults.py` tries every cell, and ``python tests/faults/table.py`` does, too, and
writes the table in ``docs/faults.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

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
GOES_ON = ("clock jump", "worker killed")
"""Faults that a run does not even notice."""


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


def cells(faults: dict[str, tuple[str, ...]]) -> list[Cell]:
    """Return all cells of some faults, one format after the other."""
    return [
        Cell(fault, stage, name)
        for name in FORMATS
        for fault, stages in faults.items()
        for stage in stages
    ]
