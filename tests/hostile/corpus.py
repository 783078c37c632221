"""Files that mean harm, or were made carelessly; every one must be refused.

Each function returns file names with what they hold: bytes, or a folder as names and
bytes. A link is written as `Link`, a pipe as `PIPE`.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pydicom
import tifffile
import torch
from made_dicom import header
from PIL import Image
from pydicom.encaps import encapsulate


@dataclass(frozen=True)
class Link:
    """A symbolic link in a folder."""

    target: str


PIPE = object()
Folder = Mapping[str, Any]


class _Shell:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


class _Python(_Shell):
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


def write(content: Any, path: Path) -> None:
    """Write a file, or a folder with its links and pipes."""
    if isinstance(content, Mapping):
        path.mkdir(parents=True)
        for name, part in content.items():
            write(part, path / name)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Link):
        path.symlink_to(content.target)
    elif content is PIPE:
        os.mkfifo(path)
    else:
        path.write_bytes(content)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def npy(array: Any = None, *, header: str | None = None, data: bytes = b"") -> bytes:
    """An array as numpy writes it, or one with a header of one's own."""
    stream = io.BytesIO()
    if header is None:
        np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
        return stream.getvalue()
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def archive(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Zip files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as out:
        for name, content in files.items():
            out.writestr(name, content)
    return stream.getvalue()


def npz_files(canary: Path) -> dict[str, Any]:
    """Challenge files."""
    image = npy(np.zeros((3, 8, 8), np.uint8))
    whole = archive({"imgs.npy": image})
    objects = np.empty((), object)

    def prompts(value: Any) -> bytes:
        objects[()] = value
        return archive({"imgs.npy": image, "text_prompts.npy": npy(objects)})

    def shaped(shape: str, data: bytes = b"", dtype: str = "|u1") -> bytes:
        header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}"
        return archive({"imgs.npy": npy(header=header, data=data)})

    def spacing(*sizes: float) -> bytes:
        return archive({"imgs.npy": image, "spacing.npy": npy(np.array(sizes))})

    large = bytearray(archive({"imgs.npy": image}, zipfile.ZIP_STORED))
    at = large.rfind(b"PK\x01\x02")
    large[at + 42 : at + 46] = b"\xff\xff\xff\x7f"
    return {
        "truncated.npz": whole[: len(whole) // 2],
        "no_directory.npz": whole[:-22],
        "member_beyond_the_end.npz": bytes(large),
        "no_array.npz": archive({"other.npy": image}),
        "not_numpy.npz": archive({"imgs.npy": b"GIF89a" * 20}),
        "system.npz": prompts(_Shell(canary)),
        "exec.npz": prompts({"1": _Python(canary)}),
        "system_in_array.npz": archive(
            {"imgs.npy": npy(np.array([_Shell(canary)], object))}
        ),
        "huge_shape.npz": shaped("(1000000, 1000000, 1000000)"),
        "overflowing_shape.npz": shaped("(4294967296, 4294967296, 4294967296)"),
        "negative_shape.npz": shaped("(-1, 8, 8)"),
        "shape_of_text.npz": shaped("('a', 8, 8)"),
        "code_in_header.npz": archive(
            {"imgs.npy": npy(header=f"__import__('os').system('touch {canary}')")}
        ),
        "deep_header.npz": archive({"imgs.npy": npy(header="(" * 9000)}),
        "bomb.npz": _npz_bomb(),
        "nan_spacing.npz": spacing(1, float("nan"), 1),
        "negative_spacing.npz": spacing(1, -1, 1),
        "two_spacings.npz": spacing(1, 1),
        "text_image.npz": archive({"imgs.npy": npy(np.full((3, 8, 8), "a"))}),
        "complex_image.npz": archive({"imgs.npy": npy(np.zeros((3, 8, 8), complex))}),
        "record_image.npz": archive(
            {"imgs.npy": npy(np.zeros((3, 8, 8), [("a", "u1"), ("b", "f4")]))}
        ),
        "float_labels.npz": archive({"gts.npy": npy(np.full((3, 8, 8), 0.5))}),
        "six_axes.npz": archive({"imgs.npy": npy(np.zeros((1,) * 6, np.uint8))}),
        "lzma_member.npz": archive({"imgs.npy": image}, zipfile.ZIP_LZMA),
        "traversal_only.npz": archive(
            {"../../imgs.npy": image, "/etc/imgs.npy": image}
        ),
    }


def _zeros(count: int) -> bytes:
    """Zeros as raw deflate, quickly made: one piece again and again."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = engine.compress(bytes(2**20)) + engine.flush(zlib.Z_FULL_FLUSH)
    return piece * (count // 2**20)


def _npz_bomb() -> bytes:
    """A plane of 1.6 GB zeros in a file of 1.6 MB."""
    rows, columns = 40_000, 40_000
    header = npy(
        header=f"{{'descr': '|u1', 'fortran_order': False, 'shape': (1, {rows}, "
        f"{columns})}}"
    )
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = engine.compress(header) + engine.flush(zlib.Z_FULL_FLUSH)
    packed += _zeros(rows * columns) + b"\x03\x00"
    crc = 0  # wrong, which would show at the end
    size, name = len(header) + rows * columns, b"imgs.npy"
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(packed), size, 8, 0)
    local = b"PK\x03\x04" + common + name + packed
    entry = b"PK\x01\x02\x14\x00" + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)
    return local + entry + b"PK\x05\x06" + end


def tiff_files() -> dict[str, Any]:
    """TIFF files, also with OME-XML that asks for too much."""
    voxels = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, 64, 64)

    def made(data: Any = voxels, **options: Any) -> bytes:
        stream = io.BytesIO()
        tifffile.imwrite(stream, data, photometric="minisblack", **options)
        return stream.getvalue()

    def ome(xml: str) -> bytes:
        return made(description=xml, metadata=None)

    def image(pixels: str, inside: str = "", before: str = "") -> bytes:
        return ome(
            '<?xml version="1.0"?>' + before + '<OME xmlns="http://www.openmicroscopy.'
            'org/Schemas/OME/2016-06" UUID="urn:uuid:1"><Image ID="Image:0"><Pixels '
            f'DimensionOrder="XYZCT" Type="uint8" {pixels}>{inside}</Pixels></Image>'
            "</OME>"
        )

    sizes = 'SizeX="64" SizeY="64" SizeZ="3" SizeC="1" SizeT="1"'

    def patched(data: bytes, tag: int, value: int, place: int = 8) -> bytes:
        """Set the value, or the count, of a tag of the first directory."""
        out = bytearray(data)
        (first,) = struct.unpack("<I", data[4:8])
        (count,) = struct.unpack("<H", data[first : first + 2])
        for i in range(count):
            at = first + 2 + 12 * i
            if struct.unpack("<H", data[at : at + 2])[0] == tag:
                if place == 8:
                    out[at + 2 : at + 8] = struct.pack("<HI", 4, 1)
                out[at + place : at + place + 4] = struct.pack("<I", value)
        return bytes(out)

    plain = made(voxels[0], metadata=None)
    zlib_ = made(voxels[0], compression="zlib", metadata=None)
    (first,) = struct.unpack("<I", plain[4:8])
    loop = bytearray(plain)
    loop[first : first + 2] = struct.pack("<H", 65535)
    companion = '<TiffData><UUID FileName="{}">urn:uuid:2</UUID></TiffData>'
    bombs = {f"{name}_bomb.tif": _tiff_bomb(name) for name in ("zlib", "zstd", "lzma")}
    return {
        "truncated.tif": plain[:20],
        "directory_beyond_the_end.tif": plain[:4] + b"\xff\xff\xff\x7f" + plain[8:],
        "many_tags.tif": bytes(loop),
        "huge_width.tif": patched(patched(plain, 256, 2**31 - 1), 257, 2**31 - 1),
        "wide_plane.tif": patched(patched(zlib_, 256, 10**6), 257, 10**6),
        "huge_count_of_strips.tif": patched(plain, 273, 2**31 - 1, 4),
        "zero_width.tif": patched(plain, 256, 0),
        "unknown_packing.tif": patched(plain, 259, 60000),
        "planes_claimed.tif": image(sizes, '<TiffData PlaneCount="4000000000"/>'),
        "sizes_claimed.tif": image(
            'SizeX="64" SizeY="64" SizeZ="2000000000" SizeC="9" SizeT="9"',
            "<TiffData/>",
        ),
        "companion_above.tif": image(sizes, companion.format("../secret.tif")),
        "companion_absolute.tif": image(sizes, companion.format("/etc/passwd")),
        "companion_escaped.tif": image(sizes, companion.format("&#46;./secret.tif")),
        "complex.tif": made(np.zeros((3, 8, 8), np.complex64)),
        **bombs,
    }


def _tiff_bomb(compression: str) -> bytes:
    """A page of 64 x 64 whose strip unpacks to a gigabyte or so."""

    packed = {
        "zlib": lambda: b"\x78\xda" + _zeros(3 * 2**29) + b"\x03\x00",
        "zstd": lambda: numcodecs.get_codec({"id": "zstd"}).encode(bytes(2**29)),
        "lzma": lambda: lzma.compress(bytes(2**24), preset=0) * 40,
    }[compression]()
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        iter([packed]),
        shape=(64, 64),
        dtype=np.uint8,
        photometric="minisblack",
        compression=compression,
        rowsperstrip=64,
        metadata=None,
    )
    return stream.getvalue()


def nifti_files() -> dict[str, Any]:
    """NIfTI files with odd headers."""
    import nibabel

    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
    whole = image.to_bytes()

    def changed(at: int, form: str, *values: Any) -> bytes:
        size = struct.calcsize(form)
        return whole[:at] + struct.pack(form, *values) + whole[at + size :]

    return {
        "truncated.nii": whole[:300],
        "voxels_missing.nii": whole[:400],
        "wrong_magic.nii": changed(344, "4s", b"abcd"),
        "huge_shape.nii": changed(40, "<4h", 3, 32767, 32767, 32767)[:352],
        "negative_shape.nii": changed(40, "<4h", 3, -4, 5, 6),
        "ten_axes.nii": changed(40, "<h", 10),
        "unknown_type.nii": changed(70, "<h", 9999),
        "rgb.nii": changed(70, "<hh", 128, 24),
        "complex.nii": changed(70, "<hh", 32, 64),
        "offset_of_terabytes.nii": changed(108, "<f", 1e12),
        "offset_nan.nii": changed(108, "<f", float("nan")),
        "offset_negative.nii": changed(108, "<f", -1000),
        "nan_spacing.nii": changed(80, "<3f", float("nan"), 1, 1),
        "infinite_spacing.nii": changed(80, "<3f", 1, float("inf"), 1),
        "huge_extension.nii": changed(108, "<f", 60000)[:348]
        + struct.pack("<4bii", 1, 0, 0, 0, 2**31 - 16, 6)
        + bytes(200),
        "bad_gzip.nii.gz": gzip.compress(whole)[:60] + b"\0" * 60,
        "cut_gzip.nii.gz": gzip.compress(np.random.default_rng(0).bytes(9000) + whole)[
            :5000
        ],
    }


def _v3(shape: list[int], chunks: list[int], *, codecs: Any = None, **more: Any) -> Any:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": codecs or [{"name": "bytes"}],
        "attributes": {},
        **more,
    }


def _v2(shape: list[int], chunks: list[int], **more: Any) -> Any:
    return {
        "zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": "|u1",
        "compressor": None, "fill_value": 0, "order": "C", "filters": None, **more,
    }  # fmt: skip


def zarr_files(canary: Path) -> dict[str, Any]:
    """Zarr folders, version 2 and 3, with and without OME's metadata."""
    cube = [3, 8, 8]
    chunk = bytes(3 * 8 * 8)
    shell = pickle.dumps(_Shell(canary))
    pickled = {"id": "pickle"}
    gzip_ = {"name": "gzip", "configuration": {"level": 5}}
    zstd = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
    blosc = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}
    sharding = {
        "chunk_shape": [1, 1, 1],
        "codecs": [{"name": "bytes"}],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }

    def array(metadata: Any, content: Any = chunk) -> Folder:
        name = "0.0.0" if metadata["zarr_format"] == 2 else "c/0/0/0"
        document = ".zarray" if metadata["zarr_format"] == 2 else "zarr.json"
        return {document: _json(metadata), name: content}

    def bomb(codec: Any) -> Folder:
        times = 32 if codec["id"] == "bz2" else 1  # slow to make
        packed = numcodecs.get_codec(codec).encode(bytes(2**29 // times)) * times
        return array(_v2(cube, cube, compressor=codec), packed)

    def bomb3(codecs: Any, packed: bytes) -> Folder:
        return array(_v3(cube, cube, codecs=[{"name": "bytes"}, *codecs]), packed)

    def image(attributes: Any, **files: Any) -> Folder:
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        return {"zarr.json": _json(group), "0": array(_v3(cube, cube)), **files}

    def multiscale(**changes: Any) -> Any:
        scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
        entry = {
            "axes": [{"name": a, "type": "space"} for a in "zyx"],
            "datasets": [{"path": "0", "coordinateTransformations": scale}],
        } | changes
        return {"ome": {"version": "0.5", "multiscales": [entry]}}

    def scaled(*values: Any, kind: str = "scale") -> Folder:
        transform = [{"type": kind, kind: list(values)}]
        sets = [{"path": "0", "coordinateTransformations": transform}]
        return image(multiscale(datasets=sets))

    def axes(*names: str) -> Folder:
        return image(multiscale(axes=[{"name": n, "type": "space"} for n in names]))

    twice = gzip.compress(gzip.compress(bytes(2**24)) * 32)
    group = _json({"zarr_format": 3, "node_type": "group", "attributes": {}})
    nested: Any = {"zarr.json": group}
    for _ in range(40):
        nested = {"zarr.json": group, "a": nested}
    label = multiscale()
    label["ome"]["image-label"] = {"version": "0.5"}
    floats = {"data_type": "float32", "fill_value": 0.0}
    return {
        "truncated.zarr": {"zarr.json": _json(_v3(cube, cube))[:40]},
        "no_json.zarr": {"zarr.json": b"\xff\xfe\x00garbage"},
        "deep_json.zarr": {"zarr.json": b"[" * 100_000},
        "deep_attributes.zarr": {
            "zarr.json": b'{"zarr_format":3,"node_type":"group","attributes":'
            + b'{"a":' * 50_000 + b"1" + b"}" * 50_001
        },
        "pickle_filter.zarr": array(_v2(cube, cube, filters=[pickled]), shell),
        "pickle_compressor.zarr": array(_v2(cube, cube, compressor=pickled), shell),
        "pickle_objects.zarr": array(
            _v2(cube, cube, dtype="|O", filters=[pickled]), shell
        ),
        "pickle_behind_text.zarr": array(
            _v2(cube, cube, dtype="|O", filters=[{"id": "vlen-utf8"}, pickled]), shell
        ),
        "unknown_codec.zarr": array(
            _v3(cube, cube, codecs=[{"name": "bytes"}, {"name": "os.system"}])
        ),
        "text_filter.zarr": array(
            _v2(cube, cube, filters=[
                {"id": "astype", "encode_dtype": "|u1", "decode_dtype": "<U1000000"}])
        ),
        "zlib_bomb.zarr": bomb({"id": "zlib", "level": 9}),
        "bz2_bomb.zarr": bomb({"id": "bz2", "level": 9}),
        "zstd_bomb.zarr": bomb({"id": "zstd", "level": 1}),
        "lz4_bomb.zarr": bomb({"id": "lz4", "acceleration": 1}),
        "blosc_bomb.zarr": bomb(blosc),
        "gzip_bomb.zarr": bomb3([gzip_], gzip.compress(bytes(2**24)) * 32),
        "zstd3_bomb.zarr": bomb3(
            [zstd], numcodecs.get_codec({"id": "zstd"}).encode(bytes(2**29))
        ),
        "nested_bomb.zarr": bomb3([gzip_, gzip_], twice),
        "cut_chunk.zarr": array(_v3(cube, cube), chunk[:50]),
        "million_million_chunks.zarr": array(_v3([10**12, 8, 8], [1, 8, 8])),
        "huge_shape.zarr": array(_v3([10**12] * 3, [64, 64, 64])),
        "huge_chunk.zarr": array(_v3([10**6] * 3, [10**6] * 3)),
        "tiny_chunks.zarr": array(_v3([4, 4096, 4096], [1, 1, 1])),
        "negative_shape.zarr": array(_v3([-3, 8, 8], cube)),
        "zero_chunks.zarr": array(_v3(cube, [0, 0, 0])),
        "huge_shard.zarr": array(
            _v3([10**5, 10**5, 8], [10**5, 10**5, 8],
                codecs=[{"name": "sharding_indexed", "configuration": sharding}])
        ),
        "text_array.zarr": array(_v2(cube, cube, dtype="<U9", fill_value="")),
        "forty_groups.zarr": nested,
        "loop.zarr": {"zarr.json": group, "again": Link(".")},
        "outer_loop.zarr": {"zarr.json": group, "again": Link("../outer_loop.zarr")},
        "chunk_is_a_link.zarr": array(_v3(cube, cube), Link("/etc/passwd")),
        "chunk_without_end.zarr": array(_v3(cube, cube), Link("/dev/zero")),
        "chunk_is_a_pipe.zarr": array(_v3(cube, cube), PIPE),
        "array_is_a_link.zarr": {
            "zarr.json": _json({"zarr_format": 3, "node_type": "group",
                                "attributes": multiscale(
                                    datasets=[{"path": "out"}])}),
            "out": Link("../cut_chunk.zarr"),
        },
        "path_above.zarr": image(multiscale(datasets=[{"path": "../cut_chunk.zarr"}])),
        "path_absolute.zarr": image(multiscale(datasets=[{"path": "/etc"}])),
        "path_missing.zarr": image(multiscale(datasets=[{"path": "7"}])),
        "no_datasets.zarr": image(multiscale(datasets=[])),
        "datasets_of_text.zarr": image(multiscale(datasets="0")),
        "no_path.zarr": image(multiscale(datasets=[{}])),
        "no_multiscales.zarr": image({"ome": {"version": "0.5", "multiscales": []}}),
        "multiscales_of_text.zarr": image({"ome": {"multiscales": "abc"}}),
        "negative_scale.zarr": scaled(1, -1, 1),
        "zero_scale.zarr": scaled(0, 1, 1),
        "nan_scale.zarr": scaled(1, float("nan"), 1),
        "infinite_scale.zarr": scaled(1, float("inf"), 1),
        "scale_of_text.zarr": scaled("a", "b", "c"),
        "scale_too_short.zarr": scaled(1, 1),
        "nan_translation.zarr": scaled(0, float("nan"), 0, kind="translation"),
        "affine.zarr": scaled(1, 0, 0, kind="affine"),
        "two_axes_for_three.zarr": axes("y", "x"),
        "four_axes_for_three.zarr": axes("c", "z", "y", "x"),
        "same_axes.zarr": axes("x", "x", "x"),
        "float_labels.zarr": image(label) | {"0": array(_v3(cube, cube, **floats))},
        "plate.zarr": image({"ome": {"plate": {"wells": []}}}),
    }  # fmt: skip


def weights_files(canary: Path) -> dict[str, Any]:
    """Checkpoints."""

    def saved(value: Any, *, old: bool = False) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream, _use_new_zipfile_serialization=not old)
        return stream.getvalue()

    def repacked(value: Any, **changes: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(saved(value))) as source:
            files = {name: source.read(name) for name in source.namelist()}
        for ending, content in changes.items():
            name = next(n for n in files if n.endswith(f"{ending}.pkl"))
            files[name] = content
        return archive(files, zipfile.ZIP_STORED)

    def header(value: Any, data: bytes = b"") -> bytes:
        text = value if isinstance(value, bytes) else _json(value)
        return struct.pack("<Q", len(text)) + text + data

    tensors = {"a": torch.ones(3)}
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    whole = saved(tensors)
    broad = torch.zeros(1).expand(10**6, 10**6)
    with zipfile.ZipFile(io.BytesIO(whole)) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    bomb = {n: bytes(2**28) if n.endswith("pkl") else c for n, c in parts.items()}
    lists = b"\x80\x02" + b"]" * 2_000_000 + b"."
    sizes = {"image_size": 10**9, "backbone_depths": [10**9] * 4}
    odd = {
        name: json.dumps({"backbone": "hiera", **one})
        for name, one in {
            "windows": {"backbone_windows": [2**20, 4, 14, 7]},
            "half_windows": {"backbone_windows": [0.5, 4, 14, 7]},
            "heads": {"backbone_heads": [5, 2, 4, 8]},
            "size": {"image_size": 100},
            "backbone": {"backbone": "resnet"},
        }.items()
    }
    return {
        "system.pt": saved(_Shell(canary)),
        "system_old.pt": saved(_Shell(canary), old=True),
        "exec.ckpt": saved({"state_dict": {"a": _Python(canary)}}),
        "bare_pickle.ckpt": pickle.dumps(_Shell(canary)),
        "swapped_pickle.pt": repacked(tensors, data=pickle.dumps(_Python(canary))),
        "many_lists.pt": repacked(tensors, data=lists),
        "truncated.pt": whole[: len(whole) // 2],
        "bomb.pt": archive(bomb),
        "broad_tensor.pt": saved({"a": broad}),
        "sparse_tensor.pt": saved({"a": torch.eye(3).to_sparse()}),
        "huge_network.ckpt": saved(
            {"state_dict": tensors, "hyper_parameters": {"config": sizes}}
        ),
        "odd_network.ckpt": saved(
            {"state_dict": tensors, "hyper_parameters": {"config": {"heads": 7}}}
        ),
        "model_of_models.pt": saved({"model": {"model": tensors}}),
        **{
            f"hiera_{name}.safetensors": header({"__metadata__": {"config": one}})
            for name, one in odd.items()
        },
        "truncated.safetensors": header({"a": entry})[:30],
        "no_data.safetensors": header({"a": entry}),
        "huge_header.safetensors": struct.pack("<Q", 2**60) + b"{}",
        "huge_shape.safetensors": header({"a": entry | {"shape": [2**62]}}, bytes(12)),
        "overlapping.safetensors": header({"a": entry, "b": entry}, bytes(12)),
        "deep_header.safetensors": header(b"{" * 50_000),
        "huge_config.safetensors": header(
            {"__metadata__": {"config": json.dumps(sizes)}, "a": entry}, bytes(12)
        ),
        "page.safetensors": b"<!DOCTYPE html><html>log in</html>",
    }


def run_files() -> dict[str, Any]:
    """Run folders."""
    output = {
        "shape": [3, 8, 8], "dtype": "uint8", "axis": 0, "thickness": 1,
        "ome_zarr": "0.5",
    }  # fmt: skip
    record = {
        "kind": "napari-biomedparse run", "version": 1, "source": {"path": "a"},
        "model": "tiny 0",
        "parameters": {"prompts": {"1": "liver"}, "instances": False},
        "output": output, "load": None, "environment": {}, "blocks": [],
        "finished": None,
    }  # fmt: skip

    def run(**changes: Any) -> Folder:
        return {"manifest.json": _json({**record, **changes})}

    block = {"start": 0, "stop": 1, "existence": [[0.5]], "voxels": [[1]],
             "checksum": "0"}  # fmt: skip
    return {
        "truncated.run": {"manifest.json": _json(record)[:99]},
        "list.run": {"manifest.json": b"[1, 2]"},
        "deep.run": {"manifest.json": b"[" * 100_000},
        "not_text.run": {"manifest.json": b"\xff\xfe\xfd"},
        "other_kind.run": run(kind="x"),
        "no_output.run": run(output={}),
        "huge_shape.run": run(output=output | {"shape": [10**12] * 3}),
        "huge_times.run": run(output=output | {"times": 10**12}),
        "negative_axis.run": run(output=output | {"axis": -7}),
        "parts_elsewhere.run": run(output=output | {"along": ["../../x"]}),
        "odd_block.run": run(blocks=[block | {"stop": 10**12}]),
        "odd_record.run": run() | {"blocks": {"00000000.json": b"{}"}},
        "no_prompts.run": run(parameters={"prompts": {}, "instances": False}),
    }


def picture_files() -> dict[str, Any]:
    """PNG, JPEG and BMP."""

    def saved(kind: str, edge: int = 64) -> bytes:
        stream = io.BytesIO()
        levels = np.arange(edge * edge, dtype=np.uint32).astype(np.uint8)
        Image.fromarray(levels.reshape(edge, edge)).save(stream, kind)
        return stream.getvalue()

    def png(*chunks: tuple[bytes, bytes]) -> bytes:
        found = b"\x89PNG\r\n\x1a\n"
        for name, data in chunks:
            found += struct.pack(">I", len(data)) + name + data
            found += struct.pack(">I", zlib.crc32(name + data))
        return found

    def sized(width: int, height: int, bits: int = 8, kind: int = 0) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
        return png((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))))

    text = b"a\0\0" + zlib.compress(bytes(10**8))
    whole = {kind: saved(kind) for kind in ("png", "jpeg", "bmp")}
    large_bmp = bytearray(whole["bmp"])
    large_bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    large_jpeg = bytearray(whole["jpeg"])
    at = large_jpeg.find(b"\xff\xc0")
    large_jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    return {
        **{f"truncated.{kind}": data[: len(data) // 2] for kind, data in whole.items()},
        **{f"header_only.{kind}": data[:30] for kind, data in whole.items()},
        "large.bmp": bytes(large_bmp),
        "large.jpeg": bytes(large_jpeg),
        "bomb.png": sized(13_000, 13_000),
        "colours_bomb.png": sized(9_000, 9_000, 16, 6),
        "just_allowed.png": sized(5_700, 5_700, 8, 6),
        "huge_header.png": sized(2**31 - 1, 2**31 - 1),
        "no_pixels.png": sized(0, 8),
        "odd_bits.png": sized(8, 8, 7, 5),
        "text_bomb.png": png((b"IHDR", whole["png"][16:29]), (b"zTXt", text)),
        "profile_bomb.png": png((b"IHDR", whole["png"][16:29]), (b"iCCP", text)),
        "jpeg_header_of_png.jpg": b"\xff\xd8\xff" + whole["png"],
    }


def dicom_files() -> dict[str, Any]:
    """DICOM files and series."""
    grey = np.zeros((16, 16), np.uint16)

    def saved(image: pydicom.Dataset) -> bytes:
        file = io.BytesIO()
        image.save_as(file, enforce_file_format=True)
        return file.getvalue()

    def made(**more: Any) -> bytes:
        return saved(header(grey, **more))

    def packed(syntax: str, *frames: bytes, **more: Any) -> bytes:
        image = header(grey.astype(np.uint8), **more)
        image.PixelData = encapsulate([*frames])
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = syntax
        return saved(image)

    def picture(kind: str, edge: int) -> bytes:
        file = io.BytesIO()
        Image.new("L", (edge, edge)).save(file, kind)
        return file.getvalue()

    def deflated(size: int) -> bytes:
        image = header(grey, PatientComments="x")
        image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        whole = saved(image)
        engine = zlib.compressobj(9, zlib.DEFLATED, -15)
        meta = 144 + int.from_bytes(whole[140:144], "little")
        return whole[:meta] + engine.compress(bytes(size)) + engine.flush()

    def nested(depth: int) -> bytes:
        whole, at = made(), 0
        at = whole.find(b"\x28\0\x02\0US")  # before the size of the image
        item = b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
        return whole[:at] + item * depth

    whole = made(SeriesDescription="a series")
    at = whole.find(b"\x08\0\x3e\x10LO")
    huge = whole[:at] + b"\x08\0\x3e\x10UT\0\0\xf0\xff\xff\xff" + whole[at + 8 :]
    jpeg, lossless = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
    wide = bytearray(picture("JPEG2000", 16))
    siz = wide.find(b"\xff\x4f\xff\x51") + 8
    wide[siz : siz + 8] = struct.pack(">II", 13_000, 13_000)
    placed = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    return {
        "truncated.dcm": whole[: len(whole) // 2],
        "without_pixels.dcm": whole[: whole.find(b"\xe0\x7f\x10\0")],
        "magic_only.dcm": bytes(128) + b"DICM",
        "wide.dcm": made(Rows=65535, Columns=65535),
        "no_rows.dcm": made(Rows=0),
        "many_frames.dcm": made(NumberOfFrames=2**31 - 1),
        "fewer_than_no_frames.dcm": made(NumberOfFrames=-1),
        "odd_bits.dcm": made(BitsAllocated=13),
        "many_samples.dcm": made(SamplesPerPixel=999),
        "scaled_to_infinity.dcm": made(RescaleSlope="1e308", RescaleIntercept="1e999"),
        "no_syntax.dcm": whole.replace(
            b"1.2.840.10008.1.2.1\0", b"1.2.3\0" + bytes(14)
        ),
        "video.dcm": packed("1.2.840.10008.1.2.4.102", b"a video"),
        "huge_text.dcm": huge,
        "nested.dcm": nested(50_000),
        "deflate_bomb.dcm": deflated(3 * 10**8),
        "palette_without_colours.dcm": made(PhotometricInterpretation="PALETTE COLOR"),
        "wide_rle.dcm": packed(
            "1.2.840.10008.1.2.5", bytes(64), Rows=60000, Columns=60000
        ),
        "rle_of_nothing.dcm": packed("1.2.840.10008.1.2.5", b"\xff" * 64),
        "jpeg_of_another_size.dcm": packed(jpeg, picture("JPEG", 4000)),
        "jpeg_2000_bomb.dcm": packed(lossless, bytes(wide[siz - 8 :])),
        "jpeg_2000_with_two_sizes.dcm": packed(lossless, bytes(wide)),
        "frames_without_end.dcm": packed(jpeg, b"\xff\xd8", NumberOfFrames=2),
        "two_series": {
            "1": made(SeriesInstanceUID="1.2.4"),
            "2": made(SeriesInstanceUID="1.2.5"),
        },
        "one_place": {
            name: made(ImagePositionPatient=[0, 0, 1], **placed) for name in "12"
        },
        "nowhere": {"1": made(), "2": made()},
        "with_a_damaged_one": {"1": made(), "2": whole[: len(whole) // 2]},
    }


def other_files() -> dict[str, Any]:
    """What is no file of a known kind, and prompts."""
    return {
        "empty.npz": b"",
        "pointer.tif": b"version https://git-lfs.github.com/spec/v1\n",
        "pipe.npz": PIPE,
        "device.npz": Link("/dev/zero"),
        "link_to_nothing.npz": Link("nowhere"),
        "link_to_itself.npz": Link("link_to_itself.npz"),
        "number.json": b"5",
        "no_prompt.json": b"[]",
        "empty_prompt.json": b'["", "a"]',
        "large_id.json": b'{"99999999999": "a"}',
        "text_id.json": b'{"liver": "a"}',
        "number_as_text.json": b'{"1": 5}',
        "separator.json": b'["a [SEP] b"]',
    }


def make_corpus(folder: Path, canary: Path) -> list[tuple[str, Path]]:
    """Write every hostile file; return the door and path of each."""
    kinds: list[tuple[str, str, Mapping[str, Any]]] = [
        ("data", "npz", npz_files(canary)),
        ("data", "tiff", tiff_files()),
        ("data", "nifti", nifti_files()),
        ("data", "zarr", zarr_files(canary)),
        ("checkpoint", "weights", weights_files(canary)),
        ("run_folder", "runs", run_files()),
        ("data", "pictures", picture_files()),
        ("data", "dicom", dicom_files()),
        ("data", "others", other_files()),
    ]
    found = []
    for door, kind, files in kinds:
        for name, content in files.items():
            path = folder / kind / name
            write(content, path)
            found.append(("prompts" if path.suffix == ".json" else door, path))
    return found
