"""BiomedParse v2, put together as in the figure of the paper.

BiomedParse: Zhao et al., Nature Methods 22 (2025); version 2 (3D) reads a slice with
its two neighbours as channels. ARCHITECTURE is the specification followed here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from napari_biomedparse.networks.blocks.boltzmann import BoltzmannDecoder
from napari_biomedparse.networks.blocks.maskformer import MaskFormer
from napari_biomedparse.networks.config import V2, BiomedParseConfig


class BiomedParse(MaskFormer):
    """Text-prompted segmentation of slices, each read with its two neighbours.

    The padding of prompts takes part in the computation: their common length
    influences the result (ARCHITECTURE section 4).
    """

    channels: ClassVar[Literal["neighbours", "colours"]] = "neighbours"

    def __init__(self, config: BiomedParseConfig = V2) -> None:
        super().__init__(config, BoltzmannDecoder)
        self.register_buffer("pixel_mean", torch.full((1, 3, 1, 1), config.pixel_mean))
        self.register_buffer("pixel_std", torch.full((1, 3, 1, 1), config.pixel_std))
