"""Bicubic resizing from its definition, to check the library's against."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def cubic_matrix(
    source: int, target: int, a: float, *, clamp: bool
) -> npt.NDArray[np.float64]:
    """Return the resize along one axis as a matrix [target, source].

    Samples beyond the border are those of the border if `clamp`; else they are left
    out and the remaining weights scaled to a sum of one.
    """
    matrix: npt.NDArray[np.float64] = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * source / target - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - tap)
            if x <= 1:
                weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
            else:
                weight = a * (x**3 - 5 * x**2 + 8 * x - 4)
            if clamp or 0 <= tap < source:
                matrix[row, min(max(tap, 0), source - 1)] += weight
    matrix /= matrix.sum(1, keepdims=True)
    return matrix
