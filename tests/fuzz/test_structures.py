"""Made-up metadata, a few of each kind; `run.py` tries as many as there is time for."""

from __future__ import annotations

from pathlib import Path
from random import Random

from fuzz.structures import STRUCTURES, draw, write
from hostile.doors import batch


def test_made_up_metadata_are_opened_or_refused(tmp_path: Path) -> None:
    files = []
    for name, (strategy, door, ending, make) in STRUCTURES.items():
        for number, value in enumerate(draw(strategy, Random(8), 25)):
            path = tmp_path / f"{name}{number}{ending}"
            write(make(value), path)
            files.append((door, path))
    wrong = [
        f"{path.name}: {outcome}"
        for (_, path), outcome in zip(files, batch(files), strict=True)
        if not outcome.acceptable
    ]
    assert not wrong, "\n".join(wrong)
