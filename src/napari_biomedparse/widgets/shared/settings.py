"""What the user decided once for all sessions: napari's Settings, and last values."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.settings import get_plugin_settings, get_settings

from napari_biomedparse.io.durable import write_durably

if TYPE_CHECKING:
    from napari.utils.events import EventEmitter

_LOGGER = logging.getLogger(__name__)
PLUGIN = "napari-biomedparse"
AUTOMATIC = "automatic"
_LAST = f"{PLUGIN}-last.json"


@dataclass(frozen=True)
class Settings:
    """What the page of napari's Settings offers; defaults as in ``napari.yaml``.

    Parameters
    ----------
    model : str
        A name, the path of a weights file, or "automatic".
    device : str
    existence_threshold : float
    remember : bool
        Whether a new widget begins with the values used last.
    preview : bool
        Whether a new widget shows a preview.
    cache_gigabytes : float
        What the model process may keep of recently seen slices.
    """

    model: str = AUTOMATIC
    device: str = "auto"
    existence_threshold: float = 0.5
    remember: bool = True
    preview: bool = False
    cache_gigabytes: float = 1.0

    @property
    def cache_bytes(self) -> int:
        """`cache_gigabytes` in bytes."""
        return round(self.cache_gigabytes * 2**30)


def settings() -> Settings:
    """Return what is set now; the defaults where the plugin is not installed."""
    page = _page()
    if page is None:
        return Settings()
    return Settings(
        **{item.name: getattr(page, item.name) for item in fields(Settings)}
    )


def watch(on_changed: Callable[[str, Any], None]) -> Callable[[], None]:
    """Call back when a setting is changed.

    Parameters
    ----------
    on_changed : callable
        Told the name of the setting and its new value.

    Returns
    -------
    callable
        Ends it.
    """
    page = _page()
    if page is None:
        return lambda: None
    callbacks = {
        item.name: _tell(on_changed, page, item.name) for item in fields(Settings)
    }
    for name, callback in callbacks.items():
        _emitter(page, name).connect(callback)

    def end() -> None:
        for name, callback in callbacks.items():
            _emitter(page, name).disconnect(callback)

    return end


def last_values() -> dict[str, Any]:
    """Return what `keep_values` kept, also in an earlier session."""
    path = _last_file()
    try:
        known = {} if path is None else json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _LOGGER.warning("The values used last cannot be read from %s: %s", path, error)
        return {}
    return dict(known) if isinstance(known, dict) else {}


def keep_values(values: Mapping[str, Any]) -> None:
    """Keep plain values for the next widget and the next session."""
    path = _last_file()
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(values, indent=1))
    except OSError as error:
        _LOGGER.warning("The values used cannot be kept in %s: %s", path, error)


def _last_file() -> Path | None:
    """Return where values are kept: beside napari's own settings, if it has a file."""
    own = get_settings().config_path
    return None if own is None else Path(own).parent / _LAST


def _page() -> Any:
    """Return napari's model of our configuration, or None where it has none."""
    known = get_plugin_settings().get(PLUGIN)
    return getattr(known, "segment", None)


def _emitter(page: Any, name: str) -> EventEmitter:
    emitter: EventEmitter = getattr(page.events, name)
    return emitter


def _tell(
    on_changed: Callable[[str, Any], None], page: Any, name: str
) -> Callable[[], None]:
    return lambda: on_changed(name, getattr(page, name))
