"""Preview of one slice: its labels, and the probability of each prompt per voxel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_biomedparse.errors import OptionError
from napari_biomedparse.labels.resolve import upsample
from napari_biomedparse.pipeline.loop import label_slices, predict_plan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan


@dataclass(frozen=True)
class Preview:
    """Result for slice `index` along `axis`."""

    index: int
    axis: int
    labels: npt.NDArray[Any]
    """Unsigned [Y, X], or [P, Y, X] if prompts have separate labels."""
    probabilities: npt.NDArray[np.float32]
    """[P, Y, X] of each prompt's mask, 0 to 1, regardless of its existence."""
    existence: npt.NDArray[np.float32]
    """[P] probability that a prompt's target occurs in the slice."""


def preview(plan: RunPlan, engine: Engine, index: int) -> Preview:
    """Segment one slice as the plan's run would.

    The engine keeps the features of the slice, so that other prompts, or the same
    slice again, cost only the decoder.

    The plan's range of slices is ignored. If there is no such slice, an `OptionError`
    is raised; other errors are those of `run_plan`.
    """
    if not 0 <= index < plan.geometry.depth:
        raise OptionError(
            f"{plan.volume.name} has no slice {index} along axis {plan.axis_name}; "
            f"choose 0 to {plan.geometry.depth - 1}."
        )
    # Tile by tile, as the engine keeps the features of inputs that come alone.
    options = replace(plan.options, batch_size=1)
    one = replace(plan, start=index, stop=index + 1, options=options)
    (found,) = predict_plan(one, engine, front=lambda: index)
    (done,) = label_slices(one, [found])
    masks = upsample(found.whole.mask_logits, plan.geometry.working_shape)[0].sigmoid()
    return Preview(
        index,
        done.axis,
        done.labels.take(0, axis=done.axis - 3),
        plan.geometry.restore(masks.cpu().numpy()),
        done.existence[:, 0],
    )
