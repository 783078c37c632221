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
from napari_biomedparse.io.pickles import read_pickle

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
