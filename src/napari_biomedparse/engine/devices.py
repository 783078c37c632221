"""Compute devices of this machine, their precisions and their free memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import torch

from napari_biomedparse.data.options import PRECISIONS
from napari_biomedparse.errors import DeviceError

_USERS: set[int] = set()
"""Processes that computed: this one, and one that it was forked from."""


def check_not_forked(made_in: int | None = None) -> None:
    """Raise `DeviceError` in a process that was forked from one that computed.

    Threads are not copied by a fork, and torch would wait for them for ever; so would
    an engine for its own, if it was made in another process.
    """
    pid = os.getpid()
    alone = torch.get_num_threads() == 1 and made_in in (None, pid)
    if _USERS and pid not in _USERS and not alone:
        raise DeviceError(
            "This process was forked from one that had segmented before, where PyTorch "
            "would wait for ever. Start processes by spawning, as with "
            "multiprocessing.get_context('spawn')."
        )
    _USERS.add(pid)


def find_device(name: str) -> torch.device:
    """Return the device of that name; "auto" chooses CUDA, then MPS, then the CPU.

    A `DeviceError` is raised if the name is unknown or the device is missing.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    types = {one.partition(":")[0] for one in available}
    if name not in {*available, *types, *(f"{one}:0" for one in types)}:
        raise DeviceError(
            f"This machine has no device {name!r}. Choose auto or one of "
            f"{', '.join(available)}."
        )
    return torch.device(name)


def available_devices() -> list[str]:
    """Return the compute devices of this machine, fastest first."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a GPU has free for this process; None for a CPU."""
    if device.type == "mps":  # shares the main memory, of which it should leave some
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept


def release_memory(device: torch.device) -> None:
    """Return cached memory of this process to the GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if device.type == "mps":
        torch.mps.empty_cache()


def multiplies_bfloat16() -> bool:
    """Return whether this machine's CPU has instructions for products in bfloat16."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def find_precision(
    name: str, device: torch.device, *, small: bool = False
) -> torch.dtype:
    """Return the type of "auto" or one of `PRECISIONS`; `DeviceError` for others.

    A `small` network gains nothing from half precision on a CPU: most of its time is
    not spent in products.
    """
    if name == "auto":
        if device.type == "cpu" and not small and multiplies_bfloat16():
            return torch.bfloat16
        if device.type != "cuda":
            return torch.float32
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if name not in PRECISIONS:
        raise DeviceError(
            f"There is no precision {name!r}. Choose auto or one of "
            f"{', '.join(PRECISIONS)}."
        )
    precision: torch.dtype = getattr(torch, name)
    return precision


def out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out; MPS and CPU have no error class of their own."""
    signs = "MPS backend out of memory", "CPUAllocator", "std::bad_alloc"
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in signs
    )


@contextmanager
def single_threads(count: int = 1) -> Iterator[Callable[[], object]]:
    """Have threads compute by themselves; yield what each of `count` calls first.

    They must have been started when the context ends. Torch's number of threads
    elsewhere is unchanged. Where several threads have helpers of their own, more than
    there are processors, OpenMP puts all of them to sleep after each operation.
    """
    started = Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # else torch begins with its own number later
        torch.set_num_threads(1)
        started.wait()

    others = torch.get_num_threads()
    yield begin
    started.wait()
    # The last call also decides for all threads that are yet to come.
    torch.set_num_threads(others)


class SingleThreads(ThreadPoolExecutor):
    """A pool of `count` threads in each of which torch uses one thread only.

    The threads end when the pool is garbage-collected.
    """

    def __init__(self, count: int, name: str = "slices") -> None:
        super().__init__(count, thread_name_prefix=f"napari-biomedparse {name}")
        with single_threads(count) as begin:
            for _ in range(count):
                self.submit(begin)
