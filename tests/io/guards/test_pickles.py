"""Hostile pickles: nothing may run, and one clear error comes."""

from __future__ import annotations

import copyreg
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hostile_pickles import PROMPTS, hostile_pickles, object_array

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.guards import pickles
from napari_biomedparse.io.guards.pickles import read_pickle

if TYPE_CHECKING:
    from pathlib import Path

NAMES = list(hostile_pickles("canary"))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_is_refused_and_nothing_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    data = hostile_pickles(str(canary))[name]
    for function in ("system", "popen", "fork"):
        monkeypatch.setattr(os, function, None)
    modules = set(sys.modules)
    with pytest.raises(FormatError, match=r"prompts.npz: 'text_prompts' .*clean copy"):
        read_pickle(data, "prompts.npz: 'text_prompts'")
    assert not canary.exists()
    assert set(sys.modules) <= modules | {"pickletools"}


def test_the_corpus_is_dangerous(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(hostile_pickles(str(canary))["os.system"])
    assert canary.exists()


def test_a_registered_extension_code_is_refused() -> None:
    copyreg.add_extension("os", "system", 0x70)
    try:
        with pytest.raises(FormatError, match="EXT1"):
            read_pickle(b"\x80\x02\x82\x70.", "a file")
    finally:
        copyreg.remove_extension("os", "system", 0x70)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        PROMPTS,
        {1: "a", "b": [1, (2, 3.5, None), True, -(2**70)], "e": {}},
        [],
        "\U0001f9e0 \\ \n",
        (1, 2, 3, 4),
    ],
)
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol), "a file") == value


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("old_names", [False, True])
def test_numpy_values_come_back(protocol: int, old_names: bool) -> None:
    value = {
        "1": np.str_("liver"),
        "n": np.int64(-7),
        "x": np.float32(0.5),
        "big": np.arange(6, dtype=">i2").reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "texts": np.array(["a", "bcd"]),
    }
    data = pickle.dumps(object_array(value), protocol)
    if old_names:
        old = (b"\x8c\x15numpy.core", b"cnumpy.core")
        data = data.replace(b"\x8c\x16numpy._core", old[0])
        data = data.replace(b"cnumpy._core", old[1])
    found = read_pickle(_without_frames(data), "a file")
    assert (found["1"], found["n"], found["x"]) == ("liver", -7, 0.5)
    assert type(found["n"]) is int
    for key in ("big", "columns", "texts"):
        np.testing.assert_array_equal(found[key], value[key])


def test_arrays_of_objects_become_what_they_hold() -> None:
    nothing = np.empty((), object)
    nothing[()] = PROMPTS
    assert read_pickle(pickle.dumps(nothing, 4), "a file") == PROMPTS
    assert read_pickle(pickle.dumps(object_array(1, "b"), 4), "a file") == [1, "b"]


def _without_frames(data: bytes) -> bytes:
    """Drop the lengths of protocol 4, which an edit has made wrong."""
    position = data.find(b"\x95")
    return data if position != 2 else data[:2] + data[11:]


def test_the_most_bytes_and_values_are_read_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = pickle.dumps([1, 2, 3], 4)
    monkeypatch.setattr(pickles, "MAX_BYTES", len(data))
    assert read_pickle(data, "a file") == [1, 2, 3]
    for less in (len(data) - 1, 3):
        monkeypatch.setattr(pickles, "MAX_BYTES", less)
        with pytest.raises(FormatError, match=rf"^a file is longer than {less} bytes"):
            read_pickle(data, "a file")


@pytest.mark.parametrize("stacked", [True, False])
def test_values_are_counted_on_the_stack_and_in_the_memo(
    monkeypatch: pytest.MonkeyPatch, stacked: bool
) -> None:
    push = b"K\x01"
    if stacked:
        data = b"\x80\x04(" + 4 * push + b"l."  # with their mark five at once
    else:
        data = b"\x80\x04" + push + b"".join(b"q" + bytes([i]) for i in range(5)) + b"."
    monkeypatch.setattr(pickles, "MAX_VALUES", 5)
    assert read_pickle(data, "a file") == ([1] * 4 if stacked else 1)
    for less in (4, 2):
        monkeypatch.setattr(pickles, "MAX_VALUES", less)
        with pytest.raises(FormatError, match=f"holds more than {less} values"):
            read_pickle(data, "a file")


@pytest.mark.parametrize("end", [b"u.", b"d."])
def test_a_key_without_a_value_is_said(end: bytes) -> None:
    start = b"\x80\x04}(" if end == b"u." else b"\x80\x04("
    good = start + b"K\x01K\x02" + end
    assert read_pickle(good, "a file") == {1: 2}
    for keys in (1, 3):
        with pytest.raises(FormatError, match="a dictionary key has no value"):
            read_pickle(start + keys * b"K\x01" + end, "a file")
