"""Messages of the package's errors."""

from __future__ import annotations

import pickle
import re

import pytest

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import (
    DeviceError,
    FormatError,
    OutputError,
    PromptError,
    check_shortage,
    shortage,
)


def test_what_a_file_says_does_not_flood_the_message():
    with pytest.raises(PromptError) as caught:
        parse_prompts([["a b"] * 10**5])
    assert len(str(caught.value)) < 2100
    assert str(caught.value).startswith("A prompt must be text, not [")


def test_the_remedy_at_the_end_is_kept_also_across_processes():
    error = OutputError("name " * 1000 + "Choose a shorter one.")
    assert str(error).endswith("Choose a shorter one.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(OutputError("The disk is full.")) == "The disk is full."


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Memory ran out"),
        (RuntimeError("std::bad_alloc"), "Memory ran out"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough"), "Memory ran"),
        (OSError(12, "Cannot allocate memory"), "Memory ran out"),
        (RuntimeError("CUDA out of memory. Tried 2 GiB."), "memory of the device"),
        (RuntimeError("MPS backend out of memory (in use: 9 GB)"), "of the device"),
        (RuntimeError("can't start new thread"), "no more threads.*ulimit -u"),
        (BlockingIOError(11, "Resource temporarily unavailable"), "no more threads"),
        (OSError(24, "Too many open files"), "Too many files.*ulimit -n"),
        (OSError(28, "No space left on device"), ""),
        (RuntimeError("Invalid header"), ""),
        (FormatError("out of memory.tif is damaged"), ""),
        (ValueError("std::string"), ""),
    ],
)
def test_shortages_are_told_from_damage(error: Exception, words: str) -> None:
    found = shortage(error)
    assert bool(found) == bool(words)
    assert re.search(words, str(found))
    if words:
        with pytest.raises(DeviceError, match=words):
            check_shortage(error)
    check_shortage(MemoryError(), memory=False)  # a damaged file may claim anything
