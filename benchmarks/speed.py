"""Measure the product against the network as the original evaluates it (naive.py).

One command prints a table and writes JSON:

    taskset -c 0,1 python benchmarks/speed.py --threads 2 --json speed.json
    python benchmarks/speed.py --config tiny            # a quick try
    python benchmarks/speed.py --device cuda --slices 63 --batch 8

The network is the full-size one with synthetic weights, or a weights file. A volume of
noise (CT-sized slices) goes from a file through the product's own loop to a file;
slices x prompts x repeats are done by turns with the naive mode, and medians are taken.
Peak memory includes torch and the weights, as far as they were touched. The class
templates are measured on --classes of the 17 classes and scaled. A volume of 63 slices
with 15 prompts is calculated from the measured times of a slice and of the texts.
FLOP are those of the operations really done, counted by torch; the share is of the
speed of a large matrix product in the same precision, measured in the same run.

What was tried on a CPU (AMD EPYC, AVX2, one core, PyTorch 2.13) and not taken:

- item 12 of PERFORMANCE.md, the fold of the mask features' convolution: by Winograd's
  algorithm the whole convolution takes 0.31 s instead of 0.84 s, about what fold (a)
  would (25 of 77 GFLOP, 0.28 s at the speed of a plain product), and layer_1, which
  cannot be folded, gains as much; fold (b) costs every prompt 3 GFLOP more.
- item 13, absorbing the key projection into the query: it gains 13 GFLOP with one
  prompt, but costs each further one 3.9 GFLOP, more than the whole decoder now takes.
- channels last everywhere: depthwise convolutions take 5.3, 3.1 and 1.6 ms (kernels 9,
  7, 5; 768 x 32 x 32) instead of 2.2, 1.5 and 1.0 ms plane by plane. The pixel
  decoder is channels last.
- bfloat16: without instructions for it a slice was not done after four times the
  float32 time (--precision bfloat16 measures it on other CPUs).
- torch.compile: importing it takes 1.4 CPU-seconds, loading the demo model 0.1.

Not measured for want of a GPU: CUDA graphs, torch.compile there, fused gates.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import re
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import naive
import numpy as np
import tifffile
import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_biomedparse import stream
from napari_biomedparse.engine import Engine, SlicePrediction
from napari_biomedparse.intensity import Intensity
from napari_biomedparse.io import open_volume, save_labels
from napari_biomedparse.model.config import V2
from napari_biomedparse.plan import plan_run
from napari_biomedparse.preprocess import SliceGeometry
from napari_biomedparse.segment import run_plan
from napari_biomedparse.weights import _build, load_model

TEXTS = [
    f"{organ} in abdominal CT"
    for organ in (
        "liver", "spleen", "right kidney", "left kidney", "pancreas", "gallbladder",
        "esophagus", "stomach", "duodenum", "aorta", "inferior vena cava",
        "left adrenal gland", "right adrenal gland", "bladder", "prostate",
    )
]  # fmt: skip
VOLUME = (63, 15)
"""Slices and prompts of the case that a user measured with the original."""
STAGES = (
    "read", "preprocess", "text", "backbone", "pixel decoder", "decoder", "mask head",
    "postprocess", "write",
)  # fmt: skip


_now = time.perf_counter
"""What tells the time; of the process alone with --cpu-time."""


class Clock:
    """Adds up seconds by stage; what runs inside another stage is taken off that."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: dict[str, str] = {"mask head": "decoder"}

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if self.device.type == "mps":
            torch.mps.synchronize()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function that is timed."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.measure(stage):
                return function(*args, **kwargs)

        return run

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time a block."""
        self.wait()
        start = _now()
        yield
        self.wait()
        seconds = _now() - start
        self.seconds[stage] += seconds
        if stage in self._inside:
            self.seconds[self._inside[stage]] -= seconds


class Memory:
    """Peak memory of this process and of the device since it was made, in MiB."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with contextlib.suppress(OSError):  # Linux: start a new peak
            Path("/proc/self/clear_refs").write_text("5")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> dict[str, int]:
        """Return the peaks; without /proc that of the whole process."""
        try:
            status = Path("/proc/self/status").read_text()
            host = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1024
        except (OSError, IndexError):
            unit = 2**20 if sys.platform == "darwin" else 2**10
            host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
        found = {"host": host}
        if self.device.type == "cuda":
            found["device"] = torch.cuda.max_memory_allocated() // 2**20
        return found


def product(
    engine: Engine, path: Path, texts: list[str], batch: int, *, stages: bool
) -> dict[str, Any]:
    """Segment a file into a file; time all of it, and its stages if wanted."""
    clock = Clock(engine.device)
    engine._encode.cache_clear()
    engine.cache.clear()
    net = engine._network
    decoder = net.mask_decoder
    with contextlib.ExitStack() as stack:
        for owner, name, stage in (
            (engine, "encode_prompts", "text"),
            (net.backbone, "forward", "backbone"),
            (net.pixel_decoder, "forward", "pixel decoder"),
            (decoder, "prepare", "decoder"),
            (decoder, "forward", "decoder"),
            (decoder, "_visible_keys", "mask head"),
            (decoder, "_read_out", "mask head"),
            (stream, "_read", "read"),
        ):
            if stages:
                timed = clock.timed(stage, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
        for owner, name in ((Intensity, "apply"), (SliceGeometry, "prepare")):
            if stages:
                timed = clock.timed("preprocess", getattr(owner, name))
                timed = _as_method(timed)
                stack.enter_context(mock.patch.object(owner, name, timed))
        resolve = sys.modules["napari_biomedparse.segment"].resolve
        if stages:
            timed = clock.timed("postprocess", resolve)
            stack.enter_context(mock.patch("napari_biomedparse.segment.resolve", timed))
        memory = Memory(engine.device)
        start = _now()
        volume = open_volume(path)
        plan = plan_run(volume, texts, config=engine.model.config)
        plan = _with_batch(plan, batch)
        labels = np.zeros(volume.shape, plan.label_dtype)
        begun = _now()
        first = None
        for part in run_plan(plan, engine):
            labels[part.where] = part.labels
            first = first or _now() - begun
        with clock.measure("write"):
            out = path.with_name("labels.ome.tif")
            save_labels(
                out, labels, volume=volume, prompts=plan.prompts, overwrite=True
            )
        total = _now() - start
    return {
        "seconds": total,
        "first_batch": first,
        "stages": {name: clock.seconds.get(name, 0.0) for name in STAGES},
        "memory": memory.peaks(),
    }


def _as_method(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        return function(self, *args)

    return method


def _with_batch(plan: Any, batch: int) -> Any:
    from dataclasses import replace

    return replace(plan, options=replace(plan.options, batch_size=batch))


@torch.inference_mode()
def original(
    engine: Engine, path: Path, texts: list[str], batch: int
) -> dict[str, Any]:
    """Do the same as the original does it, class templates not included."""
    clock, model = Clock(engine.device), engine.model
    memory = Memory(engine.device)
    start = _now()
    volume = open_volume(path)
    plan = _with_batch(plan_run(volume, texts, config=model.config), batch)
    batches = list(
        stream.slice_batches(
            volume, plan.geometry, plan.intensity, plan.start, plan.stop, batch
        )
    )
    with clock.measure("text"):
        tokens = naive.encode_prompts(model, texts)
    kept: list[SlicePrediction] = []
    decoders = []
    for one in batches:
        slices = one.slices.to(engine.device)
        with clock.measure("backbone"):
            features = naive.encode_backbone(model, slices)
        with clock.measure("pixel decoder"):
            pixels = naive.decode_pixels(model, features)
        with clock.measure("decoder"):
            decoder = naive.NaiveDecoder(model, engine._field)
            head = clock.timed("mask head", decoder._head)
            with mock.patch.object(decoder, "_head", head):
                prediction = decoder.decode(pixels, tokens)
        decoders = [decoder]  # as the original's list of heads, until the next batch
        kept.append(SlicePrediction(*(x.cpu() for x in prediction)))
    with clock.measure("postprocess"):
        labels = naive.resolve(kept, plan.prompts.ids, plan.geometry.working_shape)
        labels = plan.geometry.restore(labels)
    with clock.measure("write"):
        out = path.with_name("naive.ome.tif")
        labels = np.moveaxis(labels, 0, plan.geometry.axis).astype(plan.label_dtype)
        save_labels(out, labels, volume=volume, prompts=plan.prompts, overwrite=True)
    total = _now() - start
    assert decoders
    return {
        "seconds": total,
        "stages": {name: clock.seconds.get(name, 0.0) for name in STAGES},
        "memory": memory.peaks(),
    }


def ceilings(engine: Engine, repeats: int) -> dict[str, float]:
    """Speed of a large matrix product (GFLOP/s) and of a large copy (GB/s)."""
    device, cpu = engine.device, engine.device.type == "cpu"
    size, count = (2048 if cpu else 8192), (2**26 if cpu else 2**28)
    a, b = (torch.randn(size, size, device=device, dtype=engine.dtype) for _ in "ab")
    c = torch.empty_like(a)
    source, target = (torch.zeros(count, device=device) for _ in "ab")
    clock = Clock(device)

    def best(work: Callable[[], object]) -> float:
        work()
        seconds = []
        for _ in range(repeats):
            clock.seconds.clear()
            with clock.measure("x"):
                work()
            seconds.append(clock.seconds["x"])
        return min(seconds)

    product_seconds = best(lambda: torch.mm(a, b, out=c))
    copy_seconds = best(lambda: target.copy_(source))
    return {
        "gflop_a_second": 2 * size**3 / product_seconds / 1e9,
        "gigabytes_a_second": 2 * source.nbytes / copy_seconds / 1e9,
    }


@torch.inference_mode()
def gflop(engine: Engine, prompts: int) -> dict[str, float]:
    """Count the operations of a slice, texts not included."""
    size = engine.model.config.image_size
    slices = torch.zeros(1, 3, size, size, dtype=torch.int32)
    tokens = engine.encode_prompts(TEXTS[:prompts])
    counts = {}
    with FlopCounterMode(display=False) as counter:
        engine._predict(slices, tokens, False)
    counts["product"] = counter.get_total_flops() / 1e9
    with FlopCounterMode(display=False) as counter:
        features = naive.encode_backbone(engine.model, slices.to(engine.device))
        pixels = naive.decode_pixels(engine.model, features)
        naive.NaiveDecoder(engine.model, engine._field).decode(pixels, tokens)
    counts["naive"] = counter.get_total_flops() / 1e9
    return counts


def second_prompt(engine: Engine, repeats: int) -> dict[str, float]:
    """Time a first prompt on a slice, and another one on the same slice."""
    clock = Clock(engine.device)
    size = engine.model.config.image_size
    one, other = engine.encode_prompts(TEXTS[:2])[:, None]
    found: dict[str, list[float]] = {"first": [], "another": []}
    for i in range(repeats):
        slices = torch.full((1, 3, size, size), i, dtype=torch.int32)
        for name, tokens in (("first", one), ("another", other)):
            clock.seconds.clear()
            with clock.measure(name):
                engine.predict(slices, tokens)
            found[name].append(clock.seconds[name])
    middle = {name: statistics.median(values) for name, values in found.items()}
    return middle | {"share": middle["another"] / middle["first"]}


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


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    if args.config == "tiny":
        model = load_model("tiny")
    elif args.config == "v2":
        model = _build(V2, None, "synthetic")
    else:
        model = load_model(args.config)
    engine = Engine(model, args.device, precision=args.precision)
    on_cpu = engine.device.type == "cpu"
    slices = args.slices or (1 if on_cpu else 63)
    batch = args.batch or (1 if on_cpu else 4)
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
        noise = np.random.default_rng(0).integers(
            0, 256, (slices, args.size, args.size), dtype=np.uint8
        )
        tifffile.imwrite(path, noise, metadata={"axes": "ZYX"})
        product(engine, path, TEXTS[:1], batch, stages=False)  # warm
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
                    timed["naive"].append(original(engine, path, texts, batch))
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
    parser.add_argument("--batch", type=int, help="1 on a CPU, else 4")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--threads", type=int)
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
        global _now
        _now = time.process_time
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
