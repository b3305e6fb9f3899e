"""Numbers and lists as a reader writes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.pixel_size import Georeferenced, ground_pixel

THIN = "\u202f"
"""The space between groups of three digits and before units: narrow, and no line breaks there."""


def grouped(number: float) -> str:
    """A whole number in groups of three digits."""
    return f"{round(number):,}".replace(",", THIN)


def counted(number: int, thing: str) -> str:
    """A number of things: ``1 chip``, ``9 chips``."""
    return f"{grouped(number)} {thing}" + ("" if number == 1 else "s")


def decimal(score: float, digits: int = 3) -> str:
    """A score, or a dash where it has no meaning."""
    return f"{score:.{digits}f}" if np.isfinite(score) else "–"


def percent(share: float, digits: int = 0) -> str:
    """A share of 0–1 as percent; a dash where it has no meaning. Only none at all is 0 %, and only all of it 100 %."""
    return f"{in_percent(share, digits)}{THIN}%" if np.isfinite(share) else "–"


def in_percent(share: float, digits: int = 0) -> str:
    """The number of :func:`percent` alone: ``<1``, ``75``, ``>99``."""
    if not np.isfinite(share):
        return "–"
    text, step = f"{100 * share:.{digits}f}", 10.0**-digits
    if share > 0 and float(text) == 0:
        text = f"<{step:.{digits}f}"
    elif share < 1 and float(text) == 100:
        text = f">{100 - step:.{digits}f}"
    return text


def extent(grid: Georeferenced) -> str:
    """A raster's size, and that of its pixels on the ground as far as it tells: ``300 × 200 pixels of 10 m``."""
    size = f"{grouped(grid.width)} × {grouped(grid.height)} pixels"
    metres = ground_pixel(grid)
    if metres is None:
        return size
    across, down = (f"{side:.3g}" for side in metres)
    return f"{size} of {across if across == down else f'{across} × {down}'}{THIN}m"


def listed(words: Sequence[str]) -> str:
    """Words as in a sentence: ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "none"
