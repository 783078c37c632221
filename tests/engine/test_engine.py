from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_biomedparse.data.options import USUAL_BATCH
from napari_biomedparse.engine import devices, engine as engine_module
from napari_biomedparse.engine.engine import (
    FREE_SHARE,
    MOST_SLICES,
    PROMPT_BYTES,
    PROMPTS_AT_ONCE,
    SLICE_BYTES,
    Engine,
    fitting_slices,
)
from napari_biomedparse.errors import DeviceError
from napari_biomedparse.labels.resolve import resolve
from napari_biomedparse.networks.blocks import layers
from napari_biomedparse.networks.blocks.boltzmann import ImageFeatures
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.networks.weights import load_model, model_identity
from napari_biomedparse.pipeline.segment import segment


@pytest.fixture
def slices() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    size = (3, 3, 64, 64)
    return torch.randint(0, 256, size, generator=generator, dtype=torch.int32)


def _coarse_field(call: int, keys: int) -> torch.Tensor:
    """Zeros and ones, so that rounding hardly ever changes what is hidden."""
    generator = torch.Generator().manual_seed(100 * call + keys)
    shape = (TINY.heads, TINY.queries, keys)
    return (torch.rand(shape, generator=generator) >= 0.9).float()


def test_prompts_are_padded_with_zeros_to_the_longest(tiny_model: BiomedParse) -> None:
    tokens = Engine(tiny_model).encode_prompts(["liver", "the left kidney in CT"])
    assert tokens.shape[:2] == (2, 7)
    assert tokens[0, :3].abs().min() > 0
    assert not tokens[0, 3:].any()


def test_each_prompt_is_encoded_once(
    tiny_model: BiomedParse, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny_model)
    calls = []
    encode = tiny_model.encode_prompts
    monkeypatch.setattr(
        tiny_model, "encode_prompts", lambda ids: calls.append(1) or encode(ids)
    )
    first = engine.encode_prompts(["liver", "kidney"])
    again = engine.encode_prompts(["kidney", "liver", "liver"])
    assert len(calls) == 2
    assert torch.equal(first, again[[1, 0]])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("small", [True, False])
def test_company_changes_no_bit(
    tiny_model: BiomedParse,
    slices: torch.Tensor,
    small: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not small:
        monkeypatch.setattr(engine_module, "SMALL_MAP", 0)
    engine = Engine(tiny_model)
    tokens = engine.encode_prompts(["liver", "kidney", "spleen"])
    together = engine.predict(slices, tokens)
    for i in range(3):
        for p in range(3):
            alone = engine.predict(slices[i : i + 1], tokens[p : p + 1])
            for joint, single in zip(together, alone, strict=True):
                assert torch.equal(joint[i, p], single[0, 0])


@pytest.mark.usefixtures("threads")
def test_threads_change_no_bit_of_a_small_network() -> None:
    model = load_model("demo")
    texts = ["nuclei in light-sheet microscopy", "vessels"]
    generator = torch.Generator().manual_seed(0)
    size = model.config.image_size
    images = torch.randint(0, 256, (5, 3, size, size), generator=generator)
    engine = Engine(model)
    here = engine.predict(images, engine.encode_prompts(texts))
    alone = engine.predict(images[3:4], engine.encode_prompts(texts)[1:])
    torch.set_num_threads(3)
    engine = Engine(model)
    there = engine.predict(images, engine.encode_prompts(texts))
    assert torch.get_num_threads() == 3
    for one, other, single in zip(here, there, alone, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one[3, 1], single[0, 0])


@pytest.mark.usefixtures("threads")
def test_more_prompts_than_are_decoded_at_once_change_no_bit(
    tiny_model: BiomedParse, slices: torch.Tensor
) -> None:
    engine = Engine(tiny_model)
    texts = [f"organ number {i:02} in CT" for i in range(PROMPTS_AT_ONCE + 2)]
    tokens = engine.encode_prompts(texts)
    together = engine.predict(slices[:1], tokens)
    for p in (0, 1, PROMPTS_AT_ONCE - 1, PROMPTS_AT_ONCE, PROMPTS_AT_ONCE + 1):
        alone = engine.predict(slices[:1], tokens[p : p + 1])
        for joint, single in zip(together, alone, strict=True):
            assert torch.equal(joint[0, p], single[0, 0])


def test_the_seed_decides(tiny_model: BiomedParse, slices: torch.Tensor) -> None:
    tokens = Engine(tiny_model).encode_prompts(["liver"])
    results = [
        Engine(tiny_model, seed=seed).predict(slices, tokens).mask_logits
        for seed in (0, 0, 1)
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def _seen(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes that the image side is asked for, from now on."""
    sizes: list[int] = []
    encode = engine._network.encode_image

    def counting(slices: torch.Tensor) -> object:
        sizes.append(len(slices))
        return encode(slices)

    monkeypatch.setattr(engine._network, "encode_image", counting)
    return sizes


def test_another_prompt_on_a_slice_costs_only_the_decoder(
    tiny_model: BiomedParse, slices: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny_model)
    liver, kidney = engine.encode_prompts(["liver", "kidney"])[:, None]
    fresh = Engine(tiny_model, cache_bytes=0).predict(slices[:1], kidney)
    sizes = _seen(engine, monkeypatch)
    engine.predict(slices[:1], liver)
    again = engine.predict(slices[:1].clone(), kidney)
    assert len(sizes) == 1
    for cached, expected in zip(again, fresh, strict=True):
        assert torch.equal(cached, expected)
    engine.predict(slices[1:2], liver)
    engine.predict(slices[:1], liver)
    assert len(sizes) == 2
    engine.predict(slices, liver)  # a batch that streams by pushes nothing out
    assert len(engine.cache) == 2
    assert len(sizes) == 5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_close(
    tiny_model: BiomedParse, slices: torch.Tensor, precision: str
) -> None:
    identity = model_identity(tiny_model)
    exact = Engine(tiny_model, field=_coarse_field)
    half = Engine(tiny_model, field=_coarse_field, precision=precision)
    tokens = exact.encode_prompts(["liver", "kidney"])
    torch.testing.assert_close(half.encode_prompts(["liver", "kidney"]), tokens)
    expected, found = exact.predict(slices, tokens), half.predict(slices, tokens)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert not torch.equal(ours, theirs)
        assert (ours - theirs).abs().max() < 0.05 * theirs.std() + 0.02
    assert model_identity(half.model) == identity
    assert {p.dtype for p in tiny_model.parameters()} == {torch.float32}
    for name, p in half._network.backbone.named_parameters():
        # What the residual stream is made of, and convolutions of single channels.
        kept = "gamma_" in name or "norm" in name or "focal_layers" in name
        assert (p.dtype == torch.float32) == kept, name
    assert {p.dtype for p in half._network.mask_decoder.parameters()} == {torch.float32}


def _run_short_beyond(
    engine: Engine, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give a network so little memory that only so many slices x prompts fit."""
    engine._most_slices = engine._most_prompts = 1000
    decode = engine._network.decode

    def limited(image: ImageFeatures, tokens: torch.Tensor, field: object) -> object:
        if len(image.mask_features) * len(tokens) > pairs:
            raise torch.OutOfMemoryError("out of memory, tried to allocate 2 GiB")
        return decode(image, tokens, field)

    monkeypatch.setattr(engine._network, "decode", limited)


@pytest.mark.parametrize("pairs", [1, 2, 3, 6, 9])
def test_a_run_short_of_memory_goes_on_with_less_at_once(
    tiny_model: BiomedParse,
    slices: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pairs: int,
) -> None:
    engine = Engine(tiny_model)
    tokens = engine.encode_prompts(["liver", "kidney", "spleen"])
    expected = engine.predict(slices, tokens)
    _run_short_beyond(engine, pairs, monkeypatch)
    with caplog.at_level(logging.WARNING):
        found = engine.predict(slices, tokens)
    assert ("ran out" in caplog.text) == (pairs < 9)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    caplog.clear()
    engine.predict(slices, tokens)
    assert not caplog.text  # it does not run into the wall again


def test_a_full_main_memory_is_named(
    tiny_model: BiomedParse, slices: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny_model)

    def full(*_: object) -> object:
        return torch.empty(2**60)

    monkeypatch.setattr(engine._network, "decode", full)
    with pytest.raises(DeviceError, match=r"too little memory .*choose another"):
        engine.predict(slices, engine.encode_prompts(["liver"]))


@pytest.mark.parametrize(
    ("slices_that_fit", "expected"), [(0.5, 1), (1, 1), (3.9, 2), (4.1, 4), (1000, 512)]
)
def test_a_gpu_takes_as_many_slices_as_its_free_memory_suits(
    slices_that_fit: float, expected: int
) -> None:
    each = 512**2 * (SLICE_BYTES + 13 * PROMPT_BYTES)
    free = int(slices_that_fit * each / FREE_SHARE)
    assert fitting_slices(free, 512**2, 13) == expected


def test_little_free_memory_makes_smaller_batches_at_once(
    tiny_model: BiomedParse, slices: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SMALL_MAP", 0)
    engine = Engine(tiny_model, precision="float32")
    tokens = engine.encode_prompts(["liver", "kidney"])
    expected = engine.predict(slices, tokens)
    each = TINY.image_size**2 * (2 * SLICE_BYTES + 2 * PROMPT_BYTES)  # float32
    asked = []

    def free_memory(device: torch.device) -> int:
        asked.append(device)
        return int(2.5 * each / FREE_SHARE)

    monkeypatch.setattr(engine_module, "free_memory", free_memory)
    engine._fitting.clear()
    engine._most_slices = 1000
    sizes = _seen(engine, monkeypatch)
    found = engine.predict(slices, tokens)
    engine.predict(slices, tokens)
    assert sizes == [2, 1, 2, 1]
    assert asked == [engine.device]  # once: it takes time
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    _run_short_beyond(engine, 2, monkeypatch)
    engine.predict(slices, tokens)
    assert sizes[4:] == [2, 1, 1, 1]  # it ran out at two all the same


@pytest.mark.parametrize(("precision", "expected"), [("bfloat16", 8), ("float32", 4)])
def test_a_gpu_is_handed_as_many_slices_as_suit_its_memory(
    tiny_model: BiomedParse,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    expected: int,
) -> None:
    monkeypatch.setattr(engine_module, "find_device", torch.device)
    each = TINY.image_size**2 * (SLICE_BYTES + 2 * PROMPT_BYTES)
    free = {"there": int(8.5 * each / FREE_SHARE)}
    monkeypatch.setattr(engine_module, "free_memory", lambda device: free["there"])
    model = copy.deepcopy(tiny_model)  # it is moved
    engine = Engine(model, "meta", precision=precision)
    assert engine.suited_batch(2) == expected
    assert engine.suited_batch(60) < expected
    free["there"] = 2**40
    assert engine.suited_batch(1) == MOST_SLICES
    assert engine.suited_batch(2) == expected  # what was once chosen stays
    engine._most_slices = 2  # memory ran out
    assert engine.suited_batch(1) == 2
    assert Engine(tiny_model).suited_batch(2) == USUAL_BATCH


def test_the_published_network_takes_less_than_six_gigabytes() -> None:
    """With 13 prompts and all slices that a GPU is given at once, weights included."""
    slices = 512**2 * (SLICE_BYTES + 13 * PROMPT_BYTES) * MOST_SLICES
    assert slices + 1.5e9 < 6e9


def test_only_what_may_be_remembered_is(
    tiny_model: BiomedParse, slices: torch.Tensor
) -> None:
    engine = Engine(tiny_model)
    tokens = engine.encode_prompts(["liver"])
    engine.predict(slices[:1], tokens, remember=False)
    assert not len(engine.cache)


def test_no_memory_for_a_single_slice_is_said(
    tiny_model: BiomedParse, slices: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny_model)
    tokens = engine.encode_prompts(["liver"])
    engine.predict(slices[:1], tokens)
    _run_short_beyond(engine, 0, monkeypatch)
    with pytest.raises(DeviceError, match=r"cpu has too little memory"):
        engine.predict(slices[:1], tokens)
    assert not len(engine.cache)  # it was given up first


def test_other_errors_pass(
    tiny_model: BiomedParse, slices: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny_model)
    with pytest.raises(RuntimeError, match="size"):
        engine.predict(slices, torch.zeros(1, 3, 5))


class _Asking(TorchDispatchMode):
    """Notes what would make a program wait for a GPU: values that decide on the way."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool
            for arg in args
            if isinstance(arg, list | tuple)
            for x in arg
        )
        if name in self.WAITS or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let prompts share products, as they do on a GPU."""
    monkeypatch.setattr(layers, "apart", lambda x: False)


def test_prompts_that_share_products_get_the_same_numbers(
    tiny_model: BiomedParse, slices: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    engine = Engine(tiny_model, field=_coarse_field)
    tokens = engine.encode_prompts(["liver", "kidney", "spleen"])
    expected = engine.predict(slices, tokens)
    request.getfixturevalue("as_on_a_gpu")
    engine._most_slices = 3
    found = engine.predict(slices, tokens)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


class _Types(TorchDispatchMode):
    """Notes devices and data types of all that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, torch.dtype]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.found.add((leaf.device.type, leaf.dtype))
        return result


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_device_that_is_not_here_gets_nothing_that_it_cannot_do(
    tiny_model: BiomedParse,
    slices: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    """Tensors without values stand for a GPU's; asking for a value is an error."""
    model = copy.deepcopy(tiny_model)  # it is moved
    monkeypatch.setattr(engine_module, "find_device", torch.device)
    with _Types() as types:
        engine = Engine(model, "meta", precision=precision, cache_bytes=0)
        tokens = engine.encode_prompts(["liver", "kidney"])
        found = engine.predict(slices, tokens)
    there = {dtype for device, dtype in types.found if device == "meta"}
    assert getattr(torch, precision) in there
    known = {torch.float32, torch.int32, torch.int64, torch.bool}
    assert there <= {*known, getattr(torch, precision)}  # Apple's GPUs have no float64
    assert {(x.device.type, x.dtype) for x in found} == {("meta", torch.float32)}
    labels, _ = resolve(
        found.mask_logits, found.existence, [1, 2], (64, 64), wait=False
    )
    assert (labels.device.type, labels.dtype) == ("meta", torch.int32)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_nothing_on_a_gpu_waits_for_a_value(
    tiny_model: BiomedParse, slices: torch.Tensor
) -> None:
    """Shown on the CPU with the operations that a GPU would run."""
    engine = Engine(tiny_model, precision="bfloat16", cache_bytes=0)
    engine._most_slices = engine._most_prompts = 1000
    tokens = engine.encode_prompts(["liver", "kidney", "spleen"])
    engine.predict(slices, tokens)  # position encodings and random field are made once
    with _Asking() as asking, torch.inference_mode():
        found = engine.predict(slices, tokens)
        both = found.mask_logits, found.existence
        resolve(*both, [1, 2, 3], (64, 64), wait=False)
        assert asking.found == []
        resolve(*both, [1, 2, 3], (64, 64))
        assert asking.found  # the CPU's way does, and the test would see it


# ---- the bound on remembered features, and which of them go


def _remembering(
    model: BiomedParse, most: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Engine, list[int], Callable[[int], object]]:
    """Return an engine, the slices that it encodes, and a function to predict one."""
    engine = Engine(model, cache_bytes=most)
    tokens, encode, calls = engine.encode_prompts(["liver"]), model.encode_image, []

    def counting(slices: torch.Tensor) -> object:
        calls.append(int(slices[0, 0, 0, 0]))
        return encode(slices)

    monkeypatch.setattr(engine._network, "encode_image", counting)
    size = model.image_size

    def predict(number: int) -> object:
        slices = torch.full((1, 3, size, size), number, dtype=torch.int32)
        return engine.predict(slices, tokens)

    return engine, calls, predict


def _size_of_one(model: BiomedParse) -> int:
    engine = Engine(model)
    slices = torch.zeros((1, 3, model.image_size, model.image_size), dtype=torch.int32)
    engine.predict(slices, engine.encode_prompts(["liver"]))
    return int(engine.cache.currsize)


def test_least_recently_used_go_first_within_the_bound(
    tiny_model: BiomedParse, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 2 * _size_of_one(tiny_model)
    engine, calls, predict = _remembering(tiny_model, most, monkeypatch)
    for number in (0, 1, 0, 2, 0, 1):
        predict(number)
        assert engine.cache.currsize <= most
    assert calls == [0, 1, 2, 1]
    assert len(engine.cache) == 2


def test_what_is_larger_than_the_bound_is_not_kept(
    tiny_model: BiomedParse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most in (0, _size_of_one(tiny_model) - 1):
        engine, calls, predict = _remembering(tiny_model, most, monkeypatch)
        predict(5)
        predict(5)
        assert len(engine.cache) == 0
        assert calls == [5] * 2
        monkeypatch.undo()


def test_neighbours_belong_to_the_key(
    tiny_model: BiomedParse, slices: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny_model)
    sizes, tokens = _seen(engine, monkeypatch), engine.encode_prompts(["liver"])
    other = slices[:1].clone()
    other[0, 2] = 7
    for one in (slices[:1], other, slices[:1].clone()):
        engine.predict(one, tokens)
    assert len(sizes) == 2


def _fork(work: Callable[[], object]) -> str:
    """Do work in a forked process; return the message of its `DeviceError`."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            work()
            os.write(write, b"done")
        except DeviceError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return pipe.read()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_forked_after_a_run_is_told_to_spawn(
    tiny_model: BiomedParse, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny_model)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert "get_context('spawn')" in _fork(lambda: engine.encode_prompts(["a"]))
    image = np.zeros((1, 8, 8), np.uint8)
    assert "get_context('spawn')" in _fork(lambda: segment(image, "a", "tiny"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert _fork(lambda: Engine(tiny_model)) == "done"
    assert "get_context('spawn')" in _fork(lambda: engine.encode_prompts(["a"]))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(devices, "_USERS", set())
    assert _fork(lambda: Engine(tiny_model)) == "done"
