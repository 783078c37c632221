"""All sizes of a network, in one place."""

from __future__ import annotations

from dataclasses import dataclass

NETWORKS = ("v1", "v2")
V1_NAME = "sem_seg_head.predictor.lang_encoder"
"""In names of tensors of v1, and of none of v2."""


@dataclass(frozen=True)
class BiomedParseConfig:
    """Which network it is, and every dimension of it.

    The defaults are those of the published BiomedParse v2 checkpoint, read off the
    shapes of its tensors (ARCHITECTURE sections 2 to 5).
    """

    network: str = "v2"  # one of `NETWORKS`
    image_size: int = 512  # side of the square slices that enter the network, in pixels
    pixel_mean: float = 114.495  # with these v2 normalises grey levels of 0 to 255
    pixel_std: float = 57.63
    # Channels and blocks of the four backbone stages, of strides 4, 8, 16 and 32.
    backbone_widths: tuple[int, int, int, int] = (192, 384, 768, 1536)
    backbone_depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    focal_levels: int = 4  # depthwise convolutions, of kernel sizes 3, 5, 7, ...
    dim: int = 512  # channels of both decoders and of the grounding tokens
    heads: int = 8  # attention heads everywhere
    feedforward: int = 2048  # hidden channels of the decoders' feed-forward layers
    norm_groups: int = 32  # of the pixel decoder's group normalisation
    encoder_layers: int = 6  # transformer layers of the pixel decoder
    decoder_layers: int = 9  # layers of the mask decoder
    queries: int = 16  # per prompt, the edge queries included
    edge_queries: int = 4  # how many queries, the last ones, predict object edges
    text_width: int = 512  # channels of the text encoder
    text_layers: int = 12
    context_length: int = 77  # tokens of a prompt, start and end token included
    vocabulary: int = 49408  # entries of the token table

    @property
    def slices_alone(self) -> bool:
        """Whether slices are read by themselves, squashed to the network's square."""
        return self.network == "v1"


V2 = BiomedParseConfig()
"""The published network: 1050 tensors, 372 million parameters."""

V1 = BiomedParseConfig(network="v1", image_size=1024, queries=101, edge_queries=0)
"""The published network for images: 925 tensors, 340 million parameters."""

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
