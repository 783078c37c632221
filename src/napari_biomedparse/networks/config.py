"""All sizes of a network, in one place."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from napari_biomedparse.errors import CheckpointError

NETWORKS = ("v1", "v2", "boltzformer")
BACKBONES = ("focal", "hiera")
RECORD = "config"
"""Entry of a weights file that holds the sizes of its network."""
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
    backbone: str = "focal"  # one of `BACKBONES`
    # Channels and blocks of the four backbone stages, of strides 4, 8, 16 and 32.
    backbone_widths: tuple[int, int, int, int] = (192, 384, 768, 1536)
    backbone_depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    focal_levels: int = 4  # depthwise convolutions, of kernel sizes 3, 5, 7, ...
    # Of Hiera: attention heads and windows' sides of the stages, blocks without
    # windows, side of the position embedding, channels of all that it returns.
    backbone_heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    backbone_windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    global_blocks: tuple[int, int, int] = (7, 10, 13)
    position_size: int = 7
    neck_width: int = 256
    output_layer: bool = False  # of BoltzFormer: pixels correct the masks
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
    def feature_widths(self) -> tuple[int, int, int, int]:
        """Channels of what the backbone returns."""
        same = self.neck_width
        return self.backbone_widths if self.backbone == "focal" else (same,) * 4

    @property
    def slices_alone(self) -> bool:
        """Whether slices are read by themselves, squashed to the network's square."""
        return self.network == "v1"


V2 = BiomedParseConfig()
"""The published network: 1050 tensors, 372 million parameters."""

V1 = BiomedParseConfig(network="v1", image_size=1024, queries=101, edge_queries=0)
"""The published network for images: 925 tensors, 340 million parameters."""

FOCAL_L = BiomedParseConfig(
    network="boltzformer",
    image_size=1024,
    queries=101,
    edge_queries=0,
    output_layer=True,
)
HIERA_S = replace(
    FOCAL_L,
    backbone="hiera",
    backbone_widths=(96, 192, 384, 768),
    backbone_depths=(1, 2, 11, 2),
)
HIERA_BP = replace(
    HIERA_S,
    backbone_widths=(112, 224, 448, 896),
    backbone_depths=(2, 3, 16, 3),
    backbone_heads=(2, 4, 8, 16),
    global_blocks=(12, 16, 20),
    position_size=14,
)
"""The three of BoltzFormer, of which no trained weights were published."""

V2_LIGHT = replace(HIERA_S, network="v2", image_size=512, queries=16, edge_queries=4,
                   output_layer=False)  # fmt: skip
V2_LITE = replace(V2_LIGHT, dim=256, feedforward=1024)
"""v2 with a smaller backbone, and with narrower decoders, to be trained."""

DEMO_LITE = BiomedParseConfig(
    image_size=224,
    backbone_widths=(16, 32, 64, 96),
    backbone_depths=(1, 1, 1, 1),
    focal_levels=2,
    dim=32,
    heads=4,
    feedforward=64,
    norm_groups=8,
    encoder_layers=1,
    decoder_layers=3,
    text_width=32,
    text_layers=2,
)
"""A fifth of the demo model's operations, to be taught by it."""

ARCHITECTURES = {
    "focal-l": FOCAL_L,
    "hiera-s": HIERA_S,
    "hiera-bp": HIERA_BP,
    "v2-light": V2_LIGHT,
    "v2-lite": V2_LITE,
    "demo-lite": DEMO_LITE,
}
"""Networks without weights, by the names that training knows them by."""

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

_MOST = 2**20
"""Largest number allowed in a configuration."""
_MOST_LAYERS = 256
_NAMED = {
    *(("network", name) for name in NETWORKS),
    *(("backbone", name) for name in BACKBONES),
}


def parse_config(
    stored: object, path: str | os.PathLike[str]
) -> BiomedParseConfig | None:
    """Make a configuration from the fields that a file records, if it does.

    They are JSON text or a mapping. A `CheckpointError` names the file if they are not
    those of a possible network.
    """
    if stored is None:
        return None
    try:
        fields = json.loads(stored) if isinstance(stored, str) else stored
        values = {
            name: type(getattr(V2, name))(value)
            for name, value in cast(Mapping[str, object], fields).items()
        }
        _check_sizes(values)
        return BiomedParseConfig(**values)
    except (ArithmeticError, LookupError, RecursionError, ValueError, TypeError,
            AttributeError) as error:  # fmt: skip
        raise CheckpointError(
            f"{path} describes a network that this version does not know ({error}). "
            "Update napari-biomedparse, or use weights made with this version."
        ) from error


def _check_sizes(values: Mapping[str, object]) -> None:
    """Raise a `ValueError` if a configuration has impossible sizes."""
    for name, value in values.items():
        if (name, value) in _NAMED or isinstance(value, bool):
            continue
        given = value if isinstance(value, tuple) else (value,)
        expected = getattr(V2, name)
        count = len(expected) if isinstance(expected, tuple) else 1
        most = _MOST_LAYERS if name.endswith(("depths", "layers", "levels")) else _MOST
        kinds = int if isinstance(value, tuple) else int | float
        least = 0 if name == "edge_queries" else 1e-9
        if len(given) != count or not all(
            isinstance(size, kinds) and least <= size <= most for size in given
        ):
            raise ValueError(f"{name} is {str(value)[:80]}")
