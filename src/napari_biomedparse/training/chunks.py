"""Batches for Lightning, in an order that an interrupted run resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

if TYPE_CHECKING:
    from napari_biomedparse.training.slices import Batch


class Batches(Protocol):
    """Batches that depend only on their number since the start."""

    def __len__(self) -> int:
        """Count the batches in an epoch."""

    def __getitem__(self, number: int, /) -> Batch:
        """Make a batch."""


class ChunkedData(LightningDataModule):
    """The batches, one chunk at a time.

    What Lightning calls an epoch is a chunk of one of our epochs, of at most
    `save_every` batches: it ends with a checkpoint, and its data depend only on its
    number. `workers` processes prepare batches in advance. Without `validation`, or
    with an empty one, nothing is held out.
    """

    def __init__(
        self,
        train: Batches,
        validation: Batches | None = None,
        *,
        save_every: int,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self._train, self._validation, self._workers = train, validation, workers
        self.chunks = max(1, -(-len(train) // save_every))
        """Chunks in an epoch."""
        self.holds_out = bool(validation)

    def steps(self, devices: int) -> int:
        """Count the batches per epoch and device, or the steps of several batches."""
        return sum(-(-len(self._chunk(i)) // devices) for i in range(self.chunks))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the batches of the current chunk."""
        assert self.trainer is not None
        return self._loader(self._train, self._chunk(self.trainer.current_epoch))

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Return all held-out batches, the same every time."""
        if not self._validation:
            return []
        return self._loader(self._validation, range(len(self._validation)))

    def _chunk(self, number: int) -> range:
        """Return the numbers of the batches in a chunk."""
        epoch, chunk = divmod(number, self.chunks)
        size = len(self._train)
        length = -(-size // self.chunks)
        stop = min((chunk + 1) * length, size)
        return range(epoch * size + chunk * length, epoch * size + stop)

    def _loader(self, batches: Batches, numbers: range) -> DataLoader[Batch]:
        chunk = Subset(cast("Dataset[Batch]", batches), numbers)
        return DataLoader(chunk, batch_size=None, num_workers=self._workers)
