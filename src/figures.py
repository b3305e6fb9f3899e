"""Pictures of scores, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from src.atomic import whole_file
from src.report.wording import in_percent

if TYPE_CHECKING:  # it imports torch, which prepare.py does without
    from src.calibration import Calibration

_MOST_CLASSES_WITH_NUMBERS = 24
_LONGEST_TITLE = 40
_MARGIN = 0.1
"""Inches of white around a picture."""
_DPI = 150
INK, ACCENT, GREY = "#1f2933", "#1f77b4", "#9aa5b1"
"""Colours of drawings: text, what matters, what stands behind it. A report exchanges them for its own."""


def draw_confusion(
    path: str | Path,
    titles: Sequence[str],
    counts: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
) -> None:
    """Draw :func:`confusion_picture` as PNG."""
    picture = Image.fromarray(confusion_picture(titles, counts, shares, _DPI))
    with whole_file(path) as partial:
        picture.save(partial, "PNG", dpi=(_DPI, _DPI))


def confusion_picture(
    titles: Sequence[str], counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], dpi: int
) -> npt.NDArray[np.uint8]:
    """Draw a confusion matrix: colour and percent are the row's share, the small number counts pixels.

    Args:
        titles: A title per class, for rows (truth) and columns (prediction).
        counts: n × n pixels.
        shares: n × n shares 0–1 of each row; NaN in the row of a class without pixels.
        dpi: Pixels per inch; a class takes up to 0.72 inches.

    Returns:
        H × W × 3: red, green and blue.
    """
    numbered = len(titles) <= _MOST_CLASSES_WITH_NUMBERS
    figure = _matrix_figure([shortened(title, _LONGEST_TITLE) for title in titles], shares, numbered, dpi)
    canvas = FigureCanvasAgg(figure)
    with any_letters():
        canvas.draw()  # type: ignore[no-untyped-call]
        used = figure.get_tightbbox().padded(_MARGIN)
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]
    if numbered:
        _write_cells(picture, figure.axes[0], counts, shares, dpi)
    left, bottom, right, top = (dpi * edge for edge in used.extents)
    frame = (math.floor(left), math.floor(picture.height - top), math.ceil(right), math.ceil(picture.height - bottom))
    return np.asarray(picture.crop(frame))


def _matrix_figure(titles: Sequence[str], shares: npt.NDArray[np.float64], numbered: bool, dpi: int) -> Figure:
    """Draw a matrix's shades, titles and legend on paper that has room for titles of any letters."""
    classes = len(titles)
    side = min(16.0, max(3.0, 0.72 * classes))
    size = max(2.0, min(9.0, 9.0 * 30 / classes))
    room = 1.0 + max(map(len, titles)) * size / 72  # inches; a letter is at most as wide as high
    width, height = room + side + 1.2, room + side + 0.6
    figure = Figure(figsize=(width, height), dpi=dpi)
    axes = figure.add_axes((room / width, room / height, side / width, side / height))
    axes.set_facecolor("#eef0f2")  # shows where a class has no pixels
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    text: dict[str, Any] = {"fontsize": size, "parse_math": False}  # $ is a letter
    axes.set_xticks(range(classes), titles, rotation=45, ha="right", rotation_mode="anchor", **text)
    axes.set_yticks(range(classes), titles, **text)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    axes.set_title(f"Confusion matrix: share of the class's pixels{', and pixels' if numbered else ''}", fontsize=10)
    for lines in (axes.hlines, axes.vlines):
        lines(np.arange(1, classes) - 0.5, -0.5, classes - 0.5, color="white", linewidth=1)
    beside = figure.add_axes(((room + side + 0.15) / width, room / height, 0.2 / width, side / height))
    bar = figure.colorbar(image, cax=beside, format=lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    return figure


def _write_cells(
    picture: Image.Image, axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], dpi: int
) -> None:
    """Write percent and pixels into a drawn matrix; Pillow takes a tenth of the time of matplotlib's texts."""
    pen, font = ImageDraw.Draw(picture), font_manager.findfont("DejaVu Sans")
    large, small = (ImageFont.truetype(font, points * dpi / 72) for points in (9, 6))
    for (row, column), count in np.ndenumerate(counts):
        if not count:
            continue
        share = float(shares[row, column])
        color = "white" if share > 0.55 else INK
        for down, words, letters in ((-0.12, f"{in_percent(share)}%", large), (0.22, _short(int(count)), small)):
            x, y = axes.transData.transform((column, row + down))
            pen.text((x, picture.height - y), words, color, letters, anchor="mm")


def draw_reliability(path: str | Path, calibration: Calibration) -> None:
    """Draw :func:`reliability_figure` as PNG."""
    with whole_file(path) as partial:
        reliability_figure(calibration).savefig(partial, format="png")


def reliability_figure(calibration: Calibration) -> Figure:
    """Draw accuracy against confidence, and how many pixels have which confidence."""
    figure = Figure(figsize=(5.2, 6), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    bins = len(calibration.pixels)
    centers = (np.arange(bins) + 0.5) / bins
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    upper.bar(centers, np.nan_to_num(calibration.accuracy), 0.92 / bins, color=ACCENT, alpha=0.35, label="accuracy")
    upper.plot(
        calibration.mean_confidence, calibration.accuracy, "o-", color=ACCENT, label="accuracy at mean confidence"
    )
    upper.set(ylabel="share of right pixels", xlim=(0, 1), ylim=(0, 1.02))
    upper.set_title(f"Reliability: expected calibration error {calibration.expected_error:.4f}", fontsize=10)
    # Between both parts, where no curve runs.
    upper.legend(loc="upper center", bbox_to_anchor=(0.5, -0.03), ncols=3, frameon=False, fontsize=7)
    shares = calibration.pixels / max(1, calibration.pixels.sum())
    lower.bar(centers, shares * 100, 0.92 / bins, color=GREY)
    lower.set(xlabel="confidence (probability of the predicted class)", ylabel="% of pixels")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def shortened(text: str, most: int) -> str:
    """Cut a text to at most so many characters, the last of them … where something is missing."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


@contextmanager
def any_letters() -> Iterator[None]:
    """Take names in any script without a word about each letter that matplotlib's font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield


def _short(count: int) -> str:
    """Write a count in at most five characters: 9,999, 12.3k, 4.57M."""
    for limit, divisor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if count >= limit:
            value = count / divisor
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{unit}"
    return f"{count:,}"
