"""Small whole files of every kind that is read, as seeds of the damaged ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import tifffile
import torch
import zarr
from fuzz.mutate import Files

from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.io import save_labels

VOXELS = np.arange(3 * 24 * 20, dtype=np.uint16).reshape(3, 24, 20) % 300
PROMPTS = {"1": "liver in CT", "2": "spleen in CT", "instance_label": 0}
VOLUME = Volume(
    VOXELS, ("z", "y", "x"), (2.0, 0.5, 0.5), ("micrometer",) * 3, (0.0,) * 3
)


def npz_seeds(folder: Path) -> list[bytes]:
    """Challenge files: prompts pickled, prompts in arrays, labels."""
    boxed = np.empty((), object)
    boxed[()] = PROMPTS
    common = {"imgs": VOXELS.astype(np.uint8), "spacing": np.array([0.5, 0.5, 2.0])}
    path = folder / "seed.npz"
    found = []
    for save, extra in (
        (np.savez, {"text_prompts": boxed, "gts": np.uint8(VOXELS % 3)}),
        (np.savez_compressed, {"text_prompts": boxed}),
        (np.savez_compressed, {"prompt_ids": [1, 2], "prompt_texts": ["a b", "c d"]}),
    ):
        save(path, **common, **extra)
        found.append(path.read_bytes())
    save_labels(
        path, VOXELS % 3, volume=VOLUME, prompts=parse_prompts(PROMPTS), overwrite=True
    )
    return [*found, path.read_bytes()]


def tiff_seeds(folder: Path) -> list[bytes]:
    """TIFF files of many kinds."""
    path = folder / "seed.tif"
    ways = [
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 2.0, "unit": "um"}},
        {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.5}},
        {"ome": True, "compression": "zlib", "metadata": {"axes": "CYX"}},
        {"compression": "lzw", "predictor": True},
        {"compression": "zstd", "tile": (16, 16)},
        {"compression": "zlib", "rowsperstrip": 5, "resolution": (100, 100)},
        {"compression": "lzma"},
        {"compression": "packbits"},
    ]
    found = []
    for way in ways:
        first = {k: way.pop(k) for k in ("bigtiff", "byteorder", "imagej", "ome")
                 if k in way}  # fmt: skip
        with tifffile.TiffWriter(path, **first) as writer:
            writer.write(VOXELS, **way)
        found.append(path.read_bytes())
    for compression in ("jpeg", "jpeg2000", "png", "webp"):
        try:
            tifffile.imwrite(
                path,
                np.uint8(VOXELS[0])[..., None].repeat(3, -1),
                photometric="rgb",
                compression=compression,
            )
        except (ValueError, KeyError):
            continue  # a codec that this imagecodecs lacks
        found.append(path.read_bytes())
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(VOXELS, subifds=1, metadata={"axes": "ZYX"})
        writer.write(VOXELS[:, ::2, ::2], subfiletype=1)
    found.append(path.read_bytes())
    save_labels(
        path, VOXELS % 3, volume=VOLUME, prompts=parse_prompts(PROMPTS), overwrite=True
    )
    return [*found, path.read_bytes()]


def nifti_seeds(folder: Path) -> list[bytes]:
    """NIfTI-1 and -2, little and big end first, with an extension, unpacked."""
    import nibabel

    path = folder / "seed.nii"
    save_labels(
        path, VOXELS % 3, volume=VOLUME, prompts=parse_prompts(PROMPTS), overwrite=True
    )
    found = [path.read_bytes()]
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for shape in ((20, 24), (20, 24, 3), (10, 12, 3, 2)):
            values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
            image = kind(values, np.diag([0.5, 0.5, 2, 1]))
            nibabel.save(image, path)
            found.append(path.read_bytes())
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.float32)
    nibabel.save(nibabel.Nifti1Image(np.float32(VOXELS.T), np.eye(4), header), path)
    return [*found, path.read_bytes()]


def zarr_seeds(folder: Path) -> list[Files]:
    """OME-Zarr and plain Zarr, versions 2 and 3, sharded, with many codecs."""
    found = []
    path = folder / "seed.zarr"
    save_labels(
        path, VOXELS % 3, volume=VOLUME, prompts=parse_prompts(PROMPTS), overwrite=True
    )
    found.append(read_folder(path))
    for number, (version, more) in enumerate(
        (
            (2, {}),
            (2, {"compressors": None}),
            (3, {}),
            (3, {"compressors": zarr.codecs.BloscCodec()}),
            (3, {"compressors": zarr.codecs.GzipCodec()}),
            (3, {"shards": (2, 24, 20)}),
        )
    ):
        path = folder / f"seed{number}.zarr"
        group = zarr.create_group(store=str(path), zarr_format=version, overwrite=True)
        array = group.create_array(
            "s0", shape=VOXELS.shape, dtype=VOXELS.dtype, chunks=(1, 12, 20), **more
        )
        array[...] = VOXELS
        labels = group.create_group("labels")
        organs = labels.create_group("organs")
        organs.create_array("0", shape=VOXELS.shape, dtype="u1", chunks=(1, 24, 20))[
            ...
        ] = np.uint8(VOXELS % 3)
        for node, name in ((group, "s0"), (organs, "0")):
            scale = [{"type": "scale", "scale": [2.0, 0.5, 0.5]}]
            axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
            sets = [{"path": name, "coordinateTransformations": scale}]
            image = {"version": "0.4", "name": "n", "axes": axes, "datasets": sets}
            attributes = {"multiscales": [image]}
            if node is organs:
                attributes["image-label"] = {  # type: ignore[assignment]
                    "colors": [{"label-value": 1, "rgba": [1, 2, 3, 255]}],
                    "properties": [{"label-value": 1, "name": "liver"}],
                }
            node.attrs.update(attributes if version == 2 else {"ome": attributes})
        labels.attrs.update(
            {"labels": ["organs"]} if version == 2 else {"ome": {"labels": ["organs"]}}
        )
        found.append(read_folder(path))
    return found


def checkpoint_seeds(folder: Path) -> list[bytes]:
    """Checkpoints of PyTorch in both formats, one like Lightning's; safetensors."""
    from napari_biomedparse.networks.checkpoint import save_weights
    from napari_biomedparse.networks.config import TINY

    path = folder / "seed.pt"
    tensors = {"a.weight": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.float16)}
    found = []
    for content, zip_it in (
        (tensors, True),
        (tensors, False),
        ({"state_dict": {f"model.{k}": v for k, v in tensors.items()},
          "hyper_parameters": {"config": {"dim": 32}}, "epoch": 1}, True),
    ):  # fmt: skip
        torch.save(content, path, _use_new_zipfile_serialization=zip_it)
        found.append(path.read_bytes())
    save_weights(path, tensors, {"made": "here"}, TINY)
    return [*found, path.read_bytes()]


def run_seeds(folder: Path) -> list[Files]:
    """Run folders: finished, and interrupted after a block."""
    from napari_biomedparse import segment_to_folder

    out = folder / "run"
    segment_to_folder(VOLUME, PROMPTS, out, "tiny", batch_size=4)
    finished = read_folder(out)
    record = json.loads(finished["manifest.json"])
    (block, *_), record["blocks"], record["finished"] = record["blocks"], [], None
    begun = finished | {
        "manifest.json": json.dumps(record).encode(),
        "blocks/00000000.json": json.dumps(block).encode(),
    }
    return [finished, begun]


def read_folder(path: Path) -> Files:
    """Read all files of a folder."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def write_folder(files: Files, path: Path) -> None:
    """Write files into a folder, those that fit into it."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def shared_seeds(folder: Path) -> dict[str, list[bytes]]:
    """Files of the shared sample data that are small enough to be damaged often."""
    found: dict[str, list[bytes]] = {"tiff": [], "nifti": [], "npz": []}
    endings = {".tif": "tiff", ".nii": "nifti", ".gz": "nifti", ".npz": "npz"}
    for path in sorted(folder.glob("data/*/**/*")) if folder.is_dir() else ():
        kind = endings.get(path.suffix)
        if kind and path.is_file() and path.stat().st_size < 250_000:
            data = path.read_bytes()
            found[kind].append(gzip.decompress(data) if path.suffix == ".gz" else data)
    return found
