"""Bands and what is done to their numbers: which are used, how they are scaled and normalised.

A raw pixel x of a used band becomes (x / scale − mean) / std; unused bands and pixels without a measurement
become 0. The numbers live in :class:`Normalization`, which travels inside the checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from src.errors import UserError
from src.foreign_text import in_a_line

_NUMBERED = re.compile(r"(band|layer|channel)?[\s_-]*\d+", re.IGNORECASE)
"""Names that only count (``band 7``): as good as no name."""

_WAVELENGTH = re.compile(r"\s*\(?\s*(\d+(?:\.\d*)?)\s*(?:nanometers?|micrometers?|nm|um|µm)?\s*\)?", re.IGNORECASE)
"""What GDAL names a band of an ENVI file, or puts behind its name: ``0.665 Micrometers``, ``B4 (664.6 Nanometers)``."""

_COLOURS = {"red": 665.0, "green": 560.0, "blue": 490.0}
"""Centres in nanometres."""
_REACH = 40.0
"""Nanometres that a band's centre may lie off a colour's own: further off it is another colour."""
_SENTINEL2 = ("B0?4", "B0?3", "B0?2")

_LARGEST = float(np.finfo(np.float32).max)
"""Largest number in float32, which networks compute in: beyond it everything is infinite there."""
_ROUNDING = 1e-12
"""Standard deviation, as a share of the mean, that is nothing but rounding: the band is constant."""

SAME = 1.0
"""Nanometres that a band's centre differs by between scenes of one sensor, at most."""
_ALIKE = 5.0
"""Nanometres up to which a band is the expected one, whatever its neighbours are: calibration moves centres."""
_OTHER = 0.05
"""Share of its wavelength from which on a band is another one: Sentinel-2A's and B's differ by 17 of 2200 nm."""


@dataclass(frozen=True)
class Band:
    """One band of an image.

    Attributes:
        name: Its name.
        wavelength: Centre in nanometres, None if unknown.
        bad: Whether the metadata mark it as bad.
        fwhm: Full width at half maximum in nanometres, None if unknown.
        units: Scale and offset that its file declares to turn its numbers into what they measure, 1 and 0 where it
            declares none; None where nobody knows (chips, earlier versions). They make it no other band.
    """

    name: str
    wavelength: float | None = None
    bad: bool = False
    fwhm: float | None = None
    units: tuple[float, float] | None = field(default=None, compare=False)


def bands_from_dicts(rows: Iterable[Mapping[str, Any]]) -> tuple[Band, ...]:
    """Read bands as :func:`bands_to_dicts` wrote them."""
    return tuple(
        Band(str(r["name"]), r.get("wavelength"), bool(r.get("bad", False)), r.get("fwhm"), _units(r.get("units")))
        for r in rows
    )


def _units(pair: Any) -> tuple[float, float] | None:
    if pair is None:
        return None
    scale, offset = pair
    return float(scale), float(offset)


def bands_to_dicts(bands: Iterable[Band]) -> list[dict[str, Any]]:
    """Plain dicts for JSON and checkpoints."""
    return [{**asdict(band), "units": None if band.units is None else list(band.units)} for band in bands]


def without_units(bands: Iterable[Band]) -> tuple[Band, ...]:
    """Return bands whose units nobody knows: chips hold a scene's numbers, but do not declare what these are."""
    return tuple(replace(band, units=None) for band in bands)


def find_rgb(bands: Sequence[Band]) -> tuple[int, int, int] | None:
    """Find the 0-based positions of red, green and blue.

    By wavelength (nearest to 665, 560 and 490 nm), else by name (red, green, blue; Sentinel-2's B04, B03, B02).

    Returns:
        None where neither tells all three.
    """
    for choice in (_by_wavelength(bands), _by_name(bands, list(_COLOURS)), _by_name(bands, _SENTINEL2)):
        if choice is not None:
            return choice
    return None


def _by_wavelength(bands: Sequence[Band]) -> tuple[int, int, int] | None:
    known = [(band.wavelength, index) for index, band in enumerate(bands) if band.wavelength and not band.bad]
    chosen = []
    for centre in _COLOURS.values():
        distance, index = min(((abs(w - centre), i) for w, i in known), default=(np.inf, -1))
        if distance > _REACH:
            return None
        chosen.append(index)
    red, green, blue = chosen
    return (red, green, blue) if len(set(chosen)) == 3 else None


def _by_name(bands: Sequence[Band], patterns: Sequence[str]) -> tuple[int, int, int] | None:
    found = []
    for pattern in patterns:
        matches = [i for i, band in enumerate(bands) if re.search(rf"\b{pattern}\b", band.name, re.IGNORECASE)]
        if not matches:
            return None
        found.append(matches[0])
    return found[0], found[1], found[2]


def match_bands(
    expected: Sequence[Band], found: Sequence[Band], origin: str, by: str = "the checkpoint"
) -> tuple[int, ...]:
    """Find the bands that a network or a data folder expects among those of a raster.

    By name where both sides have names, whatever the order, so a raster may have further bands; else by order, and
    then the count has to be the same. Upper and lower case are one; numbers (``band 7``) and repeated names are none,
    nor is a wavelength part of a name. Where both sides have wavelengths, these have to agree; bands without names, or
    with others, whose wavelengths are the expected ones in another order are taken in that order.

    Args:
        expected: The expected bands.
        found: The raster's bands.
        origin: What to call the raster in an error, usually its path.
        by: What to call who expects the bands.

    Returns:
        For each expected band its 0-based position in the raster.

    Raises:
        UserError: A band is missing or has another wavelength, or the counts differ where there are no names to go by.
    """
    if tuple(expected) == tuple(found):  # every chip of a data folder: nothing below need be asked for each
        return tuple(range(len(expected)))
    for named in (_names, _bare_names):
        wanted, names = named(expected), named(found)
        if wanted and names and set(wanted) <= set(names):
            return _checked(tuple(names.index(name) for name in wanted), expected, found, origin, by)
    if (order := _by_same_wavelength(expected, found)) is not None:
        return order
    if wanted and names:
        missing = [band.name for band, name in zip(expected, wanted, strict=True) if name not in names]
        raise UserError(
            f"{origin} has {_listing(found)}; {by} expects {_listing(expected)}, of which "
            f"{in_a_line(missing)} {'is' if len(missing) == 1 else 'are'} missing. Give a raster with these bands, "
            "or one without band names, in the same order."
        )
    if len(found) != len(expected):
        raise UserError(
            f"{origin} has {_listing(found)}; {by} expects {_listing(expected)}. Give a raster with just "
            "these bands in this order, or with band names to find them by."
        )
    return _checked(tuple(range(len(expected))), expected, found, origin, by)


def _by_same_wavelength(expected: Sequence[Band], found: Sequence[Band]) -> tuple[int, ...] | None:
    """Find each expected band by its wavelength; None where one is not known, or fits none or several."""
    wanted, there = ([band.wavelength for band in bands if band.wavelength] for bands in (expected, found))
    if len(wanted) < len(expected) or len(there) < len(found):
        return None
    same = np.abs(np.subtract.outer(wanted, there)) <= SAME
    return tuple(same.argmax(1).tolist()) if (same.sum(1) == 1).all() and (same.sum(0) == 1).all() else None


def _checked(
    order: tuple[int, ...], expected: Sequence[Band], found: Sequence[Band], origin: str, by: str
) -> tuple[int, ...]:
    """Return ``order``; raises UserError if a band in it is, by its wavelength, another one than expected."""
    known = [band.wavelength for band in expected if band.wavelength]
    for band, number in zip(expected, order, strict=True):
        own, there = band.wavelength, found[number].wavelength
        if not own or not there:
            continue
        distance = abs(own - there)
        if distance > _ALIKE and (distance > _OTHER * own or distance > min(abs(centre - there) for centre in known)):
            raise UserError(
                f"Band {number + 1} of {origin} is {found[number].name!r} ({there:g} nm), but {by} expects "
                f"{band.name!r} ({own:g} nm) there. Give a raster with the same bands in the same order, or correct "
                "its wavelengths."
            )
    return order


def _names(bands: Sequence[Band]) -> tuple[str, ...] | None:
    """Return the names to match by, None where they tell nothing or are ambiguous."""
    return _telling(band.name.strip().casefold() for band in bands)


def _bare_names(bands: Sequence[Band]) -> tuple[str, ...] | None:
    """Return the names without the wavelengths in them, like :func:`_names`."""
    return _telling(_bare(band) for band in bands)


def _bare(band: Band) -> str:
    name = band.name.strip().casefold()
    for found in _WAVELENGTH.finditer(name):
        number = float(found[1])
        same = band.wavelength is not None and min(abs(n - band.wavelength) for n in (number, 1000 * number)) <= SAME
        if same and found.end() == len(name):
            return name[: found.start()].rstrip()
    return name


def _telling(given: Iterable[str]) -> tuple[str, ...] | None:
    names = tuple(given)
    if len(set(names)) < len(names) or any(not name or _NUMBERED.fullmatch(name) for name in names):
        return None
    return names


def _listing(bands: Sequence[Band]) -> str:
    count = f"{len(bands)} band{'' if len(bands) == 1 else 's'}"
    return f"{count} ({in_a_line([band.name for band in bands], counted=False)})" if _names(bands) else count


def measured(image: npt.NDArray[Any], nodata: Sequence[float | None] | float | None) -> npt.NDArray[np.bool_]:
    """Tell which values are measurements: finite, as float32 too, and not the band's nodata value.

    Args:
        image: C × H × W in the file's own numbers (before any scaling).
        nodata: One value for all bands, or one per band; None where there is none.

    Returns:
        C × H × W, True where there is a measurement.
    """
    valid = _finite(image) if image.dtype.kind == "f" else np.ones(image.shape, bool)
    for band, value in enumerate(_nodata_values(image, nodata)):
        if value is not None:
            valid[band] &= image[band] != value
    return valid


def all_measured(
    image: npt.NDArray[Any], nodata: Sequence[float | None] | float | None, used: Sequence[bool] | None = None
) -> npt.NDArray[np.bool_]:
    """Tell which pixels have a measurement in every used band, H × W; see :func:`measured`."""
    valid = np.ones(image.shape[1:], bool)
    values = _nodata_values(image, nodata)
    for band, value in enumerate(values):
        if used is not None and not used[band]:
            continue
        if image.dtype.kind == "f":
            valid &= _finite(image[band])
        if value is not None:
            valid &= image[band] != value
    return valid


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which floats are finite as a network takes them: some of float64 are infinite in float32."""
    finite: npt.NDArray[np.bool_] = np.isfinite(values) if values.dtype.itemsize <= 4 else np.abs(values) <= _LARGEST
    return finite


def _nodata_values(image: npt.NDArray[Any], nodata: Sequence[float | None] | float | None) -> list[Any]:
    """Return one value per band in the image's data type; None where no pixel can equal it."""
    per_band = [nodata] * len(image) if nodata is None or isinstance(nodata, int | float) else list(nodata)
    return [as_dtype(value, image.dtype) for value in per_band]


def nodata_of_bands(
    declared: Sequence[float | None], nodata: float | None, dtype: str, *, given: bool
) -> list[tuple[float | None, ...]]:
    """Return the nodata values that count for a raster's bands: what it declares, else ours.

    Args:
        declared: What the raster declares, per band.
        nodata: Ours.
        dtype: The raster's data type.
        given: Whether a user has given ours: then it counts beside what is declared.

    Returns:
        One value per band; after it, where a band has two, the second ones.
    """
    first = tuple(nodata if value is None else value for value in declared)
    ours = as_dtype(nodata, dtype) if given else None
    second = tuple(None if ours is None or as_dtype(value, dtype) == ours else nodata for value in first)
    return [first] if second == (None,) * len(first) else [first, second]


def as_dtype(nodata: float | None, dtype: np.dtype[Any] | str) -> Any:
    """Return a nodata value in a data type; None for NaN and for what the type cannot hold (−9999 in uint16)."""
    kind = np.dtype(dtype)
    if nodata is None or np.isnan(nodata):
        return None
    if kind.kind == "f":
        with np.errstate(over="ignore"):  # −1.8e308 in float32 is infinite there, as GDAL reads it
            return kind.type(nodata)
    if np.isinf(nodata):
        return None
    limits = np.iinfo(kind)
    return kind.type(int(nodata)) if nodata == int(nodata) and limits.min <= nodata <= limits.max else None


@dataclass(frozen=True)
class Normalization:
    """What turns file numbers into network input, per band of the file.

    Attributes:
        used: Whether the band is used. An unused band is 0 for the network and no part of the nodata mask.
        scale: Divides all values first (SpecDeepMap's scaler); 1 for none.
        mean: Subtracted after scaling.
        std: Divides at last; 1 for bands that are constant.
    """

    used: tuple[bool, ...]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def identity(cls, count: int, scale: float = 1.0) -> Normalization:
        """Use all of ``count`` bands, only scaled."""
        return cls((True,) * count, scale, (0.0,) * count, (1.0,) * count)

    @classmethod
    def from_statistics(
        cls, mean: Sequence[float], std: Sequence[float], used: Sequence[bool] | None = None, scale: float = 1.0
    ) -> Normalization:
        """Standardise with a band's mean and standard deviation (already scaled).

        A band whose statistics are not finite has no measurement and is not used; a constant band is only centred.
        """
        finite = np.isfinite(mean) & np.isfinite(std)
        keep = finite if used is None else finite & np.asarray(used, bool)
        return cls(
            tuple(bool(k) for k in keep),
            float(scale),
            tuple(float(m) if k else 0.0 for m, k in zip(mean, keep, strict=True)),
            tuple(float(s) if k and s > 0 else 1.0 for s, k in zip(_spread(mean, std), keep, strict=True)),
        )

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Normalization:
        """Inverse of :meth:`to_dict`."""
        return cls(
            tuple(bool(u) for u in row["used"]),
            float(row["scale"]),
            tuple(float(m) for m in row["mean"]),
            tuple(float(s) for s in row["std"]),
        )

    def checked(self, count: int) -> Normalization:
        """Return it if it can be computed with for ``count`` bands; else raise ValueError."""
        lengths = {len(self.used), len(self.mean), len(self.std)}
        divisors = np.array([self.scale, *self.std])
        if lengths != {count} or not np.isfinite([*self.mean, *divisors]).all() or not divisors.all():
            raise ValueError(f"a normalisation with scale {self.scale} of {sorted(lengths)} numbers for {count} bands")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers for checkpoints."""
        return {"used": list(self.used), "scale": self.scale, "mean": list(self.mean), "std": list(self.std)}

    def __len__(self) -> int:
        """Count the bands, used or not."""
        return len(self.used)


class BandStatistics:
    """Mean and standard deviation per band in one pass, by Chan's pairwise update in float64.

    Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979).
    """

    def __init__(self, count: int) -> None:
        """Start without a pixel for ``count`` bands."""
        self.count: npt.NDArray[np.int64] = np.zeros(count, np.int64)
        self._mean: npt.NDArray[np.float64] = np.zeros(count)
        self._m2: npt.NDArray[np.float64] = np.zeros(count)

    def update(self, image: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Add pixels.

        Args:
            image: C × H × W, any dtype.
            valid: C × H × W or H × W, True for the pixels that count.
        """
        added = BandStatistics(len(image))
        whole = bool(valid.all())
        for band, values in enumerate(image):
            chosen = values.ravel() if whole else values[valid if valid.ndim == 2 else valid[band]]
            if chosen.size:
                deviations = chosen.astype(np.float64)
                with np.errstate(over="ignore", invalid="ignore"):  # ±1.8e308: not finite is the right answer
                    mean = deviations.mean()
                    deviations -= mean
                    added.count[band], added._mean[band] = chosen.size, mean
                    added._m2[band] = np.einsum("i,i", deviations, deviations)  # BLAS would start threads of its own
        self.merge(added)

    def merge(self, other: BandStatistics) -> None:
        """Add the pixels that another one has seen."""
        total = self.count + other.count
        share = np.divide(other.count, total, out=np.zeros(len(total)), where=total > 0)
        with np.errstate(over="ignore", invalid="ignore"):
            delta = other._mean - self._mean
            self._m2 += other._m2 + delta * delta * self.count * share
            self._mean += delta * share
        self.count = total

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Mean per band, NaN without pixels."""
        return np.where(self.count > 0, self._mean, np.nan)

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Population standard deviation per band, NaN without pixels."""
        variance = np.full(len(self.count), np.nan)
        np.divide(self._m2, self.count, out=variance, where=self.count > 0)
        return _spread(self._mean, np.sqrt(variance))


def _spread(mean: npt.ArrayLike, std: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return standard deviations, 0 for those that are nothing but rounding."""
    return np.where(np.less_equal(std, _ROUNDING * np.abs(mean)), 0.0, np.asarray(std, float))
