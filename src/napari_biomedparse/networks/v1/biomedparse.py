"""BiomedParse v1: text-prompted segmentation of images of nine modalities.

Zhao et al., "A foundation model for joint segmentation, detection and recognition of
biomedical objects across nine modalities", Nature Methods 22 (2025). ARCHITECTURE of v1
is the specification followed here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from napari_biomedparse.networks.blocks.maskformer import MaskFormer
from napari_biomedparse.networks.config import V1, BiomedParseConfig
from napari_biomedparse.networks.v1.mask_decoder import MaskDecoder


class BiomedParseV1(MaskFormer):
    """Text-prompted segmentation of images in colour, or of slices by themselves."""

    channels: ClassVar[Literal["neighbours", "colours"]] = "colours"
    parts_prompts: ClassVar[bool] = False

    def __init__(self, config: BiomedParseConfig = V1) -> None:
        super().__init__(config, MaskDecoder)
        self.keep_statistics()
