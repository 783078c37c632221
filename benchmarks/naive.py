"""The network as the original evaluates it, for comparison; built from our modules.

What PERFORMANCE.md of the reference calls redundant is done here on purpose: texts are
encoded at all 77 positions, and with them 17 classes in 81 templates that nothing
reads; the image's features are repeated for every prompt and projected again by each
layer; every head computes its masks at full size, samples them once for each attention
head and keeps them; attention returns its weights; convolutions see images channel by
channel; masks are enlarged, compared and merged for all prompts and slices at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_biomedparse.engine.engine import SlicePrediction
from napari_biomedparse.labels.resolve import suppress
from napari_biomedparse.networks.blocks.boltzmann import LEVELS
from napari_biomedparse.networks.blocks.decoder import RandomField, hidden_keys
from napari_biomedparse.networks.blocks.layers import Attention, sine_positions
from napari_biomedparse.networks.blocks.pixel_decoder import PixelFeatures
from napari_biomedparse.networks.blocks.tokenizer import tokenize

if TYPE_CHECKING:
    from napari_biomedparse.networks.blocks.focalnet import FocalModulation
    from napari_biomedparse.networks.v2.biomedparse import BiomedParse

CLASSES, TEMPLATES = 17, 81
"""Texts that the original encodes on every call (PERFORMANCE.md section 1.1)."""


def encode_prompts(model: BiomedParse, texts: Sequence[str]) -> Tensor:
    """Encode all positions of all texts, and keep [P, T, C] of them."""
    found = [tokenize(text) for text in texts]
    ids = torch.stack([torch.from_numpy(one.ids) for one in found])
    encoded = model.encode_prompts(ids.to(model.pixel_mean.device))
    kept = [row[: one.length] for row, one in zip(encoded, found, strict=True)]
    return nn.utils.rnn.pad_sequence(kept, batch_first=True)


def encode_templates(model: BiomedParse, classes: int = CLASSES) -> None:
    """Encode class names in their templates, class by class; nothing reads them."""
    device, length = model.pixel_mean.device, model.config.context_length
    for _ in range(classes):
        ids = torch.randint(model.config.vocabulary, (TEMPLATES, length))
        model.encode_prompts(ids.to(device))


def encode_backbone(model: BiomedParse, slices: Tensor) -> list[Tensor]:
    """Compute res2 to res5 of slices [B, 3, S, S], copied to planes."""
    net = model.backbone
    x = net.patch_embed((slices.float() - model.pixel_mean) / model.pixel_std)
    features = []
    for i, stage in enumerate(net.layers):
        for block in stage.blocks:
            x = x + block.gamma_1 * block.norm1(_modulation(block.modulation, x))
            x = x + block.gamma_2 * block.norm2(block.mlp(x))
        normed = net.get_submodule(f"norm{i}")(x)
        features.append(normed.permute(0, 3, 1, 2).contiguous())
        if stage.downsample is not None:
            x = stage.downsample(x.permute(0, 3, 1, 2).contiguous())
    return features


def _modulation(module: FocalModulation, x: Tensor) -> Tensor:
    width, levels = module.width, module.levels
    y = module.f(x).permute(0, 3, 1, 2).contiguous()
    query, context, gates = torch.split(y, [width, width, levels + 1], dim=1)
    total: Tensor | float = 0.0
    for level, layer in enumerate(module.focal_layers):
        context = layer(context)
        total = total + context * gates[:, level : level + 1]
    whole = F.gelu(context.mean((2, 3), keepdim=True))
    total = (total + whole * gates[:, levels:]) / (levels + 1)
    return module.proj((query * module.h(total)).permute(0, 2, 3, 1).contiguous())


def decode_pixels(model: BiomedParse, features: Sequence[Tensor]) -> PixelFeatures:
    """Compute mask features and levels from the backbone's features."""
    net = model.pixel_decoder
    *laterals, coarsest = features
    z = _conv(net.input_proj, coarsest)
    x = z.flatten(2).permute(2, 0, 1)  # [L, B, C]
    positions = sine_positions(*z.shape[-2:], x.shape[-1], x.device, x.dtype)[:, None]
    for layer in net.transformer["encoder"].layers:
        placed = x + positions
        x = layer.norm1(x + _attention(layer.self_attn, placed, placed, x))
        x = layer.norm2(x + layer.linear2(F.relu(layer.linear1(x))))
    z = x.permute(1, 2, 0).reshape(z.shape)
    y = F.relu(_normed(net.layer_4, z))
    levels = [y]
    for i in (3, 2, 1):
        lateral = _normed(net.get_submodule(f"adapter_{i}"), laterals[i - 1])
        y = lateral + F.interpolate(y, size=lateral.shape[-2:], mode="nearest")
        y = F.relu(_normed(net.get_submodule(f"layer_{i}"), y))
        levels.append(y)
    f0, f1, f2, finest = levels
    return PixelFeatures(_conv(net.mask_features, finest), (f0, f1, f2))


def _conv(module: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, module.weight, module.bias, padding=module.padding)


def _normed(module: nn.Conv2d, x: Tensor) -> Tensor:
    return module.norm(_conv(module, x))


def _attention(
    module: Attention, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None = None
) -> Tensor:
    """Attend, tokens first, [L, N, C], and make the mean weights that nobody reads."""
    mixed, _ = F.multi_head_attention_forward(
        q, k, v, q.shape[-1], module.heads, module.in_proj_weight,
        module.in_proj_bias, None, None, False, 0.0, module.out_proj.weight,
        module.out_proj.bias, training=False, need_weights=True, attn_mask=hidden,
    )  # fmt: skip
    return mixed


class NaiveDecoder:
    """The mask decoder for slices and prompts of one batch."""

    def __init__(self, model: BiomedParse, field: RandomField) -> None:
        self.net = model.mask_decoder
        self.field = field
        self.logits: list[Tensor] = []
        """Full-size mask logits [N, Q, h, w] of each head, kept until the end."""

    def decode(self, pixels: PixelFeatures, tokens: Tensor) -> SlicePrediction:
        """Decode prompts [P, T, C]; N = B * P, slice-major, tokens first."""
        net, prompts = self.net, len(tokens)
        slices = len(pixels.mask_features)
        masks = pixels.mask_features.repeat_interleave(prompts, 0)  # [N, C, h, w]
        memory, places = [], []
        for embed, level in zip(net.level_embed.weight, pixels.levels, strict=True):
            copies = level.repeat_interleave(prompts, 0).flatten(2).permute(2, 0, 1)
            memory.append(copies + embed)  # [K, N, C]
            grid = sine_positions(
                *level.shape[-2:], level.shape[1], level.device, level.dtype
            )
            places.append(grid[:, None].expand_as(copies).contiguous())
        count = slices * prompts
        q = net.query_feat_.weight[:, None].repeat(1, count, 1)
        q_place = net.query_embed_.weight[:, None].repeat(1, count, 1)
        t = tokens.transpose(0, 1).repeat(1, slices, 1)
        c = net.classifier_query.weight[:, None].repeat(1, count, 1)
        place = torch.cat([q_place, t])

        s = self._self(net.initial_self_attention_layer, torch.cat([q, t]), place)
        q, t = s[: net.queries], s[net.queries :]
        q = net.initial_ffn_layer(q)
        hidden = self._head(q, masks, pixels, 0)
        for i, cross in enumerate(net.transformer_cross_attention_layers):
            level = i % LEVELS
            key = memory[level] + places[level]
            q = cross.norm(
                q
                + _attention(
                    cross.multihead_attn, q + q_place, key, memory[level], hidden
                )
            )
            s = self._self(
                net.transformer_self_attention_layers[i], torch.cat([q, t]), place
            )
            q, t = s[: net.queries], s[net.queries :]
            q = net.transformer_ffn_layers[i](q)
            hidden = self._head(q, masks, pixels, i + 1)
            reader = net.classifier_cross_attention_layers[i]
            c = reader.norm(c + _attention(reader.multihead_attn, c, s + place, s))
            c = net.classifier_ffn_layers[i](c)
        last = self.logits[-1].unflatten(0, (slices, prompts))
        border = net.queries - net.edge_queries
        return SlicePrediction(
            last[:, :, :border].mean(2),
            last[:, :, border:].mean(2),
            net.classifier(c).view(slices, prompts),
        )

    def _self(self, layer: nn.Module, x: Tensor, place: Tensor) -> Tensor:
        placed = x + place
        return layer.norm(x + _attention(layer.self_attn, placed, placed, x))

    def _head(
        self, q: Tensor, masks: Tensor, pixels: PixelFeatures, call: int
    ) -> Tensor:
        """Compute full-size masks and draw hidden keys, [N * heads, Q, K]."""
        net = self.net
        embedding = net.mask_embed(net.decoder_norm(q)).transpose(0, 1)
        logits = torch.einsum("nqc,nchw->nqhw", embedding, masks)
        self.logits.append(logits)
        size = pixels.levels[call % LEVELS].shape[-2:]
        sampled = F.interpolate(logits, size=size, mode="bilinear").flatten(2)
        heads = net.transformer_cross_attention_layers[0].multihead_attn.heads
        sampled = sampled[:, None].repeat(1, heads, 1, 1)
        uniform = self.field(call, sampled.shape[-1])
        return hidden_keys(sampled, call, uniform).flatten(0, 1)


def resolve(
    predictions: Sequence[SlicePrediction], ids: Sequence[int], size: tuple[int, int]
) -> Tensor:
    """Make the labels [D, H, W] of all slices at once, for all prompts."""
    logits = torch.cat([p.mask_logits for p in predictions])
    scores = torch.cat([p.existence for p in predictions]).sigmoid()
    large = F.interpolate(logits, size, mode="bicubic", antialias=True)
    probabilities = large.sigmoid()  # [D, P, H, W]
    if len(ids) == 1:
        keep = scores > 0.5
    else:
        keep = suppress(probabilities > 0.5, scores)
    probabilities = probabilities * keep[:, :, None, None]
    background = torch.full_like(probabilities[:, :1], 0.5)
    winner = torch.cat([background, probabilities], dim=1).argmax(dim=1)
    return torch.tensor([0, *ids], device=winner.device)[winner]
