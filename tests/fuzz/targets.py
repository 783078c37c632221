"""What is damaged, and by which door it comes in."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fuzz import seeds
from fuzz.mutate import (
    Files,
    mutate_bytes,
    mutate_file,
    mutate_files,
    mutate_json,
    unzipped,
    zipped,
)
from fuzz.structures import STRUCTURES, draw, write
from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Target:
    """One reader with its seeds: makes a damaged file or folder at random."""

    name: str
    door: str
    suffix: str
    make: Callable[[Random], bytes | Files]

    def write(self, rng: Random, folder: Path) -> Path:
        """Write a damaged file or folder, and return it."""
        path = folder / f"input{self.suffix}"
        write(self.make(rng), path)
        return path


def all_targets(scratch: Path, shared: Path) -> list[Target]:
    """Make every target; takes some seconds."""
    more = seeds.shared_seeds(shared)
    npz = seeds.npz_seeds(scratch) + more["npz"]
    tiff = seeds.tiff_seeds(scratch) + more["tiff"]
    nifti = seeds.nifti_seeds(scratch) + more["nifti"]
    zarr = seeds.zarr_seeds(scratch)
    weights = seeds.checkpoint_seeds(scratch)
    runs = seeds.run_seeds(scratch)
    prompts = [seeds.PROMPTS, ["a b", "c d"], "one\ntwo"]
    return [
        Target("npz", "data", ".npz", lambda rng: _npz(rng.choice(npz), rng)),
        Target(
            "tiff",
            "data",
            ".tif",
            lambda rng: mutate_bytes(rng.choice(tiff), rng, 2048),
        ),
        Target(
            "nifti", "data", ".nii", lambda rng: mutate_bytes(rng.choice(nifti), rng)
        ),
        Target("nifti.gz", "data", ".nii.gz", lambda rng: _packed(nifti, rng)),
        Target(
            "zarr", "data", ".zarr", lambda rng: mutate_files(rng.choice(zarr), rng)
        ),
        Target("checkpoint", "checkpoint", ".pt", lambda rng: _weights(weights, rng)),
        Target(
            "run", "run_folder", ".run", lambda rng: mutate_files(rng.choice(runs), rng)
        ),
        Target(
            "prompts",
            "prompts",
            ".json",
            lambda rng: json.dumps(mutate_json(rng.choice(prompts), rng)).encode(),
        ),
        *(
            Target(name, door, suffix, _Drawn(strategy, make))
            for name, (strategy, door, suffix, make) in STRUCTURES.items()
        ),
    ]


class _Drawn:
    """Structures of hypothesis, drawn fifty at a time."""

    def __init__(
        self, strategy: SearchStrategy[Any], make: Callable[[Any], bytes | Files]
    ) -> None:
        self.strategy, self.make = strategy, make
        self.values: list[Any] = []

    def __call__(self, rng: Random) -> bytes | Files:
        self.values = self.values or draw(self.strategy, rng, 50)
        return self.make(self.values.pop())


def _npz(seed: bytes, rng: Random) -> bytes:
    """Damage an archive, or a member of it under a correct checksum."""
    if rng.random() < 0.3:
        return mutate_bytes(seed, rng)
    files = unzipped(seed)
    name = rng.choice(sorted(files))
    files[name] = mutate_bytes(files[name], rng, 256)
    return zipped(files, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _packed(seeds_: list[bytes], rng: Random) -> bytes:
    seed = rng.choice(seeds_)
    if rng.random() < 0.2:
        return mutate_bytes(gzip.compress(seed, 1), rng)
    return gzip.compress(mutate_bytes(seed, rng), 1)


def _weights(seeds_: list[bytes], rng: Random) -> bytes:
    """Damage a checkpoint, inside its archive or inside its safetensors header."""
    seed = rng.choice(seeds_)
    if rng.random() < 0.3:
        return mutate_bytes(seed, rng)
    if seed.startswith(b"PK"):
        files = unzipped(seed)
        name = next(n for n in files if n.endswith("data.pkl"))
        files[name] = mutate_bytes(files[name], rng)
        return zipped(files)
    if seed[8:9] == b"{":
        size = int.from_bytes(seed[:8], "little")
        header = mutate_file("header", seed[8 : 8 + size], rng)
        return len(header).to_bytes(8, "little") + header + seed[8 + size :]
    return mutate_bytes(seed, rng)
