from __future__ import annotations

from typing import Any

import pytest

from napari_biomedparse.io.guards import pickles
from napari_biomedparse.io.guards.pickles import (
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


def _kind(code: str) -> Any:
    return construct(DTYPE, (code, False, True))


def _array(*state: Any) -> Any:
    array = construct(RECONSTRUCT, (NDARRAY, (0,), b"b"))
    fill(array, state)
    return array


@pytest.mark.parametrize("more", [(), (-1,), (-1, -1), (-1, -1, 0)])
def test_a_type_is_described_in_five_to_eight_words(more: tuple[int, ...]) -> None:
    kind = _kind("u2")
    fill(kind, (3, ">", None, None, None, *more))
    assert finish(_array(1, (1,), kind, False, b"\x01\x00")).tolist() == [256]
    for wrong in ((3, ">", None, None), (3, ">", *4 * (None,), -1, -1, 0)):
        with pytest.raises(Refused, match="describes a type in an unknown way"):
            fill(_kind("u2"), wrong)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (RECONSTRUCT, (NDARRAY, (0,))),
        (RECONSTRUCT, (DTYPE, (0,), b"b")),
        (RECONSTRUCT, ("ndarray", (0,), b"b")),
        (NDARRAY, ((3,),)),
        (NDARRAY, (_kind("u1"), b"a")),
        (DTYPE, (_kind("u1"), b"a")),
        (DTYPE, ()),
        (DTYPE, (1, False, True)),
        (DTYPE, [("u1")]),
        (SCALAR, (_kind("u1"),)),
        (SCALAR, (_kind("u1"), b"a", b"b")),
        (SCALAR, (_kind("O"), b"12345678")),
        (SCALAR, (_kind("u1"), "a")),
        (SCALAR, ("u1", b"a")),
    ],
)
def test_constructors_get_what_numpy_gives_them(name: Any, arguments: Any) -> None:
    with pytest.raises(Refused):
        construct(name, arguments)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "in an unknown way"),
        ([1, (1,), _kind("u1"), False, b"a"], "in an unknown way"),
        ((1, (1,), _kind("u1"), False), "in an unknown way"),
        ((1, (1,), _kind("u1"), False, b"a", b"a"), "in an unknown way"),
        ((1, (1,), "u1", False, b"a"), "in an unknown way"),
        ((1, [1], _kind("u1"), False, b"a"), "in an unknown way"),
        ((1, (True,), _kind("u1"), False, b"a"), "impossible shape"),
        ((1, (1, -1), _kind("u1"), False, b"a"), "impossible shape"),
        ((1, (1,), _kind("u1"), False, ["a"]), "do not fit its type"),
        ((1, (1,), _kind("O"), False, b"12345678"), "do not fit its type"),
    ],
)
def test_arrays_that_are_refused(state: Any, said: str) -> None:
    array = construct(RECONSTRUCT, (NDARRAY, (0,), b"b"))
    with pytest.raises(Refused, match=said):
        fill(array, state)
    with pytest.raises(Refused, match="array without contents"):
        finish(array)


def test_only_arrays_and_types_get_contents() -> None:
    for target in ({}, [], NDARRAY, "text"):
        with pytest.raises(Refused, match="not an array"):
            fill(target, (1, (1,), _kind("u1"), False, b"a"))


def test_order_and_number_of_elements() -> None:
    kind, values = _kind("u1"), bytes(range(6))
    for fortran, rows in ((0, [[0, 1, 2], [3, 4, 5]]), (1, [[0, 2, 4], [1, 3, 5]])):
        assert finish(_array(1, (2, 3), kind, fortran, values)).tolist() == rows
    assert finish(_array(1, (0, 3), kind, False, b"")).shape == (0, 3)
    assert finish(_array(1, (2,), _kind("O"), False, ["a", 1])) == ["a", 1]
    assert finish(_array(1, (1, 1), _kind("O8"), False, ["a"])) == "a"
    assert finish(_array(1, (0,), _kind("O4"), False, [])) == []
    many = list(range(300))
    assert finish(_array(1, (20, 15), _kind("O"), False, many)) == many
    for shape in ((5,), (7,), (2, 4)):
        for wrong in ((kind, False, values), (_kind("O"), False, list(values))):
            with pytest.raises(Refused, match="too few or too many"):
                finish(_array(1, shape, *wrong))


def test_finished_arrays_may_be_written_to() -> None:
    found = finish(_array(1, (2,), _kind("u1"), False, b"ab"))
    found[:] = 7
    assert found.tolist() == [7, 7]


def _nested(depth: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if kind is dict else kind([value])
    return value


@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_the_deepest_value(kind: type) -> None:
    assert finish(_nested(32, kind)) == _nested(32, kind)
    with pytest.raises(Refused, match="too deeply"):
        finish(_nested(33, kind))


def test_arrays_of_objects_count_as_depth() -> None:
    def boxed(depth: int) -> Any:
        return _array(1, (2,), _kind("O"), False, [1, _nested(depth, list)])

    assert finish(boxed(30))[0] == 1
    with pytest.raises(Refused, match="too deeply"):
        finish(boxed(31))


def test_the_most_values(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [1, {"a": 2, "b": [3]}]  # itself, its two, their two, and the last
    for most in (5, 6):
        monkeypatch.setattr(pickles, "MAX_VALUES", most)
        if most == 6:
            assert finish(value) == value
            continue
        with pytest.raises(Refused, match="without end"):
            finish(value)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Refused, match="without end"):
        finish(loop)
