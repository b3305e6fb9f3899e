"""A chip in memory: one reader for training and evaluation, so that both see the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from src.bands import Band, all_measured, match_bands, nodata_of_bands
from src.datafolder import label_values
from src.errors import UserError
from src.labels import IGNORE, ClassTable
from src.raster.plain import PlainRaster, find_plain
from src.raster.read import RasterInfo, info_of, open_chip, read_valid, read_window
from src.tables import Sample


@dataclass(frozen=True)
class LabelledChip:
    """One chip in memory.

    Attributes:
        info: Of the image file.
        image: C × H × W, the expected bands in their order, in the file's own numbers.
        valid: H × W, True where every used band has a measurement.
        values: H × W class values, 0 = unclassified.
        target: H × W class indices, IGNORE for pixels without a class or without a measurement.
        plain: How to read it again without GDAL; None where that was not asked for, or cannot be.
    """

    info: RasterInfo
    image: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    values: npt.NDArray[np.uint8]
    target: npt.NDArray[np.uint8]
    plain: PlainChip | None = None


@dataclass(frozen=True)
class PlainChip:
    """A chip that was read and found whole, and can be read again without GDAL.

    Attributes:
        info: Of the image file.
        image: The expected bands in their order.
        label: One band of class values.
        nodata: Nodata value of each band, None where there is none.
        used: Which bands count for the mask.
        classes: The class table, which has all of the label's values.
    """

    info: RasterInfo
    image: PlainRaster
    label: PlainRaster
    nodata: tuple[float | None, ...]
    used: tuple[bool, ...]
    classes: ClassTable

    def read(self) -> LabelledChip | None:
        """Read it again; None where a file has changed since."""
        image, label = self.image.read(), self.label.read()
        if image is None or label is None:
            return None
        return _masked(self.info, image, all_measured(image, self.nodata, self.used), label[0], self.classes, self)


def read_labelled(
    sample: Sample,
    bands: Sequence[Band],
    used: Sequence[bool],
    nodata: float | None,
    classes: ClassTable,
    nodata_is_data: bool = False,
    by: str = "the checkpoint",
    *,
    nodata_given: bool = False,
    again: bool = False,
) -> LabelledChip:
    """Read a chip and its label.

    Args:
        sample: Paths of image and label.
        bands: The expected bands; see :func:`src.bands.match_bands`.
        used: Which of them count for the mask.
        nodata: Nodata value of images that declare none.
        classes: The class table.
        nodata_is_data: Take every pixel for a measurement whose bands are all numbers.
        by: What to call who expects bands and classes, in errors.
        nodata_given: Whether a user has given the nodata value: then it counts also where images declare another one.
        again: Whether it will be read again: then look whether that can be done without GDAL.

    Raises:
        UserError: A file is missing or broken, image and label differ in size, the bands do not match, or a label
            value is no class.
    """
    with open_chip(sample.image) as dataset:
        info = info_of(dataset)
        chosen = match_bands(bands, info.bands, str(sample.image), by)
        image = read_window(dataset, info.window, 0, chosen)
        declared = [info.nodata[band] for band in chosen]
        missing, *others = nodata_of_bands(declared, nodata, info.dtype, given=nodata_given)
        if nodata_is_data:
            valid = all_measured(image, None)
        else:
            valid = read_valid(dataset, info.window, image, missing, used)
            for second in others:
                valid &= all_measured(image, second, used)
        told = not nodata_is_data and not others  # what a plain chip's mask follows from
        plain_image = find_plain(dataset, chosen, image) if again and told else None
    with open_chip(sample.label) as dataset:
        values = label_values(dataset)
        plain_label = find_plain(dataset, [0], values[None]) if plain_image else None
    if values.shape != valid.shape:
        raise UserError(
            f"{sample.label} is {_size(values.shape)} pixels, its image {_size(valid.shape)}; expected the same size. "
            "Run prepare.py again."
        )
    if unknown := classes.unknown(values):
        raise UserError(
            f"{sample.label} has the value {unknown[0]}; {by} knows the classes {', '.join(map(str, classes.values))} "
            "(0 = unclassified). Give labels that have only these, or train on labels that have it."
        )
    plain = None
    if plain_image and plain_label:
        plain = PlainChip(info, plain_image, plain_label, missing, tuple(map(bool, used)), classes)
    return _masked(info, image, valid, values, classes, plain)


def _masked(
    info: RasterInfo,
    image: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    values: npt.NDArray[np.uint8],
    classes: ClassTable,
    plain: PlainChip | None,
) -> LabelledChip:
    target = np.where(valid, classes.encode(values), np.uint8(IGNORE))
    return LabelledChip(info, image, valid, values, target, plain)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} × {shape[0]}"
