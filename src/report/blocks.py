"""What a page is made of: blocks of plain things, each drawn by the template macro that its kind names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from src.report.wording import grouped, in_percent

_MOST_NAMED = 8
"""Classes whose names fit above the columns of a matrix."""


@dataclass(frozen=True)
class Text:
    """Paragraphs, one per string."""

    kind: ClassVar[str] = "text"
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """A figure worth a tile: the value as text, its name, and what it means in a few words."""

    value: str
    name: str
    meaning: str


@dataclass(frozen=True)
class Headline:
    """The few numbers that a hurried reader takes away."""

    kind: ClassVar[str] = "headline"
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Legend:
    """Names and colours (#rrggbb)."""

    kind: ClassVar[str] = "legend"
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Gradient:
    """A legend of colours that run into each other: words for both ends, and the colours between."""

    kind: ClassVar[str] = "gradient"
    low: str
    high: str
    colors: tuple[str, ...]


@dataclass(frozen=True)
class Bar:
    """One row of :class:`Bars`.

    Attributes:
        name: What the row is about.
        share: Length of the bar, 0–1; NaN or None for no bar.
        cells: Texts, the first beside the bar, then one per further column.
        color: ``#rrggbb`` of a class; None for none.
        summary: Whether the row sums up those above it.
    """

    name: str
    share: float | None
    cells: tuple[str, ...]
    color: str | None = None
    summary: bool = False

    @property
    def percent(self) -> float | None:
        """The bar's length in percent of the column, None for no bar."""
        if self.share is None or not np.isfinite(self.share):
            return None
        return round(100 * min(max(self.share, 0.0), 1.0), 2)


@dataclass(frozen=True)
class Bars:
    """A table whose second column is drawn as bars; ``head`` names the columns."""

    kind: ClassVar[str] = "bars"
    caption: str
    head: tuple[str, ...]
    rows: tuple[Bar, ...]


@dataclass(frozen=True)
class Cell:
    """A cell of a :class:`Matrix`.

    Attributes:
        count: Its pixels.
        share: How much of the row they are, 0–100; None in the row of a class without a label.
        percent: The same to read: only none at all is 0, and only all of them 100.
        right: Whether label and map say the same.
    """

    count: str
    share: float | None
    percent: str
    right: bool


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix as a table: rows are true, columns mapped classes, shades are shares of the row."""

    kind: ClassVar[str] = "matrix"
    caption: str
    names: tuple[str, ...]
    colors: tuple[str, ...]
    counts: npt.NDArray[np.int64]

    @property
    def dense(self) -> bool:
        """Whether there are so many classes that columns go by number and cells have no counts."""
        return len(self.names) > _MOST_NAMED

    @property
    def rows(self) -> list[tuple[str, str, list[Cell]]]:
        """Per true class its name, its colour and its cells."""
        totals = self.counts.sum(1)
        return [
            (name, color, [_cell(int(count), int(total), i == j) for j, count in enumerate(counts)])
            for i, (name, color, counts, total) in enumerate(
                zip(self.names, self.colors, self.counts, totals, strict=True)
            )
        ]


def _cell(count: int, total: int, right: bool) -> Cell:
    share = count / total if total else np.nan
    return Cell(grouped(count), round(100 * share, 1) if total else None, in_percent(share), right)


@dataclass(frozen=True)
class ScaleBar:
    """A length on the ground and how much of the picture's width it takes, 0–1."""

    label: str
    share: float


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes:
        uri: ``data:`` URI.
        width: Pixels.
        height: Pixels.
        alt: What it shows, for those who do not see it.
        caption: Below it; may be empty.
        scale: Drawn into its lower left corner.
        north: Whether to draw an arrow for north (up).
        wide: Whether it takes the page's whole width among :class:`Pictures`: a drawing with letters.
    """

    uri: str
    width: int
    height: int
    alt: str
    caption: str = ""
    scale: ScaleBar | None = None
    north: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side where there is room."""

    kind: ClassVar[str] = "pictures"
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Strip:
    """Pictures of one thing, always together: a chip as image, label, prediction, difference."""

    title: str
    note: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Strips:
    """Strips under a heading."""

    kind: ClassVar[str] = "strips"
    title: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Chart:
    """A drawing as SVG text whose colours follow the page's."""

    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Charts:
    """Charts side by side where there is room."""

    kind: ClassVar[str] = "charts"
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Listing:
    """Text as it stands, folded away under a title (unfolded in print)."""

    kind: ClassVar[str] = "listing"
    title: str
    text: str


@dataclass(frozen=True)
class Files:
    """Paths of files, each with what it is; the page links to them from where it lies."""

    kind: ClassVar[str] = "files"
    files: tuple[tuple[Path, str], ...]


Block = Text | Headline | Legend | Gradient | Bars | Matrix | Pictures | Strips | Charts | Facts | Listing | Files
