"""Text from files does no harm to terminals, XML and spreadsheets."""

from __future__ import annotations

import csv
import io
import math
import os

import pytest

from napari_biomedparse.data.text import NOT_XML, csv_text, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("liver (CT), \u00b5m, \u809d\u81d3\tand\nmore", None),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b31m", r"\x9b31m"),  # the same in one byte, for some terminals
        ("a\u202etxt.exe", r"a\u202etxt.exe"),
        ("\u2066hidden\u2069", r"\u2066hidden\u2069"),
        ("over\rwritten", r"over\rwritten"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
    ],
)
def test_what_steers_a_terminal_is_seen(text: str, shown: str | None) -> None:
    assert visible(text) == (shown or text)


def test_xml_keeps_what_it_can_hold() -> None:
    assert visible("\x00\u202e\ufffe\n", NOT_XML) == "\\x00\u202e\\ufffe\n"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"]
)
def test_no_cell_is_a_formula(text: str) -> None:
    table = csv_text(["prompt", text], [[text, -1.5], [f"a {text}", 2]])
    (_, head), (first, number), (second, _) = csv.reader(io.StringIO(table, newline=""))
    assert head == first == f"'{visible(text)}"
    assert second == f"a {visible(text)}"
    assert number == "-1.5"


def test_numbers_and_gaps() -> None:
    rows = [{"a": 1 / 3, "b": math.nan}, {"b": 7}]
    assert csv_text(["a", "b"], rows) == f"a,b\n{1 / 3!r},\n,7\n"
    assert csv_text(["a", "b"], rows, digits=3) == "a,b\n0.333,\n,7\n"
