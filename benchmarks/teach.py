"""Measure what corrected slices gain: Dice on the slices that were not corrected.

    python benchmarks/teach.py --data ../shared/data
    python benchmarks/teach.py --data ../shared/data --only stardist --choices 2
    python benchmarks/teach.py --data ../shared/data --choices 2 --finetune 60

Options are the defaults but for `--tile`; phantoms are inverted, with a contrast of
their own. For 1, 2, 4 and 8 corrected slices, drawn at random among those with the
target: Dice on slices at least two away from a corrected one, the mean over some
choices, of the text alone, of what `teach` gives, and of a random forest on the same
classical filters without any network (scikit-learn, 100 trees, 20,000 pixels), as in
ilastik. With `--finetune`, also of the network fine-tuned on the same slices, with so
many batches of 4 and a learning rate of 3e-4.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import tifffile
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
from sklearn.ensemble import RandomForestClassifier

from napari_biomedparse import SegmentOptions, load_model, segment, teach
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.samples import TITLES, make_phantom
from napari_biomedparse.training.collect import add_to_training_set
from napari_biomedparse.training.finetune import finetune
from napari_biomedparse.training.options import FinetuneOptions

if TYPE_CHECKING:
    from napari_biomedparse.networks.network import Network

EM = "in electron microscopy"
VOLUMES = (
    ("mitochondria", "em/vnc_sstem_left", "raw", "labels", 1, f"mitochondria {EM}"),
    ("membranes", "em/vnc_sstem_left", "raw", "labels", 2, f"cell membranes {EM}"),
    ("synapses", "em/vnc_sstem_left", "raw", "labels", 3, f"synapses {EM}"),
    ("isbi", "em/isbi2012_z00-13", "raw", "membrane", 1, f"cell membranes {EM}"),
    ("stardist", "nuclei/stardist", "img3d", "mask3d", None, "nuclei in light-sheet"),
)
Array = npt.NDArray[np.generic]
Truth = npt.NDArray[np.bool_]
TREES, PIXELS = 100, 20_000
SEED, GAMMA = 7, 2.0
"""Of the phantoms, which are inverted and have another contrast."""
SCALES, ORDERS = (1, 2, 4, 8), ((2, 0), (1, 1), (0, 2))


def dice(found: Truth, truth: Truth) -> float:
    """Dice coefficient of two masks."""
    return float(2 * (found & truth).sum() / max(1, found.sum() + truth.sum()))


def filters(plane: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the classical filters of a plane at all scales."""
    for scale in SCALES:
        yield gaussian_filter(plane, scale)
        yield scale * gaussian_gradient_magnitude(plane, scale)
        yy, xy, xx = (gaussian_filter(plane, scale, order=o) for o in ORDERS)
        spread = np.sqrt((xx - yy) ** 2 / 4 + xy**2)
        yield scale**2 * (xx + yy)
        yield scale**2 * ((xx + yy) / 2 + spread)
        yield scale**2 * ((xx + yy) / 2 - spread)


def forest(image: Array, truth: Truth, corrected: list[int], seed: int) -> Truth:
    """Classify pixels by their filters, without a network."""
    rng = np.random.default_rng(seed)
    grey = image.astype(np.float32)
    grey = 255 * (grey - grey.min()) / max(1e-9, np.ptp(grey))
    last = len(grey) - 1

    def features(z: int) -> npt.NDArray[np.float32]:
        near = [grey[z], grey[max(z - 1, 0)], grey[min(z + 1, last)]]
        return np.stack([*near, *filters(grey[z])]).reshape(3 + 5 * len(SCALES), -1).T

    seen = np.concatenate([features(z) for z in corrected])
    known = np.concatenate([truth[z].ravel() for z in corrected])
    some = rng.permutation(len(seen))[:PIXELS]
    trees = RandomForestClassifier(TREES, random_state=seed, n_jobs=-1)
    trees.fit(seen[some], known[some])
    return np.stack(
        [
            trees.predict(features(z)).astype(bool).reshape(truth[z].shape)
            for z in range(len(truth))
        ]
    )


def tuned(
    image: Array, truth: Truth, prompt: str, corrected: list[int], steps: int, base: str
) -> Network:
    """Fine-tune a network on the same slices."""
    options = FinetuneOptions(
        epochs=steps // math.ceil(len(corrected) / 4),
        batch_size=4,
        learning_rate=3e-4,
        validation=0,
    )
    with TemporaryDirectory() as place:
        add_to_training_set(
            Path(place, "data"),
            as_volume(image),
            truth.astype(np.uint8),
            parse_prompts(prompt),
            reviewed=corrected,
        )
        found = finetune(Path(place, "data"), Path(place, "out"), base, options)
        return load_model(found.checkpoint)


def volumes(data: Path, only: str | None) -> Iterator[tuple[str, Array, Truth, str]]:
    """Yield name, image, truth and prompt of each volume."""
    for name, stem, raw, labels, label, prompt in VOLUMES:
        if only in (None, name):
            image = tifffile.imread(data / f"{stem}_{raw}.tif")
            truth = tifffile.imread(data / f"{stem}_{labels}.tif")
            yield name, image, truth > 0 if label is None else truth == label, prompt
    for kind, target in (("em", "mitochondria"), ("light-sheet", "nuclei")):
        if only in (None, f"phantom {kind}"):
            phantom = make_phantom(kind, SEED, shape=(16, 256, 256), targets=(target,))
            grey = 255 * (1 - phantom.image / 255) ** GAMMA
            truth = phantom.objects[target] > 0
            yield f"phantom {kind}", grey.astype(np.uint8), truth, TITLES[target]


def measure(
    image: Array,
    truth: Truth,
    prompt: str,
    model: Network,
    count: int,
    choices: int,
    tile: str,
    steps: int,
    base: str,
) -> list[float]:
    """Return mean Dice of text, taught, forest and maybe fine-tuned, and seconds."""
    options = SegmentOptions(tile=int(tile) if tile.isdigit() else tile)
    text = segment(image, prompt, model, options).labels > 0
    usable = [z for z in range(len(truth)) if truth[z].any()]
    rows = []
    for seed in range(choices):
        rng = np.random.default_rng(seed)
        corrected = sorted(rng.permutation(usable)[:count].tolist())
        left = [z for z in range(len(truth)) if min(abs(z - c) for c in corrected) > 1]
        if not left:
            continue
        begun = time.perf_counter()
        known = truth.astype(np.uint8)
        taught = teach(image, known, prompt, model, options, corrected=corrected)
        seconds = time.perf_counter() - begun
        better = segment(image, prompt, taught.network, options).labels > 0
        trees = forest(image, truth, corrected, seed)
        masks, times = [text, better, trees], [seconds]
        if steps:
            begun = time.perf_counter()
            network = tuned(image, truth, prompt, corrected, steps, base)
            times.append(time.perf_counter() - begun)
            masks.append(segment(image, prompt, network, options).labels > 0)
        rows.append([*(dice(mask[left], truth[left]) for mask in masks), *times])
    return np.mean(rows, axis=0).tolist() if rows else []


def main() -> None:
    """Measure and print a row for each volume and number of slices."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--choices", type=int, default=5)
    parser.add_argument("--only")
    parser.add_argument("--tile", default="auto", help="auto, none or pixels")
    parser.add_argument("--finetune", type=int, default=0, help="number of batches")
    parser.add_argument("--counts", type=int, nargs="+", default=(1, 2, 4, 8))
    args = parser.parse_args()
    model, steps = load_model(args.model), args.finetune
    more = ("fine-tuned", "seconds to teach", "to fine-tune") if steps else ("seconds",)
    heads = ("volume", "corrected", "text alone", "taught", "forest", *more)
    print(f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", sep="\n")
    for name, image, truth, prompt in volumes(args.data, args.only):
        for count in args.counts:
            how = count, args.choices, args.tile, steps, args.model
            if row := measure(image, truth, prompt, model, *how):
                dices = len(row) - 1 - bool(steps)
                shown = [f"{score:.3f}" for score in row[:dices]]
                shown += [f"{seconds:.1f}" for seconds in row[dices:]]
                print(f"| {name} | {count} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
