"""Predictions of finished slices, kept for other thresholds and for corrections."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from napari_biomedparse.engine.engine import KeptPrediction, SlicePrediction
from napari_biomedparse.errors import OptionError
from napari_biomedparse.io.durable import scratch_folder
from napari_biomedparse.pipeline.loop import (
    Fine,
    Predicted,
    label_slices,
    one_behind,
    plan_tokens,
    predict_slices,
    thread_pool,
    with_p_values,
)
from napari_biomedparse.pipeline.plan import spans
from napari_biomedparse.slicing.read import slice_batches

if TYPE_CHECKING:
    from napari_biomedparse.data.results import SegmentedSlices, Span
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan

_LOGGER = logging.getLogger(__name__)

MOST_BYTES = 2**31
"""Enough for 900 slices of the published network, or 4,700 of the demo model, with four
prompts, edges and features."""


class ScoreStore:
    """Mask, edge and existence logits of a run's slices, in a temporary folder.

    They are kept as float32, at a quarter of the network's image size and tile by
    tile, so that `resolve_again` gives the run's own labels to the bit. As float16
    they would take half the space, and 18 of the 786,432 voxels of an EM volume would
    get another label (demo model, two prompts). Features are beside them, as float16,
    for what corrections teach.

    Edges are kept if the run separates objects. Beyond `most_bytes` of files the slices
    that came first are dropped.
    """

    def __init__(self, plan: RunPlan, most_bytes: int = MOST_BYTES) -> None:
        self.plan = plan
        self.most_bytes = most_bytes
        self._folder, remove = scratch_folder()
        self._close = weakref.finalize(self, remove)
        self._sizes: dict[int, int] = {}
        self._existence: dict[int, Tensor] = {}

    @property
    def kept(self) -> list[Span]:
        """Ranges of slices whose scores are kept."""
        return spans(self._sizes)

    @property
    def bytes_used(self) -> int:
        """Size of the files."""
        return sum(self._sizes.values())

    def has(self, start: int, stop: int) -> bool:
        """Return whether the scores of all slices of a range are kept."""
        return all(index in self._sizes for index in range(start, stop))

    def add(self, start: int, predictions: Sequence[KeptPrediction]) -> None:
        """Keep the predictions of consecutive slices from `start`, of all their tiles.

        If the disk is full they are dropped, and the run continues.
        """
        masks, edges, existence, features = (
            torch.cat(part) for part in zip(*predictions, strict=True)
        )
        wanted = [masks, edges] if self.plan.instances else [masks]
        scores = torch.stack(wanted, dim=1).cpu().numpy()  # [n, 1 or 2, P, h, w]
        tiles = len(self.plan.tiles.corners)
        for at in range(0, len(scores), tiles):
            part = slice(at, at + tiles)
            kept = {"scores": scores[part], "features": features[part].cpu().numpy()}
            self._keep(start + at // tiles, kept, existence[part])

    def _keep(self, index: int, kept: dict[str, Any], existence: Tensor) -> None:
        self._sizes.pop(index, None)
        size = sum(array.nbytes for array in kept.values())
        while self._sizes and self.bytes_used + size > self.most_bytes:
            self._drop(next(iter(self._sizes)))
        if size > self.most_bytes:
            return
        try:
            np.savez(self._path(index), **kept)
        except OSError as error:
            _LOGGER.warning("Scores of slice %d cannot be stored: %s", index, error)
            self._path(index).unlink(missing_ok=True)
            return
        self._sizes[index], self._existence[index] = size, existence

    def _drop(self, index: int) -> None:
        del self._sizes[index], self._existence[index]
        self._path(index).unlink(missing_ok=True)

    def _path(self, index: int) -> Path:
        return self._folder / f"{index}.npz"

    def load(self, index: int) -> KeptPrediction:
        """Return the predictions of all tiles of a slice that is kept.

        They are on the device they came from; if edges were not kept, the masks take
        their place.
        """
        existence = self._existence[index]
        with np.load(self._path(index)) as kept:
            scores, features = (
                torch.from_numpy(kept[name]).to(existence.device)
                for name in ("scores", "features")
            )
        return KeptPrediction(scores[:, 0], scores[:, -1], existence, features)

    def close(self) -> None:
        """Remove the files now, not when the store is forgotten."""
        self._sizes.clear()
        self._existence.clear()
        self._close()


def resolve_again(
    plan: RunPlan,
    store: ScoreStore,
    slices: Iterable[int] | None = None,
    *,
    engine: Engine | None = None,
) -> Iterator[SegmentedSlices]:
    """Make labels again from stored predictions, by other thresholds or rules.

    With the run's own options these are the run's own labels, slice by slice. `collect`
    combines them and separates objects. With the `engine` of a taught network they are
    those of that network, whose base the store must be of.

    Parameters
    ----------
    plan : RunPlan
        Like the store's except for these options: existence, overlap and edge
        threshold, overlaps, minimum size, and the prompts' ids and order. If that
        would need the network, an `OptionError` is raised.
    slices : iterable of int, optional
        Which slices, in which order; those that are not kept are skipped. By default
        all kept ones in ascending order.
    """
    _check(plan, store, engine)
    height, width = plan.geometry.working_shape
    nothing = torch.zeros((), dtype=torch.uint8).expand(1, 3, height, width)
    corrects = engine is not None and engine.model.corrects
    tokens, fine = None, None
    if engine is not None and corrects:
        tokens, fine = plan_tokens(plan, engine), Fine(plan, corrects)

    def again(index: int) -> Predicted:
        prediction, at = store.load(index), 0

        def replay(squares: Tensor) -> SlicePrediction:
            """Repeat the predictions of some tiles."""
            nonlocal at
            part = slice(at, at := at + len(squares))
            found = KeptPrediction(*(values[part] for values in prediction))
            if engine is None or tokens is None:
                return SlicePrediction(*found[:3])
            return engine.correct(squares if near is None else near, tokens, found)

        near = None
        if fine is None:
            return Predicted(index, predict_slices(plan, replay, nothing))
        cut = plan.volume, plan.geometry, plan.intensity
        (batch,) = slice_batches(*cut, index, index + 1, 1)
        near = fine.read(batch)
        whole = predict_slices(plan, replay, batch.slices)
        whole = with_p_values(plan, batch.levels, whole)
        return Predicted(index, whole)

    if slices is None:
        slices = chain.from_iterable(range(*span) for span in store.kept)
    kept = (index for index in slices if store.has(index, index + 1))
    at_once = 1 if engine is None or tokens is None else engine.side_by_side
    if at_once == 1:  # a second thread would compete with this one's own
        yield from label_slices(plan, map(again, kept))
        return
    with thread_pool("network", at_once) as pool:
        begun = (pool.submit(again, index).result for index in kept)
        yield from label_slices(plan, one_behind(begun, at_once - 1))


def _check(plan: RunPlan, store: ScoreStore, engine: Engine | None) -> None:
    """Refuse a plan whose scores are not those in the store."""
    old = store.plan
    same = {
        "the volume": (plan.volume.shape, plan.volume.origin)
        == (old.volume.shape, old.volume.origin),
        "the prompts": (plan.prompts.texts, plan.options.prompts_apart)
        == (old.prompts.texts, old.options.prompts_apart),
        "the grey levels": plan.intensity == old.intensity,
        "what masks are compared with": plan.entries == old.entries,
        "how slices are cut": (plan.geometry, plan.tiles) == (old.geometry, old.tiles),
        "the seed": plan.options.seed == old.options.seed,
        "the precision": plan.options.precision == old.options.precision,
        "separate objects": old.instances or not plan.instances,
        "the directions of the features": engine is None or engine.model.reads_kept,
    }
    if other := [name for name, equal in same.items() if not equal]:
        raise OptionError(
            f"The stored scores belong to another run ({', '.join(other)} changed); "
            "run the network again."
        )
