"""How the files in this folder were made: by the code of commit 72bbd5f, once.

    git worktree add /tmp/old 72bbd5f
    cd /tmp && OMP_NUM_THREADS=1 PYTHONPATH=/tmp/old/src \\
        xvfb-run -a python REPOSITORY/tests/stored/make.py [PART ...]

The parts are runs, training and settings; by default all are made.

They stand for what users have on their disks, so they are not made again when the code
changes. `tests/test_stored.py` says what must still be possible with them.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from stored.content import (  # noqa: E402
    CHANGED,
    FINETUNE,
    PROMPTS,
    TRAINING,
    cpu,
    cube_of,
    film_of,
    training_data,
)

import napari_biomedparse as biomedparse  # noqa: E402
from napari_biomedparse.errors import Cancelled  # noqa: E402
from napari_biomedparse.networks.checkpoint import save_weights  # noqa: E402
from napari_biomedparse.networks.config import TINY  # noqa: E402
from napari_biomedparse.networks.synthetic import synthetic_state_dict  # noqa: E402
from napari_biomedparse.networks.v2.biomedparse import BiomedParse  # noqa: E402
from napari_biomedparse.samples import make_phantom  # noqa: E402
from napari_biomedparse.widgets.segment.widget import SegmentWidget  # noqa: E402

SMALLEST = {
    "image_size": 32,
    "backbone_widths": (2, 4, 4, 8),
    "dim": 8,
    "feedforward": 8,
    "norm_groups": 2,
    "text_width": 8,
    "text_layers": 1,
    "queries": 6,
    "edge_queries": 2,
    "decoder_layers": 1,
}
PERIOD = 64
"""Rows after which the token table repeats, so that it takes no room compressed."""


class Cut(Exception):
    """Ends a training from within."""


def make_volume() -> Path:
    """Draw a volume, which is no image of anything."""
    phantom = make_phantom("light-sheet", 3, shape=(20, 40, 40))
    path = HERE / "volume.tif"
    tifffile.imwrite(
        path,
        phantom.image,
        compression="zlib",
        photometric="minisblack",
        metadata={"axes": "ZYX"},
    )
    os.utime(path, ns=(CHANGED, CHANGED))
    return path


def make_runs(path: Path) -> None:
    """Make folders of runs, finished or cut off."""
    grey = tifffile.imread(path)
    made: dict[str, tuple[Any, dict[str, Any], bool]] = {
        "run": (path, {"instances": True}, True),
        "begun": (path, {"instances": True}, False),
        "begun_array": (grey, {}, False),
        "series": (film_of(grey), {"instances": True}, False),
        "consensus": (cube_of(grey), {"consensus": True}, True),
    }
    for name, (volume, options, to_the_end) in made.items():
        out = HERE / name
        shutil.rmtree(out, ignore_errors=True)

        def has_a_block(out: Path = out, to_the_end: bool = to_the_end) -> bool:
            begun = any(out.glob("blocks/*")) or len(list(out.glob("parts/*"))) > 1
            return begun and not to_the_end

        with suppress(Cancelled):
            biomedparse.segment_to_folder(
                volume,
                PROMPTS,
                out,
                "demo",
                device="cpu",
                stopped=has_a_block,
                **options,
            )
        for lock in out.rglob(".lock"):
            lock.unlink()
        found = biomedparse.Run(out)
        print(name, found.finished, np.unique(np.asarray(found.labels)))


def make_weights() -> Path:
    """Convert the checkpoint of the smallest network there can be."""
    config = replace(TINY, **SMALLEST)
    shapes = {k: v.shape for k, v in BiomedParse.unfilled(config).state_dict().items()}
    tensors = synthetic_state_dict(shapes)
    for name, value in tensors.items():
        if name.endswith("token_embedding.weight"):
            value.copy_(value[torch.arange(len(value)) % PERIOD].clone())
    checkpoint, out = HERE / "smallest.ckpt", HERE / "smallest.safetensors"
    torch.save(
        {
            "state_dict": {f"model.{name}": value for name, value in tensors.items()},
            "hyper_parameters": {"config": asdict(config)},
        },
        checkpoint,
    )
    model = biomedparse.load_model(checkpoint)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    origin = {"source": checkpoint.name, "source_sha256": digest}
    save_weights(out, model.state_dict(), origin, config)
    checkpoint.unlink()
    grey = tifffile.imread(HERE / "volume.tif")[:4]
    found = biomedparse.segment(grey, PROMPTS, out, device="cpu")
    np.savez_compressed(
        HERE / "smallest_labels.npz", labels=found.labels, existence=found.existence
    )
    print("smallest", np.unique(found.labels))
    return out


def make_training(weights: Path) -> None:
    """Train a few steps, once to the end and once cut off."""
    options = biomedparse.FinetuneOptions(**FINETUNE)
    whole, begun = HERE / "whole", HERE / "training"
    for folder in (whole, begun):
        shutil.rmtree(folder, ignore_errors=True)

    def die(progress: Any) -> None:
        if progress.step == TRAINING["killed_at"]:
            raise Cut

    data = training_data()
    biomedparse.finetune(data, whole, weights, options, device="cpu")
    shutil.copy(whole / "log.csv", HERE / "training_log.csv")
    with suppress(Cut):
        biomedparse.finetune(
            data, begun, weights, options, device="cpu", on_progress=die
        )
    print(sorted(p.name for p in begun.iterdir()), (begun / "log.csv").read_text())
    shutil.rmtree(whole)
    for path in (*begun.glob("*.ckpt"), *begun.glob("*.safetensors"), weights):
        packed = path.with_name(f"{path.name}.xz")
        packed.write_bytes(lzma.compress(path.read_bytes(), preset=9))
        path.unlink()


def make_settings() -> None:
    """Change napari's settings and the widget's values, and keep both."""
    import napari
    import napari.settings
    from napari.settings import get_plugin_settings

    folder = HERE / "settings"
    shutil.rmtree(folder, ignore_errors=True)
    napari.settings._CFG_PATH = str(folder / "settings.yaml")
    napari.settings.get_settings(folder / "settings.yaml")
    viewer = napari.Viewer(show=False)
    page: Any = get_plugin_settings("napari-biomedparse").segment
    page.device, page.existence_threshold = "cpu", 0.25
    page.model, page.cache_gigabytes = "demo", 0.5
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget)
    form = widget.form
    form.prompts.model.restore(((1, "nuclei", True), (7, "cell membranes", False)))
    for name, value in {"overlaps": "order", "minimum_size": 12, "seed": 3}.items():
        form.set_option(name, value)
    form.tiles.choose("auto", None)
    form.overwrite.value = True
    form.remember()
    widget.session.close()
    print(sorted(p.name for p in folder.iterdir()))
    (folder / "settings.yaml").unlink(missing_ok=True)
    viewer.close()


def main() -> None:
    """Make the parts that the command line names, or all."""
    print(biomedparse.__file__)
    parts = sys.argv[1:] or ["runs", "training", "settings"]
    if "runs" in parts:
        make_runs(make_volume())
    if "training" in parts:
        make_training(make_weights())
        facts = {"cpu": cpu(), "torch": torch.__version__}
        (HERE / "made_on.json").write_text(json.dumps(facts, indent=1), "utf-8")
    if "settings" in parts:
        make_settings()


if __name__ == "__main__":
    main()
