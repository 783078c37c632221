"""Small damage, at random: to bytes, to JSON, and to folders and archives of both."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from random import Random
from typing import Any

Files = dict[str, bytes]
"""A folder or archive: relative names and contents."""
_INTEGERS = (
    0, 1, 2, 4, 7, 8, 16, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1,
    2**40, 2**63 - 1, 2**64 - 1,
)  # fmt: skip
_HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 1000, 10**6, 10**9, 10**12, 2**63, 2**64,
    -(2**63), 10**30, 0.0, -0.0, 0.5, -1.5, 1e-320, 1e308, float("inf"),
    float("-inf"), float("nan"), "", " ", "0", "x", "\0", "a\nb", "../..",
    "/etc/passwd", "s0", "labels", "ome", "c", "t", "z", "scale", "gzip", "zstd",
    "blosc", "pickle", "|O", "<f8", "|u1", "<U9", "\N{SNOWMAN}" * 9, "9" * 5000,
    [], {}, [[]], [None], {"": None}, [0] * 40, [1, 1, 1], {"id": "pickle"},
    {"id": "zlib"}, {"name": "gzip", "configuration": {"level": 5}},
)  # fmt: skip


def mutate_bytes(data: bytes, rng: Random, head: int = 512) -> bytes:
    """Damage bytes in one to four places, mostly within the first `head`."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        result = _damage(result, rng, head)
    return bytes(result)


def _damage(data: bytearray, rng: Random, head: int) -> bytearray:
    size = len(data)
    if not size:
        return bytearray(rng.randbytes(rng.randrange(64)))
    near = size if rng.random() < 0.3 else min(size, head)
    at = rng.randrange(near)
    match rng.randrange(9):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        case 2 | 3:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(_INTEGERS) % 2 ** (8 * width)
            order = rng.choice(("little", "big"))
            data[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
        case 4:
            del data[rng.randrange(size) :]
        case 5:
            del data[at : at + rng.randrange(1, 32)]
        case 6:
            data[at:at] = rng.randbytes(rng.randrange(1, 32))
        case 7:
            start = rng.randrange(size)
            data[at:at] = data[start : start + rng.randrange(1, 256)]
        case _:
            start, count = rng.randrange(size), rng.randrange(1, 64)
            data[at : at + count] = data[start : start + count]
    return data


def mutate_json(value: Any, rng: Random) -> Any:
    """Change one to three entries of nested lists and dictionaries."""
    root = {"root": copy.deepcopy(value)}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(root))
        if places:
            _change(*rng.choice(places), rng)
    return root.get("root")


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _change(holder: Any, key: Any, rng: Random) -> None:
    match rng.randrange(7):
        case 0 | 1 | 2:
            holder[key] = copy.deepcopy(rng.choice(_HOSTILE))
        case 3:
            if key != "root":
                del holder[key]
        case 4:
            deep: Any = holder[key]
            for _ in range(rng.choice((1, 2, 50, 400))):
                deep = [deep]
            holder[key] = deep
        case 5:
            if isinstance(holder[key], list):
                holder[key] = holder[key] * rng.choice((0, 2, 3, 1000))
            elif isinstance(holder[key], int | float):
                holder[key] = holder[key] * rng.choice((-1, 0, 10, 10**6, 10**12, 0.5))
        case _:
            if isinstance(holder, dict):
                holder[rng.choice(("", "0", "x", "ome", "type", "path"))] = holder[key]
            else:
                holder.insert(key, copy.deepcopy(rng.choice(_HOSTILE)))


def mutate_file(name: str, content: bytes, rng: Random) -> bytes:
    """Damage one file: as JSON if it is, mostly, else as bytes."""
    if rng.random() < 0.8:
        try:
            changed = mutate_json(json.loads(content), rng)
            return json.dumps(changed).encode("utf-8", "surrogatepass")
        except ValueError:
            pass
    return mutate_bytes(content, rng)


def mutate_files(files: Files, rng: Random) -> Files:
    """Damage, drop, double or rename files of a folder."""
    result = dict(files)
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(sorted(result))
        match rng.randrange(12):
            case 0:
                del result[name]
            case 1:
                result[name] = result[rng.choice(sorted(result))]
            case _:
                result[name] = mutate_file(name, result[name], rng)
        if not result:
            return {"empty": b""}
    return result


def zipped(files: Files, method: int = zipfile.ZIP_STORED) -> bytes:
    """Put files into a zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def unzipped(data: bytes) -> Files:
    """Take files out of a zip archive that is whole."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
