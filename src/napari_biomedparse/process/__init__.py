"""The model process as napari sees it: start it, send it requests, receive its events.

The network runs in a process of its own (`worker`), because torch is much slower in a
thread of napari, and because napari survives when the network does not. The voxels
stay in napari's process; the other side reads the slabs that it needs.
"""

from __future__ import annotations

from napari_biomedparse.process.child import RunHandle, Session

__all__ = ["RunHandle", "Session"]
