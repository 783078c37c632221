"""The plugin's page in napari's Preferences, and the values used last."""

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
    from napari.utils.events import Event

_LOGGER = logging.getLogger(__name__)
PLUGIN = "napari-biomedparse"
AUTOMATIC = "automatic"
_LAST = f"{PLUGIN}-last.json"


@dataclass(frozen=True)
class Preferences:
    """The plugin's page in napari's Preferences; defaults as in ``napari.yaml``."""

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


def settings() -> Preferences:
    """Return the current preferences, or defaults if the plugin is not installed."""
    page = _page()
    if page is None:
        return Preferences()
    return Preferences(
        **{item.name: getattr(page, item.name) for item in fields(Preferences)}
    )


def watch(on_changed: Callable[[str, Any], None]) -> Callable[[], None]:
    """Call back with name and value when a preference changes; return what ends it."""
    page = _page()
    if page is None:
        return lambda: None

    def tell(event: Event) -> None:
        on_changed(event.type, getattr(page, event.type))

    page.events.connect(tell)
    return lambda: page.events.disconnect(tell)


def last_values() -> dict[str, Any]:
    """Return the values that `keep_values` saved, possibly in an earlier session."""
    path = _last_file()
    try:
        known = {} if path is None else json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _LOGGER.warning("Cannot read the last used values from %s: %s", path, error)
        return {}
    return dict(known) if isinstance(known, dict) else {}


def keep_values(values: Mapping[str, Any]) -> None:
    """Save plain values for the next widget and the next session."""
    path = _last_file()
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(values, indent=1))
    except OSError as error:
        _LOGGER.warning("Cannot save the last used values to %s: %s", path, error)


def _last_file() -> Path | None:
    """Return a path beside napari's own settings file, if napari has one."""
    own = get_settings().config_path
    return None if own is None else Path(own).parent / _LAST


def _page() -> Any:
    """Return napari's model of the plugin's configuration, if it has one."""
    known = get_plugin_settings().get(PLUGIN)
    return getattr(known, "segment", None)
