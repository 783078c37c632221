"""Preview of one slice: its labels, and the probability of each prompt per voxel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_biomedparse.errors import OptionError
from napari_biomedparse.pipeline.loop import label_slices, predict_plan, resize_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_biomedparse.data.results import SegmentedSlices
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan


def preview(
    plan: RunPlan, engine: Engine, index: int
) -> tuple[SegmentedSlices, npt.NDArray[np.float32]]:
    """Segment one slice as the plan's run would, whose range of slices is ignored.

    The engine keeps the features of the slice, so that other prompts, or the same
    slice again, cost only the decoder.

    Returns
    -------
    slices : SegmentedSlices
        The one slice.
    probabilities : float32 ndarray [P, Y, X]
        Of each prompt's mask, 0 to 1, regardless of its existence.

    Raises
    ------
    OptionError
        If there is no such slice; other errors are those of `run_plan`.
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
    logits = resize_of(plan)(found.whole.mask_logits, plan.geometry.label_shape)
    return done, plan.geometry.restore(logits[0].sigmoid().cpu().numpy())
