"""The command `segment`: from options as text to one of the kinds of run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from napari_biomedparse.cli._options import COUNT, takes_options, to_number
from napari_biomedparse.cli._runs import (
    Wanted,
    model_named,
    output_paths,
    prompts_in,
    run_files,
    run_to_file,
    run_to_folder,
    show_estimates,
)
from napari_biomedparse.cli._show import one_line_errors
from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.errors import OptionError
from napari_biomedparse.io import check_output
from napari_biomedparse.io.inputs import SUFFIXES, find_files, stands_for_several


@takes_options(SegmentOptions, common=("modality", "slices", "region", "instances"))
def segment(
    volumes: list[Path],
    *,
    output: Path,
    prompt: list[str] | None = None,
    model: str | None = None,
    channel: str | None = None,
    time: int | None = None,
    options: SegmentOptions,
    consensus: bool = False,
    force: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    stack: bool = False,
    dry_run: bool = False,
    continue_: bool = False,
    scheduler: str | None = None,
    workers: Annotated[int | None, COUNT] = None,
    ome_zarr: Literal["0.4", "0.5"] = "0.5",
) -> None:
    """Segment a volume and save the labels.

    Each voxel of the result holds the number of the prompt that it belongs to, or 0.

    Parameters
    ----------
    volumes : IN...
        The volume: a challenge .npz, TIFF, NIfTI or DICOM file, the folder of a DICOM
        series, or an OME-Zarr folder. Also several, folders of them, and quoted
        patterns: 'scans/*.tif'.
    output : OUT
        Where to write the labels. The extension sets the format: .npz, .tif, .nii or
        .zarr; with --overlaps separate, there is one file per prompt, whose name ends
        in the prompt's label. A name without extension is a folder, to which labels of
        any size are written as they are computed; after an interruption the same
        command resumes there. For several volumes, a folder of such folders.
    time : T
        Time point, from 0. By default all time points of a series are segmented, one
        after the other.
    consensus
        Segment along z, y and x, and give each voxel the label that two of the three
        runs agree on, else that of z. For isotropic volumes.
    force
        Allow a consensus of a volume that is not isotropic.
    stack
        IN is a folder of TIFF files, or a quoted pattern of these or of DICOM files,
        that are the slices of one volume.
    dry_run
        Write nothing: segment a few slices and estimate the time, memory and disk
        space of the whole run.
    continue_
        Several volumes: skip the finished ones and resume the rest.
    ome_zarr
        OME-Zarr version of the label images in a folder.
    """
    # torch takes seconds to import, and --help should not.
    from napari_biomedparse.runs.run import FolderOptions

    how = FolderOptions(
        device=device,
        channel=None if channel is None else to_number(channel),
        time=time,
        consensus=consensus,
        force=force,
        ome_zarr=ome_zarr,
        overwrite=overwrite,
        scheduler=scheduler,
        workers=workers,
    )
    prompts = parse_prompts(prompt) if prompt else None
    (volume, *others) = volumes
    if stack and others:
        raise OptionError(
            f"{len(volumes)} files are given; give the slices of one volume (--stack) "
            "as their folder, or as a quoted pattern."
        )
    several = not stack and (bool(others) or stands_for_several(volume))
    to_folder = several or not output.suffix
    if several and output.name.lower().endswith(SUFFIXES) and not output.is_dir():
        raise OptionError(
            f"{output.name} is the name of a file, and several files need a folder for "
            "their labels. For the slices of one volume, add --stack."
        )
    kept = "nothing was written"
    if to_folder and not dry_run:
        kept = "finished blocks are kept: run the same command again to resume"
    with one_line_errors(kept), model_named(model) as chosen:
        wanted = Wanted(prompts, chosen, options, how)
        if dry_run:
            files = volumes if stack else find_files(volumes)
            show_estimates(files, wanted, to_folder=to_folder)
        elif several:
            run_files(volumes, output, wanted, continue_=continue_)
        elif to_folder:
            run_to_folder(volume, output, wanted)
        elif continue_ or scheduler is not None or workers is not None:
            raise OptionError(
                f"{output.name} is a file, which is written at the end; to resume a "
                "run or to compute elsewhere, give a folder: a name without extension."
            )
        else:
            outputs = output_paths(output, prompts or prompts_in(volume), options)
            for path in outputs:
                check_output(path, overwrite=overwrite, inputs=[volume])
            run_to_file(volume, outputs, wanted)
