"""Whether a raster's numbers are those that were expected: reflectances from 0 to 1 and times 10 000 are not alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from src.bands import Band, BandStatistics, Normalization
from src.pixel_size import Georeferenced, other_size, sides_on_ground
from src.spec import NetworkSpec

FAR = 10.0
"""Expected standard deviations between both means, in the middle one of the bands: no landscape is so unlike others."""
NARROW = 0.015
"""Share of the expected standard deviation, in the middle one of the bands, below which all pixels are almost one."""
LEAST = 100
"""Pixels by which a raster is judged, at least: of fewer a deviation says little."""
Units = tuple[float, float]
"""Scale and offset that a file declares."""
_PLAIN: Units = (1.0, 0.0)
"""Where it declares none."""
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
    def expected(cls, statistics: Normalization) -> Levels:
        """Return those of the chips that a network was trained on; NaN for bands that it does not use."""
        used = np.array(statistics.used)
        mean, std = (np.where(used, each, np.nan) * statistics.scale for each in (statistics.mean, statistics.std))
        return cls(mean, std)


def caution(found: Levels, expected: Levels, who: str) -> str | None:
    """Say how far numbers are from what was expected, where it is so far that the network cannot know what they mean.

    Args:
        found: Of a raster, or of a sample of it; NaN where a band has no measurement.
        expected: Of the same bands.
        who: Who expects them: ``training``, or a file's name.

    Returns:
        What is the matter and what to do; None where nothing is unusual.
    """
    known = _both(found, expected)
    if not known.any():
        return None
    far = np.abs(found.mean - expected.mean)[known] / expected.std[known]
    spread = found.std[known] / expected.std[known]
    if np.median(far) <= FAR and np.median(spread) >= NARROW:
        return None
    factor = _power_of_ten(found, expected, known)
    words = _compared(found, expected, known, who)
    return f"{words} ({factor}). {UNITS}" if factor else f"{words}. {UNITS}"


def unlike_training(
    spec: NetworkSpec, rasters: Sequence[Georeferenced], found: BandStatistics, bands: Sequence[Band] | None = None
) -> str | None:
    """Say what about rasters is so unlike those of training that the network cannot know what they show.

    Args:
        spec: The network.
        rasters: Scenes or chips.
        found: Statistics of the network's bands there.
        bands: The network's bands there, with the units that their files declare; None where nobody knows.

    Returns:
        What is the matter and what to do; None where nothing is unusual.
    """
    scaling = other_scaling(bands, spec.bands, spec.normalization.used, "training's") if bands else None
    expected = spec.statistics if found.count.max(initial=0) >= LEAST else None
    words = [
        caution(Levels.of(found), Levels.expected(expected), "training") if expected else None,
        _marked_bad(bands, spec) if bands else None,
        f"{scaling}. Bring its numbers to training's unit first." if scaling else None,
        other_size(sides_on_ground(rasters), spec.sides, "training"),
    ]
    return " Also, ".join(filter(None, words)) or None


def _marked_bad(bands: Sequence[Band], spec: NetworkSpec) -> str | None:
    """Say that bands are marked bad which the network has learnt from."""
    learnt = zip(bands, spec.bands, spec.normalization.used, strict=True)
    bad = [here.name for here, there, use in learnt if use and here.bad and not there.bad]
    if not bad:
        return None
    are, they = ("is", "it") if len(bad) == 1 else ("are", "them")
    listed = ", ".join(bad[:10]) + " …" * (len(bad) > 10)
    return f"{listed} {are} marked bad (bbl), and the network uses {they} all the same"


def other_scaling(found: Sequence[Band], expected: Sequence[Band], used: Sequence[bool], whose: str) -> str | None:
    """Say that bands declare other units than expected, the offset that Sentinel-2 has since 2022 for example.

    A scale alone that only one of the two declares says little: it is lost easily, and what is stored by another power
    of ten shows in the numbers. An offset does not show: it is as small as one landscape's difference from another.

    Args:
        found: Bands of a raster.
        expected: The same bands as they should be.
        used: Which of them count.
        whose: Whose these are: ``training's``, or ``that of`` a file.

    Returns:
        What is the matter; None where nothing is, or where one is not known.
    """
    for number, (here, there, use) in enumerate(zip(found, expected, used, strict=True), start=1):
        if use and here.units and there.units and _differ(here.units, there.units):
            declared = (f"scale {scale:g} and offset {offset:g}" for scale, offset in (here.units, there.units))
            return (
                f"its band {number} declares {next(declared)}, {whose} {next(declared)}, and numbers are taken as the "
                "files hold them"
            )
    return None


def _differ(here: Units, there: Units) -> bool:
    if _PLAIN in (here, there):
        return here[1] != there[1]
    return not np.allclose(here, there, rtol=1e-5, atol=0)


def other_units(scenes: Mapping[str, BandStatistics]) -> dict[str, str]:
    """Say which scenes of a data set are in another unit than the middle one of them.

    Scenes may be tiles of one kind of land each, so unlike landscapes say nothing: only what is far larger or smaller,
    mean and deviation alike, is of another unit.

    Args:
        scenes: Statistics of the same bands, by the scene's name.

    Returns:
        For each of them, what is the matter.
    """
    known = {name: Levels.of(found) for name, found in scenes.items() if found.count.max(initial=0) >= LEAST}
    if not known:
        return {}
    ordered = sorted(known, key=lambda name: float(np.nanmedian(np.abs(known[name].mean))))
    middle = ordered[(len(ordered) - 1) // 2]
    found = {}
    for name, levels in known.items():
        bands = _both(levels, known[middle])
        factor = _power_of_ten(levels, known[middle], bands) if bands.any() else None
        if factor is not None and factor.power not in (-1, 1):
            found[name] = f"{_compared(levels, known[middle], bands, middle)} ({factor}). {UNITS}"
    return found


@dataclass(frozen=True)
class _Factor:
    """A power of ten, and in words."""

    power: int

    def __str__(self) -> str:
        """Say how much larger or smaller all is."""
        return f"about {10 ** abs(self.power):,} times as {'large' if self.power > 0 else 'small'}"


def _both(found: Levels, expected: Levels) -> npt.NDArray[np.bool_]:
    """Tell which bands both have, and vary in what is expected."""
    return np.asarray(np.isfinite(found.mean) & np.isfinite(expected.mean) & (expected.std > 0))


def _compared(found: Levels, expected: Levels, bands: npt.NDArray[np.bool_], who: str) -> str:
    here, there = (f"{_middle(each.mean[bands])} ± {_middle(each.std[bands])}" for each in (found, expected))
    return f"its numbers are {here} in the middle one of its bands, {who} had {there}"


def _middle(numbers: npt.NDArray[np.float64]) -> str:
    number = float(np.median(numbers))
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _power_of_ten(found: Levels, expected: Levels, bands: npt.NDArray[np.bool_]) -> _Factor | None:
    """Say by which power of ten all is too large or too small; None where means and deviations do not agree on one."""
    steps = []
    for name in ("mean", "std"):
        here, there = (np.median(np.abs(getattr(each, name)[bands])) for each in (found, expected))
        if not here > 0 or not there > 0:
            return None
        steps.append(math.log10(here / there))
    power = round(sum(steps) / 2)
    if power == 0 or max(abs(step - power) for step in steps) > 0.7:
        return None
    return _Factor(power)
