"""Pages: every text is escaped, and columns are aligned by their content."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from napari_biomedparse.report.html import render

TEMPLATE = """{% extends 'page.html' %}{% import 'parts.html' as parts %}
{% block content %}{{ parts.table(head, rows) }}{{ parts.facts(facts) }}
{{ parts.figure(caption, png, 7) }}{% endblock %}"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "some.html"
    path.write_text(TEMPLATE, "utf-8")
    return path


def page(template: Path, **changes: object) -> str:
    content: dict[str, object] = {
        "title": "<g>", "head": ["<a>"], "rows": [("<b>",)], "facts": [("<c>", "<d>")],
        "caption": "<e> 'f'", "png": b"png",
    }  # fmt: skip
    return render(template, **content | changes)


def test_texts_are_escaped_everywhere(template: Path) -> None:
    text = page(template)
    for letter in "abcdeg":
        assert f"&lt;{letter}&gt;" in text and f"<{letter}>" not in text
    assert "&#39;f&#39;" in text and "width:7px" in text and "base64,cG5n'" in text


def test_what_looks_like_a_template_is_text(template: Path) -> None:
    text = page(template, title="{{ 6 * 7 }}{% raise %}", caption="{# gone #}")
    assert "{{ 6 * 7 }}{% raise %}" in text and "{# gone #}" in text


def test_words_are_aligned_at_the_left_and_numbers_at_the_right(template: Path) -> None:
    rows = [(1, "liver", "20"), (2, "7", "x")]
    text = "".join(page(template, head=("n", "name", "size"), rows=rows).splitlines())
    assert "<th>n</th><th class='words'>name</th><th>size</th>" in text
    assert "<tr><td>2</td><td class='words'>7</td><td>x</td></tr>" in text
    without = page(template, head=("n",), rows=[], facts=[])
    assert without.count("<tr>") == 1


def test_a_text_that_is_missing_is_an_error(template: Path) -> None:
    with pytest.raises(UndefinedError, match="title"):
        render(template, head=[], rows=[], facts=[], caption="", png=b"")
