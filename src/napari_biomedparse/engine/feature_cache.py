"""Features of recently seen slices, so that another prompt costs only the decoder."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from napari_biomedparse.networks.v2.mask_decoder import ImageFeatures


class FeatureCache:
    """Image features by what entered the network; the least recently used go first.

    Parameters
    ----------
    most_bytes : int
        What the features may take up together, on their device. A slice of the
        published network takes 110 MB in float32; 0 remembers nothing.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[bytes, ImageFeatures] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count the remembered slices."""
        return len(self._kept)

    @property
    def bytes_used(self) -> int:
        """What the remembered features take up."""
        return sum(self._sizes.values())

    def get(
        self, slices: Tensor, encode: Callable[[Tensor], ImageFeatures]
    ) -> ImageFeatures:
        """Remember the features of slices, or compute them; from any thread.

        Parameters
        ----------
        slices : Tensor [B, 3, S, S]
            What enters the network.
        encode : callable
            Computes the features.

        Returns
        -------
        ImageFeatures
        """
        if not self.most_bytes:
            return encode(slices)
        values = slices.contiguous().cpu().numpy()
        key = hashlib.blake2b(values.data, digest_size=16).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = encode(slices)
        if found.nbytes <= self.most_bytes:
            with self._lock:
                self._kept[key], self._sizes[key] = found, found.nbytes
                while self.bytes_used > self.most_bytes:
                    oldest, _ = self._kept.popitem(last=False)
                    del self._sizes[oldest]
        return found

    def clear(self) -> None:
        """Forget everything and free its memory."""
        with self._lock:
            self._kept.clear()
            self._sizes.clear()
