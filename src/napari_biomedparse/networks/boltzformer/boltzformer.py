"""BoltzFormer: text-prompted segmentation of images with small objects.

Zhao et al., "Boltzmann attention sampling for image analysis with small objects", CVPR
2025. No trained weights were published. Its ARCHITECTURE is the specification followed
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from napari_biomedparse.networks.blocks.boltzmann import BoltzmannDecoder
from napari_biomedparse.networks.blocks.decoder import (
    ImageFeatures,
    RandomField,
    masks_of,
)
from napari_biomedparse.networks.blocks.focalnet import FocalBlock
from napari_biomedparse.networks.blocks.maskformer import MaskFormer
from napari_biomedparse.networks.boltzformer.output import aggregate, pixel_logits
from napari_biomedparse.networks.config import HIERA_S, BiomedParseConfig
from napari_biomedparse.networks.network import NOWHERE, SlicePrediction

DROP = 0.3
"""Probability that training leaves out the last block of FocalNet; the first one 0."""
CHANNELS = 10
"""Between the two convolutions of the output layer."""


class BoltzFormerFeatures(NamedTuple):
    """Features of a batch of slices, and what their pixels add to every mask."""

    features: ImageFeatures
    pixels: Tensor  # [B, 1, S / 2, S / 2], or [B, 0]

    @property
    def nbytes(self) -> int:
        """Memory that they take up."""
        return self.features.nbytes + self.pixels.nbytes


class BoltzFormer(MaskFormer):
    """Text-prompted segmentation of slices, each prompt by itself.

    Nothing but an empty mask says that a target is not there: the existence of a prompt
    is the highest logit of its mask. Edges are nowhere.
    """

    channels: ClassVar[Literal["neighbours", "colours"]] = "neighbours"

    def __init__(self, config: BiomedParseConfig = HIERA_S) -> None:
        super().__init__(config, partial(BoltzmannDecoder, classifies=False))
        self.keep_statistics()
        blocks = [m for m in self.backbone.modules() if isinstance(m, FocalBlock)]
        for i, block in enumerate(blocks):
            block.drop = DROP * i / max(len(blocks) - 1, 1)
        if config.output_layer:
            self.output_deconv = nn.ConvTranspose2d(
                3 + config.queries, CHANNELS, 4, stride=2, padding=1
            )
            self.output_conv = nn.Conv2d(3 + CHANNELS, 1, 1)

    def encode_image(self, slices: Tensor) -> Any:
        """Compute what all prompts share, for slices [B, 3, S, S] of 0 to 255."""
        features = super().encode_image(slices)
        pixels = slices.new_empty((len(slices), 0), dtype=torch.float32)
        if self.config.output_layer:
            pixels = pixel_logits(
                self.normalised(slices), self.output_deconv, self.output_conv
            )
        return BoltzFormerFeatures(features, pixels)

    def join_features(self, each: Sequence[Any]) -> Any:
        """Combine the features of slices into those of one batch, as a copy."""
        features = super().join_features([one.features for one in each])
        return BoltzFormerFeatures(features, torch.cat([one.pixels for one in each]))

    def summarize(self, image: Any) -> Tensor:
        """Return the mask features of slices along `basis`, float16 [B, K, h, w]."""
        return super().summarize(image.features)

    def decode(self, image: Any, tokens: Tensor, field: RandomField) -> SlicePrediction:
        """Find each prompt in each slice; see `Network.decode`.

        Logits are of half of the slices' size, without output layer of a quarter.
        """
        decoder = cast("BoltzmannDecoder", self.mask_decoder)
        features, prompts = image.features.mask_features, len(tokens)
        embedding, _ = decoder.embed(image.features, tokens, field)
        if self.config.output_layer:
            pixels = image.pixels.repeat_interleave(prompts, dim=0)
            layer = self.output_deconv, self.output_conv
            masks = aggregate(embedding, features, pixels, *layer)
        else:
            mean = embedding.mean(dim=1, keepdim=True)
            masks = masks_of(mean, features.flatten(2))
        size = tuple(n * (1 + self.config.output_layer) for n in features.shape[-2:])
        masks = masks.view(len(features), prompts, *size)
        surest = masks.amax((-2, -1))
        return SlicePrediction(masks, torch.full_like(masks, NOWHERE), surest)
