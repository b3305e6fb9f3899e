"""From the bands that weights were trained on to the bands of the data: who gets whose kernel.

The first layer's kernels are combined linearly: kernel of data band i = Σⱼ rows[i][j] · kernel of the weights' band j.
That is the same as feeding the weights' own bands in their own order, with zeros for those that the data lack.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from src.bands import Band, find_rgb
from src.errors import UserError
from src.foreign_text import in_a_line


@dataclass(frozen=True)
class Kernels:
    """How the first layer is adapted.

    Attributes:
        rows: One row per band of the data, one column per band of the weights.
        sources: For each band of the data the weights' band that it is, None for one that the weights don't know.
        lines: The mapping in words.
    """

    rows: tuple[tuple[float, ...], ...]
    sources: tuple[int | None, ...]
    lines: tuple[str, ...]

    def adapt(self, weight: torch.Tensor, factor: int = 1) -> torch.Tensor:
        """Combine kernels.

        Args:
            weight: out × (factor · bands of the weights) × …, bands running fastest.
            factor: How often each band enters the layer (16 where 4 × 4 pixels are stacked first, else 1).

        Returns:
            out × (factor · bands of the data) × ….
        """
        rows = torch.tensor(self.rows, dtype=weight.dtype)
        stacked = weight.reshape(weight.shape[0], factor, rows.shape[1], -1)
        mapped = torch.einsum("ofjk,ij->ofik", stacked, rows)
        return mapped.reshape(weight.shape[0], factor * rows.shape[0], *weight.shape[2:])


CENTRES: dict[str, dict[str, float]] = {
    "SENTINEL2": {
        "B1": 443, "B2": 492, "B3": 560, "B4": 665, "B5": 704, "B6": 740, "B7": 783, "B8": 833, "B8A": 865, "B9": 944,
        "B10": 1375, "B11": 1612, "B12": 2194,
    },
    "LANDSAT_OLI": {
        "B1": 443, "B2": 482, "B3": 561, "B4": 655, "B5": 865, "B6": 1609, "B7": 2201, "B8": 590, "B9": 1373,
        "B10": 10895, "B11": 12005,
    },
    "LANDSAT_ETM": {"B1": 478, "B2": 561, "B3": 661, "B4": 834, "B5": 1650, "B7": 2208, "B8": 710},
    "LANDSAT_TM": {"B1": 485, "B2": 569, "B3": 660, "B4": 840, "B5": 1676, "B6": 11435, "B7": 2223},
}  # fmt: skip
"""Band centres per sensor in nanometres (ESA's and USGS' band tables), to notice another sensor's B4."""


def same_bands(bands: Sequence[Band], used: Sequence[bool], order: Sequence[int] | None = None) -> Kernels:
    """Every band keeps its own kernel: the weights were trained on these very bands.

    Args:
        bands: The data's bands.
        used: Whether each is used; an unused one gets a kernel of zeros.
        order: For each band its position among the weights'; None for the same order.
    """
    given = tuple(range(len(bands)))
    places = given if order is None else tuple(order)
    rows = tuple(tuple(float(place == j and u) for j in given) for place, u in zip(places, used, strict=True))
    words = f"{len(bands)} bands in the weights' order"
    if places != given:
        words = f"the weights' bands put into the order {in_a_line([band.name for band in bands])}"
    return Kernels(rows, places, (words,))


def rgb_bands(bands: Sequence[Band], used: Sequence[bool], given: Sequence[int | str] | None) -> Kernels:
    """Spread RGB kernels over the data's bands.

    Red, green and blue keep their kernels, every further used band gets their mean, and all are scaled by
    3 / (number of used bands), so that activations keep the size that the batch norms behind were trained with. One or
    two bands are no colours: each gets the mean.

    Args:
        bands: The data's bands.
        used: Whether each is used; an unused one gets a kernel of zeros.
        given: Red, green and blue as 1-based numbers or names; None finds them by wavelength or name.

    Raises:
        UserError: They cannot be found, or what was given is no band.
    """
    count = sum(used)
    if len(bands) < 3:
        rows = tuple((float(u) / count,) * 3 for u in used)
        share = f" / {count}" if count > 1 else ""
        words = [f"{band.name} ← (red + green + blue){share}" for band, u in zip(bands, used, strict=True) if u]
        return Kernels(rows, (None,) * len(bands), tuple(words))
    rgb = _given_rgb(bands, given) if given is not None else _found_rgb(bands)
    unused = [bands[i].name for i in rgb if not used[i]]
    if unused:
        raise UserError(
            f"{unused[0]} has no measurements, but weights=imagenet needs it; choose others: weights.rgb=[…]."
        )
    scale = 3.0 / count
    kernels = []
    for position in range(len(bands)):
        row = [float(position == i) for i in rgb] if position in rgb else [1 / 3] * 3
        kernels.append(tuple(scale * value * used[position] for value in row))
    lines = [f"{colour} kernel → {bands[i].name}" for colour, i in zip(("red", "green", "blue"), rgb, strict=True)]
    further = [band.name for i, band in enumerate(bands) if i not in rgb and used[i]]
    if further:
        lines.append(f"mean of the three → {in_a_line(further)}; all scaled by 3/{count}")
    sources = tuple(rgb.index(i) if i in rgb else None for i in range(len(bands)))
    return Kernels(tuple(kernels), sources, tuple(lines))


def _given_rgb(bands: Sequence[Band], given: Sequence[int | str]) -> tuple[int, int, int]:
    found = []
    for wanted in given:
        matches = [
            i for i, band in enumerate(bands) if (i + 1 == wanted if isinstance(wanted, int) else band.name == wanted)
        ]
        if not matches:
            raise UserError(
                f"weights.rgb={list(given)}: {wanted} is no band of the data; expected numbers from 1 to {len(bands)} "
                f"or names ({in_a_line([band.name for band in bands])})."
            )
        found.append(matches[0])
    if len(found) != 3 or len(set(found)) != 3:
        raise UserError(
            f"weights.rgb={list(given)}: expected three different bands, red, green and blue in this order."
        )
    return found[0], found[1], found[2]


def _found_rgb(bands: Sequence[Band]) -> tuple[int, int, int]:
    found = find_rgb(bands)
    if found is None or not _tells(bands, found):
        raise UserError(
            f"Red, green and blue cannot be told from the band names {in_a_line([band.name for band in bands])}; name "
            "them in this order by number (from 1): weights.rgb=[3,2,1]."
        )
    return found


def _tells(bands: Sequence[Band], rgb: Sequence[int]) -> bool:
    """B4, B3 and B2 are red, green and blue on Sentinel-2 and Landsat 8, but not on Landsat 4 to 7."""
    if any(bands[i].wavelength for i in rgb) or not all(band_key(bands[i].name) for i in rgb):
        return True
    keys = {band_key(band.name) for band in bands}
    return bool(keys & {"B8", "B8A", "B9", "B10", "B11", "B12"}) or any("B0" in band.name.upper() for band in bands)


def matched_bands(
    bands: Sequence[Band],
    used: Sequence[bool],
    trained: Sequence[str],
    given: Sequence[str | None] | None,
    sensor: str = "",
) -> Kernels:
    """Give each band of the data the kernel of the weights' band of the same name.

    Args:
        bands: The data's bands.
        used: Whether each is used; an unused one gets a kernel of zeros.
        trained: Names of the bands that the weights were trained on, in their order.
        given: For each band of the data the name of the weights' band, None for none; None matches by name.
        sensor: A key of :data:`CENTRES`, the sensor that the weights' names belong to.

    Raises:
        UserError: No band matches, the data's names are another sensor's, or what was given does not fit.
    """
    if given is None:
        _check_sensor(bands, sensor)
    names = given if given is not None else [band.name for band in bands]
    if len(names) != len(bands):
        raise UserError(
            f"weights.bands has {len(names)} entries, the data have {len(bands)} bands; give for each band of the data "
            "the weights' band, or null."
        )
    keys = [band_key(name) or name for name in trained]
    sources = [_position(name, keys, len(trained)) for name in names]
    _check_matches(bands, names, sources, trained, given is not None)
    rows = tuple(
        tuple(float(source == j and u) for j in range(len(trained))) for source, u in zip(sources, used, strict=True)
    )
    lines = [f"{trained[s]} kernel → {bands[i].name}" for i, s in enumerate(sources) if s is not None]
    fed = {s for s, u in zip(sources, used, strict=True) if u}
    missing = [name for j, name in enumerate(trained) if j not in fed]
    if missing:
        lines.append(f"missing in the data, filled with zeros: {in_a_line(missing)}")
    further = [band.name for band, s in zip(bands, sources, strict=True) if s is None]
    if further:
        lines.append(f"unknown to the weights, kernels start at zero: {in_a_line(further)}")
    return Kernels(rows, tuple(sources), tuple(lines))


def _check_sensor(bands: Sequence[Band], sensor: str) -> None:
    """Raise UserError where a name or a wavelength says that the data's B5 is not the weights' B5."""
    centres = CENTRES.get(sensor)
    if not centres:
        return
    for band in bands:
        key = band_key(band.name)
        if key is None or "_" in key:
            continue
        known = centres.get(key)
        if known is None or (band.wavelength and abs(band.wavelength - known) > 0.05 * known):
            at = f" ({band.wavelength:g} nm)" if band.wavelength else ""
            what = f"{key} is at {known:g} nm" if known else f"there is no {key}"
            raise UserError(
                f"The weights are of {sensor}, where {what}; the data's {band.name}{at} is of another sensor. Say for "
                "each band of the data which one it is: weights.bands=[B2,B3,…], null for none."
            )


def _position(name: str | None, keys: Sequence[str], count: int) -> int | None:
    key = band_key(name) if name is not None else None
    if key is None and name in keys:
        key = name
    return next((j for j in range(count) if keys[j] == key), None) if key is not None else None


def _check_matches(
    bands: Sequence[Band],
    names: Sequence[str | None],
    sources: Sequence[int | None],
    trained: Sequence[str],
    given: bool,
) -> None:
    unknown = [name for name, source in zip(names, sources, strict=True) if name is not None and source is None]
    if given and unknown:
        raise UserError(f"weights.bands: the weights know no band {unknown[0]}; they know {in_a_line(trained)}.")
    matched = [source for source in sources if source is not None]
    if not matched:
        raise UserError(
            f"The weights know the bands {in_a_line(trained)}; none of the data's "
            f"({in_a_line([band.name for band in bands])}) is among them by name. Say for each band of the data "
            "which it is: weights.bands=[B2,B3,…], null for none."
        )
    double = next((s for s in matched if matched.count(s) > 1), None)
    if double is not None:
        raise UserError(
            f"Several bands of the data are the weights' {trained[double]} by name; say for each band of the data "
            "which one it is: weights.bands=[B2,B3,…], null for none."
        )


def band_key(name: str) -> str | None:
    """Return what a sensor calls a band: ``B8A`` for "B08A 865nm", "b8a" or "SR_B8A"; None for other names.

    Numbers alone ("band 7") are no name: the seventh band of which sensor?
    """
    match = re.match(r"(?:SR_)?(B)0*(\d+)(A?)(_VCID_\d)?(?![0-9A-Z])|(VV|VH|NDVI)\b", name.strip().upper())
    if match is None:
        return None
    return match[5] or f"B{match[2]}{match[3]}{match[4] or ''}"
