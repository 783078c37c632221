"""Fine-tuning in the model process."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from napari_biomedparse.training import load_finetune
from napari_biomedparse.training.options import FinetuneOptions

if TYPE_CHECKING:
    from napari_biomedparse.process.serve import Job
    from napari_biomedparse.training.progress import Progress

_REPORT_SECONDS = 0.05


def train(job: Job) -> None:
    """Fine-tune as the job asks; cancelled, it ends with the best weights so far.

    Raises
    ------
    BiomedParseError
        As `napari_biomedparse.finetune` does; also if packages are missing.
    """
    job.say("status", text="Starting the network's process…")
    finetune = load_finetune()
    said = job.fields["training"]
    kept = said["options"] | {"freeze": tuple(said["options"]["freeze"])}
    last = 0.0
    measured: float | None = None

    def tell_case(name: str, number: int, count: int) -> None:
        job.say("status", text=f"Reading {name} ({number + 1} of {count})…")

    def tell(now: Progress) -> None:
        nonlocal last, measured
        if now.val_loss != measured or time.monotonic() - last > _REPORT_SECONDS:
            last, measured = time.monotonic(), now.val_loss
            job.say("trained", progress=asdict(now))

    result = finetune(
        said["data"],
        said["output"],
        said["checkpoint"],
        FinetuneOptions(**kept),
        device=said["device"],
        on_case=tell_case,
        on_progress=tell,
        stop=lambda: job.cancelled,
    )
    best = {name: float(value) for name, value in result.best.items()}
    job.say(
        "tuned",
        result={
            "checkpoint": str(result.checkpoint),
            "step": result.step,
            "held_out": result.held_out,
            "best": best,
        },
    )
