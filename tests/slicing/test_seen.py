"""What people are shown is what enters the network."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.errors import OptionError
from napari_biomedparse.networks.config import TINY
from napari_biomedparse.pipeline.plan import plan_run
from napari_biomedparse.slicing.intensity import choose_intensity
from napari_biomedparse.slicing.read import slice_batches
from napari_biomedparse.slicing.seen import seen_slice

SIZE = TINY.image_size


def entering(volume: Any, options: SegmentOptions, index: int) -> Any:
    """The network's own input of a slice, [3, H, W]."""
    plan = plan_run(volume, "liver", options, config=TINY)
    (batch,) = slice_batches(
        plan.volume, plan.geometry, plan.intensity, index, index + 1, 1
    )
    return batch.slices[0]


def resized(seen: Any, shape: Any) -> Any:
    planes = torch.from_numpy(np.moveaxis(np.atleast_3d(seen), -1, 0).copy())
    return F.interpolate(planes[:, None], shape, mode="bicubic")[:, 0].int()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize(
    "options",
    [
        SegmentOptions(axis="y"),
        SegmentOptions(axis="z", modality="ct"),
        SegmentOptions(axis="z", tile=32),
    ],
)
def test_what_is_seen_is_what_enters(dtype: Any, options: SegmentOptions) -> None:
    grey = np.random.default_rng(0).normal(40, 300, (9, 30, 41))
    volume = np.clip(grey, 0, 255).astype(dtype) if dtype == np.uint8 else grey
    volume = volume.astype(dtype)
    seen = seen_slice(volume, options, 3, size=SIZE)
    assert seen.dtype == np.uint8
    expected = entering(volume, options, 3)
    assert torch.equal(resized(seen, expected.shape[1:])[0], expected[0])


def test_colours() -> None:
    volume = np.random.default_rng(1).random((2, 20, 30, 3), np.float32)
    seen = seen_slice(volume, SegmentOptions(), 1, size=SIZE)
    assert seen.shape == (30, 30, 3)
    assert torch.equal(
        resized(seen, (SIZE, SIZE)), entering(volume, SegmentOptions(), 1)
    )


def test_values_as_they_are_are_cut_off_for_the_eye() -> None:
    volume = np.array([[[-5.0, 300.9]]])
    seen = seen_slice(volume, SegmentOptions(modality="none"), 0)
    assert seen.tolist() == [[0, 255], [0, 0]]


def test_a_choice_of_grey_levels_is_kept() -> None:
    volume = np.arange(24.0).reshape(1, 4, 6)
    intensity = choose_intensity(volume * 2)
    seen = seen_slice(volume, SegmentOptions(), 0, intensity=intensity)
    assert seen.max() < 130
    plan = plan_run(volume, "liver", config=TINY, intensity=intensity)
    assert plan.intensity is intensity


def test_no_such_slice() -> None:
    with pytest.raises(OptionError, match=r"no slice 4 along axis z; choose 0 to 3"):
        seen_slice(np.zeros((4, 20, 20), np.uint8), SegmentOptions(), 4)


def test_looking_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from napari_biomedparse.data.options import SegmentOptions\n"
        "from napari_biomedparse.slicing.seen import seen_slice\n"
        "seen_slice(np.zeros((2, 3, 4)), SegmentOptions(), 0)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
