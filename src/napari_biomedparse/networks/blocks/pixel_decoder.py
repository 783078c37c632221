"""Pixel decoder: a transformer on the coarsest map, then upsampling.

ARCHITECTURE section 3 (the design is that of Mask2Former's simpler pixel decoder).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from napari_biomedparse.networks.blocks.layers import (
    Attention,
    SameConv,
    sine_positions,
)

if TYPE_CHECKING:
    from napari_biomedparse.networks.config import BiomedParseConfig


class PixelFeatures(NamedTuple):
    """Output of the pixel decoder for a batch of slices.

    A mask is the product of the mask features, at stride 4, with a mask embedding. The
    mask decoder attends to the levels, at strides 32, 16 and 8.
    """

    mask_features: Tensor  # [B, C, h, w]
    levels: tuple[Tensor, Tensor, Tensor]  # [B, C, h / 8, w / 8], h / 4, h / 2


class NormedConv(SameConv):
    """Convolution without bias, then group normalisation."""

    def __init__(self, channels: int, dim: int, kernel: int, groups: int) -> None:
        super().__init__(channels, dim, kernel, bias=False)
        self.norm = nn.GroupNorm(groups, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, dim, H, W]."""
        y: Tensor = self.norm(super().forward(x))
        return y


class EncoderLayer(nn.Module):
    """Post-norm self-attention layer; positions enter queries and keys only."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.dim, config.heads)
        self.norm1 = nn.LayerNorm(config.dim)
        self.linear1 = nn.Linear(config.dim, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, config.dim)
        self.norm2 = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """[B, L, C], positions [L, C] -> [B, L, C]."""
        placed = x + positions
        x = self.norm1(x + self.self_attn(placed, placed, x))
        x = self.norm2(x + self.linear2(F.relu(self.linear1(x))))
        return x


class Encoder(nn.Module):
    """Self-attention over all pixels of the coarsest feature map."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(config) for _ in range(config.encoder_layers)
        )

    def forward(self, z: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        x = z.flatten(2).transpose(1, 2)  # [B, H * W, C]
        positions = sine_positions(*z.shape[-2:], x.shape[-1], x.device, x.dtype)
        for layer in self.layers:
            x = layer(x, positions)
        return x.transpose(1, 2).reshape(z.shape)


class PixelDecoder(nn.Module):
    """Backbone features to mask features and the three decoder levels."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        dim, groups = config.dim, config.norm_groups
        *lateral_widths, coarsest_width = config.feature_widths
        self.input_proj = SameConv(coarsest_width, dim, 1)
        self.transformer = nn.ModuleDict({"encoder": Encoder(config)})
        for i, width in enumerate(lateral_widths, start=1):
            self.add_module(f"adapter_{i}", NormedConv(width, dim, 1, groups))
        for i in range(1, 5):
            self.add_module(f"layer_{i}", NormedConv(dim, dim, 3, groups))
        self.mask_features = SameConv(dim, dim, 3)

    def forward(self, features: tuple[Tensor, ...]) -> PixelFeatures:
        """Decode res2 to res5 of the backbone, each [B, width, H, W]."""
        *laterals, coarsest = features
        z = self.transformer["encoder"](self.input_proj(coarsest))
        levels = [self.get_submodule("layer_4")(z).relu_()]
        for i in (3, 2, 1):
            levels.append(self._finer(i, levels[-1], laterals[i - 1]))
        f0, f1, f2, finest = levels
        return PixelFeatures(self.mask_features(finest), (f0, f1, f2))

    def _finer(self, i: int, coarse: Tensor, lateral: Tensor) -> Tensor:
        """Refine a level by what the backbone saw; in place, as maps are large."""
        y = self.get_submodule(f"adapter_{i}")(lateral)
        y += F.interpolate(coarse, size=y.shape[-2:], mode="nearest")
        refined: Tensor = self.get_submodule(f"layer_{i}")(y).relu_()
        return refined
