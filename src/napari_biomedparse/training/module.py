"""What Lightning trains: the network with its loss, optimiser and schedule."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint

from napari_biomedparse.labels.resolve import upsample
from napari_biomedparse.training.adapters import add_adapters
from napari_biomedparse.training.losses import (
    EXISTENCE_WEIGHT,
    Losses,
    segmentation_losses,
)
from napari_biomedparse.training.predict import predict

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from napari_biomedparse.networks.v2.biomedparse import BiomedParse
    from napari_biomedparse.training.chunks import Numbered
    from napari_biomedparse.training.options import FinetuneOptions

WARM_UP = 0.03
"""Share of a schedule in which the learning rate rises."""


@dataclass(frozen=True)
class Learning:
    """What is minimised, and by which steps.

    Parameters
    ----------
    learning_rate : float
        Of AdamW; its largest where there is a schedule.
    weight_decay : float
        Of matrices and kernels; token embeddings, norms and biases are spared.
    schedule : int
        Steps in which the learning rate rises and then falls as a cosine to 1 %; 0
        keeps it as it is.
    existence_weight, absent_weight, edge_weight : float
        See `segmentation_losses`.
    coefficients : tuple of float
        Of the terms of `Losses`.
    seed : int
        Of the random attention fields; data have their own.
    """

    learning_rate: float
    weight_decay: float = 0.01
    schedule: int = 0
    existence_weight: float = EXISTENCE_WEIGHT
    absent_weight: float = 0.0
    edge_weight: float = 1.0
    coefficients: tuple[float, ...] = (1.0,) * len(Losses._fields)
    seed: int = 0


class TrainingModule(LightningModule):
    """The network with its loss.

    Parameters
    ----------
    model : BiomedParse
        Changed in place; see `prepare`.
    learning : Learning
    """

    def __init__(self, model: BiomedParse, learning: Learning) -> None:
        super().__init__()
        # Named so, `load_model` also takes the checkpoints of a running training.
        self.save_hyperparameters({"config": asdict(model.config)})
        self.model, self.learning = model, learning
        self.recent: list[Losses] = []
        self._held_out: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW of all that is trained, with the schedule if there is one."""
        learning = self.learning
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, learning.weight_decay),
            lr=learning.learning_rate,
            fused=True,
        )
        if not learning.schedule:
            return optimizer
        rates = LambdaLR(optimizer, lambda step: rate_at(step / learning.schedule))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": rates, "interval": "step"},
        }

    def training_step(self, numbered: Numbered, index: int) -> Tensor:
        """Return the loss of a batch."""
        losses, _ = self._compare(numbered)
        self.recent.append(Losses(*(term.detach() for term in losses)))
        return losses.total(self.learning.coefficients)

    def validation_step(self, numbered: Numbered, index: int) -> None:
        """Remember the loss, and the Dice of every mask that there should be."""
        losses, masks = self._compare(numbered)
        targets = numbered.batch.targets
        found, truth = masks > 0, targets.masks > 0
        shared = 2.0 * (found & truth).sum(dim=(-2, -1))
        dice = shared / (found.sum((-2, -1)) + truth.sum((-2, -1)))
        total = losses.total(self.learning.coefficients)
        self._held_out.append((total, dice[targets.exists > 0]))

    def on_validation_epoch_end(self) -> None:
        """Make known the mean over all batches, of all devices."""
        losses = torch.stack([loss for loss, _ in self._held_out])
        dices = torch.cat([dice for _, dice in self._held_out])
        self._held_out.clear()
        sums = torch.stack([losses.sum(), dices.sum()])
        counts = losses.new_tensor([len(losses), len(dices)])
        sums, counts = (
            self.trainer.strategy.reduce(x, reduce_op="sum") for x in (sums, counts)
        )
        loss, dice = sums / counts.clamp(min=1)
        self.log("val_loss", loss)
        self.log("val_dice", dice)

    def _compare(self, numbered: Numbered) -> tuple[Losses, Tensor]:
        """Return the losses, and mask logits at the resolution of the targets."""
        (number, batch), learning = numbered, self.learning
        seed = learning.seed * 100_003 + number
        generator = torch.Generator().manual_seed(seed)
        decoded = predict(self.model, batch, generator, self.device)
        with torch.autocast(self.device.type, enabled=False):
            masks, edges = (
                _fitted(logits.float(), batch.targets.masks)
                for logits in (decoded.mask_logits, decoded.edge_logits)
            )
            losses = segmentation_losses(
                masks,
                edges,
                decoded.existence.float(),
                batch.targets,
                existence_weight=learning.existence_weight,
                absent_weight=learning.absent_weight,
                edge_weight=learning.edge_weight,
            )
        return losses, masks


def _fitted(logits: Tensor, target: Tensor) -> Tensor:
    """Enlarge logits where the truth is finer."""
    size = (target.shape[-2], target.shape[-1])
    return logits if logits.shape[-2:] == size else upsample(logits, size)


def rate_at(progress: float) -> float:
    """Factor of the learning rate: a linear rise, then a cosine down to 1 %."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    rest = min(1.0, (progress - WARM_UP) / (1.0 - WARM_UP))
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


def prepare(model: BiomedParse, options: FinetuneOptions) -> None:
    """Make a loaded network trainable, but for the parts that are kept.

    Parameters
    ----------
    model : BiomedParse
        Its weights are copied, as they may be mapped from a file.
    options : FinetuneOptions
    """
    model.load_state_dict(
        {name: value.clone() for name, value in model.state_dict().items()},
        assign=True,
    )
    model.requires_grad_(True)
    parts: dict[str, nn.Module] = {
        "text": model.mask_decoder.language_encoder,
        "backbone": model.backbone,
        "pixel-decoder": model.pixel_decoder,
    }
    for part in options.freeze:
        parts[part].requires_grad_(False)
    if options.rank:
        add_adapters(model, options.rank, options.seed)
    if options.checkpointing:
        for stage in model.backbone.layers:
            _checkpointed(stage)


def _checkpointed(stage: Any) -> None:
    """Have blocks computed again in the backward pass."""
    for block in stage.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
