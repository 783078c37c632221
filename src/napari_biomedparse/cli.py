"""The command line: parse, call the package, show. Errors are one line on stderr."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from napari_biomedparse.errors import (
    BiomedParseError,
    OptionError,
    PromptError,
)
from napari_biomedparse.intensity import MODALITIES
from napari_biomedparse.io import (
    check_output,
    open_file,
    open_image,
    open_volume,
    save_labels,
)
from napari_biomedparse.options import SegmentOptions
from napari_biomedparse.phantoms import sample_em, sample_light_sheet
from napari_biomedparse.prompts import PromptSet, parse_prompts
from napari_biomedparse.report import Tally, truncation_warning, why_nothing
from napari_biomedparse.report import findings as all_findings
from napari_biomedparse.runs.inputs import stands_for_several
from napari_biomedparse.volume import choose_channel, has_time_points

if TYPE_CHECKING:
    from napari_biomedparse.consensus import Consensus
    from napari_biomedparse.engine import Engine
    from napari_biomedparse.plan import RunPlan
    from napari_biomedparse.report import Finding
    from napari_biomedparse.segment import Segmentation
    from napari_biomedparse.slices import SegmentedSlices
    from napari_biomedparse.volume import Volume

USAGE, INTERRUPTED = 2, 130
"""Exit codes, by convention, besides 1 for what went wrong."""
app = typer.Typer(
    name="napari-biomedparse",
    help="Find structures in biomedical volumes by describing them in words.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_FINE = "Fine control"
_LARGE = "Large volumes and many of them"
_out = Console()
_err = Console(stderr=True)
_HELP = {item.name: item.metadata.get("help", "") for item in fields(SegmentOptions)}
_DEFAULT: dict[str, Any] = {item.name: item.default for item in fields(SegmentOptions)}


@app.command()
def segment(
    volumes: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...",
            help="The volume: a challenge .npz, a TIFF, NIfTI, or an OME-Zarr folder. "
            "Also several, folders of them, and patterns in quotes: 'scans/*.tif'.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Where the labels go; the ending says the format: .npz, .tif, .nii "
            "or .zarr. Without an ending it is a folder, to which the labels of any "
            "size are written as they come, and which the same command continues "
            "after an interruption; for several volumes a folder of such folders.",
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="What to find, for example 'mitochondria in electron microscopy'. "
            "Repeat it to find several things; the first gets label 1, the second 2, "
            "and so on. Left out, the prompts stored in the file are used.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|FILE",
            help="v2 (the published network; downloaded on first use), demo (small, "
            "built in), tiny (random, for trying out), or a weights file. Left out, "
            "v2 if it was downloaded before, else demo.",
            show_default=False,
        ),
    ] = None,
    modality: Annotated[
        str,
        typer.Option(
            metavar="KIND", help=f"{_HELP['modality']} One of {', '.join(MODALITIES)}."
        ),
    ] = _DEFAULT["modality"],
    slices: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST:END",
            help="Only these slices, counted from 0; 10:20 means 10 to 19.",
        ),
    ] = None,
    instances: Annotated[
        bool | None,
        typer.Option(
            "--instances/--no-instances", help=_HELP["instances"], show_default=False
        ),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(
            help="Channel, by number (from 0) or by name; rgb: all three as colours.",
            metavar="C",
        ),
    ] = None,
    time: Annotated[
        int | None,
        typer.Option(
            help="Time point, from 0. Left out, all time points of a series are "
            "segmented, one after the other.",
            metavar="T",
        ),
    ] = None,
    consensus: Annotated[
        bool,
        typer.Option(
            "--consensus",
            help="Run along z, y and x and let each voxel have the label that two of "
            "three runs agree on, else that of z. For isotropic volumes.",
            rich_help_panel=_FINE,
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Form a consensus of a volume that is not isotropic, too.",
            rich_help_panel=_FINE,
        ),
    ] = False,
    axis: Annotated[
        str | None,
        typer.Option(metavar="z|y|x", help=_HELP["axis"], rich_help_panel=_FINE),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where to compute: auto (the fastest), cpu, cuda, cuda:1, mps.",
            rich_help_panel=_FINE,
        ),
    ] = "auto",
    seed: Annotated[
        int, typer.Option(help=_HELP["seed"], rich_help_panel=_FINE)
    ] = _DEFAULT["seed"],
    batch_size: Annotated[
        int, typer.Option(help=_HELP["batch_size"], rich_help_panel=_FINE)
    ] = _DEFAULT["batch_size"],
    existence_threshold: Annotated[
        float, typer.Option(help=_HELP["existence_threshold"], rich_help_panel=_FINE)
    ] = _DEFAULT["existence_threshold"],
    overlap_threshold: Annotated[
        float, typer.Option(help=_HELP["overlap_threshold"], rich_help_panel=_FINE)
    ] = _DEFAULT["overlap_threshold"],
    tile: Annotated[
        str,
        typer.Option(
            metavar="none|auto|PIXELS", help=_HELP["tile"], rich_help_panel=_FINE
        ),
    ] = _DEFAULT["tile"],
    pixel_size: Annotated[
        float | None, typer.Option(help=_HELP["pixel_size"], rich_help_panel=_FINE)
    ] = _DEFAULT["pixel_size"],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.")
    ] = False,
    continue_: Annotated[
        bool,
        typer.Option(
            "--continue",
            help="Several volumes: skip what is finished, go on with the rest.",
            rich_help_panel=_LARGE,
        ),
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="dask.distributed scheduler whose workers are to compute.",
            rich_help_panel=_LARGE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Compute in so many processes here; each gets a graphics card of "
            "its own if there are several.",
            rich_help_panel=_LARGE,
        ),
    ] = None,
    ome_zarr: Annotated[
        str,
        typer.Option(
            metavar="0.4|0.5",
            help="Version of the label images in a folder.",
            rich_help_panel=_LARGE,
        ),
    ] = "0.5",
) -> None:
    """Segment a volume and save the labels.

    Each voxel of the result holds the number of the prompt that it belongs to, or 0.
    """
    with _told_in_one_line():
        options = SegmentOptions(
            modality=modality,
            axis=None if axis is None else _number(axis),
            slices=_range(slices),
            tile=_number(tile),
            pixel_size=pixel_size,
            existence_threshold=existence_threshold,
            overlap_threshold=overlap_threshold,
            instances=instances,
            batch_size=batch_size,
            seed=seed,
        )
        number = None if channel is None else _number(channel)
        (volume, *others) = volumes
        several = bool(others) or stands_for_several(volume)
        if consensus and (several or not output.suffix):
            raise OptionError(
                "A consensus is written to a file: give one volume, and an output "
                "with an ending."
            )
        if several or not output.suffix:
            common: dict[str, Any] = {
                "device": device,
                "channel": number,
                "time": time,
                "overwrite": overwrite,
                "scheduler": scheduler,
                "workers": workers,
                "ome_zarr": ome_zarr,
            }
            chosen = parse_prompts(prompt) if prompt else None
            if several:
                common["continue_"] = continue_
                _run_files(volumes, output, chosen, model, options, common)
            else:
                chosen = chosen or _prompts_in(volume)
                _run_to_folder(volume, chosen, output, model, options, common)
            return
        if continue_ or scheduler is not None or workers is not None:
            raise OptionError(
                f"{output.name} is a file that is written in the end; to continue or "
                "to compute elsewhere, give a folder: a name without an ending."
            )
        check_output(output, overwrite=overwrite)
        prompts = parse_prompts(prompt) if prompt else _prompts_in(volume)
        image = choose_channel(open_image(volume), number)
        if not consensus and time is None and has_time_points(image):
            result, opened = _run_series(image, prompts, model, options, device)
            _save(output, result, opened, overwrite)
            return
        opened = open_volume(volume, channel=number, time=time)
        if consensus:
            agreed = _run_consensus(opened, prompts, model, options, device, force)
            _save(output, agreed, opened, overwrite)
            return
        result, findings, plan = _run(opened, prompts, model, options, device)
        _show_findings(
            findings,
            plan.intensity.describe(),
            plan.options.existence_threshold,
            plan.truncated,
        )
        _save(output, result, opened, overwrite)


@app.command()
def reproduce(
    record: Annotated[
        Path,
        typer.Argument(
            metavar="RUN.json", help="A run's manifest.json, or the run's folder."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="For the new run."),
    ],
    volume: Annotated[
        Path | None,
        typer.Option(help="Where the volume is now, if it was moved."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where the weights are now."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="By default the kind that was recorded.")
    ] = None,
) -> None:
    """Do a recorded run again and say whether the labels are equal to the bit."""
    with _told_in_one_line():
        from napari_biomedparse.runs.run import reproduce as run_again

        with _progress() as progress:
            run, differences = run_again(
                record,
                output,
                volume=volume,
                model=model,
                device=device,
                on_progress=_bar(progress, "Slices"),
            )
        _out.print(f"Labels are in {run.labels_path}", highlight=False, soft_wrap=True)
        if differences:
            for difference in differences:
                _err.print(difference, style="red", markup=False, soft_wrap=True)
            raise typer.Exit(1)
        _out.print("Equal to the recorded run, to the bit.")


@app.command()
def doctor() -> None:
    """Describe this installation and machine, to paste into a bug report."""
    from napari_biomedparse.doctor import report

    _out.print(report(), highlight=False, markup=False, soft_wrap=True)


@app.command()
def info(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A .npz, a TIFF, or an OME-Zarr folder."),
    ],
) -> None:
    """Say what is in a file: images, existing labels and prompts."""
    with _told_in_one_line():
        contents = open_file(file)
        table = Table("", "name", "axes", "type", "voxel size")
        for image in contents.images:
            table.add_row("image", *_described(image))
        for labels in contents.labels:
            table.add_row("labels", *_described(labels.volume))
        _out.print(table)
        for image in contents.images:
            if image.channel_names:
                _out.print("Channels: " + ", ".join(image.channel_names))
        if contents.prompts is None:
            _out.print("No prompts in the file; give yours with -p.")
            return
        prompts = Table("label", "prompt")
        for one in contents.prompts.prompts:
            prompts.add_row(str(one.id), one.text)
        _out.print(prompts)


@app.command()
def demo(
    sample: Annotated[
        str, typer.Option(help="Which sample: em or light-sheet.")
    ] = "em",
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where labels, a picture and a table go if no window can be opened.",
        ),
    ] = Path("napari-biomedparse-demo"),
    window: Annotated[
        bool,
        typer.Option(
            "--window/--no-window",
            help="Whether napari is to be opened.",
        ),
    ] = True,
) -> None:
    """See it work: segment a synthetic sample with the small built-in model.

    Needs no download. Without a display the results are written to files.
    """
    with _told_in_one_line():
        from napari_biomedparse._samples import can_open_a_window, open_demo

        samples = {"em": sample_em, "light-sheet": sample_light_sheet}
        if sample not in samples:
            raise OptionError(
                f"There is no sample {sample!r}; choose em or light-sheet."
            )
        if window and can_open_a_window():
            open_demo(sample)
            return
        from napari_biomedparse.demo import run_demo

        with _err.status("Segmenting the sample with the demo model"):
            rows = run_demo(samples[sample](), output)
        table = Table("label", "prompt", "existence", "voxels", "objects", "Dice")
        for row in rows:
            overlap = "absent" if math.isnan(row.dice) else f"{row.dice:.2f}"
            table.add_row(
                str(row.label),
                row.prompt,
                f"{row.existence:.2f}",
                f"{row.voxels:,}",
                str(row.objects),
                overlap,
            )
        _out.print(table)
        _out.print(
            f"Labels (OME-Zarr), a picture and this table are in {output.absolute()}",
            highlight=False,
            soft_wrap=True,
        )


def _run(
    volume: Volume,
    prompts: PromptSet,
    model: str | None,
    options: SegmentOptions,
    device: str,
) -> tuple[Segmentation, tuple[Finding, ...], RunPlan]:
    """Do the run, with a progress bar."""
    # torch takes seconds to import, and --help should not.
    from napari_biomedparse.plan import plan_run
    from napari_biomedparse.segment import collect, run_plan
    from napari_biomedparse.weights import model_identity

    with _progress() as progress:
        bar = progress.add_task("Loading the model", total=None)
        engine = _engine(progress, bar, model, options, device)
        network = engine.model
        progress.update(bar, description="Looking at grey levels", total=None)
        plan = plan_run(volume, prompts, options, config=network.config)
        progress.update(
            bar,
            description=f"Slices on {engine.device}",
            completed=0,
            total=plan.stop - plan.start,
        )
        tally = Tally(plan.prompts, plan.geometry.depth)

        def counted() -> Iterator[SegmentedSlices]:
            for part in run_plan(plan, engine):
                tally.add(part)
                progress.advance(bar, part.stop - part.start)
                yield part

        result = collect(plan, counted(), model_identity(network))
    return result, tally.findings(), plan


def _engine(
    progress: Progress,
    bar: TaskID,
    model: str | None,
    options: SegmentOptions,
    device: str,
) -> Engine:
    """Load the model, with what has to be downloaded on the bar."""
    from napari_biomedparse.engine import Engine
    from napari_biomedparse.weights import default_model, load_model

    network = load_model(
        model or default_model(),
        on_progress=lambda done, total: progress.update(
            bar,
            description="Downloading (MB)",
            completed=done // 10**6,
            total=total // 10**6,
        ),
    )
    return Engine(network, device, seed=options.seed)


def _run_series(
    image: Volume,
    prompts: PromptSet,
    model: str | None,
    options: SegmentOptions,
    device: str,
) -> tuple[Segmentation, Volume]:
    """Segment all time points; returns what was found and the volume it lies in."""
    from napari_biomedparse.series import open_series, run_series

    series = open_series(image)
    with _progress() as progress:
        bar = progress.add_task("Loading the model", total=None)
        engine = _engine(progress, bar, model, options, device)

        def watch(time: int, part: SegmentedSlices) -> None:
            progress.update(
                bar,
                description=f"Time points on {engine.device}, slice {part.start}",
                completed=time,
                total=series.stop,
            )

        result = run_series(series, prompts, engine, options, watch)
    table = Table("label", "prompt", "time points", "best existence")
    for prompt, scores in zip(prompts.prompts, result.existence, strict=True):
        likely = (scores >= options.existence_threshold).any(axis=1)
        best = f"{scores.max():.2f} (time {scores.max(axis=1).argmax()})"
        table.add_row(str(prompt.id), prompt.text, f"{likely.sum()}", best)
    _out.print(table)
    return result, series.holding(result.labels)


def _run_consensus(
    volume: Volume,
    prompts: PromptSet,
    model: str | None,
    options: SegmentOptions,
    device: str,
    force: bool,
) -> Consensus:
    """Run along each axis and let the runs vote."""
    from napari_biomedparse.consensus import segment_consensus

    with _progress() as progress:
        bar = progress.add_task("Loading the model", total=None)
        engine = _engine(progress, bar, model, options, device)

        def watch(axis: str, part: SegmentedSlices) -> None:
            progress.update(
                bar,
                description=f"Slices along {axis} on {engine.device}",
                completed=part.stop,
                total=volume.shape[volume.axes.index(axis)],
            )

        result = segment_consensus(
            volume, prompts, engine, options, force=force, watch=watch
        )
    table = Table("label", "prompt", *(f"existence along {a}" for a in volume.axes))
    for i, prompt in enumerate(prompts.prompts):
        best = [f"{scores[i].max():.2f}" for scores in result.existence.values()]
        table.add_row(str(prompt.id), prompt.text, *best)
    _out.print(table)
    return result


def _save(
    output: Path, result: Segmentation | Consensus, volume: Volume, overwrite: bool
) -> None:
    """Write labels, or objects if they were separated."""
    objects = result.instances
    save_labels(
        output,
        result.labels if objects is None else objects,
        volume=volume,
        prompts=replace(result.prompts, instance=objects is not None),
        overwrite=overwrite,
    )
    _out.print(f"Labels are in {output}", highlight=False, soft_wrap=True)


def _prompts_in(path: Path) -> PromptSet:
    prompts = open_file(path).prompts
    if prompts is None:
        raise PromptError(
            f"{path} holds no prompts; say what to find, for example "
            "-p 'mitochondria in electron microscopy'."
        )
    return prompts


def _run_to_folder(
    volume: Path,
    prompts: PromptSet,
    folder: Path,
    model: str | None,
    options: SegmentOptions,
    common: dict[str, Any],
) -> None:
    """Do a run that writes to a folder as it goes, or continue it."""
    from napari_biomedparse.runs.run import segment_to_folder

    with _progress() as progress:
        run = segment_to_folder(
            volume,
            prompts,
            folder,
            model,
            options,
            on_progress=_bar(progress, "Slices"),
            **common,
        )
    _show_findings(
        all_findings(run.prompts, run.existence, run.voxels),
        run.parameters["intensity"],
        options.existence_threshold,
        run.parameters["truncated_prompts"],
    )
    path = run.labels_path if run.instances_path is None else run.instances_path
    _out.print(f"Labels are in {path}", highlight=False, soft_wrap=True)


def _run_files(
    inputs: Sequence[Path],
    folder: Path,
    prompts: PromptSet | None,
    model: str | None,
    options: SegmentOptions,
    common: dict[str, Any],
) -> None:
    """Do many runs; failed ones are listed at the end, and make the exit code 1."""
    from napari_biomedparse.runs.batch import SUMMARY, segment_files

    with _progress() as progress:
        bar = progress.add_task("Loading the model", total=None)

        def show(file: Path, number: int, count: int) -> None:
            progress.update(bar, description=file.name, completed=number, total=count)

        outcomes = segment_files(
            inputs,
            folder,
            prompts,
            model,
            options,
            on_file=show,
            on_progress=_bar(progress, "Slices"),
            **common,
        )
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    _out.print(
        f"{len(outcomes) - len(failed) - skipped} done, {skipped} finished before, "
        f"{len(failed)} failed; the table is {folder / SUMMARY}",
        highlight=False,
        soft_wrap=True,
    )
    for outcome in failed:
        message = f"{outcome.file}: {outcome.error}"
        _err.print(message, style="red", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _bar(progress: Progress, title: str) -> Callable[[int, int], None]:
    """Return what a run calls to move a bar, which appears with the first call."""
    bar = progress.add_task(title, total=None, visible=False)
    return lambda done, total: progress.update(
        bar, completed=done, total=total, visible=True
    )


def _show_findings(
    findings: Sequence[Finding],
    intensity: str,
    threshold: float,
    truncated: Sequence[str],
) -> None:
    table = Table("label", "prompt", "slices", "existence", "voxels")
    for finding in findings:
        table.add_row(
            str(finding.prompt.id),
            finding.prompt.text,
            f"{finding.slices} ({finding.first} to {finding.last})"
            if finding.slices
            else "-",
            f"{finding.best:.2f} (slice {finding.best_slice})",
            f"{finding.voxels:,}",
        )
    _out.print(table)
    if truncated:
        _err.print(truncation_warning(truncated))
    if not any(finding.voxels for finding in findings):
        _out.print(
            why_nothing(
                findings,
                intensity=intensity,
                threshold=threshold,
                truncated=truncated,
            )
        )


def _described(volume: Volume) -> tuple[str, str, str, str]:
    """Return name, axes with sizes, type and voxel size of an image."""
    sizes = zip(volume.axes, volume.shape, strict=True)
    return (
        volume.name,
        " ".join(f"{axis}:{size}" for axis, size in sizes),
        str(volume.dtype),
        _voxel_size(volume) or "unknown",
    )


def _voxel_size(volume: Volume) -> str:
    steps: dict[str, list[str]] = {}
    for axis, step, unit in zip(volume.axes, volume.spacing, volume.units, strict=True):
        if unit != "pixel":
            steps.setdefault(unit, []).append(f"{axis} {step:.4g}")
    return "; ".join(f"{', '.join(sizes)} {unit}" for unit, sizes in steps.items())


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, end = text.partition(":")
    if not (colon and first.strip().isdigit() and end.strip().isdigit()):
        raise typer.BadParameter(
            f"{text!r} is no range of slices; write, for example, 10:20.",
            param_hint="--slices",
        )
    return int(first), int(end)


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=_err,
        transient=True,
    )


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    """End with a message and an exit code instead of a traceback."""
    try:
        yield
    except BiomedParseError as error:
        _err.print(
            f"Error: {error}",
            style="red",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        code = USAGE if isinstance(error, OptionError) else 1
        raise typer.Exit(code) from error
    except KeyboardInterrupt:
        _err.print("Interrupted; nothing was written.")
        raise typer.Exit(INTERRUPTED) from None
