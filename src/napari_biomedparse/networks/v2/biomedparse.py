"""The whole network, put together as in the figure of the paper.

BiomedParse: Zhao et al., Nature Methods 22 (2025); version 2 (3D) reads a slice with
its two neighbours as channels. ARCHITECTURE is the specification followed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from napari_biomedparse.networks.blocks.focalnet import Backbone
from napari_biomedparse.networks.config import V2, BiomedParseConfig
from napari_biomedparse.networks.v2.mask_decoder import (
    Decoded,
    ImageFeatures,
    MaskDecoder,
)
from napari_biomedparse.networks.v2.pixel_decoder import PixelDecoder

if TYPE_CHECKING:
    from napari_biomedparse.networks.blocks.boltzmann import RandomField


class BiomedParse(nn.Module):
    """Text-prompted segmentation of slices.

    Parameters
    ----------
    config : BiomedParseConfig
        Sizes; the published network by default.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: BiomedParseConfig = V2) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("pixel_mean", torch.full((1, 3, 1, 1), config.pixel_mean))
        self.register_buffer("pixel_std", torch.full((1, 3, 1, 1), config.pixel_std))
        self.backbone = Backbone(config)
        self.sem_seg_head = nn.ModuleDict(
            {"pixel_decoder": PixelDecoder(config), "predictor": MaskDecoder(config)}
        )

    @property
    def pixel_decoder(self) -> PixelDecoder:
        """Backbone features to mask features and levels."""
        return cast("PixelDecoder", self.sem_seg_head["pixel_decoder"])

    @property
    def mask_decoder(self) -> MaskDecoder:
        """Queries and prompts to masks, edges and existence."""
        return cast("MaskDecoder", self.sem_seg_head["predictor"])

    def encode_image(self, slices: Tensor) -> ImageFeatures:
        """Compute what all prompts share.

        Parameters
        ----------
        slices : Tensor [B, 3, S, S]
            Grey levels, 0 to 255: each slice, the one before and the one after it.

        Returns
        -------
        ImageFeatures
        """
        mean, std = self.pixel_mean.mean(), self.pixel_std.mean()
        normalised = (slices.to(self.pixel_mean.dtype) - mean) / std
        pixels = self.pixel_decoder(self.backbone(normalised))
        features: ImageFeatures = self.mask_decoder.prepare(pixels)
        return features

    def encode_prompts(self, ids: Tensor) -> Tensor:
        """Encode the token ids [P, L] of prompts, int64, as tokens [P, L, C].

        The tokens after a prompt's end token must be set to zero before decoding.
        """
        tokens: Tensor = self.mask_decoder.language_encoder(ids)
        return tokens

    def decode(
        self, image: ImageFeatures, tokens: Tensor, field: RandomField
    ) -> Decoded:
        """Find each prompt in each slice.

        Parameters
        ----------
        image : ImageFeatures
            Of B slices.
        tokens : Tensor [P, T, C]
            Of P prompts, padded with zero vectors to a common length. The padding
            takes part in the computation: the length T influences the result
            (ARCHITECTURE section 4).
        field : RandomField
            Uniform numbers for the attention masks.

        Returns
        -------
        Decoded
        """
        decoded: Decoded = self.mask_decoder(image, tokens, field)
        return decoded


def unfilled(config: BiomedParseConfig) -> BiomedParse:
    """Build a network on the meta device, for weights that are then assigned to it.

    Parameters
    ----------
    config : BiomedParseConfig

    Returns
    -------
    BiomedParse
        Without memory for its tensors.
    """
    with torch.device("meta"), _WithoutDrawing():
        return BiomedParse(config)


class _WithoutDrawing(TorchFunctionMode):
    """Leaves tensors unfilled: even on the meta device, drawing imports a compiler."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return what would be filled with random numbers as it is."""
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or (
            getattr(func, "__module__", None) == nn.init.__name__
        ):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
