"""The slice in view at once: labels, and how probable each prompt is at each voxel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_biomedparse.errors import OptionError
from napari_biomedparse.labels.resolve import upsample
from napari_biomedparse.pipeline.loop import predict_plan
from napari_biomedparse.pipeline.step import label_slices

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.pipeline.plan import RunPlan


@dataclass(frozen=True)
class Preview:
    """What is found in one slice.

    Parameters
    ----------
    index : int
        Which slice, along the slicing axis.
    axis : int
        The slicing axis.
    labels : unsigned ndarray [Y, X]
        0 is background, other values are label ids. As in `SegmentedSlices`, with the
        prompts as first axis if their labels are separate.
    probabilities : float32 ndarray [P, Y, X]
        Of each prompt's mask, 0 to 1, whether its target is taken to exist or not.
    existence : float32 ndarray [P]
        Probability that a prompt's target occurs in the slice.
    """

    index: int
    axis: int
    labels: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float32]
    existence: npt.NDArray[np.float32]


def preview(plan: RunPlan, engine: Engine, index: int) -> Preview:
    """Segment one slice as the plan's run would.

    The engine remembers what all prompts share of a slice, so that other prompts, or
    the same slice again, cost only the decoder.

    Parameters
    ----------
    plan : RunPlan
        Its range of slices is of no account.
    engine : Engine
    index : int
        Which slice, along the slicing axis.

    Returns
    -------
    Preview

    Raises
    ------
    OptionError
        If there is no such slice.
    FormatError, DeviceError
        As for the run.
    """
    if not 0 <= index < plan.geometry.depth:
        raise OptionError(
            f"{plan.volume.name} has no slice {index} along axis {plan.axis_name}; "
            f"choose 0 to {plan.geometry.depth - 1}."
        )
    # Tiles go one by one, as the engine remembers what comes alone.
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
