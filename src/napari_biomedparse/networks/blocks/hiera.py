"""Hiera backbone with a feature pyramid: the image encoder of SAM 2.

Ryali et al., "Hiera: a hierarchical vision transformer without the bells-and-whistles",
ICML 2023; Ravi et al., "SAM 2: segment anything in images and videos", 2024. The
specification followed here is section 3 of BoltzFormer's ARCHITECTURE.

Images are laid out [B, H, W, C] inside the trunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from napari_biomedparse.networks.config import BiomedParseConfig

EPS = 1e-6
"""Of the trunk's layer norms."""
PATCH, STRIDE, SMALLEST = 7, 4, 32
POSITIONS = 8
"""Side of the position embedding that repeats over the whole image."""


class HieraAttention(nn.Module):
    """Attention within windows, whose queries may be pooled to a quarter."""

    def __init__(self, width: int, out: int, heads: int) -> None:
        super().__init__()
        assert out % heads == 0, "attention heads do not divide the width"
        self.heads = heads
        self.pools = out > width
        self.qkv = nn.Linear(width, 3 * out)
        self.proj = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, out], pooled [N, H / 2, W / 2, out]."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        if self.pools:
            query = _pool(query)
        mixed = F.scaled_dot_product_attention(
            self._split(query), self._split(key), self._split(value)
        )
        y: Tensor = self.proj(mixed.transpose(1, 2).reshape(query.shape))
        return y

    def _split(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, heads, H * W, C / heads]."""
        return x.view(len(x), -1, self.heads, x.shape[-1] // self.heads).transpose(1, 2)


class HieraMlp(nn.Module):
    """Two linear layers, four times as wide in between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(width, 4 * width), nn.Linear(4 * width, width)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        first, second = self.layers
        y: Tensor = second(F.gelu(first(x)))
        return y


class HieraBlock(nn.Module):
    """Attention and MLP, each normalised before; a wider block pools its result.

    `window` is the side of the windows, 0 for a single one.
    """

    def __init__(self, width: int, out: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = HieraAttention(width, out, heads)
        self.norm2 = nn.LayerNorm(out, eps=EPS)
        self.mlp = HieraMlp(out)
        if out > width:
            self.proj = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, out], pooled [B, H // 2, W // 2, out]."""
        # The residual stream may have a higher precision than the branches.
        low = self.attn.qkv.weight.dtype
        n = self.norm1(x).to(low)
        shortcut = _pool(self.proj(n)) if self.attn.pools else x
        height, width = shortcut.shape[1:3]
        x = shortcut + self._attend(n)[:, :height, :width]
        y: Tensor = x + self.mlp(self.norm2(x).to(low))
        return y

    def _attend(self, x: Tensor) -> Tensor:
        """Attend in each window; windows beyond the map are filled with zeros.

        Filled-up places are attended to, as in the original, and are in the result.
        """
        if not self.window:
            whole: Tensor = self.attn(x)
            return whole
        batch, height, width, _ = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        windows = x.view(batch, rows, side, columns, side, -1).transpose(2, 3)
        y: Tensor = self.attn(windows.flatten(0, 2))
        y = y.view(batch, rows, columns, *y.shape[1:]).transpose(2, 3)
        y = y.flatten(3, 4).flatten(1, 2)
        return y


class Trunk(nn.Module):
    """Image to the outputs of the four stages."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        widths, windows = config.backbone_widths, config.backbone_windows
        assert config.image_size % SMALLEST == 0, "the image size is no multiple of 32"
        assert max(windows) <= config.image_size // STRIDE, "windows are too large"
        proj = nn.Conv2d(3, widths[0], PATCH, STRIDE, padding=PATCH // 2)
        self.patch_embed = nn.ModuleDict({"proj": proj})
        side = config.position_size
        self.pos_embed = nn.Parameter(torch.zeros(1, widths[0], side, side))
        self.pos_embed_window = nn.Parameter(
            torch.zeros(1, widths[0], POSITIONS, POSITIONS)
        )
        self.blocks = nn.ModuleList()
        self.ends: list[int] = []
        for stage, depth in enumerate(config.backbone_depths):
            for i in range(depth):
                before = max(stage - (i == 0), 0)  # a stage begins in windows of before
                window = windows[before]
                if len(self.blocks) in config.global_blocks:
                    window = 0
                heads = config.backbone_heads[stage]
                self.blocks.append(
                    HieraBlock(widths[before], widths[stage], heads, window)
                )
            self.ends.append(len(self.blocks) - 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, 3, H, W], sides multiples of 32 -> four [B, width, h, w]."""
        x = self.embed(image)
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                outputs.append(x.permute(0, 3, 1, 2))
        return outputs

    def embed(self, image: Tensor) -> Tensor:
        """Patches with their positions, [B, H / 4, W / 4, C]."""
        proj = cast("nn.Conv2d", self.patch_embed["proj"])
        patches: Tensor = proj(image.to(proj.weight.dtype)).permute(0, 2, 3, 1)
        return patches + self.positions(*patches.shape[1:3])

    def positions(self, height: int, width: int) -> Tensor:
        """Position embedding of a grid whose sides are multiples of 8, [1, H, W, C]."""
        whole = F.interpolate(self.pos_embed, (height, width), mode="bicubic")
        repeats = (1, 1, height // POSITIONS, width // POSITIONS)
        placed: Tensor = whole + torch.tile(self.pos_embed_window, repeats)
        return placed.permute(0, 2, 3, 1)


class Neck(nn.Module):
    """Outputs of the trunk to maps of equal width; the coarsest enters the next."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv2d(width, config.neck_width, 1)})
            for width in reversed(config.backbone_widths)
        )

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, ...]:
        """Four [B, width, h, w] -> res2 to res5, [B, neck width, h, w]."""
        convs = [cast("nn.ModuleDict", level)["conv"] for level in self.convs]
        low = cast("Tensor", convs[0].weight).dtype
        res5, res4, res3, res2 = (
            conv(x.to(low)) for conv, x in zip(convs, reversed(stages), strict=True)
        )
        res4 = res4 + F.interpolate(res5, scale_factor=2, mode="nearest")
        return res2, res3, res4, res5


class HieraBackbone(nn.Module):
    """Image to features at strides 4, 8, 16 and 32."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        self.neck = Neck(config)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of normalised slices [B, 3, H, W].

        Sides are multiples of 32. Returns res2 to res5, [B, neck width, h, w].
        """
        features: tuple[Tensor, ...] = self.neck(self.trunk(image))
        return features


def _pool(x: Tensor) -> Tensor:
    """Largest of 2 x 2 places, [N, H, W, C] -> [N, H // 2, W // 2, C]."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
