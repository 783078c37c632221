"""Pieces of pages: escaped, aligned by content, whole on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_biomedparse.report.html import (
    facts_table,
    page,
    picture,
    save_page,
    table,
)


def test_texts_are_escaped_everywhere() -> None:
    parts = [
        table(("<a>",), [("<b>",)]),
        facts_table([("<c>", "<d>")]),
        picture("<e> 'f'", b"png", width=7),
    ]
    text = page("<g>", parts)
    for letter in "abcdeg":
        assert f"&lt;{letter}&gt;" in text and f"<{letter}>" not in text
    assert "&#x27;f&#x27;" in text and "width:7px" in text


def test_words_are_aligned_at_the_left_and_numbers_at_the_right() -> None:
    text = table(("n", "name", "size"), [(1, "liver", "20"), (2, "7", "x")])
    assert "<th>n</th><th class='words'>name</th><th>size</th>" in text
    assert "<td>2</td><td class='words'>7</td><td>x</td>" in text
    assert table(("n",), []).count("<tr>") == 1


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    save_page(path, "old")
    with pytest.raises(UnicodeEncodeError):
        save_page(path, "\ud800")
    assert path.read_text("utf-8") == "old"
