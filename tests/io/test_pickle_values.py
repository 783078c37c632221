from __future__ import annotations

from typing import Any

import pytest

from napari_biomedparse.io.pickle_values import (
    Refused,
    admit,
    construct,
    fill,
    finish,
)

NDARRAY = admit("numpy", "ndarray")
RECONSTRUCT = admit("numpy.core.multiarray", "_reconstruct")
DTYPE = admit("numpy", "dtype")
SCALAR = admit("numpy._core.multiarray", "scalar")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("numpy", "load"),
        ("numpy", "dtype.type"),
        ("numpy.core.multiarray", "ndarray"),
        ("", ""),
        (1, "dtype"),
        ("numpy", None),
    ],
)
def test_only_a_few_names_are_admitted(module: Any, name: Any) -> None:
    with pytest.raises(Refused):
        admit(module, name)


def test_a_scalar_and_an_array() -> None:
    kind = construct(DTYPE, ("i2", False, True))
    fill(kind, (3, ">", None, None, None, -1, -1, 0))
    assert construct(SCALAR, (kind, b"\x01\x02")) == 258
    array = construct(RECONSTRUCT, (NDARRAY, (0,), b"b"))
    fill(array, (1, (2,), kind, False, b"\x00\x01\x00\x02"))
    assert finish({"a": array})["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "code", ["O8.", "V8", "M8", "u", "u1,u1", "(2,)u1", "c16", "S"]
)
def test_types_that_are_refused(code: str) -> None:
    with pytest.raises(Refused):
        construct(DTYPE, (code, False, True))


@pytest.mark.parametrize(
    "state",
    [
        (3, "<", ("u1", (2,)), None, None, -1, -1, 0),
        (3, "<", None, ("a",), {"a": 1}, -1, -1, 0),
        (4, "|", None, None, None, -1, -1, 0, {"metadata": 1}),
        (3, "?", None, None, None, -1, -1, 0),
        (3,),
        None,
    ],
)
def test_compound_types_are_refused(state: Any) -> None:
    with pytest.raises(Refused):
        fill(construct(DTYPE, ("u1", False, True)), state)


@pytest.mark.parametrize("function", [print, "print", None, NDARRAY])
def test_nothing_is_called(function: Any) -> None:
    with pytest.raises(Refused):
        construct(function, ("x",))


@pytest.mark.parametrize("value", [object(), DTYPE, {1: print}, [{1, 2}], 1j])
def test_other_objects_are_refused(value: Any) -> None:
    with pytest.raises(Refused):
        finish(value)
