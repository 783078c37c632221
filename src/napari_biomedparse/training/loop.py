"""The training loop: optimiser, schedule, averaged weights, checkpoints, resuming."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from napari_biomedparse.errors import CheckpointError
from napari_biomedparse.training.losses import (
    EXISTENCE_WEIGHT,
    Losses,
    segmentation_losses,
)

if TYPE_CHECKING:
    from napari_biomedparse.model.biomedparse import BiomedParse
    from napari_biomedparse.model.mask_decoder import Decoded
    from napari_biomedparse.training.data import Batch, Batches

logger = logging.getLogger(__name__)

CHECKPOINT = "last.pt"


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Parameters
    ----------
    steps : int
        Number of batches the schedule is laid out for.
    learning_rate : float
        Largest learning rate, after the warm-up.
    weight_decay : float
        Of matrices and kernels; token embeddings, norms and biases are spared.
    warmup : float
        Share of the run in which the learning rate rises; then a cosine to 1 %.
    clip : float
        Largest norm of the gradient.
    averaging : float
        Decay of the running average of the weights, which is what is kept.
    existence_weight, absent_weight, edge_weight : float
        See `segmentation_losses`.
    coefficients : tuple of float
        Of the terms of `Losses`.
    seed : int
        Of the random attention fields; data have their own.
    save_every : float
        Minutes between checkpoints.
    log_every : int
        Batches between log lines.
    """

    steps: int = 10_000
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    warmup: float = 0.03
    clip: float = 5.0
    averaging: float = 0.998
    existence_weight: float = EXISTENCE_WEIGHT
    absent_weight: float = 0.0
    edge_weight: float = 1.0
    coefficients: tuple[float, ...] = (1.0,) * len(Losses._fields)
    seed: int = 0
    save_every: float = 3.0
    log_every: int = 50


class DrawnField:
    """A random field drawn anew for every slice of every batch.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU.
    slices, heads, queries : int
        Sizes; prompts share the field.
    device : torch.device
        Where it is used.
    """

    def __init__(
        self,
        generator: torch.Generator,
        slices: int,
        heads: int,
        queries: int,
        device: torch.device,
    ) -> None:
        self._generator, self._device = generator, device
        self._shape = (slices, 1, heads, queries)

    def __call__(self, call: int, keys: int) -> Tensor:
        """Draw the field of a head call, float32 [B, 1, heads, queries, keys]."""
        field = torch.rand((*self._shape, keys), generator=self._generator)
        return field.to(self._device)


class Trainer:
    """A training run in a folder.

    Parameters
    ----------
    model : BiomedParse
        Trained in place, on its own device.
    batches : Batches
        Balanced batches by number.
    options : TrainOptions
        How to train.
    folder : Path
        For `last.pt`; a run that is found there goes on.
    watch : callable, optional
        Called with the averaged model and the step at every checkpoint.
    """

    def __init__(
        self,
        model: BiomedParse,
        batches: Batches,
        options: TrainOptions,
        folder: Path,
        watch: Callable[[BiomedParse, int], None] | None = None,
    ) -> None:
        self.model, self.options = model, options
        self.averaged = copy.deepcopy(model).eval()
        self.step, self.elapsed = 0, 0.0
        self._batches, self._folder, self._watch = batches, folder, watch
        self._optimizer = torch.optim.AdamW(
            parameter_groups(model, options.weight_decay),
            lr=options.learning_rate,
            fused=True,
        )
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume(folder / CHECKPOINT)

    def run(self) -> BiomedParse:
        """Train to the end and return the model with averaged weights."""
        options, device = self.options, self.model.pixel_mean.device
        self.model.train()
        recent: list[Losses] = []
        clock = saved = time.monotonic()
        while self.progress < 1.0:
            losses = self._learn(self._batches[self.step], device)
            recent.append(Losses(*(term.detach() for term in losses)))
            self.step += 1
            now = time.monotonic()
            self.elapsed, clock = self.elapsed + now - clock, now
            if self.step % options.log_every == 0:
                self._log(recent)
                recent = []
            if now - saved > 60.0 * options.save_every:
                self.save()
                saved = time.monotonic()
        self.save()
        return self.averaged

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return self.step / self.options.steps

    def save(self) -> None:
        """Write the checkpoint, all or nothing, and show it to the watcher."""
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "options": asdict(self.options),
        }
        part = self._folder / f"{CHECKPOINT}.part"
        torch.save(state, part)
        part.replace(self._folder / CHECKPOINT)
        if self._watch is not None:
            self._watch(self.averaged, self.step)

    def _resume(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.step, self.elapsed = int(state["step"]), float(state["elapsed"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not a checkpoint of this training run ({error}); choose "
                "another output folder, or delete the file to start anew."
            ) from error
        logger.info("going on from step %d of %s", self.step, path)

    def _learn(self, batch: Batch, device: torch.device) -> Losses:
        options = self.options
        rate = options.learning_rate * _schedule(self.progress, options.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(options.seed * 100_003 + self.step)
        decoded = predict(self.model, batch, generator, device)
        losses = segmentation_losses(
            decoded.mask_logits,
            decoded.edge_logits,
            decoded.existence,
            type(batch.targets)(*(part.to(device) for part in batch.targets)),
            existence_weight=options.existence_weight,
            absent_weight=options.absent_weight,
            edge_weight=options.edge_weight,
        )
        self._optimizer.zero_grad(set_to_none=True)
        losses.total(options.coefficients).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        self._optimizer.step()
        self._average()
        return losses

    @torch.no_grad()
    def _average(self) -> None:
        """Move the average towards the weights; early on it follows closely."""
        decay = min(self.options.averaging, (1 + self.step) / (10 + self.step))
        means: list[Tensor] = list(self.averaged.parameters())
        weights: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(means, weights, 1.0 - decay)

    def _log(self, recent: list[Losses]) -> None:
        shown = " ".join(
            f"{name} {float(torch.stack(terms).mean()):.3f}"
            for name, terms in zip(
                Losses._fields, zip(*recent, strict=True), strict=True
            )
        )
        logger.info(
            "step %d (%.0f %%, %.2f s a step) %s",
            self.step,
            100.0 * self.progress,
            self.elapsed / max(self.step, 1),
            shown,
        )


def predict(
    model: BiomedParse, batch: Batch, generator: torch.Generator, device: torch.device
) -> Decoded:
    """Run the network on a batch, with fields drawn from `generator`."""
    config = model.config
    features = model.encode_image(batch.slices.to(device))
    tokens = model.encode_prompts(batch.ids.to(device))
    tokens = tokens * batch.real.to(device)[..., None]
    field = DrawnField(
        generator, len(batch.slices), config.heads, config.queries, device
    )
    return model.decode(features, tokens, field)


def _schedule(progress: float, warmup: float) -> float:
    """Factor of the learning rate: a linear rise, then a cosine down to 1 %."""
    if progress < warmup:
        return max(progress / warmup, 0.01)
    rest = min(1.0, (progress - warmup) / (1.0 - warmup))
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * rest))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Part what is trained into what decays and what does not."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        table = "embed" in name or "query_feat" in name or "classifier_query" in name
        group = spared if parameter.ndim < 2 or table else decayed
        group.append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
