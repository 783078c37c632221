from __future__ import annotations

import gc
import pickle
import tempfile
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from napari_biomedparse.errors import FormatError
from napari_biomedparse.io.formats.npz import NpyMember

METHODS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}


def write(path: Path, array: np.ndarray[Any, Any], method: str = "deflated") -> None:
    save = np.savez if method == "stored" else np.savez_compressed
    save(path, imgs=array)


def open_member(path: Path, key: str = "imgs") -> NpyMember:
    with zipfile.ZipFile(path) as archive:
        return NpyMember(path, archive.getinfo(f"{key}.npy"))


def write_raw(path: Path, content: bytes, method: str = "deflated") -> None:
    with zipfile.ZipFile(path, "w", METHODS[method]) as archive:
        archive.writestr("imgs.npy", content)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_rows_in_any_order_equal_numpys(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    dtype = data.draw(st.sampled_from(["u1", "<i2", ">u2", ">f4", "<f8", "?"]))
    order = data.draw(st.sampled_from("CF"))
    method = data.draw(st.sampled_from(sorted(METHODS)))
    values = np.random.default_rng(0).integers(0, 250, shape).astype(dtype, order=order)
    path = tmp_path_factory.mktemp("npy") / "a.npz"
    write(path, values, method)
    member = open_member(path)
    assert (member.shape, member.dtype) == (shape, np.dtype(dtype))
    np.testing.assert_array_equal(member.read(), values)
    array: Any = member.lazy()
    for _ in range(4):
        index = tuple(
            slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))))
            for n in shape
        )
        np.testing.assert_array_equal(array[index].compute(), values[index])
    assert array.dtype == values.dtype


@pytest.mark.parametrize("method", sorted(METHODS))
def test_slabs_are_read_backwards_and_by_threads(method: str, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 9, (50, 40, 30)).astype(np.uint8)
    write(tmp_path / "a.npz", values, method)
    member = open_member(tmp_path / "a.npz")
    for start in reversed(range(0, 50, 7)):
        found = member.read_rows(start, min(start + 7, 50))
        np.testing.assert_array_equal(found, values[start : start + 7])
    results: dict[int, bool] = {}

    def check(start: int) -> None:
        found = member.read_rows(start, start + 1)[0]
        results[start] = np.array_equal(found, values[start])

    threads = [threading.Thread(target=check, args=(i,)) for i in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results.values())
    assert len(results) == 50


def test_opening_reads_the_header_only(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 9, (90, 40, 30)).astype(np.uint8)
    write(tmp_path / "a.npz", values)
    member = open_member(tmp_path / "a.npz")
    member.lazy()
    assert member._unpacked is None


def test_a_member_is_unpacked_once_into_a_file_that_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).integers(0, 255, (64, 128, 128)).astype(np.uint8)
    write(tmp_path / "a.npz", values)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    member = open_member(tmp_path / "a.npz")
    array: Any = member.lazy()
    array.compute()
    (tmp_path / "a.npz").unlink()
    np.testing.assert_array_equal(array.compute(), values)
    part = member.read_rows(5, 6)
    assert list((tmp_path / "temporary").iterdir()) == []
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path / "temporary") in maps.read_text()
        del member, array
        gc.collect()
        np.testing.assert_array_equal(part[0], values[5])
        del part
        assert str(tmp_path / "temporary") not in maps.read_text()


def test_a_member_for_which_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.npz", np.zeros((9, 50, 50), np.uint8))
    member = open_member(tmp_path / "a.npz")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(FormatError, match=r"the array 'imgs' unpacks to .*TMPDIR"):
        member.read_rows(0, 1)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_size_that_no_packed_data_can_have(method: str, tmp_path: Path) -> None:
    write(tmp_path / "a.npz", np.zeros((9, 50, 50), np.uint8), method)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        info = archive.getinfo("imgs.npy")
    info.file_size *= 2000
    with pytest.raises(FormatError, match="packed ones can hold"):
        NpyMember(tmp_path / "a.npz", info)


def test_it_travels_to_other_processes(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    write(tmp_path / "a.npz", values)
    array = open_member(tmp_path / "a.npz").lazy()
    copy = pickle.loads(cloudpickle.dumps(array))
    np.testing.assert_array_equal(copy.compute(), values)


@pytest.mark.parametrize("shape", ["(2**40,)", "(10, 4, 4)", "(1, 4, 4)", "(-1, 4, 4)"])
def test_a_header_that_lies_about_the_shape(shape: str, tmp_path: Path) -> None:
    numbers = shape.replace("2**40", str(2**40))
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {numbers}, }}"
    write_raw(tmp_path / "a.npz", _npy(header, bytes(32)))
    with pytest.raises(FormatError, match=r"a\.npz: the array 'imgs' claims"):
        open_member(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False}",
        "{'descr': 'zzz', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': ('a',)}",
        "__import__('os').system('true')",
        "(" * 5000,
        "{'descr': [('a', '|O')] * 9, ",
        "\0" * 50,
    ],
)
def test_a_damaged_header(header: str, tmp_path: Path) -> None:
    write_raw(tmp_path / "a.npz", _npy(header, bytes(32)))
    with pytest.raises(FormatError, match="damaged header"):
        open_member(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"something else entirely"])
def test_a_member_that_is_no_array(content: bytes, tmp_path: Path) -> None:
    write_raw(tmp_path / "a.npz", content)
    with pytest.raises(FormatError, match="damaged header"):
        open_member(tmp_path / "a.npz")


def test_a_wrong_checksum_shows_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    values = np.random.default_rng(0).integers(0, 255, (9, 50, 50)).astype(np.uint8)
    write(path, values)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("imgs.npy")
    info.CRC ^= 1
    with pytest.raises(FormatError, match="checksum"):
        NpyMember(path, info).read()


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    values = np.random.default_rng(0).integers(0, 9, (64, 64, 64)).astype(np.uint8)
    write(path, values)
    content = bytearray(path.read_bytes())
    content[20_000:20_100] = b"\xff" * 100
    path.write_bytes(bytes(content))
    with pytest.raises(FormatError, match=r"a\.npz: the array 'imgs'"):
        open_member(path).lazy().compute()  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_member_cut_short(method: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(
        path, np.random.default_rng(0).integers(0, 255, (9, 50, 50), np.uint8), method
    )
    member = open_member(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(FormatError, match="cut short"):
        member.read_rows(5, 9)


def test_other_compressions_and_encryption_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("imgs.npy", b"x")
    with pytest.raises(FormatError, match="numpy does not use"):
        open_member(path)
    write(path, np.zeros((1, 1, 1)))
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("imgs.npy")
    info.flag_bits |= 1
    with pytest.raises(FormatError, match="encrypted"):
        NpyMember(path, info)


def _npy(header: str, body: bytes) -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body
