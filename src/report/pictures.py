"""Pictures for reports: small, inside the page, with a scale that is right."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, colors
from PIL import Image

from src.labels import ClassTable
from src.pixel_size import ground_pixel
from src.quicklook import colorize, quicklook
from src.raster.read import RasterInfo, describe, open_raster, read_decimated, valid_decimated
from src.report.blocks import Gradient, Picture, ScaleBar
from src.report.wording import THIN, percent
from src.spec import NetworkSpec

MAX_SIDE = 1200
"""Pixels of a map picture's longer side at most: sharp on a page, and the page stays a few megabytes."""
RIGHT, WRONG = (205, 209, 206, 255), (200, 30, 60, 255)
"""Colours of the difference pictures; what has no label is transparent."""
AGREEMENT = tuple((name, "#{:02x}{:02x}{:02x}".format(*c[:3])) for name, c in (("right", RIGHT), ("differs", WRONG)))
"""Their legend."""
UNSURE = "viridis"
"""Matplotlib's colours for uncertainty, dark where sure, the same as in QGIS."""
_LONGEST_BAR = 0.3


def picture(
    image: npt.NDArray[np.uint8],
    alt: str,
    caption: str = "",
    *,
    drawn: bool = False,
    info: RasterInfo | None = None,
) -> Picture:
    """Put an image into a ``data:`` URI as WebP.

    Args:
        image: H × W × 4: red, green, blue, alpha.
        alt: What it shows.
        caption: Below it.
        drawn: Whether it has few plain colours, to be kept exactly (classes); photographs are compressed.
        info: The whole raster that it shows: gives it a scale bar and an arrow for north.
    """
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "WEBP", quality=82, lossless=drawn)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = image.shape[:2]
    north = info is not None and north_up(info)
    return Picture(uri, width, height, alt, caption, scale_bar(info) if info else None, north)


def painted(values: npt.NDArray[np.uint8], classes: ClassTable, what: str, caption: str) -> Picture:
    """Show class values, H × W, in their colours; whoever does not see it is told the three most frequent classes.

    Args:
        values: Class values, 0 for none.
        classes: The class table.
        what: What it shows.
        caption: Below it.
    """
    counts = np.bincount(values.reshape(-1), minlength=256)[list(classes.values)]
    order = [i for i in np.argsort(-counts, kind="stable")[:3] if counts[i]]
    shares = ", ".join(f"{classes.names[i]} {percent(counts[i] / values.size)}" for i in order) or "no class"
    return picture(colorize(values, classes), f"{what}: {shares}", caption, drawn=True)


def scene_picture(path: str, alt: str, caption: str = "", spec: NetworkSpec | None = None) -> Picture:
    """Show a scene of any size in colours, read decimated; what a network takes for nodata is left out too."""
    return picture(quicklook(path, MAX_SIDE, spec=spec), alt, caption, info=describe(path))


def class_picture(path: str, classes: ClassTable, alt: str, caption: str = "") -> Picture:
    """Show a class map of any size in its classes' colours, its first band read decimated."""
    return picture(colorize(_first_band(path)[0], classes), alt, caption, drawn=True, info=describe(path))


def uncertainty_picture(path: str, alt: str) -> Picture:
    """Show a raster of uncertainty 0–1, its first band read decimated."""
    return picture(paint_uncertainty(*_first_band(path)), alt, info=describe(path))


def paint_uncertainty(share: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Paint uncertainty 0–1, H × W, as H × W × 4; what is not valid becomes transparent."""
    image = np.asarray(colormaps[UNSURE](np.clip(np.nan_to_num(share), 0, 1), bytes=True), np.uint8)
    image[..., 3] = np.where(valid, 255, 0)
    return image


def difference(target: npt.NDArray[np.uint8], mapped: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Paint where two images of class values, H × W, agree and where not: H × W × 4, transparent where either is 0."""
    palette = np.array([(0, 0, 0, 0), RIGHT, WRONG], np.uint8)
    return palette[np.where((target == 0) | (mapped == 0), 0, np.where(target == mapped, 1, 2))]


def gradient(low: str, high: str) -> Gradient:
    """Explain the colours of uncertainty: what stands at either end."""
    stops = tuple(colors.to_hex(colormaps[UNSURE](position / 6)) for position in range(7))
    return Gradient(low, high, stops)


def mean_of(path: str) -> float:
    """Mean of a raster's first band from a decimated reading; NaN without a valid pixel."""
    values, valid = _first_band(path)
    return float(values[valid].astype(np.float64).mean()) if valid.any() else float("nan")


def scale_bar(info: RasterInfo) -> ScaleBar | None:
    """Choose the longest bar of 1, 2 or 5 × 10ⁿ metres that takes up to 30 % of the width; None without a scale."""
    metres = ground_pixel(info)
    if metres is None:
        return None
    width = metres[0] * info.width
    length = max(
        step * 10.0**power
        for power in range(-3, 8)
        for step in (1, 2, 5)
        if step * 10.0**power <= _LONGEST_BAR * width or (power, step) == (-3, 1)
    )
    label = f"{length / 1000:g}{THIN}km" if length >= 1000 else f"{length:g}{THIN}m"
    return ScaleBar(label, min(1.0, length / width))


def north_up(info: RasterInfo) -> bool:
    """Whether a raster's columns run east and its rows south, as far as it has a CRS."""
    a, b, _, d, e, _ = info.transform
    return info.crs is not None and a > 0 and b == 0 and d == 0 and e < 0


def _first_band(path: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Read a raster's first band decimated, in its own unit (GDAL's scale and offset), and where it is valid."""
    with open_raster(path) as dataset:
        band = read_decimated(dataset, [0], MAX_SIDE)
        valid = valid_decimated(dataset, band, [0], MAX_SIDE)
        if dataset.scales[0] == 1 and dataset.offsets[0] == 0:
            return band[0], valid
        return band[0] * np.float32(dataset.scales[0]) + np.float32(dataset.offsets[0]), valid
