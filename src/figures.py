"""Pictures of scores, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from src.atomic import whole_file

if TYPE_CHECKING:  # it imports torch, which prepare.py does without
    from src.calibration import Calibration

_MOST_CLASSES_WITH_NUMBERS = 24
_LONGEST_TITLE = 40
_ROOM = 12
"""Letters of a title that find room beside the matrix as it is; a longer one makes the picture larger."""
INK, ACCENT, GREY = "#1f2933", "#1f77b4", "#9aa5b1"
"""Colours of drawings: text, what matters, what stands behind it. A report exchanges them for its own."""


def draw_confusion(
    path: str | Path,
    titles: list[str],
    counts: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
) -> None:
    """Draw a confusion matrix as PNG: colour and percent are the row's share, the small number counts pixels.

    Args:
        path: Where to.
        titles: A title per class, for rows (truth) and columns (prediction).
        counts: n × n pixels.
        shares: n × n shares 0–1 of each row; NaN in the row of a class without pixels.
    """
    classes = len(titles)
    side = 2.2 + min(16.0, max(3.0, 0.72 * classes))
    size = max(2.0, min(9.0, 9.0 * 30 / classes))
    titles = [shortened(title, _LONGEST_TITLE) for title in titles]
    further = max(0, max(map(len, titles)) - _ROOM) * size * 0.6 / 72  # inches; a letter is 0.6 of its height wide
    figure = Figure(figsize=(side + 0.6 + further, side + 0.8 * further), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("#eef0f2")  # shows where a class has no pixels
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    text: dict[str, Any] = {"fontsize": size, "parse_math": False}  # $ is a letter
    axes.set_xticks(range(classes), titles, rotation=45, ha="right", rotation_mode="anchor", **text)
    axes.set_yticks(range(classes), titles, **text)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    numbered = classes <= _MOST_CLASSES_WITH_NUMBERS
    axes.set_title(f"Confusion matrix: share of the class's pixels{', and pixels' if numbered else ''}", fontsize=10)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    if numbered:
        for (row, column), count in np.ndenumerate(counts):
            share = shares[row, column]
            if count:
                color = "white" if share > 0.55 else INK
                axes.text(column, row - 0.12, f"{share:.0%}", ha="center", va="center", fontsize=9, color=color)
                axes.text(column, row + 0.22, _short(int(count)), ha="center", va="center", fontsize=6, color=color)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02, format=lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    with any_letters():
        figure.draw_without_rendering()  # only a second layout knows how much room the turned names take
    _save(figure, path, bbox_inches="tight")  # whatever the layout comes to, no word is cut off


def draw_reliability(path: str | Path, calibration: Calibration) -> None:
    """Draw :func:`reliability_figure` as PNG."""
    _save(reliability_figure(calibration), path)


def reliability_figure(calibration: Calibration) -> Figure:
    """Draw accuracy against confidence, and how many pixels have which confidence."""
    figure = Figure(figsize=(5.2, 6), dpi=150, layout="constrained")
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


def _save(figure: Figure, path: str | Path, **options: Any) -> None:
    with whole_file(path) as partial, any_letters():
        figure.savefig(partial, format="png", **options)
