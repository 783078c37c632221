"""FocalNet backbone (Yang et al., "Focal Modulation Networks", NeurIPS 2022).

ARCHITECTURE section 2. Inside the stages images are laid out [B, H, W, C], which is
the channels-last memory format of [B, C, H, W]: the convolutions see it as a view.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_biomedparse.networks.blocks.layers import Gelu, LinearHalves

if TYPE_CHECKING:
    from napari_biomedparse.networks.config import BiomedParseConfig

LAYER_SCALE = 0.1
"""Initial value of the residual branches' scale."""
PLANAR_PIXELS = 256
"""Smallest map that a CPU computes plane by plane."""


class FocalModulation(nn.Module):
    """Modulation of a query by the context of growing windows, gathered per pixel."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.width = width
        self.levels = levels
        self.f = nn.Linear(width, 2 * width + levels + 1)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(_depthwise(width, kernel=3 + 2 * level), Gelu())
            for level in range(levels)
        )
        self.h = nn.Conv2d(width, width, 1)
        self.proj = LinearHalves(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        # On a CPU in float32, depthwise convolutions are twice as fast plane by plane,
        # and matrix products read and write planes at no cost. Tiny planes gain
        # nothing, and their products round depending on the memory alignment of the
        # weights. In bfloat16 planes are two to three times slower.
        planar = x.device.type == "cpu" and x.dtype == torch.float32
        if planar and x.shape[1] * x.shape[2] >= PLANAR_PIXELS:
            return self._planar(x)
        return self._channels_last(x)

    def _channels_last(self, x: Tensor) -> Tensor:
        query, context, gates = torch.split(self.f(x), self._parts, dim=-1)
        # The convolutions' weights may have a higher precision than the others.
        high = next(self.focal_layers.parameters()).dtype
        context, gates = context.to(high), gates.to(high)
        total = self._gather(context.permute(0, 3, 1, 2), gates.permute(0, 3, 1, 2))
        y: Tensor = self.proj(query * self.h(total.to(x.dtype)).permute(0, 2, 3, 1))
        return y

    def _planar(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        pixels = x.flatten(1, 2).transpose(1, 2)  # [B, C, H * W]
        projected = _linear_planes(pixels, self.f.weight, self.f.bias)
        projected = projected.view(batch, -1, height, width)
        query, context, gates = torch.split(projected, self._parts, dim=1)
        total = self._gather(context, gates).flatten(2)
        modulator = _linear_planes(total, self.h.weight.flatten(1), self.h.bias)
        modulated = (query.flatten(2) * modulator).transpose(1, 2)  # [B, H * W, C]
        y: Tensor = self.proj(modulated)
        return y.view_as(x)

    @property
    def _parts(self) -> list[int]:
        """Channels of query, context and gates."""
        return [self.width, self.width, self.levels + 1]

    def _gather(self, context: Tensor, gates: Tensor) -> Tensor:
        """Mean of the gated contexts, [B, C, H, W] and [B, levels + 1, H, W]."""
        each = torch.split(gates, 1, dim=1)
        context = self.focal_layers[0](context)
        total: Tensor = context * each[0]
        for focal_layer, gate in zip(self.focal_layers[1:], each[1:-1], strict=True):
            context = focal_layer(context)
            total.addcmul_(context, gate)
        whole = F.gelu(context.mean(dim=(2, 3), keepdim=True))  # [B, C, 1, 1]
        total.addcmul_(whole, each[-1])
        return total.div_(self.levels + 1)


class Mlp(nn.Module):
    """Two linear layers, four times as wide in between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = Gelu()
        self.fc2 = LinearHalves(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y


class FocalBlock(nn.Module):
    """Modulation and MLP, each normalised after and scaled per channel."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.modulation = FocalModulation(width, levels)
        self.norm1 = nn.LayerNorm(width)
        self.gamma_1 = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.mlp = Mlp(width)
        self.norm2 = nn.LayerNorm(width)
        self.gamma_2 = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.drop = 0.0
        """Probability that training leaves a branch out (stochastic depth)."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        # The residual stream may have a higher precision than the branches.
        modulated = self.modulation(x.to(self.modulation.f.weight.dtype))
        x = self._add(x, self.gamma_1, self.norm1, modulated)
        mixed = self.mlp(x.to(self.mlp.fc1.weight.dtype))
        return self._add(x, self.gamma_2, self.norm2, mixed)

    def _add(
        self, x: Tensor, gamma: Tensor, norm: nn.LayerNorm, branch: Tensor
    ) -> Tensor:
        """Add a branch, normalised and scaled per channel, to the residual stream."""
        if branch.dtype == x.dtype:
            return x + self._kept(gamma * norm(branch))
        # In half precision: fewer passes over memory, and fewer roundings.
        weight, bias = gamma * norm.weight, gamma * norm.bias
        y = F.layer_norm(branch.to(x.dtype), weight.shape, weight, bias, norm.eps)
        return self._kept(y).add_(x)

    def _kept(self, branch: Tensor) -> Tensor:
        """Leave a branch out of some images, and enlarge it in the others."""
        if not self.training or not self.drop:
            return branch
        kept = torch.rand(len(branch), 1, 1, 1) >= self.drop
        return branch * (kept / (1 - self.drop)).to(branch.device, branch.dtype)


class PatchEmbed(nn.Module):
    """Strided convolution and norm, the image zero-padded right and bottom to fit."""

    def __init__(self, channels: int, width: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.proj = nn.Conv2d(
            channels, width, kernel, stride=stride, padding=(kernel - stride + 1) // 2
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, H / stride, W / stride, width], sizes rounded up."""
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.stride, 0, -height % self.stride))
        image = image.to(self.proj.weight.dtype)
        y = self.proj(image).permute(0, 2, 3, 1)
        normed: Tensor = self.norm(y.to(self.norm.weight.dtype))
        return normed


class Stage(nn.Module):
    """Blocks at one resolution, and the downsampling to the next."""

    def __init__(self, width: int, depth: int, levels: int, down: int | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FocalBlock(width, levels) for _ in range(depth))
        self.downsample = (
            None if down is None else PatchEmbed(width, down, kernel=3, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]; the caller does the downsampling."""
        for block in self.blocks:
            x = block(x)
        return x


class Backbone(nn.Module):
    """Image to features at strides 4, 8, 16 and 32."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        widths = config.backbone_widths
        self.patch_embed = PatchEmbed(3, widths[0], kernel=7, stride=4)
        self.layers = nn.ModuleList(
            Stage(width, depth, config.focal_levels, down)
            for width, depth, down in zip(
                widths, config.backbone_depths, (*widths[1:], None), strict=True
            )
        )
        for i, width in enumerate(widths):
            self.add_module(f"norm{i}", nn.LayerNorm(width))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of normalised slices [B, 3, H, W].

        Returns res2 to res5, [B, width, H / stride, W / stride], sizes rounded up.
        """
        low = self.patch_embed.proj.weight.dtype
        x = self.patch_embed(image)
        features = []
        for i, layer in enumerate(self.layers):
            stage = cast("Stage", layer)
            x = stage(x)
            norm = self.get_submodule(f"norm{i}")
            features.append(norm(x).to(low).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x.permute(0, 3, 1, 2))
        return tuple(features)


def _linear_planes(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear layer to the channels of [B, C, L], giving [B, O, L]."""
    assert bias is not None  # all of the backbone's have one
    return torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), x)


def _depthwise(width: int, *, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(
        width, width, kernel, padding=kernel // 2, groups=width, bias=False
    )
