"""Fine-tune a network on one's own images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_biomedparse.engine.devices import find_device
from napari_biomedparse.errors import CheckpointError, OptionError, VolumeError
from napari_biomedparse.io.durable import check_folder, writing
from napari_biomedparse.networks.blocks.maskformer import MaskFormer
from napari_biomedparse.networks.start import start_network
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.training.augment import SCALE, Variation
from napari_biomedparse.training.cases import load_cases
from napari_biomedparse.training.chunks import ChunkedData
from napari_biomedparse.training.fit import fit, share
from napari_biomedparse.training.folder import (
    BEST,
    CACHE,
    describe_training,
    open_training,
    save_training,
)
from napari_biomedparse.training.grounding_module import GroundingModule
from napari_biomedparse.training.keeper import Keeper
from napari_biomedparse.training.module import MaskModule, TrainingModule, prepare
from napari_biomedparse.training.options import FinetuneOptions
from napari_biomedparse.training.progress import Finetuned
from napari_biomedparse.training.slices import EMPTY_SHARE, SliceBatches, Split, split
from napari_biomedparse.training.volumes import TrainingVolume, require_targets

if TYPE_CHECKING:
    import torch

    from napari_biomedparse.training.chunks import Batches
    from napari_biomedparse.training.progress import Progress

_LOADED_BY_WORKERS = 4


def finetune(
    data: str | os.PathLike[str] | Sequence[TrainingVolume],
    output: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    options: FinetuneOptions | None = None,
    *,
    prompts: str | os.PathLike[str] | None = None,
    network: str | None = None,
    backbone: str | os.PathLike[str] | None = None,
    device: str = "auto",
    devices: int = 1,
    on_case: Callable[[str, int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Finetuned:
    """Train a network further on one's own images and labels.

    After an interruption, the same call resumes from the last checkpoint with the data
    it would have seen. From the first epoch on, the best weights so far are in the
    folder, with a record of what they were made from.

    Parameters
    ----------
    data : path or sequence of TrainingVolume
        A folder; see `load_cases`.
    output : path
        Folder for ``finetuned.safetensors``, ``last.ckpt`` and ``log.csv``, and for
        ``tensorboard`` if that is installed.
    checkpoint : str or path, optional
        Weights to start from, as for `load_model`; by default those of v2. With a
        `network` all but its backbone is taken from them where it fits, by default
        nothing.
    prompts : path, optional
        File with the wordings; see `read_wordings`.
    network : str, optional
        Train another network from the beginning, one of `ARCHITECTURES`: "focal-l",
        "hiera-s", "hiera-bp" (BoltzFormer), "v2-light", "v2-lite".
    backbone : path, optional
        Its pretrained backbone; see `start_network`.
    device : str
        "auto", "cpu", "cuda", ... On CUDA, bf16 is used where it suffices.
    devices : int
        Number of GPUs (or CPU processes) to train on; each takes one batch per step.
        Lightning runs the calling script again for each further one, which exits in
        this call; code before this call therefore runs in all of them.
    on_case : callable, optional
        Called before each case is read with its name, its number from 0, and the
        number of cases.
    on_progress : callable, optional
        Called after every batch, and after each evaluation of held-out slices, of
        which the first is before any training.
    stop : callable, optional
        Called after every batch; if it returns True, training stops, and the best
        weights are kept.

    Raises
    ------
    FormatError, VolumeError, PromptError
        If the data cannot be used; all problems are reported before training starts.
    CheckpointError, DeviceError
        If the network cannot be loaded or fine-tuned, or the devices are missing.
    OptionError
        If the loss became NaN or infinite because the learning rate is too high, or
        there is no such network.
    OutputError
        If the folder holds another training, or cannot be written.
    """
    options = options or FinetuneOptions()
    folder, place = Path(output), share(find_device(device), devices)
    if backbone is not None and network is None:
        raise OptionError(
            "A backbone is for a network that is trained from the beginning: name "
            "that, too (network)."
        )
    check_folder(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(data, str | os.PathLike):
            volumes = load_cases(
                Path(data),
                folder / CACHE,
                prompts=None if prompts is None else Path(prompts),
                modality=options.modality,
                on_case=on_case,
            )
        else:
            volumes = tuple(data)
            require_targets(volumes)
        if network is None:
            model = load_model(checkpoint or "v2")
        else:
            base = None if checkpoint is None else load_model(checkpoint)
            begun = start_network(
                network, backbone=backbone, base=base, seed=options.seed
            )
            model = begun.model
            if not begun.knows_text:  # what is drawn at random has to learn
                learns = tuple(part for part in options.freeze if part != "text")
                options = replace(options, freeze=learns)
        if not isinstance(model, MaskFormer):
            raise CheckpointError(
                f"{checkpoint} is a network of type {type(model).__name__}, which "
                "cannot be fine-tuned. Choose a BiomedParse checkpoint."
            )
        empty = 0.0 if model.config.slices_alone else EMPTY_SHARE
        parts = split(volumes, options.validation, options.seed, empty)
        if not parts.train:
            raise VolumeError(
                f"No data are left to train on because {parts.how} are held out. Add "
                "slices or volumes, or hold out less."
            )
        start = checkpoint or network or "v2"
        facts = describe_training(model, start, volumes, parts, options)
        finished = open_training(folder, facts)
        keeper = Keeper(folder, facts, on_progress, stop)
        if finished is None:
            learned, held_out = _batches(model, volumes, parts, options)
            train(model, learned, held_out, options, place, devices, keeper)
            finished = {"step": keeper.step, "best": keeper.best}
            finished["before"] = keeper.before
            if not keeper.stopped:
                save_training(folder, facts, finished)
    return Finetuned(
        folder / BEST,
        int(finished["step"]),
        finished["best"],
        parts.shown or parts.how,
        finished.get("before", {}),
    )


def _batches(
    model: MaskFormer,
    volumes: Sequence[TrainingVolume],
    parts: Split,
    options: FinetuneOptions,
) -> Iterator[SliceBatches]:
    """Make the batches to learn from, and those that are held out."""
    alone, edges = model.config.slices_alone, model.config.edge_queries > 0
    variation = variation_of(options)
    if alone and options.augment:
        variation = Variation(scale=SCALE, turn=options.turns)
    size = model.config.image_size
    for samples, changes in ((parts.train, variation), (parts.validation, None)):
        yield SliceBatches(
            volumes, samples, options, size, changes, alone=alone, edges=edges
        )


def variation_of(options: FinetuneOptions) -> Variation:
    """Return how slices with context are varied."""
    return Variation() if options.augment else Variation(chance=0.0, turn=False)


def train(
    model: MaskFormer,
    batches: Batches,
    held_out: Batches,
    options: FinetuneOptions,
    place: torch.device,
    devices: int,
    keeper: Keeper,
) -> None:
    """Train a loaded network with the loss of its kind, as the keeper's folder says."""
    prepare(model, options)
    data = ChunkedData(
        batches,
        held_out,
        save_every=options.save_every,
        workers=_LOADED_BY_WORKERS if place.type == "cuda" else 0,
    )
    masks_only = model.config.network == "boltzformer"
    alone = model.config.slices_alone
    kind = GroundingModule if alone else MaskModule if masks_only else TrainingModule
    half = place.type == "cuda"
    fit(kind(model, options), data, keeper, place, half=half, devices=devices)
    keeper.keep_last(model)
