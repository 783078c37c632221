"""BiomedParse v1 with its loss and optimiser, as Lightning trains it.

ARCHITECTURE of v1, section 11. The prompts whose targets are in an image are read
together, those of the others fill up the batch; only the grounding loss is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from napari_biomedparse.networks.v1.mask_decoder import Head, MaskDecoder, normalised
from napari_biomedparse.training.grounding import (
    CHOICE_WEIGHT,
    GroundingLosses,
    Sought,
    grounding_losses,
)
from napari_biomedparse.training.module import TrainingModule

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from napari_biomedparse.training.slices import Batch

SLOWER, DROPS = 0.1, (0.88889, 0.96296)
"""Rate of backbone and text encoder, and of all after these shares of the steps, as a
factor for each."""
_SPARED = (nn.LayerNorm, nn.GroupNorm, nn.Embedding)


class GroundingModule(TrainingModule):
    """BiomedParse v1, which is trained in place, with its loss."""

    terms: ClassVar[tuple[str, ...]] = GroundingLosses._fields
    strategy: ClassVar[str] = "ddp"

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW, and what lowers its rate towards the end."""
        rate, decay = self.options.learning_rate, self.options.weight_decay
        slow = {
            id(parameter)
            for part in (self.model.backbone, self.model.mask_decoder.text_encoder)
            for parameter in part.parameters()
        }
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for module in self.model.modules():
            for parameter in module.parameters(recurse=False):
                factor = SLOWER if id(parameter) in slow else 1.0
                key = (rate * factor, 0.0 if isinstance(module, _SPARED) else decay)
                if parameter.requires_grad:
                    groups.setdefault(key, []).append(parameter)
        each = [
            {"params": some, "lr": own, "weight_decay": decayed}
            for (own, decayed), some in groups.items()
        ]
        optimizer = torch.optim.AdamW(each, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: SLOWER ** sum(step >= n * self.steps for n in DROPS)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def total(self, losses: GroundingLosses) -> Tensor:
        """Return what is minimised."""
        return losses.mask_bce + losses.mask_dice + CHOICE_WEIGHT * losses.choice

    def losses_and_masks(self, batch: Batch) -> tuple[Any, Tensor]:
        """Return the losses, summed over all heads, and mask logits [B, P, h, w]."""
        decoder = cast("MaskDecoder", self.model.mask_decoder)
        generator = self.generator(batch)
        there, masks = batch.targets.exists > 0, batch.targets.masks  # [B, P]
        image = self.model.encode_image(batch.slices)
        tokens = self.model.encode_prompts(batch.ids)
        texts = torch.unique(batch.ids, dim=0, return_inverse=True)[1]
        words = [tokens[own][batch.real[own]] for own in there]  # [T, C] each
        counts = torch.tensor([len(own) for own in words], device=self.device)
        filled = pad_sequence(words, batch_first=True)
        hidden = torch.arange(filled.shape[1], device=self.device) >= counts[:, None]
        heads = decoder.heads(image, filled, hidden)
        with torch.autocast(self.device.type, enabled=False):
            ends = tokens[range(len(tokens)), batch.real.sum(dim=1) - 1].float()
            sought = [
                Sought(truth[own], ends[own], texts[own])
                for truth, own in zip(masks, there, strict=True)
            ]
            heads = [Head(head.masks.float(), head.vectors.float()) for head in heads]
            scale = decoder.text_encoder.logit_scale

            def draw(masks: int, points: int) -> Tensor:
                drawn = torch.rand((masks, points, 2), generator=generator)
                return drawn.to(self.device)

            each = [grounding_losses(head, sought, scale, draw) for head in heads]
            losses = (torch.stack(term).sum() for term in zip(*each, strict=True))
            last, first = heads[-1], torch.arange(len(there), device=self.device)
            similar = normalised(last.vectors) @ normalised(ends).T  # [B, Q, P]
            chosen = last.masks.detach()[first[:, None], similar.argmax(dim=1)]
            return GroundingLosses(*losses), chosen
