"""Load a network by the name of a model or from a file.

Torch is imported only when a model is loaded, so that forms open quickly.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from weakref import WeakKeyDictionary

from napari_biomedparse.errors import CheckpointError, DeviceError, OutputError
from napari_biomedparse.networks.catalogue import (
    MODELS,
    HubFile,
    NamedModel,
    available_models,
    build,
)
from napari_biomedparse.networks.config import RECORD, V1, V1_NAME, V2, parse_config

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_biomedparse.networks.checkpoint import Checkpoint
    from napari_biomedparse.networks.config import BiomedParseConfig
    from napari_biomedparse.networks.hub import Confirm, Progress
    from napari_biomedparse.networks.network import Network

_LOGGER = logging.getLogger(__name__)

SMALL, SMALL_BYTES = ("demo", "tiny"), 2**26
"""Names of the small networks, and the maximum size of their weights files."""
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")
"""Endings of weights files."""
_NAMES_BYTES = 2**22
"""Beginning of a weights file that holds the names of its tensors."""

TAUGHT = "taught"
"""Entry in the metadata of a file of `teach`."""

DEMO_STANDS_IN = (
    "BiomedParse v2 is not on this computer, so the demo model is used. It learned "
    "eight targets from phantoms and is for trying out. Name the model to choose: "
)
_Model = TypeVar("_Model")
_names: WeakKeyDictionary[Network, str] = WeakKeyDictionary()
_identities: WeakKeyDictionary[Network, str] = WeakKeyDictionary()


def published_file(model: str) -> HubFile | None:
    """Return the file that a model known by name is downloaded as, if it is."""
    listed = MODELS.get(model)
    return listed.file if listed and isinstance(listed.file, HubFile) else None


def is_downloaded(model: str = "v2") -> bool:
    """Return whether the published weights of a model are on this computer."""
    from napari_biomedparse.networks.hub import find_cached

    file = published_file(model)
    return file is not None and any(
        find_cached(file, name) for name in (file.converted, file.name)
    )


def default_model() -> str:
    """Return ``v2`` if it was downloaded or there is no demo, else ``demo``."""
    return "v2" if is_downloaded() or "demo" not in available_models() else "demo"


def model_or_default(model: _Model | None) -> _Model | str:
    """Return a model, or the default one, with a warning if that is the demo."""
    if model is not None:
        return model
    chosen = default_model()
    if chosen == "demo":  # warned at this line, so once
        text = f"{DEMO_STANDS_IN}model='v2' downloads it, model='demo' is this one."
        warnings.warn(text, stacklevel=1)
    return chosen


def is_fine_tuned(path: str | os.PathLike[str]) -> bool:
    """Return whether a file has weights of `finetune`; reads no weights."""
    return "best" in _metadata(path)


def _metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty for another kind of file."""
    from safetensors import SafetensorError, safe_open

    with suppress(OSError, SafetensorError), safe_open(path, framework="np") as file:
        return file.metadata() or {}
    return {}


def untaught(model: str) -> str:
    """Return what a file of `teach` is based on, and any other model as it is."""
    try:
        base = json.loads(_metadata(model)[TAUGHT])["base"]
    except (LookupError, RecursionError, TypeError, ValueError):
        return model
    beside = Path(model).with_name(Path(str(base)).name)
    return str(beside if beside.is_file() else base)


def config_of(model: str) -> BiomedParseConfig:
    """Return the configuration of a model, given by name or file.

    A file records it, or else the names of tensors at its beginning tell which of the
    published ones it is like; weights are not read.
    """
    model = untaught(model)
    if model in MODELS:
        return MODELS[model].config
    with suppress(CheckpointError):
        if (known := parse_config(_metadata(model).get(RECORD), model)) is not None:
            return known
    with suppress(OSError), open(model, "rb") as file:
        return V1 if V1_NAME.encode() in file.read(_NAMES_BYTES) else V2
    return V2


def is_small(model: str) -> bool:
    """Return whether a model, given by name or file, is small; reads no weights."""
    model = untaught(model)
    path = Path(model)
    return model in SMALL or (path.is_file() and path.stat().st_size <= SMALL_BYTES)


def pace_on_cpu(model: str) -> float:
    """Estimate the seconds that a slice takes on this computer's processor.

    From the core-seconds measured for one prompt on an AMD EPYC (README, Speed), and
    from the time of v1 as a multiple of that of v2.
    """
    is_v1 = config_of(model).network == "v1"
    measured = 0.1 if is_small(model) else 49.0 if is_v1 else 11.0
    return measured / min(os.cpu_count() or 1, 16)


def may_have_gpu() -> bool:
    """Return whether a supported GPU may be there, without asking torch."""
    apple = (platform.system(), platform.machine()) == ("Darwin", "arm64")
    return apple or any(map(shutil.which, ("nvidia-smi", "rocminfo")))


def load_model(
    name: str | os.PathLike[str] = "v2",
    *,
    device: str | torch.device = "cpu",
    token: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    on_progress: Progress | None = None,
    confirm: Confirm | None = None,
    base: Network | None = None,
) -> Network:
    """Load a network with its weights.

    The published weights are downloaded on first use, into the Hugging Face cache,
    and converted there to safetensors; later loads map that file into memory. A path
    never causes a download.

    Parameters
    ----------
    name : str or path
        One of `available_models`, or a ``.safetensors``, ``.ckpt`` or ``.pt`` file, or
        a folder that holds one.
    device : str or torch.device
    token, revision, offline, on_progress, confirm
        For the download of a published model; see `networks.hub.fetch`. For the pinned
        revision, which is the default, size and checksum are verified if known.
    base : Network, optional
        What a file of `teach` may be based on, if it is loaded already.

    Returns
    -------
    Network
        In evaluation mode, without gradients.

    Raises
    ------
    CheckpointError
        If there is no such model, or its weights cannot be obtained or do not fit.
    DeviceError
        If there is no such device, or it has too little memory.
    """
    from napari_biomedparse.networks.checkpoint import read_checkpoint

    listed = MODELS.get(name) if isinstance(name, str) else None
    if listed is not None and listed.file is None:
        model = _build(listed, listed.config, None, listed.name)
    else:
        path = (
            _published(listed, revision, token, offline, on_progress, confirm)
            if listed is not None and isinstance(listed.file, HubFile)
            else _local(name)
        )
        checkpoint = read_checkpoint(path)
        if TAUGHT in checkpoint.metadata:
            model = _taught(checkpoint, path, base, offline=offline)
        else:
            model = _build(listed, checkpoint.config, checkpoint.tensors, path)
    _names[model] = path.name if listed is None else listed.name
    try:
        return model.to(device)
    except (AssertionError, RuntimeError) as error:
        raise DeviceError(
            f"The model cannot be moved to {device} ({str(error).splitlines()[0]}). "
            "Choose another device."
        ) from error


def model_identity(model: Network | str | os.PathLike[str]) -> str:
    """Identify weights, for the record of a result, as their name and a checksum.

    The weights are those of a network, or what `load_model` would load without a
    download. The 12 digits are the same for a checkpoint and its conversion.
    """
    if isinstance(model, str | os.PathLike):
        model = load_model(model, offline=True)
    if model in _identities:
        return _identities[model]
    identity = f"{_names.get(model, 'custom')} {_digest(model.state_dict())[:12]}"
    if not any(parameter.requires_grad for parameter in model.parameters()):
        _identities[model] = identity  # what can be trained may change
    return identity


def base_facts(base: Network) -> dict[str, str]:
    """Return what a taught file records of its base: its name and checksum."""
    name, _, checksum = model_identity(base).rpartition(" ")
    return {"base": name, "checksum": checksum}


def _taught(
    checkpoint: Checkpoint, path: Path, base: Network | None, *, offline: bool
) -> Network:
    """Build a taught network around its base, which must be the same as then."""
    from napari_biomedparse.networks.taught import TaughtNetwork

    try:
        facts = json.loads(checkpoint.metadata[TAUGHT])
        name, checksum = str(facts["base"]), facts["checksum"]
        texts = [str(text) for text in facts["texts"]]
        tensors = [checkpoint.tensors[key] for key in ("heads", "gates", "basis")]
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged as a file of `teach` ({error!r}). Teach again."
        ) from error
    if base is None or base_facts(base)["checksum"] != checksum:
        base = load_model(untaught(str(path)), offline=offline)
    if base_facts(base)["checksum"] != checksum:
        raise CheckpointError(
            f"{path} was taught on other weights than those of {name}. Put the weights "
            "file that it was taught on beside it, or teach again."
        )
    try:
        taught = TaughtNetwork(base, texts, *tensors)
    except ValueError as error:
        raise CheckpointError(f"{path} does not fit {name}: {error}.") from error
    return taught.eval().requires_grad_(False)


def _build(
    listed: NamedModel | None,
    config: BiomedParseConfig | None,
    tensors: Mapping[str, Tensor] | None,
    source: str | Path,
) -> Network:
    """Build a network with its weights, which are synthetic by default."""
    from napari_biomedparse.networks.checkpoint import load_weights, network_of
    from napari_biomedparse.networks.synthetic import synthetic_state_dict

    if config is None:  # as in published files
        config = network_of(tensors or {})
        if (known := listed or MODELS.get(config.network)) is not None:
            config = known.config
    try:
        model = build(config)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"{source} describes a network that cannot be built ({e}). Use weights "
            "made with this version of napari-biomedparse."
        ) from e
    if tensors is None:
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        tensors = synthetic_state_dict(shapes)
    load_weights(model, tensors, source)
    return model.eval().requires_grad_(False)


def _convert(
    listed: NamedModel, path: Path, out: Path, facts: Mapping[str, str]
) -> None:
    """Write the weights of a checkpoint that fits, with facts about its origin."""
    from napari_biomedparse.networks.checkpoint import read_checkpoint, save_weights

    checkpoint = read_checkpoint(path)
    model = _build(listed, checkpoint.config, checkpoint.tensors, path)
    facts = {**checkpoint.metadata, **facts}
    save_weights(out, model.state_dict(), facts, model.config)


def _published(
    listed: NamedModel,
    revision: str | None,
    token: str | None,
    offline: bool,
    on_progress: Progress | None,
    confirm: Confirm | None,
) -> Path:
    """Find converted published weights; download and convert them if needed."""
    from huggingface_hub import constants

    from napari_biomedparse.networks.hub import check, fetch, find_cached

    file = cast("HubFile", listed.file)
    cached = find_cached(file, file.converted, revision)
    if cached is not None:
        return cached
    path = fetch(
        file,
        revision=revision,
        token=token,
        offline=offline,
        on_progress=on_progress,
        confirm=confirm,
    )
    # If the cache is read-only, the weights go to the Hub's folder for assets.
    assets = Path(constants.HF_ASSETS_CACHE) / "napari-biomedparse" / path.parent.name
    if (assets / file.converted).is_file():
        return assets / file.converted
    if revision in (None, file.revision):
        check(file, path)
    facts = {
        "source": f"{file.page}/resolve/{path.parent.name}/{file.name}",
        "licence": file.licence,
    }
    for folder in (path.parent, assets):
        _LOGGER.info("Converting %s to %s", path, folder / file.converted)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _convert(listed, path, folder / file.converted, facts)
        except (OSError, OutputError) as error:
            _LOGGER.info("%s", error)
        else:
            return folder / file.converted
    _LOGGER.warning("Loading %s slowly: there is no room to convert it.", path)
    return path


def _local(name: str | os.PathLike[str]) -> Path:
    """Find the weights file of a path, or of a model in the installation."""
    listed = MODELS.get(name) if isinstance(name, str) else None
    if listed is not None and isinstance(listed.file, Path):
        if not listed.is_available:
            raise CheckpointError(
                f"The {listed.name} model is not part of this installation: "
                f"{listed.file} is missing. Choose 'v2' or give the path of a weights "
                "file."
            )
        return listed.file
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(
            f"There is no model {os.fspath(name)!r}: it is neither one of the names "
            f"{', '.join(available_models())} nor a file or folder. Check the path."
        )
    published = [file for file in map(published_file, MODELS) if file is not None]
    for known in (name for file in published for name in (file.converted, file.name)):
        if (path / known).is_file():
            return path / known
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(
            f"The folder {path} must hold a published file or exactly one weights file "
            f"({', '.join(SUFFIXES)}); it holds {names}. Give the path of the file."
        )
    return files[0]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute a checksum of named tensors, independent of order and device."""
    import torch

    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
