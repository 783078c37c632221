"""BiomedParse v2, put together as in the figure of the paper.

BiomedParse: Zhao et al., Nature Methods 22 (2025); version 2 (3D) reads a slice with
its two neighbours as channels. ARCHITECTURE is the specification followed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from napari_biomedparse.networks.blocks.focalnet import Backbone
from napari_biomedparse.networks.config import V2, BiomedParseConfig
from napari_biomedparse.networks.network import Network, SlicePrediction
from napari_biomedparse.networks.v2.mask_decoder import ImageFeatures, MaskDecoder
from napari_biomedparse.networks.v2.pixel_decoder import PixelDecoder

if TYPE_CHECKING:
    from napari_biomedparse.networks.blocks.boltzmann import RandomField


class BiomedParse(Network):
    """Text-prompted segmentation of slices, each read with its two neighbours."""

    channels: ClassVar[Literal["neighbours", "colours"]] = "neighbours"
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: BiomedParseConfig = V2) -> None:
        super().__init__(config)
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

    @property
    def largest_map(self) -> int:
        """Bytes of a slice within the backbone's first MLPs, in float32."""
        pixels = (self.config.image_size // 4) ** 2
        return pixels * 4 * self.config.backbone_widths[0] * 4

    def low_precision_weights(self) -> Iterator[Tensor]:
        """Yield the weights of the image side, nearly all of the work.

        The residual branches' scales are not among them: they keep the backbone's
        residual stream, a sum over all of its blocks, in float32.
        """
        for name, parameter in self.backbone.named_parameters():
            if not name.endswith(("gamma_1", "gamma_2")):
                yield parameter
        yield from self.pixel_decoder.parameters()

    def encode_image(self, slices: Tensor) -> ImageFeatures:
        """Compute what all prompts share, for slices [B, 3, S, S] of 0 to 255.

        The channels are each slice, the one before and the one after it.
        """
        mean, std = self.pixel_mean.mean(), self.pixel_std.mean()
        normalised = (slices.to(self.pixel_mean.dtype) - mean) / std
        pixels = self.pixel_decoder(self.backbone(normalised))
        features: ImageFeatures = self.mask_decoder.prepare(pixels)
        return features

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
        tokens: Tensor = self.mask_decoder.language_encoder(ids)
        return tokens

    def decode(
        self, image: ImageFeatures, tokens: Tensor, field: RandomField
    ) -> SlicePrediction:
        """Find each prompt in each slice; see `Network.decode`.

        The padding of the tokens takes part in the computation: their common length
        influences the result (ARCHITECTURE section 4).
        """
        decoded: SlicePrediction = self.mask_decoder(image, tokens, field)
        return decoded


def unfilled(config: BiomedParseConfig) -> BiomedParse:
    """Build a network on the meta device, for weights to be assigned to it."""
    with torch.device("meta"), _WithoutDrawing():
        return BiomedParse(config)


class _WithoutDrawing(TorchFunctionMode):
    """Leaves tensors unfilled: even on the meta device, filling imports a compiler."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or (
            getattr(func, "__module__", None) == nn.init.__name__
        ):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
