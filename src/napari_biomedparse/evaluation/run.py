"""A folder of cases -> scores; what is finished is not done again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from napari_biomedparse.data.prompts import PromptsLike, parse_prompts
from napari_biomedparse.data.text import csv_text
from napari_biomedparse.errors import (
    BiomedParseError,
    OptionError,
    needs_extra,
    shortage,
)
from napari_biomedparse.evaluation.case import Case, Overlay, Scoring
from napari_biomedparse.evaluation.page import draw_boxes, draw_overlay, write_page
from napari_biomedparse.evaluation.scores import (
    CaseScore,
    SummaryLine,
    cases_csv,
    pairs_text,
    plain,
    shown,
    summarise,
    summary_csv,
)
from napari_biomedparse.io.durable import (
    check_folder,
    check_place,
    write_durably,
    writing,
    written,
)
from napari_biomedparse.io.inputs import Pair, Paths, find_pairs
from napari_biomedparse.io.processed import processed_pairs
from napari_biomedparse.networks.weights import (
    load_model,
    model_identity,
    model_or_default,
)
from napari_biomedparse.runs.run import FolderChanges, FolderOptions, merge_changes
from napari_biomedparse.version import __version__

if TYPE_CHECKING:
    from napari_biomedparse.data.options import SegmentOptions
    from napari_biomedparse.networks.network import Network
    from napari_biomedparse.runs.blocks import Progress

logger = logging.getLogger(__name__)

CASES, RUNS, PICTURES = "cases", "runs", "pictures"
CASES_CSV, SUMMARY_CSV, RESULT_JSON, PAGE = (
    "cases.csv", "summary.csv", "evaluation.json", "index.html",
)  # fmt: skip
WORST = 6  # cases whose errors are shown


@dataclass(frozen=True)
class Evaluation:
    """Scores of many cases.

    Parameters
    ----------
    scores : tuple of CaseScore
        Scored cases, in order.
    failures : mapping of str to str
        The other cases and the reasons.
    folder : Path
        Folder of tables, pictures and ``index.html``.
    """

    scores: tuple[CaseScore, ...]
    failures: Mapping[str, str] = field(default_factory=dict)
    summary: tuple[SummaryLine, ...] = ()
    folder: Path = Path()


def evaluate(
    images: Paths,
    labels: Paths | None,
    out: str | os.PathLike[str],
    *,
    predictions: Paths | None = None,
    prompts: PromptsLike | None = None,
    model: str | os.PathLike[str] | Network | None = None,
    options: SegmentOptions | None = None,
    folder_options: FolderOptions | None = None,
    tolerance: float | None = None,
    on_case: Callable[[str, int, int], None] | None = None,
    on_progress: Progress | None = None,
    **changes: Unpack[FolderChanges],
) -> Evaluation:
    """Segment many images, or take predictions, and compare with the truth.

    A class is scored by Dice and normalized surface Dice, objects (if the file's
    ``instance_label`` or `instances` says so) by F1 at an intersection over union of
    0.5 and by the Dice of the matches; see `evaluation.metrics` for the exact rules.
    Existence accuracy is the share of slices for which the presence of the target was
    predicted rightly. Single images also have IoU and Dice, and the summary ends with
    the measures of BiomedParse v1 over all pairs of image and prompt. Called again, it
    resumes with what is not finished; a case that fails does not stop the others.

    Parameters
    ----------
    images, labels : path or iterable of path
        Challenge files (``imgs``, ``text_prompts``, ``spacing``; ``gts``) or any other
        supported files, as files, folders or patterns. Names must be the same except
        for the extension. Of a folder in the published layout (``test`` and
        ``test_mask``, else ``train`` and ``train_mask``; see `io.processed`) each mask
        is a case, and its sentence the prompt; labels are None.
    out : path
        Folder for the results: ``cases.csv``, ``summary.csv``, ``evaluation.json``,
        ``index.html``, and the labels in ``runs``.
    predictions : path or iterable of path, optional
        Files with labels to score instead of those of a model.
    prompts : see `parse_prompts`, optional
        Prompts for all images; by default those of each file, or the names in the file
        with the labels.
    model, options, folder_options, **changes
        As for `segment_to_folder`. The `slices` of `options` are the ones scored.
    tolerance : float, optional
        Distance up to which surfaces agree, in the unit of the spacing; the challenge
        used 2 mm. By default, twice the smallest side of a voxel of each image.
    on_case : callable, optional
        Called before each case with its name, its number from 0, and their count.
    on_progress : callable, optional
        As for `segment_to_folder`, for each case.

    Raises
    ------
    FormatError
        If no image has labels.
    OptionError
        If an option cannot be used, or a package is missing.
    CheckpointError, DeviceError, OutputError
        If the model cannot be loaded, or not on that device, or `out` not written.
    """
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise OptionError(f"The tolerance must be at least 0, not {tolerance!r}.")
    with needs_extra("evaluate", "Surface distances and pictures"):
        import monai.metrics  # noqa: F401
    pairs = processed_pairs(images, labels, predictions)
    if labels is None and not pairs:
        raise OptionError(
            f"{images} has no folders test and test_mask, or train and train_mask; "
            "give the labels of the images, too."
        )
    pairs = pairs or find_pairs(images, labels or (), predictions)
    folder = Path(out)
    check_folder(folder)
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    ours = (folder / CASES).is_dir()
    for name in (CASES_CSV, SUMMARY_CSV, RESULT_JSON, PAGE):
        check_place(folder / name, overwrite=ours)
    how, options = merge_changes(folder_options, options, changes)
    network: Network | None = None
    identity = ""
    if predictions is None:
        chosen: str | os.PathLike[str] | Network = model_or_default(model)
        if isinstance(chosen, str | os.PathLike):
            how = replace(how, load=chosen)  # by which workers load it
            chosen = load_model(chosen)
        network, identity = chosen, model_identity(chosen)
    scoring = Scoring(
        tolerance,
        None if prompts is None else parse_prompts(prompts),
        options,
        identity,
    )
    scores: list[CaseScore] = []
    failures: dict[str, str] = {}
    for number, pair in enumerate(pairs):
        if on_case:
            on_case(pair.name, number, len(pairs))
        with writing(folder):
            (folder / CASES).mkdir(parents=True, exist_ok=True)
        try:
            scores.append(_score(pair, scoring, folder, network, how, on_progress))
        except BiomedParseError as problem:
            failures[pair.name] = str(problem)
        except Exception as problem:  # the other cases must go on
            logger.exception("%s failed", pair.name)
            reason = f"{type(problem).__name__}: {problem}"
            failures[pair.name] = str(shortage(problem) or reason)
        with writing(folder):
            write_durably(folder / CASES_CSV, cases_csv(scores))
    result = Evaluation(tuple(scores), failures, summarise(scores), folder)
    with writing(folder):
        of_labels = network is None or network.config.slices_alone  # v1 has none
        _report(result, scoring, of_labels)
    return result


def _score(
    pair: Pair,
    scoring: Scoring,
    folder: Path,
    network: Network | None,
    how: FolderOptions,
    on_progress: Progress | None,
) -> CaseScore:
    """Score a case, or read its scores if nothing has changed since."""
    case = Case(pair, scoring)
    path = folder / CASES / f"{pair.name}.json"
    if path.exists():
        kept = json.loads(path.read_text("utf-8"))
        if kept["key"] == case.key:
            return CaseScore.from_json(kept)
    run = folder / RUNS / f"{pair.name.replace('.', '_')}-{case.key}"
    score, overlay = case.score(run, network, how, on_progress)
    with writing(folder):
        overlay.save(path.with_suffix(".npz"))
        if case.matches:
            rows = csv_text(list(case.matches[0]), case.matches, digits=6)
            write_durably(path.with_name(f"{pair.name}-objects.csv"), rows)
        kept = {"key": case.key, **score.to_json()}
        write_durably(path, json.dumps(kept, indent=1))
    return score


def _report(result: Evaluation, scoring: Scoring, of_labels: bool) -> None:
    """Write tables, pictures and the page."""
    folder, scores = result.folder, result.scores
    write_durably(folder / SUMMARY_CSV, summary_csv(result.summary))
    facts = {
        "model": scoring.model or "predictions from files",
        "cases": f"{len(scores)} scored, {len(result.failures)} failed",
        "tolerance of NSD": tolerance_text(scores),
        "existence": "from the labels" if of_labels else "from the network",
        "napari-biomedparse": __version__,
    }
    if pairs := pairs_text(result.summary):
        facts["all pairs of image and prompt"] = pairs
    content = {
        "facts": facts,
        "options": asdict(scoring.options),
        "summary": [plain(asdict(line)) for line in result.summary],
        "cases": [score.to_json() for score in scores],
        "failures": dict(result.failures),
    }
    write_durably(folder / RESULT_JSON, json.dumps(content, indent=1))
    boxes = draw_boxes(scores, folder / PICTURES)
    overlays = _draw_worst(scores, folder)
    write_page(
        folder / PAGE, scores, result.summary, result.failures, facts, boxes, overlays
    )


def tolerance_text(scores: Sequence[CaseScore]) -> str:
    """Say which tolerances were used."""
    used = {(score.tolerance, score.unit) for score in scores}
    return ", ".join(f"{size:g} {unit}" for size, unit in sorted(used)[:4]) or "none"


def _draw_worst(scores: Sequence[CaseScore], folder: Path) -> dict[str, Path]:
    known = [score for score in scores if score.quality == score.quality]
    drawn = {}
    for score in sorted(known, key=lambda score: score.quality)[:WORST]:
        overlay = Overlay.read(folder / CASES / f"{score.name}.npz")
        path = folder / PICTURES / f"worst-{score.name}.png"
        draw_overlay(overlay, score.name, path)
        drawn[f"{score.name}: {shown(score.quality)}"] = path
    return drawn
