"""How much of a map each class covers: pixels, percent and, where the CRS tells it, hectares."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from src.atomic import write_text
from src.foreign_text import cell
from src.labels import UNCLASSIFIED, ClassTable
from src.pixel_size import row_areas
from src.raster.read import RasterInfo


@dataclass(frozen=True)
class ClassArea:
    """A class's share of a map.

    Attributes:
        value: Class value; 0 for pixels without a measurement.
        name: Its name.
        pixels: How many.
        percent: Of the ground that has a class, of the pixels where the CRS tells no hectares; NaN for value 0.
        hectares: None where the CRS does not tell.
    """

    value: int
    name: str
    pixels: int
    percent: float
    hectares: float | None


class AreaCounter:
    """Counts the pixels of a map's rows by class."""

    def __init__(self, grid: RasterInfo, classes: ClassTable) -> None:
        """Start without a pixel; ``grid`` is the map's."""
        self._classes, self._areas = classes, row_areas(grid)
        self._pixels: npt.NDArray[np.int64] = np.zeros(256, np.int64)
        self._square_metres: npt.NDArray[np.float64] = np.zeros(256)

    def add(self, first_row: int, values: npt.NDArray[np.uint8]) -> None:
        """Add whole rows of class values, H × W, the first of which is ``first_row``."""
        if self._areas is None or np.ptp(self._areas) == 0:
            counts = np.bincount(values.ravel(), minlength=256)
            self._pixels += counts
            self._square_metres += counts * (0.0 if self._areas is None else self._areas[0])
            return
        for number, row in enumerate(values, start=first_row):
            counts = np.bincount(row, minlength=256)
            self._pixels += counts
            self._square_metres += counts * self._areas[number]

    def result(self) -> list[ClassArea]:
        """Return an entry per class of the table, and a last one for pixels without a class if there are any."""
        sizes = self._pixels if self._areas is None else self._square_metres
        mapped = float(sizes[1:].sum()) or 1.0
        names = dict(zip(self._classes.values, self._classes.names, strict=True))
        if self._pixels[UNCLASSIFIED]:
            names[UNCLASSIFIED] = "no data"
        return [
            ClassArea(
                value,
                name,
                int(self._pixels[value]),
                100 * float(sizes[value]) / mapped if value != UNCLASSIFIED else math.nan,
                None if self._areas is None else float(self._square_metres[value]) / 1e4,
            )
            for value, name in names.items()
        ]


def write_areas_csv(path: Path, areas: Sequence[ClassArea]) -> None:
    """Write a row per class: ``Class``, ``Name``, ``Pixels``, ``Percent``, ``Hectares``; empty where there is none."""
    rows = [("Class", "Name", "Pixels", "Percent", "Hectares")]
    for area in areas:
        percent = "" if math.isnan(area.percent) else f"{area.percent:.6g}"
        hectares = "" if area.hectares is None else f"{area.hectares:.4f}"
        rows.append((str(area.value), cell(area.name), str(area.pixels), percent, hectares))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def format_areas(areas: list[ClassArea]) -> list[str]:
    """Lay areas out as lines for a terminal."""
    width = max(len(f"{area.value} {area.name}") for area in areas)
    measured = areas[0].hectares is not None
    lines = [f"{'Class':<{width}}  {'pixels':>14}" + (f"  {'hectares':>14}" if measured else "") + f"  {'percent':>8}"]
    for area in areas:
        hectares = f"  {area.hectares:14,.1f}" if area.hectares is not None else ""
        percent = "" if math.isnan(area.percent) else f"  {area.percent:8.2f}"
        lines.append(f"{f'{area.value} {area.name}':<{width}}  {area.pixels:14,}{hectares}{percent}")
    return lines
