"""The runs behind `segment`: each shows a bar, then a table of its findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from rich.progress import Progress, TaskID

from napari_biomedparse.cli._show import (
    bar_for,
    complain,
    progress_bar,
    say,
    show_axes,
    show_findings,
    show_times,
)
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import PromptSet
from napari_biomedparse.data.results import score_of
from napari_biomedparse.errors import PromptError
from napari_biomedparse.io import open_file, open_volume, save_labels
from napari_biomedparse.io.inputs import case_name
from napari_biomedparse.report.findings import Finding, Tally, findings

if TYPE_CHECKING:
    from napari_biomedparse.data.results import Kind, Segmentation
    from napari_biomedparse.data.volume import Volume
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.runs.estimate import Estimate
    from napari_biomedparse.runs.folder import Run
    from napari_biomedparse.runs.run import FolderOptions


@contextmanager
def model_named(model: str | None) -> Iterator[str]:
    """Choose the model; say before and after the run if the demo stands in for v2."""
    from napari_biomedparse.networks.weights import DEMO_STANDS_IN, default_model

    chosen = model or default_model()
    if model or chosen != "demo":
        yield chosen
        return
    text = f"{DEMO_STANDS_IN}-m v2 downloads it, -m demo is this one."
    complain(text)
    yield chosen
    say(text)


@dataclass(frozen=True)
class Wanted:
    """What to find and how; without prompts, those that each file holds."""

    prompts: PromptSet | None
    model: str
    options: SegmentOptions
    how: FolderOptions


def run_to_file(path: Path, outputs: Sequence[Path], wanted: Wanted) -> None:
    """Segment a volume, all time points of it, or along each axis; save the labels."""
    # torch takes seconds to import, and --help should not.
    from napari_biomedparse.networks.weights import model_identity
    from napari_biomedparse.pipeline.plan import (
        Series,
        choose_input,
        plan_parts,
        run_parts,
    )
    from napari_biomedparse.pipeline.segment import Collector

    options, how = wanted.options, wanted.how
    chosen = choose_input(
        path,
        options,
        channel=how.channel,
        time=how.time,
        consensus=how.consensus,
        force=how.force,
    )
    with progress_bar() as progress:
        bar = progress.add_task("Loading the model", total=None)
        engine = _engine(progress, bar, wanted)
        network = engine.model
        progress.update(bar, description="Reading grey levels", total=None)
        parts = plan_parts(
            chosen,
            wanted.prompts or prompts_in(path),
            options,
            config=network.config,
            consensus=how.consensus,
        )
        first, sink = parts.first, Collector(parts, engine)
        tally = Tally(first.prompts, first.geometry.depth)
        progress.update(bar, completed=0, total=parts.total)
        title = {"series": "Time point {} on", "consensus": "Slices along {} on"}
        words = title.get(parts.kind, "Slices on")
        for part, done in run_parts(parts, sink.run):
            if parts.kind == "volume":
                tally.add(done)
            progress.update(
                bar,
                description=f"{words.format(part.key)} {engine.device}",
                advance=done.stop - done.start,
            )
        result = sink.result(model_identity(network), engine.precision)
    shown = first.volume
    if isinstance(chosen, Series):
        shown = chosen.over_time(shown, result.labels)
    save(outputs, result, shown, how.overwrite)
    _show(parts.kind, result, parts.keys, tally.findings(), wanted, path)


def run_to_folder(volume: Path, folder: Path, wanted: Wanted) -> None:
    """Do a run that writes to a folder as it goes, or resume it."""
    from napari_biomedparse.runs.run import segment_to_folder

    with progress_bar() as progress:
        run = segment_to_folder(
            volume,
            wanted.prompts or prompts_in(volume),
            folder,
            wanted.model,
            wanted.options,
            wanted.how,
            on_progress=bar_for(progress, "Slices"),
        )
    single = run.kind == "volume"
    found = findings(run.prompts, run.existence, run.voxels) if single else ()
    _show(run.kind, run, run.manifest.output.get("along", ()), found, wanted, volume)
    path = run.labels_path if run.instances_path is None else run.instances_path
    say(f"Labels are in {path}")


def _show(
    kind: Kind,
    result: Segmentation | Run,
    axes: Sequence[Any],
    found: Sequence[Finding],
    wanted: Wanted,
    path: Path,
) -> None:
    """Show what was found; `axes` are those of a consensus, `found` of one volume."""
    from napari_biomedparse.report.why_empty import why_empty

    options, channel, time = wanted.options, wanted.how.channel, wanted.how.time
    prompts, existence = result.prompts, result.existence
    parameters = result.parameters
    score, threshold = score_of(parameters)
    say(f"Grey levels: {parameters['intensity']}")
    if "turned" in parameters:
        say(f"Turned for the network: {parameters['turned']}")
    if kind == "series":
        first = parameters["times"][0]
        show_times(prompts, existence, getattr(options, threshold), first, score)
    elif kind == "consensus":
        show_axes(prompts, axes, existence, score)
    else:
        assert not isinstance(time, tuple)  # a range is a series
        show_findings(
            found,
            parameters["truncated_prompts"],
            lambda: why_empty(
                open_volume(path, channel=channel, time=time, axes=options.axes),
                prompts,
                options,
                existence,
                model=wanted.model,
                parameters=parameters,
            ),
            score,
        )


def run_files(
    inputs: Sequence[Path],
    folder: Path,
    wanted: Wanted,
    *,
    continue_: bool,
) -> None:
    """Do many runs; failed ones are listed at the end, and make the exit code 1."""
    from napari_biomedparse.runs.batch import SUMMARY, segment_files

    with progress_bar() as progress:
        bar = progress.add_task("Loading the model", total=None)

        def show(file: Path, number: int, count: int) -> None:
            progress.update(bar, description=file.name, completed=number, total=count)

        outcomes = segment_files(
            inputs,
            folder,
            wanted.prompts,
            wanted.model,
            wanted.options,
            wanted.how,
            continue_=continue_,
            on_file=show,
            on_progress=bar_for(progress, "Slices"),
        )
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    say(
        f"{len(outcomes) - len(failed) - skipped} done, {skipped} finished before, "
        f"{len(failed)} failed; the table is {folder / SUMMARY}"
    )
    for outcome in failed:
        complain(f"{outcome.file}: {outcome.error}")
    if failed:
        raise typer.Exit(1)


def show_estimates(files: Sequence[Path], wanted: Wanted, *, to_folder: bool) -> None:
    """Show what runs will take, without doing them."""
    from napari_biomedparse.runs.estimate import combine, estimate_run

    found: list[Estimate] = []
    how = wanted.how
    with progress_bar() as progress:
        bar = progress.add_task("Loading the model", total=None)
        engine = _engine(progress, bar, wanted)
        for file in files:
            progress.update(
                bar,
                description=f"Segmenting a few slices of {file.name}",
                completed=len(found),
                total=len(files),
            )
            found.append(
                estimate_run(
                    file,
                    wanted.prompts or prompts_in(file),
                    engine,
                    wanted.options,
                    channel=how.channel,
                    time=how.time,
                    consensus=how.consensus,
                    force=how.force,
                    to_folder=to_folder,
                )
            )
    for file, one in zip(files, found, strict=True):
        say(f"{file}: {one.describe()}")
    if len(files) > 1:
        say(f"Together: {combine(found).describe()}")


def prompts_in(path: Path) -> PromptSet:
    prompts = open_file(path).prompts
    if prompts is None:
        raise PromptError(
            f"{path} contains no prompts; describe what to find, for example "
            "-p 'mitochondria in electron microscopy'."
        )
    return prompts


def output_paths(
    output: Path, prompts: PromptSet, options: SegmentOptions
) -> list[Path]:
    """Return the file of the labels, or one per prompt if they are separate."""
    if options.overlaps != "separate":
        return [output]
    stem = case_name(output)
    ending = output.name.removeprefix(stem)
    return [output.with_name(f"{stem}_{label}{ending}") for label in prompts.ids]


def save(
    outputs: Sequence[Path],
    result: Segmentation,
    volume: Volume,
    overwrite: bool,
) -> None:
    """Write labels, or instances if there are any; one file per label volume."""
    found = result.labels if result.instances is None else result.instances
    prompts = replace(result.prompts, instance=result.instances is not None)
    if prompts.instance and not isinstance(found, np.ndarray):
        found = found.astype(np.min_scalar_type(int(found.max().compute())))
    separate = len(found.shape) > len(volume.grid)
    for at, output in enumerate(outputs):
        one = replace(prompts, prompts=prompts.prompts[at : at + 1], order=())
        save_labels(
            output,
            found[at] if separate else found,
            volume=volume,
            prompts=one if separate else prompts,
            owners=result.owners,
            overwrite=overwrite,
        )
        say(f"Labels are in {output}")


def _engine(progress: Progress, bar: TaskID, wanted: Wanted) -> Engine:
    """Load the model, and show a download on the bar."""
    from napari_biomedparse.engine.engine import Engine
    from napari_biomedparse.networks.weights import load_model

    network = load_model(
        wanted.model,
        on_progress=lambda done, total: progress.update(
            bar,
            description="Downloading (MB)",
            completed=done // 10**6,
            total=total // 10**6,
        ),
    )
    how, options = wanted.how, wanted.options
    return Engine(network, how.device, seed=options.seed, precision=options.precision)
