"""Names that are not public, wherever the package keeps them.

Scripts and tests that must run before and after the modules were put into folders
look such names up here. A name's modules are tried in turn, then the package itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULES = {
    "Engine": ("engine.engine", "engine"),
    "Session": ("process.child", "remote.session"),
    "ScoreStore": ("pipeline.scores", "score_store"),
    "SegmentWidget": ("widgets.segment.widget", "_widgets.segment_widget"),
    "Stopped": ("runs.blocks", "errors"),
    "TINY": ("networks.config", "model.config"),
    "TrainingVolume": ("training.volumes",),
    "V2": ("networks.config", "model.config"),
    "Wordings": ("training.wordings",),
    "__version__": ("version",),
    "collect": ("pipeline.segment", "segment"),
    "make_phantom": ("samples", "phantoms"),
    "model_identity": ("networks.weights", "weights"),
    "plan_run": ("pipeline.plan", "plan"),
    "preview": ("pipeline.preview", "preview"),
    "read_checkpoint": ("networks.checkpoint", "model.checkpoint"),
    "read_layers": ("viewer.layers", "_napari"),
    "resolve_again": ("pipeline.scores", "score_store"),
    "run_in_view": ("pipeline.loop", "in_view"),
    "run_plan": ("pipeline.loop", "segment"),
    "save_weights": ("networks.checkpoint", "model.checkpoint"),
    "settings": ("widgets.shared.settings", "_widgets._settings"),
    "state_of": ("widgets.segment.form_state", "_widgets._form_state"),
    "synthetic_state_dict": ("networks.synthetic", "model.synthetic"),
    "unfilled": ("networks.v2.biomedparse", "model.biomedparse"),
}
"""Candidate modules of each name, without the package's own."""
SETTINGS = ("widgets.shared.settings", "_widgets._settings")
"""Candidates of the module that knows where napari's settings are kept."""


def find(name: str) -> Any:
    """Return the object of this name.

    Parameters
    ----------
    name : str

    Returns
    -------
    object

    Raises
    ------
    ImportError
        If it is in none of its modules.
    """
    for module in (*MODULES.get(name, ()), ""):
        found = getattr(_module(module), name, None)
        if found is not None:
            return found
    raise ImportError(f"{name} is in none of the modules that homes.MODULES names")


def find_module(*names: str) -> Any:
    """Import the first of several modules that there is.

    Parameters
    ----------
    *names : str
        Without the package's own.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If there is none of them.
    """
    for name in names:
        if (module := _module(name)) is not None:
            return module
    raise ImportError(f"there is none of the modules {', '.join(names)}")


def _module(name: str) -> Any:
    """Import a module; None if there is no such one. Its own errors come through."""
    whole = f"napari_biomedparse.{name}".rstrip(".")
    try:
        return import_module(whole)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{whole}.".startswith(f"{error.name}."):
            raise
        return None
