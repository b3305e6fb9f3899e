"""Pictures of images with any number of bands: which bands to show as red, green and blue, and how bright."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from src.bands import Band, find_rgb
from src.chips import LabelledChip
from src.grid import Window
from src.labels import ClassTable
from src.raster.read import DatasetReader, info_of, open_raster, read_decimated, valid_decimated
from src.spec import NetworkSpec


def rgb_bands(bands: Sequence[Band]) -> tuple[int, int, int]:
    """Choose the 0-based bands to show as red, green and blue.

    By wavelength (nearest to 665, 560 and 490 nm), else by name (red, green, blue; Sentinel-2's B04, B03, B02),
    else the first three; with fewer than three bands the first one three times, which is grey.
    """
    return find_rgb(bands) or ((0, 1, 2) if len(bands) >= 3 else (0, 0, 0))


def stretch(
    image: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_], percent: float = 2.0
) -> npt.NDArray[np.uint8]:
    """Stretch each channel between its percentiles; what is not valid becomes transparent.

    Args:
        image: 3 × H × W in any numbers.
        valid: H × W.
        percent: Share of the valid pixels that saturates at either end.

    Returns:
        H × W × 4: red, green, blue, alpha.
    """
    picture = np.zeros((*valid.shape, 4), np.uint8)
    picture[..., 3] = np.where(valid, 255, 0)
    for channel, values in enumerate(image):
        low, high = limits(values, valid, percent)
        shown = np.nan_to_num(np.where(valid, values, low).astype(np.float32))  # −3.4e38 would overflow
        scaled = (shown - low) / max(high - low, 1e-12)
        picture[..., channel] = np.where(valid, np.clip(scaled * 255, 0, 255), 0).astype(np.uint8)
    return picture


def limits(values: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_], percent: float = 2.0) -> tuple[float, float]:
    """Return the values between which a band is stretched; 0 and 1 without a valid pixel. See :func:`stretch`.

    What is no number does not count either: bands that are not used are part of no mask.
    """
    chosen = values[valid].astype(np.float32)
    chosen = chosen[np.isfinite(chosen)]
    if not chosen.size:
        return 0.0, 1.0
    low, high = np.percentile(chosen, [percent, 100 - percent])
    return float(low), float(high)


def quicklook(
    path: str, max_side: int = 1000, window: Window | None = None, spec: NetworkSpec | None = None
) -> npt.NDArray[np.uint8]:
    """Read a small colour picture of a raster of any size: H × W × 4, nodata transparent.

    A band without a measurement, which would leave nothing to see, is shown as its neighbour among the three.

    Args:
        path: Raster to look at.
        max_side: Pixels of the picture's longer side at most.
        window: Part of the raster; None for all of it.
        spec: A network that knows a nodata value too; None for the raster's own only.
    """
    with open_raster(path) as dataset:
        _, image, valid = shown_bands(dataset, max_side, window, spec)
        return stretch(image, valid)


def shown_bands(
    dataset: DatasetReader, max_side: int, window: Window | None = None, spec: NetworkSpec | None = None
) -> tuple[tuple[int, int, int], npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Read the three bands that a picture shows, small; see :func:`quicklook`.

    Returns:
        Their 0-based numbers, 3 × H × W, and where all of them have a measurement: H × W.
    """
    bands = rgb_bands(info_of(dataset).bands)
    image = read_decimated(dataset, bands, max_side, window)
    nodata, given = (spec.nodata, spec.nodata_given) if spec else (None, False)

    def there(values: npt.NDArray[np.generic], shown: Sequence[int]) -> npt.NDArray[np.bool_]:
        return valid_decimated(dataset, values, shown, max_side, window, nodata, given=given)

    valid = there(image, bands)
    if not valid.any():
        masks = np.stack([there(image[i : i + 1], [band]) for i, band in enumerate(bands)])
        measured = np.flatnonzero(masks.any((1, 2)))
        if len(measured):
            nearest = measured[np.abs(np.subtract.outer(np.arange(len(bands)), measured)).argmin(1)]
            red, green, blue = (bands[i] for i in nearest)
            return (red, green, blue), image[nearest], np.asarray(masks[measured].all(0))
    return bands, image, valid


def chip_picture(chip: LabelledChip, bands: Sequence[Band], max_side: int = 512) -> npt.NDArray[np.uint8]:
    """Make a small colour picture of a chip in memory, H × W × 4, nodata transparent; see :func:`quicklook`.

    Args:
        chip: The chip.
        bands: What its image's bands are.
        max_side: Pixels of the picture's longer side at most.
    """
    step = -(-max(chip.valid.shape) // max_side)
    return stretch(chip.image[list(rgb_bands(bands)), ::step, ::step], chip.valid[::step, ::step])


def colorize(values: npt.NDArray[np.generic], classes: ClassTable) -> npt.NDArray[np.uint8]:
    """Paint class values H × W in their colours: H × W × 4, 0 and unknown values transparent."""
    palette = np.zeros((256, 4), np.uint8)
    for entry in classes.classes:
        palette[entry.value] = (*entry.rgb, 255)
    return palette[values.astype(np.uint8)]
