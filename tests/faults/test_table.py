"""The table in the documentation is that of these cells, and says of each: good."""

from __future__ import annotations

from faults.cells import CONTINUES
from faults.table import ALL, TABLE


def test_the_table_is_of_these_cells() -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in TABLE.read_text("utf-8").splitlines()
        if line.endswith("identical |")
    ]
    assert [(row[0], row[1]) for row in rows] == [
        (fault, stage) for fault, stages in ALL.items() for stage in stages
    ]
    for fault, _, *cells in rows:
        good = "continues" if fault in CONTINUES else "resumes"
        assert cells == [f"{good}, identical"] * 4
