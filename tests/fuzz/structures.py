"""Metadata made up from nothing by hypothesis: near the rules, and far from them."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from xml.sax.saxutils import quoteattr

import hypothesis
import numpy as np
import tifffile
from fuzz.mutate import Files
from hypothesis import strategies as st

_VOXELS = np.zeros((3, 8, 8), np.uint8)
_integers = st.one_of(
    st.integers(-3, 12), st.integers(), st.sampled_from([10**6, 10**12, 2**31, 2**63])
)
_leaves = st.one_of(
    st.none(), st.booleans(), _integers, st.floats(), st.text(max_size=8)
)
json_values = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=8), inner)
    ),
    max_leaves=20,
)


def _or_odd(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly the usual, sometimes anything."""
    return st.one_of(usual, usual, usual, json_values)


def _maybe(**entries: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {}, optional={k: _or_odd(v) for k, v in entries.items()}
    )


_axes = st.lists(
    _maybe(
        name=st.sampled_from([*"tczyx", "", "X", "depth"]),
        type=st.sampled_from(["space", "time", "channel", ""]),
        unit=st.sampled_from(["micrometer", "second", "parsec", ""]),
    ),
    min_size=1,
    max_size=6,
)
_transforms = st.lists(
    _maybe(
        type=st.sampled_from(["scale", "translation", "identity", "affine"]),
        scale=st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
        translation=st.lists(st.floats(), min_size=2, max_size=4),
    ),
    max_size=3,
)
ome_attributes = _maybe(
    version=st.sampled_from(["0.4", "0.5", "9"]),
    multiscales=st.lists(
        _maybe(
            name=st.text(max_size=5),
            axes=_axes,
            datasets=st.lists(
                _maybe(
                    path=st.sampled_from(["0", "0", "0", "1", "..", "0/../0", ""]),
                    coordinateTransformations=_transforms,
                ),
                max_size=3,
            ),
            coordinateTransformations=_transforms,
        ),
        max_size=2,
    ),
    omero=_maybe(channels=st.lists(_maybe(label=st.text(max_size=4)), max_size=4)),
    labels=st.lists(st.sampled_from(["0", "a", ".."]), max_size=2),
    **{
        "image-label": _maybe(
            colors=st.lists(
                st.fixed_dictionaries({"label-value": _leaves, "rgba": json_values})
            ),
            properties=st.lists(
                st.fixed_dictionaries({"label-value": _leaves, "name": _leaves})
            ),
            instance_label=_leaves,
        )
    },
)
_array = _maybe(
    shape=st.lists(st.integers(0, 10) | _integers, min_size=2, max_size=5),
    data_type=st.sampled_from(["uint8", "float32", "int64", "complex64", "string"]),
    chunk_grid=st.fixed_dictionaries(
        {
            "name": st.just("regular"),
            "configuration": st.fixed_dictionaries(
                {"chunk_shape": st.lists(_integers, min_size=2, max_size=5)}
            ),
        }
    ),
    fill_value=_leaves,
    codecs=st.lists(
        _maybe(
            name=st.sampled_from(
                ["bytes", "gzip", "zstd", "blosc", "crc32c", "transpose",
                 "sharding_indexed", "numcodecs.zlib", "numcodecs.lzma"]
            ),
            configuration=json_values,
        ),
        min_size=1,
        max_size=3,
    ),
    dimension_names=st.lists(st.sampled_from([*"tczyx", None, "q"]), max_size=5),
)  # fmt: skip
zarr_folders = st.tuples(ome_attributes, _array)
nifti_headers = st.fixed_dictionaries(
    {
        40: st.lists(st.integers(0, 9) | st.integers(-(2**15), 2**15 - 1),
                     min_size=8, max_size=8),
        70: st.lists(st.sampled_from([2, 4, 8, 16, 64, 128, 256, 512, 768, 1536, 0]),
                     min_size=1, max_size=1),
        72: st.lists(st.sampled_from([8, 16, 32, 64, 0, -8]), min_size=1, max_size=1),
    }
)  # fmt: skip
_floats = st.floats(width=32)
nifti_numbers = st.fixed_dictionaries(
    {
        76: st.lists(_floats, min_size=8, max_size=8),
        108: st.lists(st.just(352.0) | _floats, min_size=1, max_size=1),
        112: st.lists(_floats, min_size=2, max_size=2),
        256: st.lists(_floats, min_size=18, max_size=18),
    }
)
nifti_files = st.tuples(nifti_headers, nifti_numbers, st.binary(min_size=8, max_size=8))
_attribute_texts = st.one_of(
    _integers.map(str), st.floats().map(str), st.text("0123456789.-aeXYZ \xb5m")
)
tiff_descriptions = st.one_of(
    st.tuples(
        st.just("ome"),
        st.dictionaries(
            st.sampled_from(
                ["SizeX", "SizeY", "SizeZ", "SizeC", "SizeT", "PhysicalSizeX",
                 "PhysicalSizeXUnit", "PhysicalSizeZ", "TimeIncrement", "Type"]
            ),
            _attribute_texts,
        ),
        st.sampled_from(["XYZCT", "XYCZT", "XYTCZ", "YXZ", ""]),
        st.dictionaries(
            st.sampled_from(["IFD", "PlaneCount", "FirstZ", "FirstC", "FirstT"]),
            _attribute_texts,
        ),
    ),
    st.tuples(
        st.just("imagej"),
        st.dictionaries(
            st.sampled_from(
                ["images", "channels", "slices", "frames", "hyperstack", "spacing",
                 "unit", "finterval", "mode", "loop", "min", "max"]
            ),
            _attribute_texts,
        ),
    ),
    st.tuples(st.just("shaped"), st.lists(_integers, max_size=5)),
)  # fmt: skip
records = _maybe(
    kind=st.just("napari-biomedparse run"),
    version=st.just(1),
    source=st.just({"path": "a"}),
    model=st.just("tiny 0"),
    parameters=_maybe(
        prompts=st.dictionaries(st.sampled_from(["1", "2", "x"]), st.text()),
        instances=st.booleans(),
    ),
    output=_maybe(
        shape=st.lists(_integers, min_size=3, max_size=3),
        dtype=st.sampled_from(["uint8", "float32", "O"]),
        axis=_integers,
        thickness=_integers,
        ome_zarr=st.just("0.5"),
        times=_integers,
        along=st.lists(st.text(), max_size=3),
    ),
    load=st.none(),
    environment=st.just({}),
    blocks=st.lists(
        st.fixed_dictionaries(
            {
                "start": _integers, "stop": _integers, "existence": json_values,
                "voxels": json_values, "checksum": _leaves,
            }
        ),
        max_size=2,
    ),
    parts=st.lists(json_values, max_size=1),
    finished=_leaves,
)  # fmt: skip


def zarr_folder(made: tuple[Any, Any]) -> Files:
    """Return a folder with an image of these attributes and this array."""
    attributes, array = made
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": attributes}}
    usual = {
        "zarr_format": 3, "node_type": "array", "shape": [3, 8, 8],
        "data_type": "uint8", "fill_value": 0, "codecs": [{"name": "bytes"}],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, 8, 8]}},
        "chunk_key_encoding": {"name": "default"}, "attributes": {},
    }  # fmt: skip
    if isinstance(array, dict):
        usual |= array
    return {
        "zarr.json": _json(group),
        "0/zarr.json": _json(usual),
        "0/c/0/0/0": _VOXELS.tobytes(),
    }


def nifti_file(made: tuple[Any, Any, bytes]) -> bytes:
    """Return a NIfTI-1 file with these numbers in its header."""
    integers, numbers, tail = made
    head = bytearray(352)
    head[:4] = struct.pack("<i", 348)
    head[344:348] = b"n+1\0"
    for values, form in ((integers, "h"), (numbers, "f")):
        for at, row in values.items():
            head[at : at + struct.calcsize(form) * len(row)] = struct.pack(
                f"<{len(row)}{form}", *row
            )
    head[252:254] = tail[:2]
    head[348:352] = tail[2:6]
    return bytes(head) + bytes(2000)


def tiff_file(made: tuple[Any, ...]) -> bytes:
    """Return a TIFF file with this description."""
    kind, *parts = made
    if kind == "ome":
        pixels, order, planes = parts
        text = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/'
            f'OME/2016-06"><Image><Pixels DimensionOrder="{order}"'
            f"{_attributes(pixels)}><TiffData{_attributes(planes)}/></Pixels></Image></OME>"
        )
    elif kind == "imagej":
        lines = [f"{key}={value}" for key, value in parts[0].items()]
        text = "\n".join(["ImageJ=1.53k", *lines, ""])
    else:
        text = json.dumps({"shape": parts[0]})
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        _VOXELS,
        photometric="minisblack",
        description=text.encode("utf-8", "replace"),
        metadata=None,
    )
    return stream.getvalue()


def _attributes(values: dict[str, str]) -> str:
    return "".join(f" {key}={quoteattr(value)}" for key, value in values.items())


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


Kind = tuple[st.SearchStrategy[Any], str, str, Callable[[Any], "bytes | Files"]]
STRUCTURES: dict[str, Kind] = {
    "zarr.made": (zarr_folders, "data", ".zarr", zarr_folder),
    "nifti.made": (nifti_files, "data", ".nii", nifti_file),
    "tiff.made": (tiff_descriptions, "data", ".tif", tiff_file),
    "run.made": (
        records, "run_folder", ".run", lambda made: {"manifest.json": _json(made)}
    ),
    "prompts.made": (json_values, "prompts", ".json", _json),
}  # fmt: skip
"""Strategy, door, ending and writer of each kind."""


def draw(strategy: st.SearchStrategy[Any], rng: Random, count: int) -> list[Any]:
    """Draw values outside of a test."""
    found: list[Any] = []

    @hypothesis.seed(rng.getrandbits(64))
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def write(content: bytes | Files, path: Path) -> None:
    """Write a file, or a folder."""
    from fuzz.seeds import write_folder

    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_folder(content, path)
