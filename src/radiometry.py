"""Whether a raster's numbers are those that were expected: reflectances from 0 to 1 and times 10 000 are not alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from src.bands import BandStatistics, Normalization
from src.pixel_size import Georeferenced, other_size, side_on_ground
from src.spec import NetworkSpec

FAR = 10.0
"""Expected standard deviations between both means, in the middle one of the bands: no landscape is so unlike others."""
NARROW = 0.015
"""Share of the expected standard deviation, in the middle one of the bands, below which all pixels are almost one."""

UNITS = "Reflectances from 0 to 1 and times 10,000 are not alike; give what was measured and stored in the same way."


@dataclass(frozen=True)
class Levels:
    """Mean and standard deviation of each band, in the file's own numbers.

    Attributes:
        mean: One number per band.
        std: One number per band.
    """

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]

    @classmethod
    def of(cls, statistics: BandStatistics) -> Levels:
        """Return those of pixels that were seen."""
        return cls(statistics.mean, statistics.std)

    @classmethod
    def expected(cls, normalization: Normalization) -> Levels | None:
        """Return those that a network was trained with; None where its normalisation does not tell."""
        used = np.array(normalization.used)
        mean, std = (np.where(used, each, np.nan) for each in (normalization.mean, normalization.std))
        if np.all((mean == 0) & (std == 1) | ~used):
            return None
        return cls(mean * normalization.scale, std * normalization.scale)


def caution(found: Levels, expected: Levels, who: str) -> str | None:
    """Say how far numbers are from what was expected, where it is so far that the network cannot know what they mean.

    Args:
        found: Of a raster, or of a sample of it; NaN where a band has no measurement.
        expected: Of the same bands.
        who: Who expects them: ``training``, or a file's name.

    Returns:
        What is the matter and what to do; None where nothing is unusual.
    """
    known = np.isfinite(found.mean) & np.isfinite(expected.mean) & (expected.std > 0)
    if not known.any():
        return None
    far = np.abs(found.mean - expected.mean)[known] / expected.std[known]
    spread = found.std[known] / expected.std[known]
    if np.median(far) <= FAR and np.median(spread) >= NARROW:
        return None
    here, there = (f"{_middle(each.mean[known])} ± {_middle(each.std[known])}" for each in (found, expected))
    words = f"its numbers are {here} in the middle one of its bands, {who} had {there}"
    factor = _power_of_ten(found, expected, known)
    return f"{words} (about {factor}). {UNITS}" if factor else f"{words}. {UNITS}"


def unlike_training(spec: NetworkSpec, rasters: Sequence[Georeferenced], found: BandStatistics) -> str | None:
    """Say what about rasters is so unlike those of training that the network cannot know what they show.

    Args:
        spec: The network.
        rasters: Scenes or chips.
        found: Statistics of the network's bands there.

    Returns:
        What is the matter and what to do; None where nothing is unusual.
    """
    expected = Levels.expected(spec.normalization)
    words = [
        caution(Levels.of(found), expected, "training") if expected else None,
        other_size(side_on_ground(rasters), spec.pixel, "training"),
    ]
    return " Also, ".join(filter(None, words)) or None


def merged(statistics: Iterable[BandStatistics], bands: int) -> BandStatistics:
    """Put statistics of parts together."""
    total = BandStatistics(bands)
    for part in statistics:
        total.merge(part)
    return total


def _middle(numbers: npt.NDArray[np.float64]) -> str:
    number = float(np.median(numbers))
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _power_of_ten(found: Levels, expected: Levels, known: npt.NDArray[np.bool_]) -> str | None:
    """Say by which power of ten all is too large or too small; None where means and deviations do not agree on one."""
    steps = []
    for name in ("mean", "std"):
        here, there = (np.median(np.abs(getattr(each, name)[known])) for each in (found, expected))
        if not here > 0 or not there > 0:
            return None
        steps.append(math.log10(here / there))
    power = round(sum(steps) / 2)
    if power == 0 or max(abs(step - power) for step in steps) > 0.75:
        return None
    return f"{10 ** abs(power):,} times as {'large' if power > 0 else 'small'}"
