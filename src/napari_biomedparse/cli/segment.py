"""The command `segment`: from options as text to one of the kinds of run."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_biomedparse.cli._parse import slice_range, to_number
from napari_biomedparse.cli._runs import (
    output_paths,
    prompts_in,
    run_axes,
    run_files,
    run_times,
    run_to_folder,
    run_volume,
    save,
    show_estimates,
)
from napari_biomedparse.cli._show import show_findings, told_in_one_line
from napari_biomedparse.data.modalities import MODALITIES
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.volume import choose_channel, has_time_points
from napari_biomedparse.errors import OptionError
from napari_biomedparse.io import check_output, open_image, open_volume
from napari_biomedparse.io.inputs import find_files, stands_for_several
from napari_biomedparse.slicing.read import region_of

_FINE = "Fine control"
_LARGE = "Large volumes and many of them"
_HELP = {item.name: item.metadata.get("help", "") for item in fields(SegmentOptions)}
_DEFAULT: dict[str, Any] = {item.name: item.default for item in fields(SegmentOptions)}


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
    region: Annotated[
        str | None, typer.Option(metavar="y=FIRST:END,...", help=_HELP["region"])
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
        str,
        typer.Option(metavar="auto|N", help=_HELP["batch_size"], rich_help_panel=_FINE),
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
    overlaps: Annotated[
        str,
        typer.Option(
            metavar="score|order|separate",
            help=f"{_HELP['overlaps']} Files of separate labels end in the number of "
            "the prompt.",
            rich_help_panel=_FINE,
        ),
    ] = _DEFAULT["overlaps"],
    edge_threshold: Annotated[
        float, typer.Option(help=_HELP["edge_threshold"], rich_help_panel=_FINE)
    ] = _DEFAULT["edge_threshold"],
    minimum_size: Annotated[
        int,
        typer.Option(
            metavar="VOXELS", help=_HELP["minimum_size"], rich_help_panel=_FINE
        ),
    ] = _DEFAULT["minimum_size"],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.")
    ] = False,
    stack: Annotated[
        bool,
        typer.Option(
            "--stack",
            help="IN is a folder of TIFF files, or a pattern in quotes, that are the "
            "slices of one volume.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Write nothing: try a few slices, and say how much time, memory and "
            "disk all of it will take.",
        ),
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
    kept = "finished blocks are kept: run the same again to continue"
    with told_in_one_line("nothing was written" if output.suffix else kept):
        options = SegmentOptions(
            modality=modality,
            axis=None if axis is None else to_number(axis),
            slices=slice_range(slices),
            region=region,
            tile=to_number(tile),
            pixel_size=pixel_size,
            existence_threshold=existence_threshold,
            overlap_threshold=overlap_threshold,
            overlaps=overlaps,
            instances=instances,
            edge_threshold=edge_threshold,
            minimum_size=minimum_size,
            batch_size=to_number(batch_size),
            seed=seed,
        )
        number = None if channel is None else to_number(channel)
        (volume, *others) = volumes
        if stack and others:
            raise OptionError(
                f"{len(volumes)} files are given; slices of one volume (--stack) are "
                "given as their folder, or as a pattern in quotes."
            )
        several = not stack and (bool(others) or stands_for_several(volume))
        if dry_run:
            show_estimates(
                volumes if stack else find_files(volumes),
                parse_prompts(prompt) if prompt else None,
                model,
                options,
                device,
                channel=number,
                time=time,
                consensus=consensus,
                force=force,
                to_folder=several or not output.suffix,
            )
            return
        if several or not output.suffix:
            common: dict[str, Any] = {
                "device": device,
                "channel": number,
                "time": time,
                "consensus": consensus,
                "force": force,
                "overwrite": overwrite,
                "scheduler": scheduler,
                "workers": workers,
                "ome_zarr": ome_zarr,
            }
            chosen = parse_prompts(prompt) if prompt else None
            if several:
                common["continue_"] = continue_
                run_files(volumes, output, chosen, model, options, common)
            else:
                chosen = chosen or prompts_in(volume)
                run_to_folder(volume, chosen, output, model, options, common)
            return
        if continue_ or scheduler is not None or workers is not None:
            raise OptionError(
                f"{output.name} is a file that is written in the end; to continue or "
                "to compute elsewhere, give a folder: a name without an ending."
            )
        prompts = parse_prompts(prompt) if prompt else prompts_in(volume)
        for path in output_paths(output, prompts, options):
            check_output(path, overwrite=overwrite)
        image = choose_channel(open_image(volume), number)
        if not consensus and time is None and has_time_points(image):
            result, opened = run_times(image, prompts, model, options, device)
            save([output], result, opened, overwrite)
            return
        opened = open_volume(volume, channel=number, time=time)
        place = region_of(opened, options)
        if consensus:
            agreed = run_axes(opened, prompts, model, options, device, force)
            save([output], agreed, place, overwrite)
            return
        result, findings, plan = run_volume(opened, prompts, model, options, device)
        from napari_biomedparse.report.why_empty import (
            why_empty,  # --help needs no tokens
        )

        show_findings(
            findings,
            plan.truncated,
            lambda: why_empty(
                opened, prompts, options, result.existence, intensity=plan.intensity
            ),
        )
        save(output_paths(output, prompts, options), result, place, overwrite)
