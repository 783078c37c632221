"""All sizes of a network, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BiomedParseConfig:
    """Every dimension of a `BiomedParse` network.

    The defaults are those of the published BiomedParse v2 checkpoint, read off the
    shapes of its tensors (ARCHITECTURE sections 2 to 5).

    Parameters
    ----------
    image_size : int
        Side of the square slices that enter the network, in pixels.
    pixel_mean, pixel_std : float
        Grey level statistics, on the scale 0 to 255, that normalise a slice.
    backbone_widths : tuple of int
        Channels of the four backbone stages (strides 4, 8, 16, 32).
    backbone_depths : tuple of int
        Blocks of the four backbone stages.
    focal_levels : int
        Depthwise convolutions of a focal modulation, kernel sizes 3, 5, 7, ...
    dim : int
        Channels of the pixel decoder, the mask decoder and the grounding tokens.
    heads : int
        Attention heads everywhere.
    feedforward : int
        Hidden channels of the decoders' feed-forward layers.
    norm_groups : int
        Groups of the pixel decoder's group normalisation.
    encoder_layers : int
        Transformer layers of the pixel decoder.
    decoder_layers : int
        Layers of the mask decoder.
    queries : int
        Queries per prompt, the edge queries included.
    edge_queries : int
        How many of the queries, the last ones, predict object edges.
    text_width, text_layers : int
        Channels and layers of the text encoder.
    context_length : int
        Tokens of a prompt, start and end token included.
    vocabulary : int
        Entries of the token table.
    """

    image_size: int = 512
    pixel_mean: float = 114.495
    pixel_std: float = 57.63
    backbone_widths: tuple[int, int, int, int] = (192, 384, 768, 1536)
    backbone_depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    focal_levels: int = 4
    dim: int = 512
    heads: int = 8
    feedforward: int = 2048
    norm_groups: int = 32
    encoder_layers: int = 6
    decoder_layers: int = 9
    queries: int = 16
    edge_queries: int = 4
    text_width: int = 512
    text_layers: int = 12
    context_length: int = 77
    vocabulary: int = 49408


V2 = BiomedParseConfig()
"""The published network: 1050 tensors, 372 million parameters."""

TINY = BiomedParseConfig(
    image_size=64,
    backbone_widths=(8, 16, 32, 64),
    backbone_depths=(1, 1, 2, 1),
    focal_levels=2,
    dim=32,
    heads=2,
    feedforward=64,
    norm_groups=4,
    encoder_layers=1,
    decoder_layers=3,
    text_width=32,
    text_layers=2,
)
"""A network small enough for every test, never trained."""
