"""Dark discs on a bright, noisy ground, which no text of the demo model describes."""

from __future__ import annotations

import numpy as np


def discs() -> tuple[np.ndarray, np.ndarray]:
    """Return grey levels, uint8 [7, 80, 90], and where the discs are."""
    rng = np.random.default_rng(0)
    _, y, x = np.ogrid[:7, :80, :90]
    found = np.zeros((7, 80, 90), bool)
    for cy, cx in rng.uniform(12, 68, (7, 2)):
        found |= np.hypot(y - cy, x - cx) < 6
    grey = 170 - 70 * found + rng.normal(0, 15, found.shape)
    return grey.clip(0, 255).astype(np.uint8), found
