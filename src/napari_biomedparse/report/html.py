"""Pieces of a page that needs no other file: tables, pictures, one look."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from napari_biomedparse.io.durable import write_durably

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right;
         vertical-align: top; }
th:first-child, td:first-child, .words { text-align: left; }
.facts td { text-align: left; overflow-wrap: anywhere; }
.facts td:first-child { white-space: nowrap; }
thead th { border-bottom: 2px solid #888; }
.wide { overflow-x: auto; }
img, svg { max-width: 100%; }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; }
figcaption { font-size: 13px; color: #555; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.4em; }
.failed { color: #b00020; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole page of parts that are HTML."""
    body = "\n".join(parts)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def save_page(path: Path, text: str) -> None:
    """Write a page, whole or as it was before."""
    write_durably(path, text)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table of plain texts; columns of words are aligned at their left."""
    words = (
        [str(cell)[:1].isalpha() for cell in rows[0]] if rows else [False] * len(head)
    )
    top = "".join(map(_cell, ["th"] * len(head), head, words))
    lines = "".join(
        "<tr>" + "".join(map(_cell, ["td"] * len(row), row, words)) + "</tr>"
        for row in rows
    )
    return (
        "<div class='wide'><table><thead><tr>"
        f"{top}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _cell(kind: str, content: object, words: bool) -> str:
    how = " class='words'" if words else ""
    return f"<{kind}{how}>{escape(str(content))}</{kind}>"


def facts_table(facts: Sequence[tuple[str, object]]) -> str:
    """Return a table of names and what they are."""
    lines = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"
        for name, value in facts
    )
    return f"<table class='facts'><tbody>{lines}</tbody></table>"


def picture(caption: str, png: bytes, *, width: int | None = None) -> str:
    """Return a picture with its caption; `width` in pixels, if not its own."""
    data = base64.b64encode(png).decode("ascii")
    size = "" if width is None else f" style='width:{width}px'"
    return (
        f"<figure{size}><img alt='{escape(caption, quote=True)}' "
        f"src='data:image/png;base64,{data}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
