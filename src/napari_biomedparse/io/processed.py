"""The published layout of images and masks: a PNG each, one mask for every target.

``DATASET/train`` (or ``test``) has ``NAME_MODALITY_SITE.png``, ``DATASET/train_mask``
``NAME_MODALITY_SITE_TARGET.png``, with ``+`` for spaces in TARGET. ``train.json``, if
there, lists annotations (``mask_file``, ``file_name`` or ``image_id``, ``sentences``
with ``raw`` or ``sent``) and ``images`` (``id``, ``file_name``). ARCHITECTURE of v1,
section 11.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_biomedparse.errors import FormatError, VolumeError
from napari_biomedparse.io.files import open_image
from napari_biomedparse.io.inputs import Pair, Paths, case_name, find_files

logger = logging.getLogger(__name__)

_PNGS = "[!.]*.png"
_SEQUENCES = ("T1", "T2", "FLAIR", "ADC")


@dataclass(frozen=True)
class MaskFile:
    """The mask of one target; `sentences` are its prompts, at least one."""

    path: Path
    target: str
    sentences: tuple[str, ...]

    def read(self, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Read the mask [Y, X], where any color is above 0; alpha does not count.

        A `VolumeError` is raised if its image has another `shape`.
        """
        values = np.asarray(open_image(self.path).data)
        mask: npt.NDArray[np.bool_] = np.any(np.atleast_3d(values) > 0, axis=-1)
        if mask.shape != tuple(shape):
            raise VolumeError(
                f"{self.path} has the shape {mask.shape}, but its image has "
                f"{tuple(shape)}; they must be equal."
            )
        return mask


@dataclass(frozen=True)
class MaskedImage:
    """An image of the layout with the masks of one modality and site.

    Both are as the names have them, "MRI-FLAIR" and "brain"; empty where the name of a
    mask that a JSON lists does not.
    """

    path: Path
    modality: str
    site: str
    masks: tuple[MaskFile, ...]

    @property
    def sequence(self) -> str:
        """Sequence of an MRI, "FLAIR"; empty for other modalities."""
        is_mri = any(name in self.modality for name in _SEQUENCES)
        return self.modality.removeprefix("MRI-") if is_mri else ""

    @property
    def group(self) -> str:
        """Images of one group were searched for the same targets."""
        known = f"{self.modality}, {self.site}"
        return known if self.modality else self.masks[0].sentences[0]

    def read(self) -> npt.NDArray[np.uint8]:
        """Read the image in color [Y, X, 3], 0 to 255; grey is repeated.

        A `FormatError` is raised if it is damaged or has more than 8 bits.
        """
        values = np.asarray(open_image(self.path).data)
        if values.dtype != np.uint8:
            raise FormatError(
                f"{self.path} has values of type {values.dtype}; 8-bit is required."
            )
        return values if values.ndim == 3 else np.stack([values] * 3, axis=-1)


def is_processed(folder: Path, part: str = "train") -> bool:
    """Return whether a folder has the published layout of images and masks."""
    return (folder / part).is_dir() and (folder / f"{part}_mask").is_dir()


def read_processed(folder: Path, part: str = "train") -> tuple[MaskedImage, ...]:
    """List the images of such a folder with their masks, by name; reads no pixels.

    The sentences of a mask are those of the JSON, or else "TARGET in SITE MODALITY".
    Images without a mask are told. A `FormatError` names masks without an image or
    with other names, files that are not there, and a JSON that holds something else.
    """
    path, masks = folder / f"{part}.json", folder / f"{part}_mask"
    listed = list(_annotations(path)) if path.exists() else []
    if not path.exists():
        names = [mask.name for mask in sorted(masks.glob(_PNGS))]
        listed = [(f"{name.rpartition('_')[0]}.png", name, ()) for name in names]
    if not listed:
        raise FormatError(f"{path if path.exists() else masks} lists no masks.")
    grouped: dict[tuple[str, str, str], list[MaskFile]] = {}
    for image, mask, sentences in listed:
        modality, site, target = _split(mask)
        if not target and not sentences:
            raise FormatError(
                f"{masks / mask} is not named NAME_MODALITY_SITE_TARGET.png, such as "
                "1_CT_abdomen_left+kidney.png. Rename or remove it."
            )
        known = sentences or (f"{target} in {site} {modality}",)
        one = MaskFile(masks / mask, target or known[-1], known)
        grouped.setdefault((image, modality, site), []).append(one)
    there = {path.name for path in (folder / part).glob(_PNGS)}
    if missing := {key[0] for key in grouped} - there:
        raise FormatError(
            f"{folder / part} lacks {len(missing)} images to which masks belong, such "
            f"as {min(missing)}. Add the images, or remove the masks."
        )
    if alone := there - {key[0] for key in grouped}:
        told = "%d images without masks are left out, such as %s."
        logger.warning(told, len(alone), folder / part / min(alone))
    return tuple(
        MaskedImage(folder / part / image, modality, site, tuple(some))
        for (image, modality, site), some in sorted(grouped.items())
    )


def processed_pairs(
    images: Paths, labels: Paths | None, predictions: Paths | None = None
) -> tuple[Pair, ...]:
    """Pair each mask of ``DATASET`` or ``DATASET/test`` with its image and a prompt.

    `labels` are None or ``DATASET/test_mask``; of both parts ``test`` is taken.
    Predictions have the names of masks; the prompt is the first sentence of a mask.
    Empty for another layout; raises what `read_processed` and `find_files` raise.
    """
    folder = Path(images) if isinstance(images, str | os.PathLike) else Path(os.devnull)
    for part in ("test", "train"):
        data = folder.parent if folder.name == part else folder
        masks = data / f"{part}_mask"
        if is_processed(data, part) and labels in (None, masks, str(masks)):
            break
    else:
        return ()
    found = {case_name(path): path for path in find_files(predictions or ())}
    return tuple(
        Pair(
            name := case_name(mask.path),
            image.path,
            mask.path,
            found.get(name),
            "predictions" if predictions and name not in found else "",
            mask.sentences[0],
        )
        for image in read_processed(data, part)
        for mask in image.masks
    )


def _annotations(path: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield names of an image and of its mask, and sentences."""
    try:
        content = json.loads(path.read_text("utf-8"))
        names = {one["id"]: one["file_name"] for one in content.get("images", [])}
        for one in content["annotations"]:
            sentences = tuple(str(s.get("raw") or s["sent"]) for s in one["sentences"])
            image = one.get("file_name") or names[one["image_id"]]
            yield str(image), str(one["mask_file"]), sentences
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} is not a list of annotations with mask_file, file_name (or "
            f"image_id) and sentences ({type(error).__name__}: {error})."
        ) from error


def _split(mask: str) -> tuple[str, str, str]:
    """Return modality, site and target of a mask's name; empty if it has none."""
    parts = [part.partition(".")[0].strip() for part in mask.split("_")[-3:]]
    if len(parts) < 3 or not all(parts):
        return "", "", ""
    modality, site, target = parts
    return modality, site, target.replace("+", " ")
