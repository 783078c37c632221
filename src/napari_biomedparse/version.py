"""The version that is installed, for records of runs."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("napari-biomedparse")
