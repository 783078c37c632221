"""Batches for Lightning, in an order that an interrupted run resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from napari_biomedparse.training.slices import Batch


class Numbered(NamedTuple):
    """A batch, and its number since the start."""

    number: int
    batch: Batch


class EpochBatches(Protocol):
    """Batches in an order that depends only on the epoch."""

    def __len__(self) -> int:
        """Count the batches in an epoch."""
        ...

    def batch(self, epoch: int, number: int) -> Batch:
        """Make a batch."""
        ...


class ChunkedData(LightningDataModule):
    """The batches, one chunk at a time.

    What Lightning calls an epoch is a chunk of one of our epochs, of at most
    `save_every` batches: it ends with a checkpoint, and its data depend only on its
    number. `workers` processes prepare batches in advance. Without `validation`, or
    with an empty one, nothing is held out.
    """

    def __init__(
        self,
        train: EpochBatches,
        validation: EpochBatches | None = None,
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
        """Count the batches per epoch and device."""
        return sum(-(-len(self._chunk(i)) // devices) for i in range(self.chunks))

    def train_dataloader(self) -> DataLoader[Numbered]:
        """Return the batches of the current chunk."""
        assert self.trainer is not None
        epoch, chunk = divmod(self.trainer.current_epoch, self.chunks)
        return self._loader(self._train, epoch, self._chunk(chunk))

    def val_dataloader(self) -> DataLoader[Numbered] | list[Any]:
        """Return all held-out batches, the same every time."""
        if not self._validation:
            return []
        return self._loader(self._validation, 0, range(len(self._validation)))

    def _chunk(self, number: int) -> range:
        """Return the numbers of the batches in a chunk of an epoch."""
        length = -(-len(self._train) // self.chunks)
        return range(number * length, min((number + 1) * length, len(self._train)))

    def _loader(
        self, batches: EpochBatches, epoch: int, numbers: range
    ) -> DataLoader[Numbered]:
        chunk = _Chunk(batches, epoch, numbers)
        return DataLoader(chunk, batch_size=None, num_workers=self._workers)


class _Chunk(Dataset[Numbered]):
    def __init__(self, batches: EpochBatches, epoch: int, numbers: range) -> None:
        self._batches, self._epoch, self._numbers = batches, epoch, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Numbered:
        number = self._numbers[index]
        batch = self._batches.batch(self._epoch, number)
        return Numbered(self._epoch * len(self._batches) + number, batch)
