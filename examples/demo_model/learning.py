"""Loss and schedule of the demo model, where they differ from fine-tuning.

In the original, masks of absent targets teach nothing; a small network then hardly
learns from the image what is absent, and answers by modality. And a missed edge merges
two instances, while one too wide only shrinks them a little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from napari_biomedparse.training.losses import Losses, Targets, pixel_bce
from napari_biomedparse.training.module import TrainingModule

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from napari_biomedparse.networks.v2.biomedparse import BiomedParse
    from napari_biomedparse.training.options import FinetuneOptions

WARM_UP = 0.03
"""Share of a schedule in which the learning rate rises."""


class ScheduledModule(TrainingModule):
    """The network with the loss and the schedule of the demo model.

    Parameters
    ----------
    model : BiomedParse
        Trained in place.
    options : FinetuneOptions
        Its learning rate is the largest of the schedule.
    schedule : int
        Steps in which the learning rate rises and then falls as a cosine to 1 %.
    coefficients : sequence of float
        Weights of the terms of `Losses`.
    edge_weight : float
        Weight of the pixels that are edges (``pos_weight``).
    """

    over_all = False

    def __init__(
        self,
        model: BiomedParse,
        options: FinetuneOptions,
        *,
        schedule: int,
        coefficients: Sequence[float],
        edge_weight: float,
    ) -> None:
        super().__init__(model, options)
        model.mask_decoder.separates_losses = False
        self.schedule, self.edge_weight = schedule, edge_weight
        self.coefficients = tuple(coefficients)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW with its schedule."""
        optimizer = super().configure_optimizers()
        assert isinstance(optimizer, torch.optim.AdamW)
        rates = LambdaLR(optimizer, lambda step: rate_at(step / self.schedule))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": rates, "interval": "step"},
        }

    def compare(
        self, masks: Tensor, edges: Tensor, existence: Tensor, targets: Targets
    ) -> Losses:
        """Also have masks of absent targets empty, and edges count for more."""
        losses = super().compare(masks, edges, existence, targets)
        exists = targets.exists
        absent = (1.0 - exists) * targets.counts
        empty = (pixel_bce(masks, targets.masks) * absent).sum()
        edge_terms = pixel_bce(edges, targets.edges, self.edge_weight) * exists
        return losses._replace(
            mask_bce=losses.mask_bce + empty / absent.sum().clamp(min=1.0),
            edge_bce=edge_terms.sum() / exists.sum().clamp(min=1.0),
        )

    def total(self, losses: Losses) -> Tensor:
        """Return the weighted sum that is minimised."""
        terms = torch.stack(tuple(losses))
        return (terms * terms.new_tensor(self.coefficients)).sum()


def rate_at(progress: float) -> float:
    """Factor of the learning rate: a linear rise, then a cosine down to 1 %."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    rest = min(1.0, (progress - WARM_UP) / (1.0 - WARM_UP))
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * rest))
