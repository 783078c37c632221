"""docs/architecture.md names files that exist, and the floors that are enforced."""

from __future__ import annotations

import re
from pathlib import Path

from test_layers import FLOORS, FOLDER

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_the_files_it_names_exist() -> None:
    names = re.findall(r"`([\w./-]+(?:\.\w+|/))`", TEXT)
    assert len(names) > 30
    missing = [
        name
        for name in names
        if not (FOLDER / name).exists() and not (ROOT / name).exists()
    ]
    assert missing == []


def test_its_floors_are_those_that_are_enforced() -> None:
    floors: dict[int, set[str]] = {}
    for number, name in re.findall(r"^\| (\d+) \| `(\w+)", TEXT, flags=re.M):
        floors.setdefault(int(number), set()).add(name)
    assert floors == dict(enumerate(FLOORS, start=1))


def test_a_volume_passes_twelve_files() -> None:
    steps = re.findall(r"^(\d+)\. `([\w/]+\.py)`", TEXT, flags=re.M)
    assert [int(number) for number, _ in steps] == list(range(1, 13))
