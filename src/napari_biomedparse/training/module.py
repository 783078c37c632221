"""What Lightning trains: the network with its loss and optimiser."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from napari_biomedparse.labels.resolve import upsample
from napari_biomedparse.networks.blocks.focalnet import FocalBlock
from napari_biomedparse.networks.blocks.hiera import HieraBlock
from napari_biomedparse.training.adapters import add_adapters
from napari_biomedparse.training.losses import (
    Losses,
    MaskLosses,
    Targets,
    mask_losses,
    segmentation_losses,
)

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from napari_biomedparse.networks.blocks.decoder import RandomField
    from napari_biomedparse.networks.blocks.maskformer import MaskFormer
    from napari_biomedparse.networks.network import SlicePrediction
    from napari_biomedparse.training.options import FinetuneOptions
    from napari_biomedparse.training.slices import Batch


class TrainingModule(LightningModule):
    """The network, which is trained in place, with its loss; see `prepare`."""

    terms: ClassVar[tuple[str, ...]] = Losses._fields
    """Names of the terms of the loss."""
    steps = 1
    """Steps of the optimiser that the training has at most."""
    # Without any target in a batch, masks and edges have no gradient.
    strategy: ClassVar[str] = "ddp_find_unused_parameters_true"
    over_all: ClassVar[bool] = True
    """Whether masks are averaged over all prompts, as published; see the loss."""

    def __init__(self, model: MaskFormer, options: FinetuneOptions) -> None:
        super().__init__()
        # Named so, `load_model` also takes the checkpoints of a running training.
        self.save_hyperparameters({"config": asdict(model.config)})
        self.model, self.options = model, options

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW of all that is trained."""
        return torch.optim.AdamW(
            parameter_groups(self.model, self.options.weight_decay),
            lr=self.options.learning_rate,
            fused=True,
        )

    def compare(
        self, masks: Tensor, edges: Tensor, existence: Tensor, targets: Targets
    ) -> Losses:
        """Compute the terms of the loss; see `segmentation_losses`."""
        weight = self.options.existence_weight
        return segmentation_losses(
            masks, edges, existence, targets, weight, over_all=self.over_all
        )

    def total(self, losses: Any) -> Tensor:
        """Return what is minimised; as in the original all terms weigh 1."""
        return torch.stack(tuple(losses)).sum()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of a batch, and log it with its terms."""
        with torch.random.fork_rng(devices=[]):  # for what a network drops at random
            torch.manual_seed(self.options.seed * 100_003 + batch.number)
            losses, _ = self.losses_and_masks(batch)
        loss = self.total(losses)
        self._log_over_epoch({"loss": loss, **losses._asdict()})
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Log the loss, and the Dice of the masks that there should be."""
        losses, masks = self.losses_and_masks(batch)
        targets = batch.targets
        found, truth = _fitted(masks, targets.masks) > 0, targets.masks > 0.5
        there = truth.any(-1).any(-1) & (targets.exists > 0.5)
        shared = 2.0 * (found & truth).sum(dim=(-2, -1))
        dice = shared / (found.sum((-2, -1)) + truth.sum((-2, -1)))
        self._log_over_epoch({"val_loss": self.total(losses)})
        sums = {
            "dice_sum": dice[there].sum(),
            "masks": there.sum(),
        }
        self._log_over_epoch(sums, "sum")

    def _log_over_epoch(self, values: dict[str, Tensor], reduce: str = "mean") -> None:
        """Log what the keeper gets: means or sums over an epoch, of all devices."""
        self.log_dict(
            values,
            logger=False,
            on_step=False,
            on_epoch=True,
            reduce_fx=reduce,
            sync_dist=True,
            batch_size=1,
        )

    def losses_and_masks(self, batch: Batch) -> tuple[Any, Tensor]:
        """Return the losses, and mask logits [B, P, h, w]."""
        generator = self.generator(batch)
        decoded = predict(self.model, batch, generator, self.device)
        with torch.autocast(self.device.type, enabled=False):
            truth = batch.targets
            masks = _fitted(decoded.mask_logits.float(), truth.masks)
            edges = decoded.edge_logits.float()
            if truth.edges.numel():
                edges = _fitted(edges, truth.masks)
            existence = decoded.existence.float()
            return self.compare(masks, edges, existence, batch.targets), masks

    def generator(self, batch: Batch) -> torch.Generator:
        """Make the source of a batch's random numbers, on the CPU."""
        seed = self.options.seed * 100_003 + batch.number
        return torch.Generator().manual_seed(seed)


class MaskModule(TrainingModule):
    """BoltzFormer, which is trained in place, with its loss: masks alone."""

    terms: ClassVar[tuple[str, ...]] = MaskLosses._fields

    def compare(
        self, masks: Tensor, edges: Tensor, existence: Tensor, targets: Targets
    ) -> Any:
        """Compute the terms of the loss; see `mask_losses`."""
        return mask_losses(masks, targets.masks)


def drawn_field(
    generator: torch.Generator, shape: tuple[int, ...], device: torch.device
) -> RandomField:
    """Make a random field that is drawn on the CPU anew for every batch.

    `shape` is [B, 1, heads, queries]: each slice has a field of its own, which its
    prompts share.
    """
    return lambda _, keys: torch.rand((*shape, keys), generator=generator).to(device)


def predict(
    model: MaskFormer, batch: Batch, generator: torch.Generator, device: torch.device
) -> SlicePrediction:
    """Run the network on a batch, with fields drawn from `generator`."""
    features = model.encode_image(batch.slices.to(device))
    tokens = model.encode_prompts(batch.ids.to(device))
    tokens = tokens * batch.real.to(device)[..., None]
    field = drawn_field(generator, (len(batch.slices), 1, *model.field_shape), device)
    return model.decode(features, tokens, field)


def _fitted(logits: Tensor, target: Tensor) -> Tensor:
    """Enlarge logits where the truth is finer."""
    size = (target.shape[-2], target.shape[-1])
    return logits if logits.shape[-2:] == size else upsample(logits, size)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Divide what is trained into what decays and what does not."""
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


def prepare(model: MaskFormer, options: FinetuneOptions) -> None:
    """Make a loaded network trainable, except for the frozen parts.

    Its weights are copied, as they may be mapped from a file.
    """
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(True)
    parts: dict[str, nn.Module] = {
        "text": model.mask_decoder.text_encoder,
        "backbone": model.backbone,
        "pixel-decoder": model.pixel_decoder,
    }
    for part in options.freeze:
        parts[part].requires_grad_(False)
    if options.rank:
        add_adapters(model, options.rank, options.seed)
    if options.checkpointing:
        for block in model.backbone.modules():
            if isinstance(block, FocalBlock | HieraBlock):  # again on the way back
                again = partial(checkpoint, block.forward, use_reentrant=False)
                block.forward = again  # type: ignore[method-assign]
