"""Scores of cases: labels against the truth, class by class, and their summary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_biomedparse.data.text import csv_text
from napari_biomedparse.evaluation.metrics import (
    ClassScore,
    InstanceScore,
    Labels,
    Mask,
    evaluate_instances,
    evaluate_mask,
    evaluate_semantic,
)

if TYPE_CHECKING:
    from napari_biomedparse.data.prompts import PromptSet

METRICS = {
    "dsc": "DSC",
    "nsd": "NSD",
    "f1": "F1",
    "ap": "AP 0.5:0.95",
    "dsc_matched": "DSC of matches",
    "existence_accuracy": "existence accuracy",
    "iou": "IoU",
}
"""What is averaged, compared and drawn, with titles; all are better if higher."""
NAN = math.nan
_STATISTICS = (fmean, pstdev, median, min, max)
"""The last fields of a `SummaryLine`, in their order."""
ALL = "all cases"
COSTS = ("seconds", "host_mib", "device_mib", "slices", "tolerance", "unit")


@dataclass(frozen=True)
class ClassLine:
    """Scores of one class of a case, 0 to 1; NaN where they do not apply."""

    label: int  # label id; 0 for the objects of all prompts
    prompt: str
    dsc: float = NAN  # Dice and normalized surface Dice of a semantic class
    nsd: float = NAN
    f1: float = NAN
    """Scores and counts of objects, which match if they overlap by at least half."""
    ap: float = NAN
    """Average precision: the mean over overlaps of 0.5 to 0.95, at 0.5 and at 0.75."""
    ap_50: float = NAN
    ap_75: float = NAN
    precision: float = NAN
    recall: float = NAN
    dsc_matched: float = NAN
    true_positives: float = NAN
    false_positives: float = NAN
    false_negatives: float = NAN
    existence_accuracy: float = NAN
    """Share of the slices for which the presence of the class was predicted rightly."""
    iou: float = NAN
    """The result of `evaluate_mask`, of a class in a single image."""
    dice: float = NAN
    intersection: float = NAN
    union: float = NAN
    predicted: float = NAN


def object_scores(score: InstanceScore) -> dict[str, float]:
    """Return the fields of a `ClassLine` that are about objects."""
    counts = {k: v for k, v in vars(score).items() if k != "overlaps"}
    precisions = [score.average_precision(step / 20) for step in range(10, 20)]
    return {
        "f1": score.f1,
        "ap": mean(precisions),
        "ap_50": precisions[0],
        "ap_75": precisions[5],
        "precision": score.precision,
        "recall": score.recall,
        **counts,
    }


@dataclass(frozen=True)
class CaseScore:
    """Scores and costs of one case.

    `seconds` includes reading; it is NaN if the prediction came from a file, or part
    of it was computed earlier. `host_mib` and `device_mib` are peak memory of the
    process and on the graphics card, in MiB; `slices` is the number scored. The
    `tolerance` of NSD is in `unit`.
    """

    name: str
    classes: tuple[ClassLine, ...]
    seconds: float = NAN
    host_mib: float = NAN
    device_mib: float = NAN
    slices: int = 0
    tolerance: float = NAN
    unit: str = ""

    def mean(self, metric: str) -> float:
        """Return the mean of a metric over the classes that have it, or NaN."""
        return mean(getattr(line, metric) for line in self.classes)

    @property
    def quality(self) -> float:
        """The score by which the worst case is found: F1 of objects, else Dice."""
        f1 = self.mean("f1")
        return self.mean("dsc") if math.isnan(f1) else f1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; NaN as None."""
        return {
            **plain({k: v for k, v in vars(self).items() if k != "classes"}),
            "classes": [plain(asdict(line)) for line in self.classes],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> CaseScore:
        """Read what `to_json` returned."""
        lines = (ClassLine(**_fields_of(line, ClassLine)) for line in stored["classes"])
        return cls(**{**_fields_of(stored, cls), "classes": tuple(lines)})


def by_class(scores: Iterable[CaseScore]) -> dict[tuple[int, str], list[ClassLine]]:
    """Return the lines of each class, by its label and prompt, in this order."""
    found: dict[tuple[int, str], list[ClassLine]] = {}
    for line in (line for score in scores for line in score.classes):
        found.setdefault((line.label, line.prompt), []).append(line)
    return dict(sorted(found.items()))


def score_semantic(
    truth: Labels,
    labels: Labels,
    texts: Mapping[int, str],
    *,
    spacing: tuple[float, ...],
    tolerance: float,
    existence: npt.NDArray[np.bool_] | None,
    axis: int,
) -> tuple[ClassLine, ...]:
    """Score labels by class: every prompt of `texts`, or every class of the truth.

    `existence` [P, slices] says whether each prompt was predicted to be in a slice of
    `axis`; by default, it was where its label is.
    """
    scores = evaluate_semantic(
        truth, labels, spacing=spacing, tolerance=tolerance, ids=texts or None
    )
    ids = tuple(texts) or tuple(scores)
    there = slices_with(truth, ids, axis)
    predicted = slices_with(labels, ids, axis) if existence is None else existence
    # Of several classes, those that are nowhere are no pair with a single image.
    pairs = {
        label: evaluate_mask(truth == label, labels == label)
        for label in (ids if truth.shape[axis] == 1 else ())
        if len(ids) == 1 or label in truth or label in labels
    }
    return tuple(
        ClassLine(
            label,
            texts.get(label, ""),
            *scores.get(label, ClassScore()),
            existence_accuracy=float((there[row] == predicted[row]).mean()),
            **pairs.get(label, {}),
        )
        for row, label in enumerate(ids)
    )


def score_instances(
    truth: Labels,
    instances: Labels,
    prompts: PromptSet | None,
    *,
    existence: npt.NDArray[np.bool_] | None,
    axis: int,
) -> tuple[ClassLine, ...]:
    """Score objects, whatever their class; see `score_semantic`."""
    score = evaluate_instances(truth, instances)
    (there,) = slices_with(truth > 0, [1], axis)
    if existence is None:
        existence = slices_with(instances > 0, [1], axis)
    return (
        ClassLine(
            prompts.ids[0] if prompts and len(prompts) == 1 else 0,
            "; ".join(prompts.texts) if prompts else "",
            **object_scores(score),
            existence_accuracy=float((there == existence.any(axis=0)).mean()),
        ),
    )


def slices_with(
    labels: Labels | Mask, ids: Iterable[int], axis: int
) -> npt.NDArray[np.bool_]:
    """Return which slices contain which labels, bool [P, slices]."""
    others = tuple(i for i in range(labels.ndim) if i != axis)
    return np.array([(labels == label).any(axis=others) for label in ids], bool)


def mean(values: Iterable[float]) -> float:
    """Return the mean of what is not NaN, or NaN."""
    numbers = known(values)
    return sum(numbers) / len(numbers) if numbers else NAN


def known(values: Iterable[float]) -> list[float]:
    """Return what is not NaN."""
    return [value for value in values if not math.isnan(value)]


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON does not know, by None."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }


def _fields_of(stored: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    names = {item.name for item in fields(kind)}
    return {k: NAN if v is None else v for k, v in stored.items() if k in names}


@dataclass(frozen=True)
class SummaryLine:
    """Statistics of one of `METRICS` over cases, of a class or (None) of everything.

    `cases` is the number of cases that have the score; a single one has deviation 0.
    """

    label: int | None
    prompt: str
    metric: str
    cases: int
    mean: float
    deviation: float = NAN
    median: float = NAN
    lowest: float = NAN
    highest: float = NAN


def summarise(scores: Sequence[CaseScore]) -> tuple[SummaryLine, ...]:
    """Summarize cases: everything first, then each class, without missing scores.

    Everything is the mean over cases of the mean over their classes. The last lines are
    `pair_scores`.
    """
    means = [ClassLine(0, ALL, **{m: s.mean(m) for m in METRICS}) for s in scores]
    groups: dict[tuple[int | None, str], list[ClassLine]] = {(None, ALL): means}
    lines = []
    for (label, prompt), rows in (groups | by_class(scores)).items():
        for metric in METRICS:
            values = known(getattr(row, metric) for row in rows)
            if values:
                found = (statistic(values) for statistic in _STATISTICS)
                lines.append(SummaryLine(label, prompt, metric, len(values), *found))
    pairs = [line for s in scores for line in s.classes if not math.isnan(line.iou)]
    for name, value in pair_scores(pairs).items():
        lines.append(SummaryLine(None, ALL, name, len(pairs), value))
    return tuple(lines)


def pair_scores(pairs: Sequence[ClassLine]) -> dict[str, float]:
    """Return the measures of BiomedParse v1 over pairs of image and prompt, in percent.

    mIoU and mDice are means, cIoU and cDice are of all pixels together, and a precision
    is the share of pairs whose IoU reaches it. Empty if there are no pairs.
    """
    if not pairs:
        return {}
    iou, dice = np.array([(pair.iou, pair.dice) for pair in pairs], np.float32).T
    total = sum(pair.intersection for pair in pairs)
    pixels = max(sum(pair.union for pair in pairs), 1)  # without any, all are 0
    found = {"mIoU": iou.mean(), "mDice": dice.mean(), "cIoU": total / pixels}
    found["cDice"] = 2 * total / (total + pixels)
    for reached in (0.5, 0.6, 0.7, 0.8, 0.9):
        found[f"precision@{reached}"] = (iou >= np.float32(reached)).mean()
    return {f"{name} [%]": float(100 * v) for name, v in found.items()}


def pairs_text(summary: Iterable[SummaryLine]) -> str:
    """Say the measures over pairs of image and prompt; empty if there are none."""
    pairs = (line for line in summary if line.metric.endswith(" [%]"))
    return ", ".join(f"{pair.metric[:-4]} {pair.mean:.2f} %" for pair in pairs)


def table_of(
    summary: Iterable[SummaryLine],
) -> tuple[list[str], list[tuple[int | None, str, list[SummaryLine | None]]]]:
    """Return the metrics that have scores; and label, prompt and lines of each class.

    There is a line for each of these metrics, or None.
    """
    found = {(line.label, line.prompt, line.metric): line for line in summary}
    metrics = [m for m in METRICS if any(metric == m for _, _, metric in found)]
    return metrics, [
        (label, prompt, [found.get((label, prompt, m)) for m in metrics])
        for label, prompt in dict.fromkeys(key[:2] for key in found)
    ]


def cases_csv(scores: Iterable[CaseScore]) -> str:
    """Return one row per case and class as CSV; NaN is an empty field."""
    names = [item.name for item in fields(ClassLine)]
    lines = [
        {"case": s.name, **asdict(line), **{c: getattr(s, c) for c in COSTS}}
        for s in scores
        for line in s.classes
    ]
    return csv_text(["case", *names, *COSTS], lines, digits=6)


def summary_csv(lines: Iterable[SummaryLine]) -> str:
    """Return the summary as CSV."""
    names = [item.name for item in fields(SummaryLine)]
    return csv_text(names, map(asdict, lines), digits=6)


def shown(value: float, digits: int = 4) -> str:
    """Format a number; NaN is a dash."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
