"""What speed.py measures: product and naive mode from file to file, and ceilings."""

from __future__ import annotations

import contextlib
import re
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import naive
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_biomedparse.engine.engine import Engine, SlicePrediction
from napari_biomedparse.io import open_volume, save_labels
from napari_biomedparse.pipeline import loop
from napari_biomedparse.pipeline.loop import run_plan
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.slicing import read as reading
from napari_biomedparse.slicing.geometry import SliceGeometry
from napari_biomedparse.slicing.intensity import Intensity
from napari_biomedparse.slicing.read import slice_batches

TEXTS = [
    f"{organ} in abdominal CT"
    for organ in (
        "liver", "spleen", "right kidney", "left kidney", "pancreas", "gallbladder",
        "esophagus", "stomach", "duodenum", "aorta", "inferior vena cava",
        "left adrenal gland", "right adrenal gland", "bladder", "prostate",
    )
]  # fmt: skip
STAGES = (
    "read", "preprocess", "text", "backbone", "pixel decoder", "decoder", "mask head",
    "postprocess", "write",
)  # fmt: skip


class Clock:
    """Adds up seconds by stage; what runs inside another stage is taken off that.

    Of a small network, which computes in several threads, these are seconds of threads.
    """

    now: Callable[[], float] = time.perf_counter
    """What tells the time; that of the process alone with --cpu-time."""

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
        start = Clock.now()
        yield
        self.wait()
        seconds = Clock.now() - start
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
    """Segment a file into a file; time all of it, and its stages if wanted.

    Texts are encoded anew, and nothing is known of the slices.
    """
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
            (reading, "read_slices", "read"),
            (loop, "_resolve", "postprocess"),
        ):
            if stages:
                timed = clock.timed(stage, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
        for owner, name in ((Intensity, "apply"), (SliceGeometry, "prepare")):
            if stages:
                timed = clock.timed("preprocess", getattr(owner, name))
                timed = _as_method(timed)
                stack.enter_context(mock.patch.object(owner, name, timed))
        memory = Memory(engine.device)
        start = Clock.now()
        volume = open_volume(path)
        plan = plan_run(volume, texts, config=engine.model.config)
        plan = _with_batch(plan, batch)
        labels = np.zeros(volume.shape, plan.label_dtype)
        begun = Clock.now()
        first = None
        for part in run_plan(plan, engine):
            labels[part.where] = part.labels
            first = first or Clock.now() - begun
        with clock.measure("write"):
            out = path.with_name("labels.ome.tif")
            save_labels(
                out, labels, volume=volume, prompts=plan.prompts, overwrite=True
            )
        total = Clock.now() - start
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
    start = Clock.now()
    volume = open_volume(path)
    plan = _with_batch(plan_run(volume, texts, config=model.config), batch)
    batches = list(
        slice_batches(
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
    total = Clock.now() - start
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
        engine._predict_part(slices, tokens, False)  # counted in this thread only
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
