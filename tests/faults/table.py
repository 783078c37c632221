"""Try the whole fault matrix and write the outcomes to docs/faults.md.

python tests/faults/table.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
from faults.cells import APART, CLUSTER, FILES, FORMATS, HERE, STROKES, Cell  # noqa: E402

TABLE = TESTS.parent / "docs" / "faults.md"
ALL = {**HERE, **APART, **CLUSTER, **FILES}
HEAD = """# What a run survives

Written by `python tests/faults/table.py`, which tries every cell. A run of {slices}
slices with two prompts and objects, in a run folder, is disturbed at the given stage,
and the blocks recorded as finished are compared with those of an undisturbed run. Then
the fault is removed, the same call is made again, and its labels, existence scores,
objects and records are compared bit for bit with the undisturbed run.

- Stages: *looking* at the volume before the run, *reading* a part of it, *predicting*
  a slice, writing *labels*, *edges*, the *record* of a block, *components* and
  *objects*, and the final *manifest*.
- `SIGINT` is sent to the command line, which must end within two seconds with exit code
  130. While *reading*, a part of the volume takes 20 seconds to arrive.
- The full disk is a small file system in memory, and permissions are lost by running as
  a user other than root. Other system errors are raised where the system would raise
  them.
- From *temporary files full* on, the run is a command that writes a file, `-o out.tif`.
  It *resumes* where it refuses in one sentence, before the first slice if it is
  *looking*, and the same command gives the labels of an undisturbed run once the fault
  is removed (*under a file* and *is the input*: with another output).

"""


class Outcomes:
    """Collects what pytest says of the cells."""

    def __init__(self) -> None:
        self.cells: dict[str, str] = {}
        self.told: dict[str, str] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of one cell."""
        name = report.nodeid.partition("[")[2].removesuffix("]")
        if report.outcome != "passed":
            self.failed.add(report.nodeid.partition("[")[0].rpartition("::")[2])
        if report.when == "call" or report.outcome != "passed":
            self.cells[name] = report.outcome
            for _, told in report.user_properties:
                self.told[name] = str(told)


def expected(cell: Cell) -> str:
    """Return what a run does that meets the fault of a cell."""
    return "continues" if cell.continues else "resumes"


def table(outcomes: Outcomes) -> str:
    """Return the matrix, and what users are told, in Markdown."""
    lines = [f"| fault | stage | {' | '.join(FORMATS)} |", "|---" * 6 + "|"]
    told = ["", "What is told, of a Zarr:", "", "| fault | stage | message |"]
    told.append("|---" * 3 + "|")
    for fault, stages in ALL.items():
        for stage in stages:
            row = [Cell(fault, stage, name) for name in FORMATS]
            words = {"passed": "{}, identical", "skipped": "not tried"}
            found = [
                words.get(outcomes.cells.get(str(cell), "skipped"), "FAILS").format(
                    expected(cell)
                )
                for cell in row
            ]
            lines.append(f"| {fault} | {stage} | {' | '.join(found)} |")
            if str(row[0]) in outcomes.told:
                told.append(f"| {fault} | {stage} | {outcomes.told[str(row[0])]} |")
    return "\n".join([*lines, *told]) + "\n"


def strokes(failed: set[str]) -> str:
    """Return the table of painted strokes, in Markdown."""
    rows = {
        fault: "FAILS" if test.rpartition("::")[2] in failed else outcome
        for fault, (outcome, test) in STROKES.items()
    }
    lines = ["", "Painted strokes, by hand in the labels of a run folder, are in a"]
    lines += ["journal beside them:", "", "| fault | outcome |", "|---|---|"]
    return "\n".join([*lines, *(f"| {a} | {b} |" for a, b in rows.items())]) + "\n"


def main() -> int:
    """Try all cells."""
    outcomes = Outcomes()
    folder = Path(__file__).parent
    others = f"--ignore={folder / 'test_table.py'}"  # of the table as it was
    painted = [str(TESTS / test) for _, test in STROKES.values()]
    arguments = ["-q", "-m", "", str(folder), others, *painted]
    code = pytest.main(arguments, plugins=[outcomes])
    from faults.volumes import SLICES

    text = HEAD.format(slices=SLICES) + table(outcomes) + strokes(outcomes.failed)
    TABLE.write_text(text, "utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
