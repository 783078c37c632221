"""The whole of a network: backbone, pixel decoder, mask decoder.

The three parts of Mask2Former (Cheng et al., CVPR 2022). With the mask decoder of its
version it is BiomedParse (Zhao et al., Nature Methods 22, 2025) or BoltzFormer (Zhao et
al., CVPR 2025); they also differ in what the three channels of a slice are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from napari_biomedparse.networks.blocks.decoder import (
    Decoder,
    ImageFeatures,
    RandomField,
    along,
)
from napari_biomedparse.networks.blocks.focalnet import Backbone
from napari_biomedparse.networks.blocks.hiera import HieraBackbone
from napari_biomedparse.networks.blocks.pixel_decoder import PixelDecoder
from napari_biomedparse.networks.network import Network, SlicePrediction

if TYPE_CHECKING:
    from napari_biomedparse.networks.config import BiomedParseConfig

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of the colours red, green and blue of ImageNet."""
KEPT = 64
"""Directions of the mask features that are kept of a slice."""
PRECISE = ("gamma_", "pos_embed", "norm")
"""In the names of the backbone's weights that keep the residual stream, a sum over all
of its blocks, in float32."""


class MaskFormer(Network):
    """What all prompts share, up to the mask decoder.

    `pixel_mean` and `pixel_std`, [1, 3, 1, 1], normalise the channels of a slice.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        config: BiomedParseConfig,
        mask_decoder: Callable[[BiomedParseConfig], Decoder],
    ) -> None:
        super().__init__(config)
        focal = config.backbone == "focal"
        self.backbone = Backbone(config) if focal else HieraBackbone(config)
        self.sem_seg_head = nn.ModuleDict(
            {"pixel_decoder": PixelDecoder(config), "predictor": mask_decoder(config)}
        )

    def keep_statistics(self) -> None:
        """Normalise as for ImageNet, by numbers that no weights file holds."""
        for name, values in (("pixel_mean", MEAN), ("pixel_std", STD)):
            channels = torch.tensor(values, device="cpu").view(1, 3, 1, 1)
            self.register_buffer(name, channels, persistent=False)

    @property
    def pixel_decoder(self) -> PixelDecoder:
        """Backbone features to mask features and levels."""
        return cast("PixelDecoder", self.sem_seg_head["pixel_decoder"])

    @property
    def mask_decoder(self) -> Decoder:
        """Queries and prompts to masks."""
        return cast("Decoder", self.sem_seg_head["predictor"])

    @property
    def largest_map(self) -> int:
        """Bytes of a slice within the backbone's first MLPs, in float32."""
        pixels = (self.config.image_size // 4) ** 2
        return pixels * 4 * self.config.backbone_widths[0] * 4

    @cached_property
    def basis(self) -> Tensor:
        """Leading directions of the mask features, float32 [C, K], K at most `KEPT`.

        They follow from the weights that make the features, so that they are the same
        for all slices.
        """
        weight = self.pixel_decoder.mask_features.weight
        flat = weight.detach().float().cpu().flatten(1)
        if len(flat) <= KEPT:
            return torch.eye(len(flat))
        directions: Tensor = torch.linalg.svd(flat, full_matrices=False).U
        return directions[:, :KEPT].contiguous()

    def summarize(self, image: ImageFeatures) -> Tensor:
        """Return the mask features of slices along `basis`, float16 [B, K, h, w]."""
        return along(self.basis, image)

    def low_precision_weights(self) -> Iterator[Tensor]:
        """Yield the weights of the image side, nearly all of the work."""
        for name, parameter in self.backbone.named_parameters():
            if not any(part in name for part in PRECISE):
                yield parameter
        yield from self.pixel_decoder.parameters()

    def encode_image(self, slices: Tensor) -> ImageFeatures:
        """Compute what all prompts share, for slices [B, 3, S, S] of 0 to 255."""
        pixels = self.pixel_decoder(self.backbone(self.normalised(slices)))
        features: ImageFeatures = self.mask_decoder.prepare(pixels)
        return features

    def normalised(self, slices: Tensor) -> Tensor:
        """Normalise the channels of slices of 0 to 255, float32."""
        levels = slices.to(self.pixel_mean.dtype)
        return (levels - self.pixel_mean) / self.pixel_std

    def join_features(self, each: Sequence[ImageFeatures]) -> ImageFeatures:
        """Combine the features of slices into those of one batch, as a copy."""
        return ImageFeatures(
            torch.cat([one.mask_features for one in each]),
            *(
                tuple(torch.cat(level) for level in zip(*levels, strict=True))
                for levels in zip(*(one[1:] for one in each), strict=True)
            ),
        )

    def encode_prompts(self, ids: Tensor) -> Tensor:
        """Encode the token ids [P, L] of prompts, int64, as tokens [P, L, C].

        The tokens after a prompt's end token must be set to zero before decoding.
        """
        tokens: Tensor = self.mask_decoder.text_encoder(ids)
        return tokens

    def decode(
        self, image: ImageFeatures, tokens: Tensor, field: RandomField
    ) -> SlicePrediction:
        """Find each prompt in each slice; see `Network.decode`."""
        decoded: SlicePrediction = self.mask_decoder(image, tokens, field)
        return decoded
