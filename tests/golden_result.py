"""The outcome of one golden case, as `tests/golden.py` prints it."""

from __future__ import annotations

from typing import NamedTuple


class Result(NamedTuple):
    """One comparison with the original.

    Parameters
    ----------
    case : str
        File and case.
    error : float
        Largest difference, or share of voxels that differ (see `note`).
    tolerance : float
        Largest `error` that passes.
    passed : bool
    note : str
        What was compared.
    """

    case: str
    error: float
    tolerance: float
    passed: bool
    note: str


def check(case: str, error: float, tolerance: float, note: str) -> Result:
    """Return a `Result` that passes if `error` is at most `tolerance` (not NaN)."""
    return Result(case, error, tolerance, bool(error <= tolerance), note)


def relative_to(
    case: str, found: list[float], expected: list[float], tolerance: float
) -> Result:
    """Compare numbers by their relative difference."""
    pairs = zip(found, expected, strict=True)
    error = max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)
    return check(case, error, tolerance, "")
