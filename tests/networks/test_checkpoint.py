from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pickle
import random
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from napari_biomedparse.errors import CheckpointError, OutputError
from napari_biomedparse.networks import checkpoint
from napari_biomedparse.networks.checkpoint import (
    load_weights,
    read_checkpoint,
    save_weights,
)
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.networks.synthetic import synthetic_state_dict
from napari_biomedparse.networks.v2.biomedparse import BiomedParse


class Net(nn.Module):
    """Two tensors of different kinds, enough to misfit in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return {
        "linear.weight": torch.arange(6.0).reshape(2, 3),
        "linear.bias": torch.ones(2),
        "count": torch.tensor([7]),
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


# ---- reading


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["w.ckpt", "w.pt", "weights"])
def test_plain_state_dict(
    tmp_path: Path, weights: dict[str, Tensor], name: str, zipped: bool
) -> None:
    path = tmp_path / name
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    assert_same(read_checkpoint(path).tensors, weights)


def test_pickle_under_the_name_of_safetensors(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    torch.save(weights, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"pickled .* Rename it to \.ckpt"):
        read_checkpoint(tmp_path / "w.safetensors")


def test_lightning_checkpoint_keeps_only_weights(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    path = tmp_path / "last.ckpt"
    state = OrderedDict({f"model.{key}": value for key, value in weights.items()})
    state["loss_function.loss_fn.dice_loss.class_weight"] = torch.ones(1)
    state["loss_function.cls_loss_fn.pos_weight"] = torch.ones(1)
    torch.save(
        {
            "state_dict": state,
            "epoch": 3,
            "pytorch-lightning_version": "2.6",
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(9)}}}],
        },
        path,
    )
    found = read_checkpoint(path)
    assert_same(found.tensors, weights)
    assert found.config is None


def test_config_of_a_lightning_checkpoint(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    path = tmp_path / "tiny.ckpt"
    settings = {"config": asdict(TINY), "learning_rate": 1e-4}
    torch.save({"state_dict": weights, "hyper_parameters": settings}, path)
    assert read_checkpoint(path).config == TINY


def test_safetensors_round_trip(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / "weights.bin"  # the content decides
    save_weights(path, weights, {"source": "here"}, TINY)
    found = read_checkpoint(path)
    assert_same(found.tensors, weights)
    assert found.config == TINY
    assert found.metadata == {"format": "pt", "source": "here"}
    assert [p.name for p in tmp_path.iterdir()] == ["weights.bin"]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_shared_and_scattered_tensors_are_saved(tmp_path: Path) -> None:
    both = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": both, "b": both, "c": both.T, "d": both[1:]}
    save_weights(tmp_path / "w.safetensors", tensors)
    assert_same(read_checkpoint(tmp_path / "w.safetensors").tensors, tensors)


def test_saving_where_it_is_not_possible(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    with pytest.raises(OutputError, match=r"cannot be written to .*no-folder"):
        save_weights(tmp_path / "no-folder" / "w.safetensors", weights)


def test_failed_saving_leaves_the_old_file(
    tmp_path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, weights)

    def fill_the_disk(tensors: object, part: Path, metadata: object) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fill_the_disk)
    with pytest.raises(OutputError, match="No space left"):
        save_weights(path, {})
    assert_same(read_checkpoint(path).tensors, weights)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


# ---- what is no weights file


def truncated(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:6ea0bee43b983a7490e0b48689add96440c4405ca4b50b9f2fe21d5d03fd9440\n"
    b"size 4460902829\n"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (LFS_POINTER, "Git-LFS pointer.*git lfs pull"),
        (b"\n <!DOCTYPE html><html lang=en>", "web page.*<!DOCTYPE html>"),
        (b"\xef\xbb\xbf<html>", "web page"),
        (b"Access to model microsoft/BiomedParse is restricted.", "restricted.*terms"),
        (b'{"error": "Repository not found"}', "is text or a web page"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "neither safetensors nor"),
        (pickle.dumps({"a": 1}), "neither safetensors nor"),
    ],
)
def test_other_files_are_named_for_what_they_are(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "biomedparse_v2.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_file(tmp_path: Path, kind: str, keep: float) -> None:
    path = tmp_path / "weights"
    tensors = {"linear.weight": torch.zeros(50, 50)}
    if kind == "safetensors":
        save_weights(path, tensors)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    truncated(path, keep)
    with pytest.raises(CheckpointError, match=r"incomplete.*Download it again"):
        read_checkpoint(path)


def test_another_zip_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    with pytest.raises(CheckpointError, match="something else"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds list instead of named tensors"),
        ({}, "holds dict instead"),
        ({"state_dict": None}, "holds NoneType"),
        ({"epoch": 3, "a": torch.ones(1)}, r"1 entries are not tensors \(epoch\)"),
        ({"a": torch.ones(1), "model.a": torch.ones(1)}, "1 occur both with"),
    ],
)
def test_checkpoints_without_a_state_dict(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize("config", ["{", "[1]", '{"colour": 1}', '{"dim": "blue"}'])
def test_config_of_another_version(
    tmp_path: Path, weights: dict[str, Tensor], config: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, weights, {"config": config})
    with pytest.raises(CheckpointError, match="does not know"):
        read_checkpoint(path)


def test_old_torch_reads_no_pickle(
    tmp_path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(weights, tmp_path / "w.ckpt")
    save_weights(tmp_path / "w.safetensors", weights)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(CheckpointError, match=r"2\.9\.1.*2\.10 or newer"):
        read_checkpoint(tmp_path / "w.ckpt")
    assert_same(read_checkpoint(tmp_path / "w.safetensors").tensors, weights)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_anywhere_gives_an_error_or_tensors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    tensors = {"linear.weight": torch.zeros(4, 4), "linear.bias": torch.zeros(4)}
    if kind == "safetensors":
        save_weights(path, tensors, {"source": "here"}, TINY)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    draw = random.Random(kind)
    refused = 0
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(draw.choice((1, 5))):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused


# ---- hostile pickles


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def hostile(mark: Path) -> dict[str, object]:
    command = f"touch {mark}"
    return {
        "system": Call(os.system, command),
        "popen": Call(subprocess.Popen, ["touch", str(mark)]),
        "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Call(exec, f"open({str(mark)!r}, 'w')"),
        "open": Call(open, str(mark), "w"),
        "touch": Call(Path.touch, mark),
        "key": {Call(os.system, command): torch.ones(1)},
        "torch.load": Call(torch.load, str(mark)),
        "torch.hub": Call(torch.hub.load_state_dict_from_url, "http://127.0.0.1:9/x"),
    }


@pytest.mark.parametrize("force", ["", "1"], ids=["", "TORCH_FORCE_NO_WEIGHTS_ONLY"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("attack", sorted(hostile(Path("mark"))))
def test_nothing_in_a_hostile_pickle_runs(
    tmp_path: Path,
    attack: str,
    zipped: bool,
    force: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if force:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", force)
    mark = tmp_path / "it-ran"
    path = tmp_path / "weights.ckpt"
    content = {"state_dict": {"a": torch.ones(1)}, "extra": hostile(mark)[attack]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)

    with pytest.raises(CheckpointError, match="was not loaded") as caught:
        read_checkpoint(path)

    assert not mark.exists()
    assert "weights_only" not in str(caught.value)


class Restore:
    """Pickles as an object whose class, were it imported, would see its state."""

    def __getstate__(self) -> dict[str, str]:
        return {"state": "hidden"}

    def __setstate__(self, state: dict[str, str]) -> None:
        raise AssertionError(f"the class was given {state}")


class CfgNode(dict[str, object]):
    """Pickles as one of yacs, whose items are set one by one."""


CfgNode.__module__ = "yacs.config"
SETTINGS = {
    "namespace": argparse.Namespace(lr=1e-4, out=Path("runs")),
    "numpy scalar": np.float64(0.5),
    "numpy array": np.arange(3),
    "default": collections.defaultdict(list, a=[1]),
    "object": Restore(),
    "mapping": CfgNode(dim=3),
    "type": int,
    "any": Any,
    "set": frozenset([1]),
}
"""What training runs put beside weights, as omegaconf, hydra or lightning do."""


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_of_a_training_run_are_left_out(
    tmp_path: Path, kind: str, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    yacs = types.ModuleType("yacs.config")
    yacs.CfgNode = CfgNode  # type: ignore[attr-defined]
    path = tmp_path / "weights.pt"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", yacs)
        content = {
            "state_dict": {"a": torch.ones(1)},
            "hyper_parameters": {"settings": SETTINGS[kind]},
            "args": SETTINGS[kind],
        }
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    before = set(torch.serialization.get_safe_globals())
    assert_same(read_checkpoint(path).tensors, {"a": torch.ones(1)})
    assert set(torch.serialization.get_safe_globals()) == before


def test_settings_are_no_weights(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": np.float64(1)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"1 entries are not tensors \(b\)"):
        read_checkpoint(tmp_path / "w.pt")


def test_names_without_end_are_refused(tmp_path: Path) -> None:
    names = b"".join(b"cmine\nKind%d\n0" % i for i in range(400))
    (tmp_path / "w.pt").write_bytes(pickle_of_torch(names))
    with pytest.raises(CheckpointError, match="was not loaded"):
        read_checkpoint(tmp_path / "w.pt")


def pickle_of_torch(opcodes: bytes) -> bytes:
    """Return an older PyTorch file whose content is made of these opcodes."""
    file = io.BytesIO()
    torch.save({}, file, _use_new_zipfile_serialization=False)
    head = file.getvalue().index(pickle.dumps({}, 2))
    return file.getvalue()[:head] + b"\x80\x02" + opcodes + b"}."


@pytest.mark.parametrize("protocol", range(5))
def test_nothing_in_a_bare_pickle_runs(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "it-ran"
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {mark}"), protocol))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not mark.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    pickle.loads(pickle.dumps(hostile(mark)["system"]))
    assert mark.exists()


# ---- fitting


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_weights_become_the_networks_own(
    weights: dict[str, Tensor], device: str
) -> None:
    with torch.device(device):
        net = Net()
    load_weights(net, weights, "here")
    assert_same(dict(net.state_dict()), weights)
    assert net.linear.weight.data_ptr() == weights["linear.weight"].data_ptr()
    assert isinstance(net.linear.weight, nn.Parameter)


def test_precision_is_the_networks(weights: dict[str, Tensor]) -> None:
    weights["linear.weight"] = weights["linear.weight"].half()
    net = Net()
    load_weights(net, weights, "here")
    assert net.linear.weight.dtype == torch.float32
    assert net.linear.weight[1, 2] == 5


def test_all_that_does_not_fit_is_reported_at_once(weights: dict[str, Tensor]) -> None:
    del weights["linear.bias"]
    weights["linear.weight"] = torch.zeros(3, 2)
    weights["count"] = torch.zeros(1)
    weights |= {f"head.{i}": torch.zeros(1) for i in range(7)}
    net = Net()
    before = net.linear.weight.clone()
    with pytest.raises(CheckpointError) as caught:
        load_weights(net, weights, "w.ckpt")
    message = str(caught.value)
    assert "w.ckpt does not fit" in message
    assert "1 missing: linear.bias" in message
    assert "7 unexpected: head.0, head.1, head.2, head.3, head.4 and 2 more" in message
    assert "2 unfitting: count ([1] instead of [1] torch.int64)" in message
    assert "linear.weight ([3, 2] instead of [2, 3])" in message
    assert torch.equal(net.linear.weight, before)


def test_weights_of_another_network() -> None:
    with pytest.raises(CheckpointError, match=r"another network.*conv1.weight"):
        load_weights(Net(), {"conv1.weight": torch.zeros(1)}, "resnet.pt")
    with pytest.raises(CheckpointError, match="but nothing"):
        load_weights(Net(), {}, "nothing.pt")


# ---- the real network


def test_the_network_is_complete_from_a_mapped_file(tmp_path: Path) -> None:
    with torch.device("meta"):
        net = BiomedParse(TINY)
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    tensors = synthetic_state_dict(shapes)
    save_weights(tmp_path / "w.safetensors", tensors, config=TINY)

    load_weights(
        net, read_checkpoint(tmp_path / "w.safetensors").tensors, "w.safetensors"
    )

    everything = [*net.parameters(), *net.buffers()]
    assert not any(tensor.is_meta for tensor in everything)
    assert len(everything) == len(tensors)
    assert_same(dict(net.state_dict()), tensors)


@pytest.mark.slow
def test_synthetic_weights_equal_the_recipe(shared: Path) -> None:
    folder = shared / "reference"
    manifest = json.loads((folder / "state_dict_manifest.json").read_text())["keys"]
    expected = json.loads((folder / "weights_check.json").read_text())
    assert manifest.keys() == expected.keys()
    for key, (shape, _) in manifest.items():
        tensor = synthetic_state_dict({key: torch.Size(shape)})[key]
        flat = tensor.double().flatten()
        found = [flat.sum(), flat.abs().sum(), flat[0], flat[-1]]
        assert list(tensor.shape) == shape
        assert [v.item() for v in found] == pytest.approx(expected[key], rel=1e-5), key


def test_reading_leaves_the_file_closed_and_mapped(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.arange(3.0)})
    tensors = read_checkpoint(path).tensors
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("a"), tensors["a"])
    tensors["a"].add_(1)  # private to this process
    assert read_checkpoint(path).tensors["a"].tolist() == [0, 1, 2]
