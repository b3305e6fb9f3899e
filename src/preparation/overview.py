"""The picture of a data folder: where the chips of each part lie, and which classes they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from src.figures import any_letters
from src.grid import Window
from src.labels import ClassTable, LandClass
from src.quicklook import rgb_bands, stretch
from src.raster.read import RasterInfo
from src.tables import PARTS

PART_COLORS = ("#3b82f6", "#f59e0b", "#ec4899")
"""Training, validation, test: told apart on vegetation, water and soil, and by the colour-blind."""
MOST_SCENES = 6
"""Scenes that the picture has room for."""
_SIDE = 1000
_MOST_OUTLINES = 4000
_INK = "#1f2933"
_NOTHING = "#d5d9de"
"""Where nothing was measured."""
_TINT = 0.3
"""Share of a part's colour on the ground that its chips cover."""
_NARROW = 20
"""Times that a scene is longer than wide from which on it is not drawn to scale: nobody would see it."""
_NAME = 36
"""Letters of a class name beside the bars, which would have no room left."""


def _entry(entry: LandClass) -> str:
    return f"{shorten(entry.name, _NAME, placeholder=' …')} ({entry.value})"


class Thumbnail:
    """A small picture of a scene, put together from windows while they are read: no pixel is read for it alone."""

    def __init__(self, info: RasterInfo) -> None:
        """Start empty for one scene."""
        self.info = info
        self.factor = math.ceil(max(info.height, info.width) / _SIDE)
        shape = math.ceil(info.height / self.factor), math.ceil(info.width / self.factor)
        self._bands = list(rgb_bands(info.bands))
        self.image = np.zeros((3, *shape), info.dtype)
        self.valid = np.zeros(shape, bool)

    def add(self, window: Window, image: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Take every n-th pixel of a window; windows may come in any order and from any thread.

        Args:
            window: In the scene; may reach over its edge.
            image: C × H × W, all bands.
            valid: H × W.
        """
        inside = window.intersection(self.info.window)
        top, left = -inside.row % self.factor, -inside.column % self.factor
        here = np.s_[top : inside.height : self.factor, left : inside.width : self.factor]
        part = valid[here]
        row, column = -(-inside.row // self.factor), -(-inside.column // self.factor)
        there = np.s_[row : row + part.shape[0], column : column + part.shape[1]]
        self.valid[there] = part
        self.image[:, *there] = image[self._bands][:, *here]

    def picture(self) -> npt.NDArray[np.uint8]:
        """Return it as H × W × 4."""
        return stretch(self.image, self.valid)


@dataclass(frozen=True)
class Overview:
    """What the picture shows.

    Attributes:
        thumbnails: Of the first scenes, :data:`MOST_SCENES` at most.
        chips: Scene and window of each chip.
        parts: Part of each chip, −1 for none.
        counts: n × k pixels of each class in each chip.
        classes: The class table.
        imbalance: See :func:`src.splits.imbalance`.
        more: Scenes that have no thumbnail.
    """

    thumbnails: Sequence[Thumbnail]
    chips: Sequence[tuple[int, Window]]
    parts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    classes: ClassTable
    imbalance: float
    more: int = 0

    def draw(self, path: Path) -> None:
        """Write it as PNG."""
        shown = len(self.thumbnails)
        columns = math.ceil(math.sqrt(shown))
        rows = math.ceil(shown / columns)
        classes = len(self.classes)
        figure = Figure(figsize=(13, max(5.5, 1.2 + 0.42 * classes)), dpi=120)
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
        grid = figure.add_gridspec(1, 2, width_ratios=(1.45, 1))
        left, right = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        for scene in range(shown):
            self._draw_scene(left.add_subplot(rows, columns, scene + 1), scene)
        left.legend(handles=self._legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        if self.more:
            left.suptitle(f"{shown} of {shown + self.more} scenes", fontsize=10, color=_INK)
        right.suptitle(
            f"Classes of the parts: imbalance {self.imbalance:.4f}\n"
            "(mean total variation distance, 0 = alike, 1 = apart)",
            fontsize=10,
            color=_INK,
        )
        right.supxlabel("share of the part's labelled pixels, %", fontsize=9, color=_INK)
        self._draw_classes(right.add_subplot())
        engine = figure.get_layout_engine()
        assert engine is not None
        with any_letters():
            engine.execute(figure)
            figure.set_layout_engine(None)  # else everything is drawn once more, to be laid out
            figure.savefig(path, metadata={"Software": None})  # matplotlib's version would make the bytes differ

    def _legend(self) -> list[Patch]:
        sizes = [int((self.parts == part).sum()) for part in range(len(PARTS))]
        return [
            Patch(color=color, alpha=0.8, label=f"{name}: {size:,} chips")
            for name, color, size in zip(PARTS, PART_COLORS, sizes, strict=True)
        ]

    def _draw_scene(self, axes: Axes, scene: int) -> None:
        thumbnail = self.thumbnails[scene]
        info = thumbnail.info
        extent = (0.0, float(info.width), float(info.height), 0.0)
        axes.set_facecolor(_NOTHING)
        narrow = max(info.width, info.height) > _NARROW * min(info.width, info.height)
        picture = _opaque(thumbnail.picture())
        for part, color in enumerate(PART_COLORS):
            windows = [w for (s, w), p in zip(self.chips, self.parts, strict=True) if s == scene and p == part]
            _tint(picture, thumbnail.factor, windows, color)
            if len(self.chips) <= _MOST_OUTLINES:
                axes.add_collection(
                    PolyCollection(list(_corners(windows)), facecolor="none", edgecolor=color, linewidth=0.7)
                )
        axes.imshow(picture, extent=extent, interpolation="nearest")
        axes.set_xlim(0, max([info.width, *(w.column_stop for s, w in self.chips if s == scene)]))
        axes.set_ylim(max([info.height, *(w.row_stop for s, w in self.chips if s == scene)]), 0)
        axes.set_aspect("auto" if narrow else "equal")
        axes.set_title(f"{info.name}, {info.width} × {info.height} px", fontsize=9, color=_INK, parse_math=False)
        axes.tick_params(labelsize=7, colors="#616e7c")

    def _draw_classes(self, axes: Axes) -> None:
        """Draw the share of each class in each part as three bars under each other."""
        places = np.arange(len(self.classes))
        height = 0.26
        for part, color in enumerate(PART_COLORS):
            pixels = self.counts[self.parts == part].sum(0)
            shares = 100 * pixels / max(pixels.sum(), 1)
            bars = axes.barh(places + (part - 1) * height, shares, height * 0.9, color=color, label=PARTS[part])
            axes.bar_label(bars, [f"{share:.1f}" for share in shares], padding=2, fontsize=7, color="#616e7c")
        axes.set_yticks(places, [_entry(c) for c in self.classes.classes], fontsize=9, color=_INK, parse_math=False)
        beside = axes.get_yaxis_transform()
        for place, entry in zip(places, self.classes.classes, strict=True):
            axes.add_patch(
                Rectangle(
                    (-0.022, place - 0.4),
                    0.014,
                    0.8,
                    color=entry.color,
                    transform=beside,
                    clip_on=False,
                )
            )
        axes.tick_params(axis="y", length=0, pad=12)
        axes.tick_params(axis="x", labelsize=8, colors="#616e7c")
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.spines[["top", "right", "left"]].set_visible(False)


def _opaque(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return H × W × 4 as H × W × 3, with a colour where it is transparent."""
    nothing = np.array([round(255 * share) for share in to_rgb(_NOTHING)], np.uint8)
    return np.where(picture[..., 3:] > 0, picture[..., :3], nothing)


def _corners(windows: Sequence[Window]) -> npt.NDArray[np.int64]:
    """Return windows × 4 × 2 (x, y): a rectangle's own object for each of them takes longer than drawing it."""
    edges = np.array([(w.column, w.row, w.column_stop, w.row_stop) for w in windows], np.int64).reshape(-1, 4)
    return edges[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]


def _tint(picture: npt.NDArray[np.uint8], factor: int, windows: Sequence[Window], color: str) -> None:
    """Mix a colour into the ground that chips cover; where they overlap it is no darker.

    Args:
        picture: H × W × 3, changed in place.
        factor: Pixels of the scene per pixel of the picture.
        windows: The chips, in the scene.
        color: As ``#rrggbb``.
    """
    covered = np.zeros(picture.shape[:2], bool)
    for window in windows:
        rows = slice(round(window.row / factor), round(window.row_stop / factor))
        covered[rows, round(window.column / factor) : round(window.column_stop / factor)] = True
    for channel, share in enumerate(to_rgb(color)):
        mixed = ((1 - _TINT) * np.arange(256) + _TINT * 255 * share).round().astype(np.uint8)
        picture[..., channel] = np.where(covered, mixed[picture[..., channel]], picture[..., channel])
