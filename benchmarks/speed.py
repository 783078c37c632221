"""Measure the product against the network as the original evaluates it (naive.py).

One command prints a table and writes JSON:

    taskset -c 0,1 python benchmarks/speed.py --threads 2 --json speed.json
    python benchmarks/speed.py --config tiny            # a quick try
    python benchmarks/speed.py --device cuda --json speed.json     # all for a GPU

The network is the full-size one with synthetic weights, or a weights file. A volume of
noise (CT-sized slices) goes from a file through the product's own loop to a file;
slices x prompts x repeats are done by turns with the naive mode, and medians are taken.
Peak memory includes torch and the weights, as far as they were touched. The class
templates are measured on --classes of the 17 classes and scaled. A volume of 63 slices
with 15 prompts is calculated from the measured times of a slice and of the texts; on a
GPU, or with --case, it is also run from file to file, as a user of the original did
(12.4 slices/s and 8.3 GiB on an L40S), once in the naive mode, and with 21 slices,
whose peak of memory tells whether that depends on the depth.
FLOP are those of the operations really done, counted by torch; the share is of the
speed of a large matrix product in the same precision, measured in the same run.

README.md beside this file says what was tried and not taken, and what only a GPU can
show; gpu.py runs all of that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import naive
import numpy as np
import tifffile
import torch
from measures import (
    STAGES,
    TEXTS,
    Clock,
    ceilings,
    gflop,
    original,
    product,
    second_prompt,
)

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.networks.config import V2
from napari_biomedparse.networks.weights import _build, load_model

if TYPE_CHECKING:
    from napari_biomedparse.networks.v2.biomedparse import BiomedParse

NAIVE_BATCH = 4
"""Slices at once of the naive mode, which keeps ten full-size masks of each prompt."""
VOLUME = (63, 15)
"""Slices and prompts of the case that a user measured with the original."""


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Take medians of times and the highest peaks."""
    return {
        "seconds": statistics.median(run["seconds"] for run in runs),
        "stages": {
            name: statistics.median(run["stages"][name] for run in runs)
            for name in STAGES
        },
        "memory": {
            name: max(run["memory"][name] for run in runs) for name in runs[0]["memory"]
        },
    }


def user_case(
    engine: Engine, path: Path, batch: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Run the case that a user measured with the original, and a third of it."""
    depth, count = VOLUME
    found: dict[str, Any] = {}
    for slices in (depth // 3, depth):
        _write_noise(path, slices, args.size)
        runs = [
            product(engine, path, TEXTS[:count], batch, stages=False)
            for _ in range(args.repeats)
        ]
        seconds = statistics.median(run["seconds"] for run in runs)
        found[f"{slices} slices"] = {
            "seconds": seconds,
            "slices_a_second": slices / seconds,
            "first_batch_seconds": statistics.median(r["first_batch"] for r in runs),
            "memory": {
                name: max(run["memory"][name] for run in runs)
                for name in runs[0]["memory"]
            },
        }
    if not args.no_naive:  # the volume of the last turn
        once = original(engine, path, TEXTS[:count], min(batch, NAIVE_BATCH))["seconds"]
        found["original"] = {"seconds": once, "times ours": once / seconds}
    print(f"{depth} slices, {count} prompts: {json.dumps(found)}", flush=True)
    return found


def _write_noise(path: Path, slices: int, size: int) -> None:
    shape = (slices, size, size)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tifffile.imwrite(path, noise, metadata={"axes": "ZYX"})


def load_network(config: str) -> BiomedParse:
    """Load a weights file, or the full-size or smallest network's random weights."""
    return load_model(config) if config != "v2" else _build(None, V2, None, config)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    model = load_network(args.config)
    engine = Engine(model, args.device, precision=args.precision)
    on_cpu = engine.device.type == "cpu"
    slices = args.slices or (1 if on_cpu else 63)
    batch = args.batch or (1 if on_cpu else engine.suited_batch(VOLUME[1]))
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/speed.py", *sys.argv[1:]]),
        "machine": _machine(engine),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "clock": "CPU time" if args.cpu_time else "wall",
        "precision": str(engine.dtype).removeprefix("torch."),
        "slices": slices,
        "batch": batch,
        "repeats": args.repeats,
        "ceilings": ceilings(engine, 5),
        "prompts": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.tif"
        _write_noise(path, slices, args.size)
        product(engine, path, TEXTS[:1], batch, stages=False)  # warm
        if args.case or not on_cpu:  # while nothing else is on the device
            case = path.with_name("case.tif")
            result["case"] = user_case(engine, case, batch, args)
        alone: dict[int, dict[str, int]] = {}
        if not on_cpu:  # the naive mode's float32 weights come to the device after that
            for count in args.prompts:
                run = product(engine, path, TEXTS[:count], batch, stages=False)
                alone[count] = run["memory"]
            model.to(engine.device)
        for count in args.prompts:
            texts = TEXTS[:count]
            timed: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for _ in range(args.repeats):
                timed["product"].append(
                    product(engine, path, texts, batch, stages=on_cpu)
                )
                if not args.no_naive:
                    some = min(batch, NAIVE_BATCH)
                    timed["naive"].append(original(engine, path, texts, some))
            row = {name: middle(runs) for name, runs in timed.items()}
            if not on_cpu:  # waiting for every stage slows a GPU down: once more
                staged = [
                    product(engine, path, texts, batch, stages=True)
                    for _ in range(args.repeats)
                ]
                row["product"]["stages"] = middle(staged)["stages"]
                row["product"]["memory"] = alone[count]
            row["gflop"] = gflop(engine, count) if not args.no_flop else {}
            result["prompts"][count] = row
            _print_row(count, row, result)
    result["second_prompt"] = second_prompt(engine, args.repeats)
    if not args.no_naive:
        clock = Clock(engine.device)
        with torch.inference_mode(), clock.measure("templates"):
            naive.encode_templates(model, args.classes)
        scale = naive.CLASSES / args.classes
        result["templates"] = {
            "seconds": clock.seconds["templates"] * scale,
            "measured_on_classes": args.classes,
        }
    result["summary"] = _summary(result)
    return result


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """Work out the ratios that the issue asks for."""
    rows, slices = result["prompts"], result["slices"]
    alone = {
        count: {
            name: (row[name]["seconds"] - row[name]["stages"]["text"]) / slices
            for name in ("product", "naive")
            if name in row
        }
        for count, row in rows.items()
    }
    found: dict[str, Any] = {"seconds_a_slice_without_text": alone}
    found["naive_over_product"] = {
        count: s["naive"] / s["product"] for count, s in alone.items() if "naive" in s
    }
    least, most = min(rows), max(rows)
    if most > least:
        one = alone[least]["product"]
        further = (alone[most]["product"] - one) / (most - least)
        found["marginal_prompt_share"] = further / one
    depth, count = VOLUME
    if "templates" in result and most > least:
        times = {}
        for name in ("product", "naive"):
            # Noise may make further prompts look cheaper than none.
            further = max(0.0, alone[most][name] - alone[least][name])
            per_prompt = further / (most - least)
            a_slice = alone[least][name] + per_prompt * (count - least)
            text = rows[most][name]["stages"]["text"] * count / most
            times[name] = text + depth * a_slice
        times["naive"] += result["templates"]["seconds"]
        found["volume_63x15"] = times | {"ratio": times["naive"] / times["product"]}
    return found


def _machine(engine: Engine) -> str:
    if engine.device.type == "cuda":
        return torch.cuda.get_device_name(engine.device)
    with contextlib.suppress(OSError, IndexError):
        return re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    return platform.processor()


def _print_row(count: int, row: dict[str, Any], result: dict[str, Any]) -> None:
    for name in ("product", "naive"):
        if name not in row:
            continue
        one = row[name]
        seconds = one["seconds"] / result["slices"]
        work = row["gflop"].get(name, float("nan"))
        speed = work / seconds
        share = speed / result["ceilings"]["gflop_a_second"]
        stages = "  ".join(
            f"{stage} {1000 * value / result['slices']:.0f}"
            for stage, value in one["stages"].items()
        )
        memory = ", ".join(f"{k} {v}" for k, v in one["memory"].items())
        print(
            f"{count:3} prompts, {name:7}: {1 / seconds:8.3f} slices/s, "
            f"{work:.0f} GFLOP a slice at {speed:.0f} GFLOP/s "
            f"({share:.0%} of the ceiling), peak MiB: {memory}\n"
            f"    ms a slice: {stages}",
            flush=True,
        )


def main() -> None:
    """Print the table, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="v2", help="v2, tiny, or a weights file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 4, 13])
    parser.add_argument("--slices", type=int, help="1 on a CPU, else 63")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, help="1 on a CPU, else what suits")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--case",
        action="store_true",
        help="63 slices, 15 prompts, in the naive mode too (minutes)",
    )
    parser.add_argument("--no-naive", action="store_true")
    parser.add_argument("--no-flop", action="store_true", help="saves two slices")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="CPU-seconds of the process instead of the wall clock: for one thread on "
        "a machine that others use too",
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.cpu_time:
        Clock.now = time.process_time
    if args.threads:
        torch.set_num_threads(args.threads)
    result = measure(args)
    ceiling = result["ceilings"]
    print(
        f"{result['machine']}, {result['threads']} threads, {result['precision']}: "
        f"matrix product {ceiling['gflop_a_second']:.0f} GFLOP/s, copy "
        f"{ceiling['gigabytes_a_second']:.1f} GB/s"
    )
    print(json.dumps(result["summary"] | {"second_prompt": result["second_prompt"]}))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
