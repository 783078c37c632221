"""The table in the documentation is that of these cells, and says of each: good."""

from __future__ import annotations

from faults.cells import FORMATS, STROKES, Cell
from faults.table import ALL, TABLE, TESTS, expected, strokes


def test_the_table_is_of_these_cells() -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in TABLE.read_text("utf-8").splitlines()
        if line.endswith("identical |")
    ]
    assert [(row[0], row[1]) for row in rows] == [
        (fault, stage) for fault, stages in ALL.items() for stage in stages
    ]
    for fault, stage, *cells in rows:
        row = [Cell(fault, stage, name) for name in FORMATS]
        assert cells == [f"{expected(cell)}, identical" for cell in row]


def test_painted_strokes_are_in_the_table_and_have_tests() -> None:
    assert TABLE.read_text("utf-8").endswith(strokes(set()))
    for _, test in STROKES.values():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (TESTS / file).read_text("utf-8")
