"""What the engine asks of any network: the class that every network derives from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from napari_biomedparse.networks.blocks.decoder import RandomField
    from napari_biomedparse.networks.config import BiomedParseConfig


NOWHERE = -80.0
"""Logit of what is nowhere, finite so that it can be resized."""


class SlicePrediction(NamedTuple):
    """What a network predicts for a batch of slices.

    Attributes
    ----------
    mask_logits, edge_logits : float32 Tensor [B, P, h, w]
        At a quarter of the network's image size.
    existence : float32 Tensor [B, P]
        Logit that the prompt's target occurs in the slice.
    """

    mask_logits: Tensor
    edge_logits: Tensor
    existence: Tensor


class KeptPrediction(NamedTuple):
    """A `SlicePrediction` by text alone, with what corrections need.

    Features are float16 [B, K, h, w], mask features along `Network.basis`,
    or [0] if they were not asked for.
    """

    mask_logits: Tensor
    edge_logits: Tensor
    existence: Tensor
    features: Tensor = torch.empty(0)


class Features(Protocol):
    """What a network computes once per slice, whatever the prompts."""

    @property
    def nbytes(self) -> int:
        """Memory that the features take up."""
        ...


class Network(nn.Module, ABC):
    """Text-prompted segmentation of slices."""

    channels: ClassVar[Literal["neighbours", "colours"]]
    """What the three channels of a slice are: the slice with its two neighbours, or
    its colours (a grey slice three times)."""
    parts_prompts: ClassVar[bool] = True
    """Whether the prompts of a call may be decoded in several parts."""
    corrects: ClassVar[bool] = False
    """Whether `correct` changes anything, and needs features."""

    def __init__(self, config: BiomedParseConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def unfilled(cls, config: BiomedParseConfig) -> Self:
        """Build a network on the meta device, for weights to be assigned to it."""
        with torch.device("meta"), _WithoutDrawing():
            return cls(config)

    @property
    def image_size(self) -> int:
        """Side of the square slices that enter the network, in pixels."""
        return self.config.image_size

    @property
    def field_shape(self) -> tuple[int, int]:
        """Heads and queries: sizes of the random field that `decode` takes."""
        return self.config.heads, self.config.queries

    @property
    @abstractmethod
    def largest_map(self) -> int:
        """Bytes of the largest float32 map that one slice becomes on its way."""

    @abstractmethod
    def encode_image(self, slices: Tensor) -> Features:
        """Compute what all prompts share, for slices [B, 3, S, S] of 0 to 255."""

    @abstractmethod
    def join_features(self, each: Sequence[Any]) -> Features:
        """Combine what `encode_image` returned for several slices into one batch.

        Copied even if there is only one slice: how a product rounds may depend on how
        its factors lie in memory.
        """

    @abstractmethod
    def encode_prompts(self, ids: Tensor) -> Tensor:
        """Encode token ids [P, L], int64, as token vectors [P, L, C]."""

    @abstractmethod
    def decode(self, image: Any, tokens: Tensor, field: RandomField) -> SlicePrediction:
        """Find each prompt in each slice.

        Parameters
        ----------
        image : Features
            Of B slices, from this network.
        tokens : Tensor [P, T, C]
            Of P prompts, padded with zero vectors to a common length.
        field : RandomField
            Uniform numbers for attention masks, of the sizes `field_shape`.
        """

    @cached_property
    def basis(self) -> Tensor:
        """Directions of the features that are kept, float32 [C, K]; none by default."""
        return torch.zeros(0, 0)

    def summarize(self, image: Any) -> Tensor:
        """Return features of slices along `basis`, float16 [B, K, h, w], or [0]."""
        return torch.empty(0)

    @property
    def reads_kept(self) -> bool:
        """Whether it can correct what its base kept: a file may differ in `basis`."""
        return True

    def correct(
        self, slices: Tensor, tokens: Sequence[Tensor], found: KeptPrediction
    ) -> SlicePrediction:
        """Return what was found in slices [B, 3, S, S], as corrections taught it.

        `tokens` are [T, C] of each prompt, and `found` what `decode` and `summarize`
        returned. Most networks were taught nothing.
        """
        return SlicePrediction(*found[:3])

    @abstractmethod
    def low_precision_weights(self) -> Iterator[Tensor]:
        """Yield the weights that half precision serves well enough."""


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
