"""Check that a fixed list of runs still gives the same bits.

    python tests/same_bits.py write FOLDER          # with the code to compare with
    python tests/same_bits.py compare FOLDER        # with the code at hand

``write`` keeps the arrays of each run as ``FOLDER/threads-N/RUN.npz`` and their
SHA-256 sums as ``sums.json`` beside them. ``compare`` does the runs again and says of
each whether it is the same; it exits with 1 if any is not. Rounding depends on the
number of threads, so the arrays are kept by that number, which ``OMP_NUM_THREADS``
sets.

``--full FILE`` adds two slices of a CT volume through a network of full size (3 GB of
memory). The file is made with random weights from a fixed seed if it is missing.
Choose single runs with ``--only``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import tifffile
import torch

import napari_biomedparse as biomedparse
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.networks.config import V2
from napari_biomedparse.networks.synthetic import synthetic_state_dict
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.pipeline import preview as previews
from napari_biomedparse.pipeline.loop import run_plan
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.pipeline.scores import ScoreStore, resolve_again
from napari_biomedparse.pipeline.segment import collect

Arrays = dict[str, npt.NDArray[Any]]
ROOTS = (Path(__file__).resolve().parents[2], Path("/work"))
NUCLEI = {1: "nuclei in fluorescence microscopy", 2: "background", 7: "cell"}
TISSUE = {3: "mitochondria in electron microscopy", 9: "membrane", 4: "nucleus"}


def main() -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["write", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", type=Path, metavar="SAFETENSORS")
    parser.add_argument("--only", nargs="+", default=[], metavar="RUN")
    chosen = parser.parse_args()
    folder = chosen.folder / f"threads-{torch.get_num_threads()}"
    print(f"{biomedparse.__file__}, {torch.get_num_threads()} threads", flush=True)
    runs = list_runs() | (full_runs(chosen.full) if chosen.full else {})
    wanted = {name: run for name, run in runs.items() if name in chosen.only}
    work = write if chosen.what == "write" else compare
    return work(folder, wanted or runs)


def write(folder: Path, runs: Mapping[str, Callable[[], Arrays]]) -> int:
    """Do all runs and keep their arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sums.json"
    sums = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name, run in runs.items():
        begin = time.monotonic()
        found = run()
        np.savez_compressed(folder / f"{name}.npz", **found)  # type: ignore[arg-type]
        sums[name] = {key: checksum(value) for key, value in found.items()}
        content = ", ".join(f"{k} {describe(v)}" for k, v in found.items())
        print(f"{name}: {content} ({time.monotonic() - begin:.1f} s)", flush=True)
    path.write_text(json.dumps(sums, indent=1), "utf-8")
    return 0


def compare(folder: Path, runs: Mapping[str, Callable[[], Arrays]]) -> int:
    """Do all runs again and report which differ."""
    sums = json.loads((folder / "sums.json").read_text("utf-8"))
    different = 0
    for name, run in runs.items():
        begin = time.monotonic()
        try:
            problems = differences(folder / f"{name}.npz", sums.get(name), run())
        except Exception as error:  # the other runs are worth knowing, too
            problems = [f"{type(error).__name__}: {error}"]
        different += bool(problems)
        verdict = f"DIFFERENT ({'; '.join(problems)})" if problems else "same"
        print(f"{name}: {verdict} ({time.monotonic() - begin:.1f} s)", flush=True)
    print(f"{len(runs) - different} of {len(runs)} are the same")
    return int(different > 0)


def differences(
    path: Path, sums: Mapping[str, str] | None, found: Mapping[str, npt.NDArray[Any]]
) -> list[str]:
    """Say in words which arrays differ from those that were kept."""
    if sums is None:
        return ["this run was not written"]
    problems = []
    with np.load(path) as kept:
        for key in sorted(kept.keys() | found.keys()):
            if key not in kept or key not in found:
                problems.append(f"{key} is {'new' if key in found else 'missing'}")
                continue
            before, now = kept[key], found[key]
            if checksum(before) != sums[key]:
                problems.append(f"the kept {key} is damaged")
            if checksum(before) != checksum(now):
                problems.append(f"{key} {_how_different(before, now)}")
    return problems


def _how_different(before: npt.NDArray[Any], now: npt.NDArray[Any]) -> str:
    if (before.shape, before.dtype) != (now.shape, now.dtype):
        return f"was {before.dtype} {before.shape}, is {now.dtype} {now.shape}"
    other = ~((before == now) | ((before != before) & (now != now)))
    return f"at {int(other.sum())} of {other.size} places"


def checksum(array: npt.NDArray[Any]) -> str:
    """Compute the SHA-256 sum of an array's type, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def describe(array: npt.NDArray[Any]) -> str:
    """Say how much there is in an array, so that empty runs are noticed."""
    if array.dtype.kind == "f":
        return f"{np.nanmin(array):.3g}..{np.nanmax(array):.3g}"
    return f"{len(np.unique(array))} values"


def list_runs() -> dict[str, Callable[[], Arrays]]:
    """Return all quick runs by name; volumes and models are made once."""
    runs: dict[str, Callable[[], Arrays]] = {}
    nuclei, tissue = nuclei_volume(), tissue_volume()
    volumes = {
        "demo": (nuclei, NUCLEI, biomedparse.load_model("demo")),
        "tiny": (tissue, TISSUE, biomedparse.load_model("tiny")),
    }
    for name, (volume, prompts, model) in volumes.items():
        for run, work in _runs_of(volume, prompts, model).items():
            runs[f"{name}_{run}"] = work
    return runs


def _runs_of(
    volume: npt.NDArray[Any], prompts: Mapping[int, str], model: Any
) -> dict[str, Callable[[], Arrays]]:
    """Return the runs of one model by name."""
    series = np.stack([volume[:3], volume[2:5], volume[1:4]])
    film = biomedparse.Volume(
        series, ("t", "z", "y", "x"), (1.0,) * 4, ("pixel",) * 4, (0.0,) * 4, "film"
    )
    cube = np.ascontiguousarray(volume[:6, 8:20, 4:14])
    lazy = da.from_array(volume, chunks=(3, *volume.shape[1:]))  # type: ignore[no-untyped-call]

    def plain(data: Any = volume, **options: Any) -> Callable[[], Arrays]:
        return lambda: arrays_of(
            biomedparse.segment(data, prompts, model, device="cpu", **options)
        )

    def kept(data: Any, **options: Any) -> Callable[[], Arrays]:
        return lambda: folder_run(data, prompts, model, **options)

    return {
        "plain": plain(),
        "instances": plain(instances=True, edge_threshold=0.6, minimum_size=3),
        "lazy": plain(lazy, instances=True, batch_size=2),
        "axis": plain(axis="x", slices=(3, 9), seed=5, existence_threshold=0.05),
        "image": plain(volume[2], existence_threshold=0.2),
        "colour": plain(np.stack([volume[1], volume[2], volume[3]], axis=-1)),
        "wide_values": plain(volume.astype(np.uint16) * 37 + 11, modality="auto"),
        "tiles": plain(tile=32, instances=True),
        "region": plain(region="y=10:42,x=4:40"),
        "in_order": plain(overlaps="order", overlap_threshold=0.1),
        "separate": plain(overlaps="separate", existence_threshold=0.3),
        "promised": lambda: {
            "labels": np.asarray(
                biomedparse.segment_lazy(volume, prompts, model, device="cpu")
            )
        },
        "series": plain(film, instances=True),
        "consensus": plain(cube, instances=True, consensus=True),
        "folder": kept(volume, instances=True),
        "folder_series": kept(film, instances=True),
        "folder_consensus": kept(cube, instances=True, consensus=True),
        "preview": lambda: preview(volume, prompts, model),
        "preview_tiles": lambda: preview(volume, prompts, model, tile=32),
        "moved_threshold": lambda: moved_threshold(volume, prompts, model),
        "from_the_eye": lambda: from_the_eye(volume, prompts, model),
    }


def full_runs(weights: Path) -> dict[str, Callable[[], Arrays]]:
    """Return the run of the network of full size, whose weights are made if missing."""
    if not weights.exists():
        make_full_weights(weights)
    path = shared("data/challenge_npz/imgs/CT_AMOS_amos_0018.npz")
    prompts = biomedparse.open_file(path).prompts
    assert prompts is not None

    def run() -> Arrays:
        return arrays_of(
            biomedparse.segment(
                biomedparse.open_volume(path),
                prompts,
                weights,
                slices=(30, 32),
                instances=True,
                device="cpu",
            )
        )

    return {"full_ct": run}


def make_full_weights(path: Path) -> None:
    """Write random weights of the network of full size, from fixed seeds."""
    config = V2
    shapes = {k: v.shape for k, v in BiomedParse.unfilled(config).state_dict().items()}
    tensors = synthetic_state_dict(shapes)
    save_weights(path, tensors, {"name": "synthetic v2"}, config)


def folder_run(volume: Any, prompts: Any, model: Any, **options: Any) -> Arrays:
    """Segment into a folder and read it back."""
    with tempfile.TemporaryDirectory() as folder:
        run = biomedparse.segment_to_folder(
            volume, prompts, Path(folder) / "run", model, device="cpu", **options
        )
        found = arrays_of(run) | {"voxels": np.asarray(run.voxels)}
        for path in sorted(run.folder.glob("*.ome.zarr")):
            level = da.from_zarr(path / "s0")  # type: ignore[no-untyped-call]
            found[f"file_{path.name.partition('.')[0]}"] = np.asarray(level)
        return found


def preview(volume: Any, prompts: Any, model: Any, **options: Any) -> Arrays:
    """Segment one slice, twice, as the engine remembers it."""
    engine = Engine(model, "cpu", precision="float32")
    plan = _plan(volume, prompts, engine, **options)
    found: Arrays = {}
    for time_, index in (("first", 2), ("again", 2)):
        seen, probabilities = previews.preview(plan, engine, index)
        found[f"{time_}_labels"] = seen.labels.take(0, axis=seen.axis - 3)
        found[f"{time_}_scores"] = np.asarray(probabilities)
        found[f"{time_}_existence"] = seen.existence[:, 0]
    return found


def moved_threshold(volume: Any, prompts: Any, model: Any) -> Arrays:
    """Keep the scores of a run and make labels by other thresholds from them."""
    engine = Engine(model, "cpu", precision="float32")
    plan = _plan(volume, prompts, engine, instances=True)
    store = ScoreStore(plan)
    try:
        for _ in run_plan(plan, engine, front=lambda: 3, keep=store.add):
            pass
        changes = {"existence_threshold": 0.3, "overlaps": "order", "minimum_size": 2}
        moved = replace(plan, options=replace(plan.options, **changes))
        parts = resolve_again(moved, store)
        found = arrays_of(collect(moved, parts, "network", "float32"))
        scores = store.load(2)
        names = ("mask_scores", "edge_scores", "existence_scores")
        for name, value in zip(names, scores[:3], strict=True):
            found[name] = value.numpy()
    finally:
        store.close()
    return found


def from_the_eye(volume: Any, prompts: Any, model: Any) -> Arrays:
    """Segment the slices next to one in view first."""
    parts = list(
        biomedparse.iter_segment(
            volume, prompts, model, device="cpu", batch_size=2, front=lambda: 3
        )
    )
    ordered = sorted(parts, key=lambda part: part.start)
    return {
        "order": np.array([part.start for part in parts]),
        "labels": np.concatenate([part.labels for part in ordered]),
        "existence": np.concatenate([part.existence for part in ordered], axis=1),
    }


def _plan(volume: Any, prompts: Any, engine: Any, **options: Any) -> Any:
    chosen = biomedparse.SegmentOptions(**options)
    return plan_run(volume, prompts, chosen, config=engine.model.config)


def arrays_of(result: Any) -> Arrays:
    """Return the arrays of any kind of result under the same names."""
    found = {"labels": np.asarray(result.labels)}
    if result.instances is not None:
        found["instances"] = np.asarray(result.instances)
    for number, one in enumerate(existence_of(result.existence, result.labels)):
        found[f"existence_{number}"] = one
    return found


def existence_of(existence: Any, labels: Any) -> Iterable[npt.NDArray[np.float32]]:
    """Return existence as a list of arrays: one, or one for each time point or axis.

    That of a consensus has NaN after the end of a shorter axis.
    """
    array = np.asarray(existence)
    if array.ndim == 2:
        return [array]
    rows = list(np.moveaxis(array, 1, 0))
    if np.ndim(labels) == 4:  # time points are of one length
        return rows
    return [row[:, : _used(row)] for row in rows]


def _used(row: npt.NDArray[np.float32]) -> int:
    return int(np.flatnonzero(~np.isnan(row).all(axis=0)).max(initial=-1)) + 1


def nuclei_volume() -> npt.NDArray[np.uint8]:
    """Cut a few slices out of a microscopy volume and make them 8 bits."""
    path = shared("data/nuclei/stardist_img3d.tif")
    grey = tifffile.imread(path)
    middle = [(n - min(n, size)) // 2 for n, size in zip(grey.shape, (7, 48, 44))]  # noqa: B905
    z, y, x = middle
    part = grey[z : z + 7, y : y + 48, x : x + 44].astype(np.float64)
    low, high = part.min(), np.percentile(part, 99.5)
    return np.clip((part - low) / (high - low) * 255, 0, 255).astype(np.uint8)


def tissue_volume() -> npt.NDArray[np.uint8]:
    """Draw blobs on noise."""
    rng = np.random.default_rng(7)
    z, y, x = np.mgrid[:7, :48, :44]
    grey = rng.normal(90, 12, z.shape)
    for _ in range(9):
        at = rng.uniform((0, 4, 4), (7, 44, 40))
        size = rng.uniform((1.5, 3, 3), (3, 8, 8))
        distance = sum(((a - c) / s) ** 2 for a, c, s in zip((z, y, x), at, size))  # noqa: B905
        grey += rng.choice([-50, 70]) * (distance < 1)
    return np.clip(grey, 0, 255).astype(np.uint8)


def shared(name: str) -> Path:
    """Find a sample file beside the repository."""
    for root in ROOTS:
        if (root / "shared" / name).exists():
            return root / "shared" / name
    raise SystemExit(f"There is no shared/{name} beside the repository.")


if __name__ == "__main__":
    sys.exit(main())
