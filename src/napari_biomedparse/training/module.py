"""What Lightning trains: the network with its loss, and the data in their order."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from napari_biomedparse.postprocess import upsample
from napari_biomedparse.training.adapters import add_adapters
from napari_biomedparse.training.loop import parameter_groups, predict
from napari_biomedparse.training.losses import Losses, segmentation_losses

if TYPE_CHECKING:
    from napari_biomedparse.model.biomedparse import BiomedParse
    from napari_biomedparse.training.data import Batch
    from napari_biomedparse.training.options import FinetuneOptions
    from napari_biomedparse.training.slices import SliceBatches


class Numbered(NamedTuple):
    """A batch, and its number since the beginning."""

    number: int
    batch: Batch


class FinetuneModule(LightningModule):
    """The network with its loss.

    Parameters
    ----------
    model : BiomedParse
        Changed in place; see `prepare`.
    options : FinetuneOptions
    """

    def __init__(self, model: BiomedParse, options: FinetuneOptions) -> None:
        super().__init__()
        # Named so, `load_model` also takes the checkpoints of a running training.
        self.save_hyperparameters({"config": asdict(model.config)})
        self.model, self.options = model, options
        self.recent: list[Losses] = []
        self._held_out: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make AdamW of all that is trained."""
        options = self.options
        groups = parameter_groups(self.model, options.weight_decay)
        return torch.optim.AdamW(groups, lr=options.learning_rate)

    def training_step(self, numbered: Numbered, index: int) -> Tensor:
        """Return the loss of a batch."""
        losses, _ = self._compare(numbered)
        self.recent.append(Losses(*(term.detach() for term in losses)))
        return losses.total()

    def validation_step(self, numbered: Numbered, index: int) -> None:
        """Remember the loss and the Dice of a batch."""
        losses, dice = self._compare(numbered)
        self._held_out.append((losses.total(), dice))

    def on_validation_epoch_end(self) -> None:
        """Make known the mean over all batches."""
        losses = torch.stack([loss for loss, _ in self._held_out])
        dices = torch.cat([dice for _, dice in self._held_out])
        self._held_out.clear()
        self.log("val_loss", losses.mean())
        self.log("val_dice", dices.mean() if len(dices) else losses.new_tensor(0.0))

    def _compare(self, numbered: Numbered) -> tuple[Losses, Tensor]:
        """Return the losses, and the Dice of every mask that there should be."""
        number, batch = numbered
        seed = self.options.seed * 100_003 + number
        generator = torch.Generator().manual_seed(seed)
        decoded = predict(self.model, batch, generator, self.device)
        size = (batch.slices.shape[-2], batch.slices.shape[-1])
        with torch.autocast(self.device.type, enabled=False):
            masks = upsample(decoded.mask_logits.float(), size)
            edges = upsample(decoded.edge_logits.float(), size)
            losses = segmentation_losses(
                masks,
                edges,
                decoded.existence.float(),
                batch.targets,
                existence_weight=self.options.existence_weight,
            )
        truth = batch.targets.masks > 0
        shared = 2.0 * ((masks.detach() > 0) & truth).sum(dim=(-2, -1))
        dice = shared / ((masks.detach() > 0).sum((-2, -1)) + truth.sum((-2, -1)))
        return losses, dice[batch.targets.exists > 0]


class FinetuneData(LightningDataModule):
    """The batches, a chunk at a time.

    What Lightning calls an epoch is a chunk of an epoch of ours: it ends with a
    checkpoint, and which data it holds follows from its number alone.

    Parameters
    ----------
    train, validation : SliceBatches
    save_every : int
        Most batches in a chunk.
    workers : int
        Processes that prepare batches ahead.
    """

    def __init__(
        self,
        train: SliceBatches,
        validation: SliceBatches,
        *,
        save_every: int,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self._train, self._validation, self._workers = train, validation, workers
        self.chunks = max(1, -(-len(train) // save_every))
        """Chunks in an epoch."""
        self.batches = len(train)
        """Batches in an epoch."""

    def train_dataloader(self) -> DataLoader[Numbered]:
        """Return the batches of the chunk that is due."""
        assert self.trainer is not None
        epoch, chunk = divmod(self.trainer.current_epoch, self.chunks)
        length = -(-len(self._train) // self.chunks)
        numbers = range(chunk * length, min((chunk + 1) * length, len(self._train)))
        return self._loader(self._train, epoch, numbers)

    def val_dataloader(self) -> DataLoader[Numbered]:
        """Return all held-out batches, always the same."""
        return self._loader(self._validation, 0, range(len(self._validation)))

    def _loader(
        self, batches: SliceBatches, epoch: int, numbers: range
    ) -> DataLoader[Numbered]:
        chunk = _Chunk(batches, epoch, numbers)
        return DataLoader(chunk, batch_size=None, num_workers=self._workers)


class _Chunk(Dataset[Numbered]):
    def __init__(self, batches: SliceBatches, epoch: int, numbers: range) -> None:
        self._batches, self._epoch, self._numbers = batches, epoch, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Numbered:
        number = self._numbers[index]
        batch = self._batches.batch(self._epoch, number)
        return Numbered(self._epoch * len(self._batches) + number, batch)


def prepare(model: BiomedParse, options: FinetuneOptions) -> None:
    """Make a loaded network trainable, but for the parts that are kept.

    Parameters
    ----------
    model : BiomedParse
        Its weights are copied, as they may be mapped from a file.
    options : FinetuneOptions
    """
    model.load_state_dict(
        {name: value.clone() for name, value in model.state_dict().items()},
        assign=True,
    )
    model.requires_grad_(True)
    parts: dict[str, nn.Module] = {
        "text": model.mask_decoder.language_encoder,
        "backbone": model.backbone,
        "pixel-decoder": model.pixel_decoder,
    }
    for part in options.freeze:
        parts[part].requires_grad_(False)
    if options.rank:
        add_adapters(model, options.rank, options.seed)
    if options.checkpointing:
        for stage in model.backbone.layers:
            _checkpointed(stage)


def _checkpointed(stage: Any) -> None:
    """Have blocks computed again in the backward pass."""
    for block in stage.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
