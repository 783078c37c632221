"""Segment biomedical volumes by text prompts.

Public names are listed in ``__init__.pyi`` and imported on first use, so that importing
the package loads neither torch nor napari.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
