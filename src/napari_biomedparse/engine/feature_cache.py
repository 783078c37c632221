"""Features of recent slices, so that another prompt costs only the decoder."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from torch import Tensor

    from napari_biomedparse.networks.network import Features


class FeatureCache:
    """Image features, found by the slices' content; the least recently used go first.

    Parameters
    ----------
    most_bytes : int
        Limit of the memory that the features take, on their device. A slice of the
        published network takes 110 MB in float32; 0 keeps nothing.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: LRUCache[bytes, Features] = LRUCache(
            most_bytes, getsizeof=lambda features: features.nbytes
        )
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count the slices that are kept."""
        return len(self._kept)

    @property
    def bytes_used(self) -> int:
        """Memory that the features take."""
        return int(self._kept.currsize)

    def get(self, slices: Tensor, encode: Callable[[Tensor], Features]) -> Features:
        """Return the features of slices [B, 3, S, S]; `encode` computes missing ones.

        May be called from any thread.
        """
        if not self.most_bytes:
            return encode(slices)
        values = slices.contiguous().cpu().numpy()
        key = hashlib.blake2b(values.data, digest_size=16).digest()
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                return kept
        features = encode(slices)
        if features.nbytes <= self.most_bytes:
            with self._lock:
                self._kept[key] = features
        return features

    def clear(self) -> None:
        """Forget everything and free its memory."""
        with self._lock:
            self._kept.clear()
