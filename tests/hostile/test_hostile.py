"""Every hostile file is refused in words, in time, in bounds, and nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile.corpus import make_corpus
from hostile.doors import Outcome, batch

Judged = tuple[list[tuple[Path, Outcome]], Path]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """Open every hostile file, all in one process with limits."""
    folder = tmp_path_factory.mktemp("hostile")
    canary = tmp_path_factory.mktemp("canary") / "ran"
    files = make_corpus(folder, canary)
    outcomes = batch(files)
    return [(path, out) for (_, path), out in zip(files, outcomes, strict=True)], canary


def test_each_is_refused_by_an_exception_of_the_package(judged: Judged) -> None:
    files, _ = judged
    assert len(files) >= 100
    wrong = [
        f"{path.parent.name}/{path.name}: {out.error} {out.message[:200]}\n{out.trace}"
        for path, out in files
        if not (out.ours and out.acceptable)
    ]
    assert not wrong, "\n".join(wrong)


def test_each_message_names_the_file(judged: Judged) -> None:
    files, _ = judged
    unnamed = [
        f"{path.name}: {out.message}"
        for path, out in files
        if path.suffix != ".json" and path.name.partition(".")[0] not in out.message
    ]
    assert not unnamed, "\n".join(unnamed)


def test_nothing_was_run(judged: Judged) -> None:
    _, canary = judged
    assert not canary.exists()
