"""DICOM files as tests need them, written by pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

Arrays = NDArray[Any]


def header(pixels: Arrays, **more: Any) -> Dataset:
    """A dataset with pixels [Y, X], [Y, X, 3], or frames of them."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.SeriesInstanceUID, image.SeriesDescription = "1.2.3", "a series"
    colours = pixels.shape[-1] == 3
    image.SamplesPerPixel = 3 if colours else 1
    image.PhotometricInterpretation = "RGB" if colours else "MONOCHROME2"
    if colours:
        image.PlanarConfiguration = 0
    if pixels.ndim - colours == 3:
        image.NumberOfFrames = len(pixels)
    image.Rows, image.Columns = pixels.shape[pixels.ndim - colours - 2 :][:2]
    image.BitsAllocated = image.BitsStored = 8 * pixels.itemsize
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = int(pixels.dtype.kind == "i")
    image.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    image["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    for name, value in more.items():
        setattr(image, name, value)
    return image


def write(path: Path, pixels: Arrays, **more: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    header(pixels, **more).save_as(path, enforce_file_format=True)
    return path
