"""Devices are found by name, or refused by name, with precision and memory."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from napari_biomedparse.engine.devices import (
    SingleThreads,
    available_devices,
    find_device,
    find_precision,
    free_memory,
    out_of_memory,
    release_memory,
)
from napari_biomedparse.errors import DeviceError


def test_missing_devices_are_named() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert str(find_device("auto")) == available_devices()[0]
    with pytest.raises(DeviceError, match=r"no device 'warp'.*cpu"):
        find_device("warp")
    with pytest.raises(DeviceError, match=r"no device 'cuda:99'.*cpu"):
        find_device("cuda:99")


def test_precision_is_chosen_by_name() -> None:
    cpu = torch.device("cpu")
    assert find_precision("float32", cpu) == torch.float32
    assert find_precision("float16", cpu) == torch.float16
    assert find_precision("auto", torch.device("mps")) == torch.float32
    with pytest.raises(DeviceError, match=r"no precision 'int4'.*bfloat16"):
        find_precision("int4", cpu)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"neon": True, "bf16": True}, "bfloat16"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_a_cpu_computes_large_networks_in_what_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    cpu = torch.device("cpu")
    assert find_precision("auto", cpu) == getattr(torch, expected)
    assert find_precision("auto", cpu, small=True) == torch.float32
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in earlier versions
    assert find_precision("auto", cpu) == torch.float32


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_half_precision_on_cuda_is_the_one_that_it_computes_in(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    found = find_precision("auto", torch.device("cuda:0"))
    assert found == getattr(torch, expected)


def test_free_memory_of_an_apple_gpu_is_what_is_recommended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10_000)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 4_000)
    assert free_memory(torch.device("mps")) == 6_000
    assert free_memory(torch.device("cpu")) is None


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_gpu_gives_back_what_it_keeps(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    emptied: list[str] = []
    for name in ("cuda", "mps"):
        module = getattr(torch, name)
        monkeypatch.setattr(
            module, "empty_cache", lambda name=name: emptied.append(name)
        )
    release_memory(torch.device("cpu"))
    release_memory(torch.device(kind))
    assert emptied == [kind]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: no"), True),
        (RuntimeError("The size of tensor a must match"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(
    error: RuntimeError, expected: bool
) -> None:
    assert out_of_memory(error) == expected


@pytest.mark.usefixtures("threads")
def test_single_threads_leave_others_as_they_were() -> None:
    before = torch.get_num_threads()
    threads = SingleThreads(3)
    product = torch.ones((64, 64))  # torch may take its own number at the first one
    counts = threads.map(
        lambda _: (product @ product, torch.get_num_threads())[1], range(6)
    )
    assert set(counts) == {1}
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(torch.get_num_threads).result() == before


def test_single_threads_end_when_forgotten() -> None:
    threads = SingleThreads(2)
    ours = set(threads._threads)
    del threads
    for thread in ours:
        thread.join(5)
        assert not thread.is_alive()
