"""The model process as napari sees it: start it, give it a run, take what comes back.

The network runs in a process of its own (`worker`), because torch is much slower in a
thread of napari, and because napari stays alive when the network dies. The volume
stays here: the other side asks for the slabs it needs. What a run yields is what
`iter_segment` yields, plus what there is to tell meanwhile.

We say ``run`` (prompts, options, model, device, and a volume's description, or the
file and the folder of a run that the worker reads and writes by itself), ``slab`` (the
voxels asked for), ``front`` (the slice in view) and ``cancel``; the worker says
``status``, ``planned``, ``read`` (index ranges), ``slices`` (labels and scores),
``voted`` (the same, of a consensus), ``preview`` (the same, of one slice),
``objects``, ``written`` and ``found`` (of a run in a folder), ``trained`` and ``tuned``
(of fine-tuning), ``done`` and ``error``.
Each message names its run.
"""

from __future__ import annotations

from napari_biomedparse.process.handle import Run
from napari_biomedparse.process.messages import (
    Found,
    Objects,
    Planned,
    Previewed,
    Status,
    Tuned,
    Voted,
    Written,
)
from napari_biomedparse.process.session import Session

__all__ = [
    "Found",
    "Objects",
    "Planned",
    "Previewed",
    "Run",
    "Session",
    "Status",
    "Tuned",
    "Voted",
    "Written",
]
