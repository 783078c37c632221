"""BiomedParse v1: text-prompted segmentation of images of nine modalities.

Zhao et al., "A foundation model for joint segmentation, detection and recognition of
biomedical objects across nine modalities", Nature Methods 22 (2025). ARCHITECTURE of v1
is the specification followed here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from napari_biomedparse.networks.blocks.maskformer import MaskFormer
from napari_biomedparse.networks.config import V1, BiomedParseConfig
from napari_biomedparse.networks.v1.mask_decoder import MaskDecoder

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of the colours red, green and blue of ImageNet, which no weights file holds."""


class BiomedParseV1(MaskFormer):
    """Text-prompted segmentation of images in colour, or of slices by themselves."""

    channels: ClassVar[Literal["neighbours", "colours"]] = "colours"
    parts_prompts: ClassVar[bool] = False

    def __init__(self, config: BiomedParseConfig = V1) -> None:
        super().__init__(config, MaskDecoder)
        for name, values in (("pixel_mean", MEAN), ("pixel_std", STD)):
            channels = torch.tensor(values, device="cpu").view(1, 3, 1, 1)
            self.register_buffer(name, channels, persistent=False)
