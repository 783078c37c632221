"""The journal of strokes: torn, damaged, foreign and hostile ones."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from napari_biomedparse.errors import FormatError, OutputError
from napari_biomedparse.io import painting
from napari_biomedparse.io.painting import Journal

SHAPE, CHUNKS = (4, 20, 30), (2, 16, 16)
BOX = (slice(0, 1), slice(3, 5), slice(4, 7))


def journal(folder: Path) -> Journal:
    return Journal(folder / "labels.ome.zarr", SHAPE, np.uint8, CHUNKS)


def stroke(one: Journal, old: int, new: int) -> None:
    shape = tuple(part.stop - part.start for part in BOX)
    one.append((BOX, np.full(shape, old, np.uint8), np.full(shape, new, np.uint8)))


def values(one: Journal, since: int = 0) -> tuple[int, int]:
    (edited,) = one.edited((*BOX,), since)
    assert edited.box == BOX
    assert edited.mask.all()
    return int(edited.before.max()), int(edited.after.max())


def test_strokes_are_found_again(tmp_path: Path) -> None:
    one = journal(tmp_path)
    assert list(one.edited()) == []
    stroke(one, 1, 2)
    between = one.end
    stroke(one, 2, 3)
    one.mark(one.end)
    other = journal(tmp_path)
    assert (other.end, other.applied) == (one.end, one.applied)
    assert values(other) == (1, 3)
    assert values(other, between) == (2, 3)
    assert other.count() == 6
    stroke(one, 3, 1)
    other.read()
    assert other.count() == 0  # undone


@pytest.mark.parametrize("cut", [1, 5, 30, 50])
def test_an_incomplete_stroke_is_cut_off(tmp_path: Path, cut: int) -> None:
    one = journal(tmp_path)
    stroke(one, 1, 2)
    good = one.end
    stroke(one, 2, 3)
    whole = one.path.read_bytes()
    one.path.write_bytes(whole[:-cut])
    again = journal(tmp_path)
    assert again.end == good
    stroke(again, 2, 9)
    assert values(journal(tmp_path)) == (1, 9)
    assert one.path.stat().st_size == again.end


def test_zeros_after_a_power_loss_are_cut_off(tmp_path: Path) -> None:
    one = journal(tmp_path)
    stroke(one, 1, 2)
    with one.path.open("ab") as file:
        file.write(bytes(1000))
    assert journal(tmp_path).end == one.end


def test_a_damaged_stroke_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = journal(tmp_path)
    places = [one.end]
    for new in (2, 3, 4):
        stroke(one, new - 1, new)
        places.append(one.end)
    data = bytearray(one.path.read_bytes())
    data[places[1] + 25] ^= 255
    one.path.write_bytes(data)
    assert values(journal(tmp_path)) == (1, 4)
    assert f"damaged at byte {places[1]}" in caplog.text


def record(body: bytes) -> bytes:
    head = struct.pack("<8sQI", b"\x93stroke\n", len(body), zlib.crc32(body))
    return head + body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"short",
        struct.pack("<6Q", 0, 0, 0, 1, 1, 2**63) + zlib.compress(b""),
        struct.pack("<6Q", 0, 0, 0, 1, 17, 1) + zlib.compress(b"12" * 17),
        struct.pack("<6Q", 9, 0, 0, 10, 1, 1) + zlib.compress(b"12"),
        struct.pack("<6Q", 1, 1, 1, 0, 0, 0) + zlib.compress(b"12"),
    ],
)
def test_a_strangers_records_are_refused(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits" / "labels.ome.zarr").write_bytes(record(body))
    with pytest.raises(FormatError, match="does not fit the labels beside it"):
        journal(tmp_path)


@pytest.mark.parametrize(
    "packed", [b"x", zlib.compress(b"1"), zlib.compress(bytes(99))]
)
def test_a_strangers_voxels_are_refused(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "edits").mkdir()
    body = struct.pack("<6Q", 0, 0, 0, 1, 2, 2) + packed
    (tmp_path / "edits" / "labels.ome.zarr").write_bytes(record(body))
    one = journal(tmp_path)
    if len(packed) > 10:  # no more is unpacked than fits
        (edited,) = one.edited()
        assert edited.accepted.sum() == 4
        return
    with pytest.raises(FormatError, match="does not fit the labels beside it"):
        list(one.edited())


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.write_text("mine")
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits" / "labels.ome.zarr").symlink_to(outside)
    with pytest.raises(OutputError, match="is a link"):
        journal(tmp_path)
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("size", [2**40, 0])
def test_a_huge_journal_takes_no_memory(tmp_path: Path, size: int) -> None:
    one = journal(tmp_path)
    stroke(one, 1, 2)
    with one.path.open("r+b") as file:
        file.truncate(one.end + size)
        file.seek(one.end)
        file.write(struct.pack("<8sQI", b"\x93stroke\n", 2**39, 0))
    assert journal(tmp_path).end == one.end


def test_a_journal_of_damages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits" / "labels.ome.zarr").write_bytes(b"\x93stroke\n" * 10**5)
    with pytest.raises(FormatError, match="does not fit the labels beside it"):
        journal(tmp_path)


def test_a_stroke_over_several_chunks_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, sizes = journal(tmp_path), []
    write = os.write
    monkeypatch.setattr(os, "write", lambda f, b: sizes.append(len(b)) or write(f, b))
    boxes = [(slice(0, 1), slice(3, 5), slice(x, x + 2)) for x in (14, 16)]
    plane = np.ones((1, 2, 2), np.uint8)
    one.append(*((box, 0 * plane, plane) for box in boxes))
    assert sizes == [one.end]
    again = journal(tmp_path)
    again.read()
    assert again.end == one.end and again.count() == one.count() == 8


def grown(folder: Path, seed: int) -> tuple[Journal, np.ndarray, list[int]]:
    """Paint, accept and tell at random; return the labels and the places told."""
    one, random = journal(folder), np.random.default_rng(seed)
    labels, told = np.zeros(SHAPE, np.uint8), [0]
    for number in range(300):
        at = [int(random.integers(0, n - 2)) for n in SHAPE]
        ends = [
            min(n, i // c * c + c, i + 3)
            for i, c, n in zip(at, CHUNKS, SHAPE, strict=True)
        ]
        box = tuple(slice(*pair) for pair in zip(at, ends, strict=True))
        before = labels[box].copy()
        after = random.choice(np.array([before.max(), 0, 5, 7], np.uint8), before.shape)
        if number % 40 == 0:
            after = before  # accepted
        labels[box] = after
        one.append((box, before, after))
        if number % 70 == 0:
            one.mark(one.end)
            one.tell()
            told.append(one.end)
    one.mark(one.end)
    return one, labels, told


def found(one: Journal, labels: np.ndarray, since: int) -> list[np.ndarray]:
    """Return what a run writes over ones, what was there before, and is accepted."""
    on_top, undone = np.ones(SHAPE, np.uint8), labels.copy()
    accepted = np.zeros(SHAPE, bool)
    for edited in one.edited(since=since):
        mine = edited.mask & ((edited.before != edited.after) | edited.accepted)
        np.copyto(on_top[edited.box], edited.after, where=mine)
        np.copyto(undone[edited.box], edited.before, where=edited.mask)
        accepted[edited.box] = edited.accepted
    return [on_top, undone, accepted]


@pytest.mark.parametrize("seed", range(5))
def test_a_shortened_journal_says_the_same(tmp_path: Path, seed: int) -> None:
    one, labels, told = grown(tmp_path, seed)
    stale = journal(tmp_path)
    before = {since: found(one, labels, since) for since in told}
    size, end, count = one.path.stat().st_size, one.end, one.count()
    assert before[0][2].any()
    one.shorten()
    assert one.path.stat().st_size < size / 2
    stale.read()
    for again in (one, stale, journal(tmp_path)):
        assert again.last < again.applied
        assert again.end >= end
        assert again.count() == count
        for since in told:
            np.testing.assert_array_equal(found(again, labels, since), before[since])
    stroke(one, 1, 2)
    stale.read()
    assert stale.end == one.end
    assert values(stale, end) == (1, 2)
    sizes = []
    for _ in range(3):
        one.mark(one.end)
        one.shorten()
        sizes.append(one.path.stat().st_size)
    assert max(sizes) - min(sizes) <= 28
    stale.read()
    assert stale.end == one.end
    assert os.listdir(one.path.parent) == [one.path.name]


def test_a_long_journal_is_shortened_when_it_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "_LONG", 2000)
    one, _, _ = grown(tmp_path, 0)
    assert one.is_long
    one.shorten()
    assert not one.is_long
    short = one.path.stat().st_size
    while one.path.stat().st_size < 2 * short:
        assert not one.is_long
        stroke(one, 1, 2)
    assert one.is_long
    data = bytearray(one.path.read_bytes())
    data[short + 40] ^= 255
    one.path.write_bytes(data)
    assert not journal(tmp_path).is_long  # what is damaged may be mended by hand


def test_a_place_that_goes_back_is_a_strangers(tmp_path: Path) -> None:
    one = journal(tmp_path)
    stroke(one, 1, 2)
    for place in (3, 2**63):
        with one.path.open("r+b") as file:
            file.seek(one.end)
            file.write(record(struct.pack("<QQ", place, 0)))
        with pytest.raises(FormatError, match="does not fit the labels beside it"):
            journal(tmp_path)
