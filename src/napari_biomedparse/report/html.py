"""Pages that need no other file: a Jinja2 template and what it shows -> HTML."""

from __future__ import annotations

import base64
from pathlib import Path


def render(template: Path, **content: object) -> str:
    """Fill a template, in which every text is escaped; PNG files are bytes.

    It may extend ``page.html`` and import the tables and figures of ``parts.html``.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode("ascii")
    return environment.get_template(template.name).render(content)
