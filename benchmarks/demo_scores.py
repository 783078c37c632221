"""Measure the demo model on phantoms and real volumes that it was never trained on.

``python benchmarks/demo_scores.py`` prints a table and writes `demo_scores.json`. Every
number comes from `napari_biomedparse.segment`, as a user would get it. Real volumes are
read from a folder with the layout of the project's shared data, if there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.evaluation.metrics import dice, evaluate_instances
from napari_biomedparse.labels.instances import label_components
from napari_biomedparse.networks.weights import load_model
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.samples import KINDS, TITLES, Phantom, make_phantom

sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo_model"))
from wordings import wording

FIRST_SEED = 10_000_000
"""Training uses seeds far below."""
SEEN = 12
"""Pixels that a slice must hold of a target to count as showing it."""

Scores = dict[str, list[float]]


def score_phantom(phantom: Phantom, engine: Engine, scores: Scores) -> None:
    """Ask for all targets of the phantom's kind, then for those of the other."""
    rng = np.random.default_rng(phantom.seed)
    titles = [TITLES[target] for target in phantom.objects]
    known = segment(phantom.volume, titles, engine, instances=True)
    for label, (target, objects) in enumerate(phantom.objects.items(), start=1):
        truth = objects > 0
        found = known.existence[label - 1] >= 0.5
        sizes = truth.sum(axis=(1, 2))
        if target in phantom.absent:
            scores[f"existence, absent: {target}"].extend(~found)
            continue
        scores[f"dice: {target}"].append(dice(truth, known.labels == label))
        scores[f"existence, present: {target}"].extend(found[sizes >= SEEN])
        scores[f"existence, out of slice: {target}"].extend(~found[sizes == 0])
        text = wording(rng, phantom.kind, target, unseen=True)
        texts = [*titles[: label - 1], text, *titles[label:]]
        other = segment(phantom.volume, texts, engine)
        scores[f"dice, unseen wording: {target}"].append(
            dice(truth, other.labels == label)
        )
    foreign = [TITLES[t] for kind in KINDS if kind != phantom.kind for t in KINDS[kind]]
    found = segment(phantom.volume, foreign, engine).existence >= 0.5
    scores[f"existence, other modality: {phantom.kind}"].extend(~found.ravel())


def score_touching(phantom: Phantom, engine: Engine, scores: Scores) -> None:
    """Separate touching nuclei with and without the predicted edges."""
    truth = phantom.objects["nuclei"]
    found = segment(phantom.volume, [TITLES["nuclei"]], engine, instances=True)
    assert found.instances is not None
    merged = label_components(found.labels)
    scores["F1, with edges"].append(evaluate_instances(truth, found.instances).f1)
    scores["F1, without edges"].append(evaluate_instances(truth, merged).f1)
    scores["nuclei per phantom"].append(float(len(np.unique(truth)) - 1))


def score_real(data: Path, engine: Engine) -> dict[str, float]:
    """Score real volumes, none of which was trained on."""
    result: dict[str, float] = {}
    nuclei = tifffile.imread(data / "nuclei" / "stardist_img3d.tif")
    truth = tifffile.imread(data / "nuclei" / "stardist_mask3d.tif")
    found = segment(nuclei, [TITLES["nuclei"]], engine, instances=True)
    assert found.instances is not None
    result["stardist nuclei: dice"] = dice(truth > 0, found.labels > 0)
    result["stardist nuclei: F1, with edges"] = evaluate_instances(
        truth, found.instances
    ).f1
    result["stardist nuclei: F1, without edges"] = evaluate_instances(
        truth, label_components(found.labels)
    ).f1
    image = tifffile.imread(data / "em" / "vnc_sstem_left_raw.tif")
    labels = tifffile.imread(data / "em" / "vnc_sstem_left_labels.tif")
    for name, part in {
        "vnc_sstem": (slice(None),),
        "vnc_sstem, upper half": (slice(None), slice(0, 256)),
        "vnc_sstem, lower half": (slice(None), slice(256, 512)),
    }.items():
        found = segment(image[part], [TITLES["mitochondria"]], engine)
        result[f"{name} mitochondria: dice"] = dice(labels[part] == 1, found.labels > 0)
        found = segment(image[part], [TITLES["membrane"]], engine)
        result[f"{name} membrane: dice"] = dice(labels[part] == 2, found.labels > 0)
    return result


def speed(engine: Engine) -> dict[str, float]:
    """Slices a second for one prompt and for five, at the model's own resolution."""
    size = engine.model.config.image_size
    volume = make_phantom("em", FIRST_SEED, shape=(64, size, size)).volume
    rates = {}
    for count in (1, 5):
        texts = [TITLES[target] for target in KINDS["em"][:count]]
        segment(volume, texts, engine, slices=(0, 4))
        start = time.perf_counter()
        segment(volume, texts, engine)
        rates[f"slices a second, {count} prompts"] = 64 / (time.perf_counter() - start)
    return rates


def summary(scores: Scores) -> dict[str, float]:
    """Average each score, and the groups that the aims are stated for."""
    means = {name: float(np.mean(vs)) for name, vs in sorted(scores.items()) if len(vs)}
    for kind, targets in KINDS.items():
        for what in ("dice", "dice, unseen wording"):
            values = [v for t in targets for v in scores.get(f"{what}: {t}", [])]
            means[f"{what}, all of {kind}"] = float(np.mean(values))
        absent = [v for t in targets for v in scores.get(f"existence, absent: {t}", [])]
        means[f"existence, absent, all of {kind}"] = float(np.mean(absent))
    return means


def measure(model: str, count: int, data: Path) -> dict[str, Any]:
    """Run everything and return name -> number."""
    start = time.perf_counter()
    engine = Engine(load_model(model), "cpu")
    result: dict[str, Any] = {"seconds to load": time.perf_counter() - start}
    result |= speed(engine)
    scores: Scores = defaultdict(list)
    for index in range(count):
        for kind in KINDS:
            score_phantom(make_phantom(kind, FIRST_SEED + index), engine, scores)
        touching = make_phantom(
            "light-sheet", FIRST_SEED + 1000 + index, targets=("nuclei",)
        )
        score_touching(touching, engine, scores)
    result |= summary(scores)
    if data.is_dir():
        result |= score_real(data, engine)
    return result


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--phantoms", type=int, default=20, help="of each kind")
    parser.add_argument("--data", type=Path, default=Path("/work/shared/data"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("demo_scores.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    result = measure(chosen.model, chosen.phantoms, chosen.data)
    result["phantoms of each kind"] = chosen.phantoms
    for name, value in result.items():
        print(f"{name:<55} {value:8.3f}")
    chosen.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
