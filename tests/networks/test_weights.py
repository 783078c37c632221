from __future__ import annotations

import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from fake_hub import COMMIT, FakeHub, connected
from huggingface_hub import constants, scan_cache_dir
from tiny_v1 import CONFIG as TINY_V1, tiny_v1
from torch import Tensor

from napari_biomedparse.errors import CheckpointError, DeviceError, OutputError
from napari_biomedparse.networks import checkpoint, weights
from napari_biomedparse.networks.blocks.decoder import SeededField
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.networks.catalogue import (
    MODELS,
    PUBLISHED,
    available_models,
)
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.networks.config import TINY, V1, V2
from napari_biomedparse.networks.v1.biomedparse import BiomedParseV1
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.networks.weights import (
    default_model,
    is_downloaded,
    load_model,
    model_identity,
    model_or_default,
)

NAME = "biomedparse_v2.ckpt"
CONVERTED = PUBLISHED.converted


def save_lightning(path: Path, tensors: dict[str, Tensor]) -> None:
    """Save as the published checkpoint is: prefixed, with what only training needs."""
    state = OrderedDict({f"model.{key}": value for key, value in tensors.items()})
    state["loss_function.loss_fn.dice_loss.class_weight"] = torch.ones(1)
    state["loss_function.cls_loss_fn.pos_weight"] = torch.ones(1)
    moments = {i: {"exp_avg": torch.zeros(500)} for i in range(3)}
    content = {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": state,
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    }
    torch.save(content, path)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return dict(load_model("tiny").state_dict())


@pytest.fixture
def published(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    """The Hub with a published network that is tiny, and an empty cache."""
    save_lightning(tmp_path / NAME, tensors)
    hub = FakeHub("microsoft/BiomedParse", NAME, (tmp_path / NAME).read_bytes())
    file = replace(PUBLISHED, revision=COMMIT, size=len(hub.content), sha256=hub.sha256)
    tiny = replace(MODELS["v2"], file=file, config=TINY)
    monkeypatch.setitem(MODELS, "v2", tiny)
    with connected(hub, tmp_path / "cache", monkeypatch):
        yield hub


def outputs(model: BiomedParse) -> tuple[Tensor, ...]:
    """What a network makes of two slices and two prompts."""
    slices = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    ids = torch.stack(
        [torch.from_numpy(tokenize(text).ids) for text in ("liver", "left kidney")]
    )
    field = SeededField(0, TINY.heads, TINY.queries, torch.device("cpu"))
    with torch.inference_mode():
        tokens = model.encode_prompts(ids[:, :4])
        return tuple(model.decode(model.encode_image(slices), tokens, field))


def assert_same_outputs(first: BiomedParse, second: BiomedParse) -> None:
    for a, b in zip(outputs(first), outputs(second), strict=True):
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)


# ---- names and paths


def test_tiny_is_ready_and_always_the_same() -> None:
    model = load_model("tiny")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.config == TINY
    assert_same_outputs(model, load_model("tiny"))


def test_round_trip_of_a_lightning_checkpoint(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = replace(MODELS["v2"], config=TINY)
    monkeypatch.setitem(MODELS, "v2", tiny)
    save_lightning(tmp_path / NAME, tensors)
    for path in (tmp_path / NAME, str(tmp_path / NAME), tmp_path):
        assert_same_outputs(load_model(path), load_model("tiny"))


def test_round_trip_of_safetensors(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    checkpoint.save_weights(tmp_path / "mine.safetensors", tensors, config=TINY)
    for path in (tmp_path / "mine.safetensors", tmp_path):
        assert_same_outputs(load_model(path), load_model("tiny"))


def test_checkpoint_that_tells_its_sizes(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    settings = {"config": asdict(TINY)}
    path = tmp_path / "fine-tuned.ckpt"
    torch.save({"state_dict": tensors, "hyper_parameters": settings}, path)
    assert load_model(path).config == TINY


def test_folder_prefers_the_converted_file(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    (tmp_path / NAME).write_bytes(b"")
    (tmp_path / "readme.md").write_text("about")
    checkpoint.save_weights(tmp_path / CONVERTED, tensors, config=TINY)
    assert_same_outputs(load_model(tmp_path), load_model("tiny"))


@pytest.mark.parametrize("files", [(), ("a.ckpt", "b.safetensors")])
def test_folder_without_one_weights_file(tmp_path: Path, files: tuple[str]) -> None:
    for file in files:
        (tmp_path / file).touch()
    held = ", ".join(files) or "none"
    with pytest.raises(CheckpointError, match=f"it holds {held}. Give the path"):
        load_model(tmp_path)


def test_folder_cloned_without_lfs(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_model(tmp_path)


def test_unknown_name(published: FakeHub) -> None:
    with pytest.raises(CheckpointError, match=r"no model .v3..*v2.*tiny"):
        load_model("v3")
    with pytest.raises(CheckpointError, match=r"no model ./none/w\.ckpt"):
        load_model("/none/w.ckpt")
    assert published.requests == []


def test_demo_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(MODELS["demo"], file=tmp_path / "demo.safetensors")
    monkeypatch.setitem(MODELS, "demo", missing)
    with pytest.raises(CheckpointError, match="not part of this installation"):
        load_model("demo")


@pytest.mark.usefixtures("published")
def test_best_model_at_hand(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = tmp_path / "demo.safetensors"
    monkeypatch.setitem(MODELS, "demo", replace(MODELS["demo"], file=demo))
    assert available_models() == ("v2", "v1", "tiny")
    assert default_model() == "v2"

    checkpoint.save_weights(demo, tensors, config=TINY)
    assert available_models() == ("v2", "v1", "demo", "tiny")
    assert default_model() == "demo"
    assert not is_downloaded()
    assert_same_outputs(load_model("demo"), load_model("tiny"))

    load_model("v2")
    assert default_model() == "v2"
    assert is_downloaded()


def test_device() -> None:
    assert load_model("tiny", device="meta").pixel_mean.is_meta
    for missing in ("warp", "cuda:99"):
        with pytest.raises(DeviceError, match=f"cannot be moved to {missing} "):
            load_model("tiny", device=missing)


# ---- the published weights


def test_published_weights_are_converted_once(
    published: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same_outputs(load_model(), load_model("tiny"))
    snapshot = Path(constants.HF_HUB_CACHE, "models--microsoft--BiomedParse/snapshots")
    names = {path.name for path in (snapshot / COMMIT).iterdir()}
    assert names == {NAME, CONVERTED}

    published.requests.clear()
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr(weights, "_convert", None)
    assert_same_outputs(load_model(), load_model("v2", offline=True))
    assert published.requests == []


def save_v1(path: Path) -> dict[str, Tensor]:
    """Save a tiny v1 in the published layout, with all that prompts do not need."""
    tensors = dict(tiny_v1().state_dict())
    decoder = "sem_seg_head.predictor."
    text = f"{decoder}lang_encoder.biomed_encoder.embeddings.word_embeddings.weight"
    more = ("dilation_kernel", f"{decoder}pn_indicator.weight", text,
            f"{decoder}mask_sptial_embed.0", "criterion.empty_weight")  # fmt: skip
    torch.save(tensors | dict.fromkeys(more, torch.ones(3)), path)
    return tensors


def test_v1_is_known_by_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "v1", replace(MODELS["v1"], config=TINY_V1))
    tensors = save_v1(tmp_path / "biomedparse_v1.pt")
    for path in (tmp_path / "biomedparse_v1.pt", tmp_path):
        model = load_model(path)
        assert isinstance(model, BiomedParseV1)
        found = model.state_dict()
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_v1_is_downloaded_and_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = save_v1(tmp_path / "v1.pt")
    name = MODELS["v1"].file.name
    hub = FakeHub("microsoft/BiomedParse", name, (tmp_path / "v1.pt").read_bytes())
    file = replace(MODELS["v1"].file, revision=COMMIT)
    listed = replace(MODELS["v1"], file=file, config=TINY_V1)
    monkeypatch.setitem(MODELS, "v1", listed)
    with connected(hub, tmp_path / "cache", monkeypatch):
        assert not is_downloaded("v1")
        load_model("v1")
        monkeypatch.setattr(torch, "load", None)
        again = load_model("v1", offline=True)
        assert is_downloaded("v1")
        assert not is_downloaded("v2")
    assert again.config == TINY_V1
    assert again.state_dict().keys() == tensors.keys()
    assert again.pixel_mean.flatten()[0] == pytest.approx(123.675)


@pytest.mark.usefixtures("published")
def test_published_checkpoint_may_be_deleted_after_conversion() -> None:
    load_model()
    snapshots = Path(constants.HF_HUB_CACHE, "models--microsoft--BiomedParse/snapshots")
    (snapshots / COMMIT / NAME).resolve().unlink()
    (snapshots / COMMIT / NAME).unlink()
    assert_same_outputs(load_model(offline=True), load_model("tiny"))
    assert default_model() == "v2"


@pytest.mark.usefixtures("published")
def test_the_hub_tolerates_and_cleans_up_the_converted_file() -> None:
    load_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    assert cache.warnings == []
    (repository,) = cache.repos
    (revision,) = repository.revisions
    assert {file.file_name for file in revision.files} == {NAME, CONVERTED}
    cache.delete_revisions(COMMIT).execute()
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.safetensors"))


def test_what_the_converted_file_says(published: FakeHub) -> None:
    load_model()
    (path,) = Path(constants.HF_HUB_CACHE).rglob(CONVERTED)
    found = checkpoint.read_checkpoint(path)
    assert found.config == TINY
    origin = f"microsoft/BiomedParse/resolve/{COMMIT}/{NAME}"
    assert found.metadata["source"] == f"https://huggingface.co/{origin}"
    assert "CC BY-NC-SA 4.0" in found.metadata["licence"]
    assert path.stat().st_size < len(published.content)


def test_read_only_cache(
    published: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save = checkpoint.save_weights

    def refuse(path: Path, *args: object) -> None:
        if str(path).startswith(tuple(refused)):
            raise OutputError(f"{path} cannot be written")
        save(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save_weights", refuse)
    refused = [constants.HF_HUB_CACHE, constants.HF_ASSETS_CACHE]
    assert_same_outputs(load_model(), load_model("tiny"))
    assert "no room to convert" in caplog.text

    refused.pop()
    assert_same_outputs(load_model(), load_model("tiny"))
    (converted,) = Path(constants.HF_ASSETS_CACHE).rglob(CONVERTED)
    assert converted.parent.name == COMMIT

    published.requests.clear()
    monkeypatch.setattr(torch, "load", None)
    assert_same_outputs(load_model(), load_model("tiny"))
    assert published.requests == []


def test_another_file_than_published(
    published: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(MODELS["v2"].file, sha256="0" * 64)
    monkeypatch.setitem(MODELS, "v2", replace(MODELS["v2"], file=wrong))
    with pytest.raises(CheckpointError, match="not the published"):
        load_model()
    assert not list(Path(constants.HF_HUB_CACHE).rglob(CONVERTED))
    (path,) = Path(constants.HF_HUB_CACHE).rglob(NAME)
    assert_same_outputs(load_model(path), load_model("tiny"))
    assert_same_outputs(load_model(revision="main"), load_model("tiny"))


def test_licence_progress_and_token_reach_the_hub(published: FakeHub) -> None:
    published.mood = "gated"
    shown: list[str] = []
    seen: list[int] = []
    load_model(
        token="hf_good",
        confirm=lambda licence: not shown.append(licence),  # type: ignore[func-returns-value]
        on_progress=lambda done, total: seen.append(done),
    )
    assert len(shown) == 1
    for word in ("CC BY-NC-SA 4.0", "research", "not for clinical use", "terms"):
        assert word in shown[0]
    assert seen[-1] == len(published.content)


def test_nothing_is_left_of_a_declined_download(published: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="declined"):
        load_model(confirm=lambda licence: False)
    with pytest.raises(CheckpointError, match="offline"):
        load_model(offline=True)
    assert published.requests == []


def test_weights_of_another_network(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "v1.pt"
    torch.save({"backbone.conv.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="another network"):
        load_model(path)
    torch.save(tensors, path)  # these are TINY, and the file does not say so
    with pytest.raises(CheckpointError, match=r"does not fit.*missing.*unfitting"):
        load_model(path)


# ---- converting and naming


@pytest.mark.usefixtures("published")
def test_a_checkpoint_and_its_conversion_are_the_same_weights(tmp_path: Path) -> None:
    load_model()
    (converted,) = Path(constants.HF_HUB_CACHE).rglob(CONVERTED)
    identities = {
        model_identity(path).split()[-1]
        for path in (tmp_path / NAME, converted, "tiny")
    }
    assert len(identities) == 1


def test_nothing_is_converted_that_does_not_fit(
    published: FakeHub, tmp_path: Path
) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    published.content = (tmp_path / "a.pt").read_bytes()
    with pytest.raises(CheckpointError):
        load_model(revision="main")
    assert not list(Path(constants.HF_HUB_CACHE).rglob(CONVERTED))


def test_identity_names_the_weights(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    tiny = load_model("tiny")
    identity = model_identity(tiny)
    assert identity == model_identity("tiny")
    assert identity.startswith("tiny ")
    assert len(identity.split()[-1]) == 12

    checkpoint.save_weights(tmp_path / "mine.safetensors", tensors, config=TINY)
    assert model_identity(tmp_path / "mine.safetensors").startswith("mine.safetensors ")


def test_identity_follows_training() -> None:
    model = load_model("tiny").requires_grad_(True)
    before = model_identity(model)
    with torch.no_grad():
        model.pixel_mean.add_(1)
    assert model_identity(model) != before
    assert model_identity(BiomedParse(TINY)).startswith("custom ")


def test_the_demo_loads_fast_and_without_a_compiler() -> None:
    code = """
import sys, time, torch
from napari_biomedparse.networks.weights import load_model
start = time.process_time()
load_model("demo")
print(time.process_time() - start, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    seconds, compiler = done.stdout.split()
    assert compiler == "False"
    assert float(seconds) < 1


# ---- what is chosen where nothing is


@pytest.mark.usefixtures("published")
def test_the_demo_that_stands_in_is_named_in_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"v2 is not on.*phantoms.*model='v2'"):
        assert model_or_default(None) == "demo"
    assert model_or_default("demo") == "demo"  # in silence: it was named
    load_model()
    assert model_or_default(None) == "v2"


@pytest.mark.usefixtures("published")
def test_python_warns_once() -> None:
    code = (
        "import numpy as np, napari_biomedparse as nbp\n"
        "for _ in range(2):\n"
        "    nbp.segment(np.zeros((1, 8, 8), np.uint8), 'nuclei', device='cpu')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("UserWarning: BiomedParse v2 is not on") == 1


def test_the_pace_depends_on_the_model_and_the_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(weights.os, "cpu_count", lambda: 4)
    large = tmp_path / "large.ckpt"
    with large.open("wb") as file:
        file.truncate(2**30)
    assert weights.pace_on_cpu("demo") == pytest.approx(0.1 / 4)
    assert weights.pace_on_cpu("v2") == weights.pace_on_cpu(str(large)) == 11 / 4
    with large.open("wb") as file:
        file.write(b"sem_seg_head.predictor.lang_encoder.lang_proj")
        file.truncate(2**30)
    for model in ("v1", str(large)):
        assert weights.pace_on_cpu(model) == 49 / 4
    monkeypatch.setattr(weights.os, "cpu_count", lambda: 128)  # more help no further
    assert weights.pace_on_cpu("v2") == 11 / 16


@pytest.mark.parametrize("legacy", [False, True])
def test_the_network_of_a_file_is_known_without_its_weights(
    tmp_path: Path, legacy: bool
) -> None:
    model = tiny_v1()
    with_config, names_alone = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_weights(with_config, model.state_dict(), config=model.config)
    save_weights(names_alone, model.state_dict())
    pickled = tmp_path / "c.pt"
    torch.save(model.state_dict(), pickled, _use_new_zipfile_serialization=not legacy)
    assert weights.config_of(str(with_config)) == model.config
    assert weights.config_of(str(names_alone)) == V1
    assert weights.config_of(str(pickled)) == V1
    assert weights.config_of("v1") == V1
    assert weights.config_of("tiny") == TINY


def test_knowing_the_network_of_a_file_needs_no_torch(tmp_path: Path) -> None:
    model, path = tiny_v1(), tmp_path / "a.safetensors"
    save_weights(path, model.state_dict(), config=model.config)
    code = (
        "import sys\n"
        "from napari_biomedparse.networks.weights import config_of\n"
        f"print(config_of({str(path)!r}).network, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "v1 False\n", done.stderr


def test_other_files_are_taken_for_v2(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    for content in (b"", b"{" * 9, b"\xff" * 99):
        path.write_bytes(content)
        assert weights.config_of(str(path)) == V2
    assert weights.config_of(str(tmp_path / "missing")) == V2
    assert weights.config_of(str(tmp_path)) == V2
