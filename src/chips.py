"""A chip in memory: one reader for training and evaluation, so that both see the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from src.bands import Band, match_bands
from src.datafolder import read_label
from src.errors import UserError
from src.labels import IGNORE, ClassTable
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
    """

    info: RasterInfo
    image: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    values: npt.NDArray[np.uint8]
    target: npt.NDArray[np.uint8]


def read_labelled(
    sample: Sample,
    bands: Sequence[Band],
    used: Sequence[bool],
    nodata: float | None,
    classes: ClassTable,
    nodata_is_data: bool = False,
    by: str = "the checkpoint",
) -> LabelledChip:
    """Read a chip and its label.

    Args:
        sample: Paths of image and label.
        bands: The expected bands; see :func:`src.bands.match_bands`.
        used: Which of them count for the mask.
        nodata: Nodata value of images that declare none.
        classes: The class table.
        nodata_is_data: Take every pixel for a measurement.
        by: What to call who expects bands and classes, in errors.

    Raises:
        UserError: A file is missing or broken, image and label differ in size, the bands do not match, or a label
            value is no class.
    """
    with open_chip(sample.image) as dataset:
        info = info_of(dataset)
        chosen = match_bands(bands, info.bands, str(sample.image), by)
        image = read_window(dataset, info.window, 0, chosen)
        declared = [nodata if info.nodata[band] is None else info.nodata[band] for band in chosen]
        valid = np.ones(image.shape[1:], bool)
        if not nodata_is_data:
            valid = read_valid(dataset, info.window, image, declared, used)
    values = read_label(sample.label)
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
    return LabelledChip(info, image, valid, values, np.where(valid, classes.encode(values), np.uint8(IGNORE)))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} × {shape[0]}"
