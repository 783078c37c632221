"""Text of people and files, made harmless for terminals, XML and spreadsheets."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    r"\ud800-\udfff]"
)
"""Characters that steer a terminal or the direction of text, and bytes of file names
that are not UTF-8."""
NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
"""Characters that XML 1.0 cannot hold."""
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  # spreadsheets take both widths
"""How a cell begins that a spreadsheet would compute, or run."""


def visible(text: str, hidden: re.Pattern[str] = HIDDEN) -> str:
    r"""Replace hidden characters by escapes, such as ``\x1b``."""
    return hidden.sub(lambda c: c[0].encode("unicode_escape").decode("ascii"), text)


def csv_text(
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any] | Iterable[Any]],
    digits: int | None = None,
) -> str:
    """Return a table as CSV, in which no text is a formula and NaN an empty cell.

    Rows may be mappings, of which some columns may be missing. Floats are rounded to a
    number of digits, or written so that they can be read back exactly.
    """

    def cell(value: Any) -> Any:
        if isinstance(value, str):
            return "'" * value.startswith(_FORMULA) + visible(value)
        if isinstance(value, float) and math.isnan(value):
            return ""
        return f"{value:.{digits}g}" if digits and isinstance(value, float) else value

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(map(cell, columns))
    for row in rows:
        values = map(row.get, columns) if isinstance(row, Mapping) else row
        table.writerow(map(cell, values))
    return text.getvalue()
