"""All that is to be shown on a GPU, in one command.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --device cpu --config tiny --only speed limit kernels

Each part is a process of its own: none finds another's memory, and one that fails is
reported while the others go on. ``speed``: speed.py, with the case of 63 slices and 15
prompts. ``limit``: the same run with less memory than its batch takes, which has to
halve that, finish, and find the same. ``kernels``: what a batch spends its time on by
operation, the depthwise convolutions among them; whether anything waits for a value;
and the image side as it is, as a CUDA graph and compiled. ``precision``: precision.py,
on real volumes. ``startup``: startup.py, which needs a display. At the end, the aims.

On a CPU it runs as on a GPU, but for what only CUDA has: slices go through together,
and the memory that is short is that of a `Rationed` run.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from measures import TEXTS, Clock
from speed import load_network
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.labels.resolve import resolve
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.pipeline.segment import segment

HERE = Path(__file__).parent
PARTS = ("speed", "limit", "kernels", "precision", "startup")
SHARE = 0.7
"""Of the memory that a batch takes: half of the batch fits into it."""
BATCH = 4
PROMPTS = 13


class Rationed(TorchDispatchMode):
    """Raises as a GPU does when tensors that were made meanwhile need more room."""

    def __init__(self, most: float = float("inf")) -> None:
        super().__init__()
        self.most, self.peak = most, 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self._held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._held = {
            key: held for key, held in self._held.items() if not held[0].expired()
        }
        used = sum(size for _, size in self._held.values())
        self.peak = max(self.peak, used)
        if used > self.most:
            raise torch.OutOfMemoryError(f"out of memory, {used} of {self.most} bytes")
        return result


@contextmanager
def rationed(engine: Engine, most: float = float("inf")) -> Iterator[list[int]]:
    """Let a run's predictions take so many bytes; tell the peaks of those that did."""
    peaks: list[int] = []
    predict = engine._predict

    def limited(*args: Any) -> Any:
        with Rationed(most) as ration:
            found = predict(*args)
        peaks.append(ration.peak)
        return found

    with mock.patch.object(engine, "_predict", limited):
        yield peaks


def limit(args: argparse.Namespace) -> dict[str, Any]:
    """Run with less memory than a batch takes."""
    engine = make_engine(args)
    volume = np.random.default_rng(0).integers(
        0, 256, (2 * BATCH, args.size, args.size), dtype=np.uint8
    )
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("napari_biomedparse.engine.engine").addHandler(handler)

    def run() -> Any:
        return segment(volume, TEXTS[:PROMPTS], engine, batch_size=BATCH).labels

    if engine.device.type == "cuda":
        run()  # kernels, and what stays on the device
        held = torch.cuda.memory_allocated(engine.device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(engine.device)
        expected = run()
        peak = torch.cuda.max_memory_reserved(engine.device)
        torch.cuda.empty_cache()
        most = held + SHARE * (peak - held)
        whole = torch.cuda.get_device_properties(engine.device).total_memory
        torch.cuda.set_per_process_memory_fraction(most / whole, engine.device)
        found = run()
    else:
        with rationed(engine) as peaks:
            expected = run()
        peak = max(peaks)
        most = SHARE * peak
        with rationed(engine, most):
            found = run()
    return {
        "peak_mib": peak / 2**20,
        "limit_mib": most / 2**20,
        "slices_at_once": min(BATCH, engine._most_slices),
        "said": said,
        "same_labels": float((found == expected).mean()),
    }


def kernels(args: argparse.Namespace) -> dict[str, Any]:
    """Look at a batch: operations, waiting, and other ways to run it."""
    engine = make_engine(args)
    on_cuda = engine.device.type == "cuda"
    size, batch = engine.model.config.image_size, engine.suited_batch(1)
    slices = torch.randint(256, (batch, 3, size, size), dtype=torch.int32)
    tokens = engine.encode_prompts(TEXTS[:1])
    slices = slices.pin_memory() if on_cuda else slices

    def work() -> None:
        found = engine.predict(slices, tokens)
        resolve(found.mask_logits, found.existence, [1], (size, size))

    work()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
    kind = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    times = {row.key: getattr(row, kind) for row in profile.key_averages()}
    whole = sum(times.values())
    most = sorted(times, key=times.__getitem__, reverse=True)[:15]
    found: dict[str, Any] = {
        "batch": batch,
        "share_of_time": {key: times[key] / whole for key in most},
    }
    if not on_cuda:
        return found | {"not_measured": "waiting, CUDA graph, compiled: CUDA only"}
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
        found["waits_for_a_value"] = False
    except RuntimeError as error:
        found["waits_for_a_value"] = str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return found | _other_ways(engine, slices.to(engine.device))


@torch.inference_mode()
def _other_ways(engine: Engine, slices: torch.Tensor) -> dict[str, Any]:
    """Time the image side as it is, as a CUDA graph and compiled, in seconds."""
    clock, look = Clock(engine.device), engine._network.encode_image

    def timed(name: str, work: Callable[[], object]) -> None:
        seconds = []
        for _ in range(10):
            clock.seconds.clear()
            with clock.measure("x"):
                work()
            seconds.append(clock.seconds["x"])
        found[name] = statistics.median(seconds)

    def as_graph() -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept.append(look(slices))
        timed("graph_seconds", graph.replay)

    def compiled() -> None:
        quick = torch.compile(look)
        with clock.measure("compiling"):
            quick(slices)
        found["compiling_seconds"] = clock.seconds["compiling"]
        timed("compiled_seconds", lambda: quick(slices))

    found: dict[str, Any] = {}
    kept: list[object] = []
    timed("eager_seconds", lambda: look(slices))
    for way in (as_graph, compiled):
        try:
            way()
        except Exception as error:  # the other way is to be tried all the same
            found[way.__name__] = f"{type(error).__name__}: {error}"
    return found


def make_engine(args: argparse.Namespace) -> Engine:
    """Make the engine; a CPU's takes slices and prompts together, as a GPU's does."""
    engine = Engine(load_network(args.config), args.device, cache_bytes=0)
    if engine.device.type == "cpu":
        engine._small = False
        engine._most_slices = engine._most_prompts = 2**31
    return engine


def aims(found: dict[str, Any]) -> dict[str, tuple[float, str, bool]]:
    """Compare with what issue 5 asks for: the figure, the aim, whether it is met."""
    rows: dict[str, tuple[float, str, bool]] = {}

    def row(name: str, value: float, aim: float, *, most: bool = False) -> None:
        met = value <= aim if most else value >= aim
        rows[name] = value, f"at {'most' if most else 'least'} {aim:g}", met

    speed = found.get("speed", {})
    if "summary" in speed:
        summary, prompts = speed["summary"], speed["prompts"]
        ratios = summary["naive_over_product"]
        for count, aim in (("1", 8), ("13", 12)):
            if count in ratios:
                row(f"times the naive mode, {count} prompts", ratios[count], aim)
        one = prompts[min(prompts, key=int)]["product"]
        row("slices a second, 1 prompt", speed["slices"] / one["seconds"], 300)
        if "marginal_prompt_share" in summary:
            row("further prompt", summary["marginal_prompt_share"], 0.03, most=True)
        share = speed["second_prompt"]["share"]
        row("prompt on a cached slice", share, 0.1, most=True)
        third, whole = speed["case"].values()
        row("slices a second, 63 x 15", whole["slices_a_second"], 12.4)
        if "device" in whole["memory"]:
            gigabytes = whole["memory"]["device"] * 2**20 / 1e9
            row("GB of the device, 63 x 15", gigabytes, 6, most=True)
            more = whole["memory"]["device"] / third["memory"]["device"]
            row("memory of 63 over 21 slices", more, 1.02, most=True)
    short = found.get("limit", {})
    if "same_labels" in short:
        row("slices at once, short of memory", short["slices_at_once"], 2, most=True)
        row("same labels, short of memory", short["same_labels"], 0.99)
    start = found.get("startup", {})
    for name, aim in (("cold", 10), ("warm", 1)):
        if (key := f"first_labels_{name}_seconds") in start:
            row(f"seconds to the first labels, {name}", start[key], aim, most=True)
    return rows


def commands(args: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """Say how each part is run, and where it writes."""
    device, config = ["--device", args.device], ["--config", args.config]
    size, repeats = ["--size", str(args.size)], ["--repeats", str(args.repeats)]
    inner = [*device, *config, *size]
    model = args.config
    if model == "v2" and "startup" in args.only:  # the widget takes files and names
        network, model = load_network("v2"), str(folder / "v2.safetensors")
        save_weights(model, network.state_dict(), config=network.config)
    every = {
        "speed": ["speed.py", *inner, *repeats, "--case", "--prompts", *args.prompts],
        "limit": ["gpu.py", *inner, "--inner", "limit"],
        "kernels": ["gpu.py", *inner, "--inner", "kernels"],
        "precision": ["precision.py", *device, "--data", str(args.data)],
        "startup": ["startup.py", *device, "--model", model, *repeats],
    }
    return {
        part: [
            sys.executable,
            str(HERE / script),
            *rest,
            "--json",
            f"{folder}/{part}.json",
        ]
        for part, (script, *rest) in every.items()
        if part in args.only
    }


def main() -> None:
    """Run the parts, print the aims, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="v2", help="v2, tiny, or a weights file")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", nargs="+", default=["1", "4", "13"])
    parser.add_argument("--data", type=Path, default=Path("/work/shared/data"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inner", choices=("limit", "kernels"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        part = {"limit": limit, "kernels": kernels}[args.inner](args)
        args.json.write_text(json.dumps(part))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part, command in commands(args, Path(folder)).items():
            print(f"{part}:", flush=True)
            failed = subprocess.run(command, check=False).returncode
            out = Path(folder) / f"{part}.json"
            found[part] = {"failed": failed} if failed else json.loads(out.read_text())
            if args.json:  # what there is, should a later part never end
                args.json.write_text(json.dumps(found, indent=1))
    for part in ("limit", "kernels"):
        if part in found:
            print(f"{part}: {json.dumps(found[part])}")
    found["aims"] = aims(found)
    for name, (value, aim, met) in found["aims"].items():
        print(f"{name:36} {value:10.4g}  {aim:14} {'met' if met else 'MISSED'}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    if failed_parts := [part for part in args.only if "failed" in found[part]]:
        sys.exit(f"failed: {', '.join(failed_parts)}")


if __name__ == "__main__":
    main()
