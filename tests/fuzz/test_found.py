"""What fuzzing found once does no harm any more."""

from __future__ import annotations

from pathlib import Path

from fuzz.mutate import unzipped
from fuzz.run import FOUND
from fuzz.seeds import write_folder
from hostile.doors import batch


def test_findings_stay_fixed(tmp_path: Path) -> None:
    files = []
    for kept in sorted(FOUND.iterdir()):
        name = kept.name.removesuffix(".folder")
        path = tmp_path / name
        if kept.suffix == ".folder":
            write_folder(unzipped(kept.read_bytes()), path)
        else:
            path.write_bytes(kept.read_bytes())
        files.append((name.partition("-")[0], path))
    wrong = [
        f"{path.name}: {outcome}"
        for (_, path), outcome in zip(files, batch(files), strict=True)
        if not outcome.acceptable
    ]
    assert not wrong, "\n".join(wrong)
