"""Which files are prepared: scenes and their labels, paired and checked against each other before a pixel is read."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from src.bands import Band, BandStatistics, as_dtype, match_bands
from src.chip_names import with_part
from src.errors import UserError
from src.input_files import check_names
from src.pixel_size import other_size, sides_on_ground
from src.radiometry import other_scaling, other_units
from src.raster.read import RasterInfo, describe
from src.tables import PARTS

log = logging.getLogger(__name__)


def pair(images: Sequence[str], files: Sequence[str], key: str) -> list[str]:
    """Return the label of every image, or its split raster: by order, or one file for all of them.

    Args:
        images: The images.
        files: What belongs to them.
        key: What to call these in an error.

    Raises:
        UserError: There are neither as many files as images nor one, or their names tell that the order is wrong.
    """
    if len(files) == len(images):
        check_names(images, files, key)
        return list(files)
    if len(files) == 1:
        return [files[0]] * len(images)
    raise UserError(
        f"{key} names {len(files)} files for {len(images)} image{'s'[: len(images) != 1]}; give one for each, in the "
        "same order, or one for all of them."
    )


def describe_all(images: Sequence[str]) -> list[RasterInfo]:
    """Describe the images of one data set, all with the first one's names and wavelengths of the bands; say doubts.

    Raises:
        UserError: One cannot be read; two have the same name; bands, their order, or data types differ.
    """
    infos = [describe(path) for path in images]
    for info in infos:
        if info.doubt:
            log.warning("CAUTION: %s.", info.doubt)
    first = infos[0]
    names: dict[str, str] = {}
    for info in infos:
        if info.path == names.get(info.name):
            raise UserError(f"image names {info.path} twice; expected every scene once. Take one out.")
        if info.name in names:
            raise UserError(
                f"{names[info.name]} and {info.path} have the same name, and their chips would too; rename one of them."
            )
        names[info.name] = info.path
        _check_same_kind(first, info)
    return [replace(info, bands=_named_alike(first, info)) for info in infos]


def check_part_names(infos: Sequence[RasterInfo]) -> None:
    """Raise UserError for a scene whose chips could be called as another one's chips of a part, like x and x_train."""
    paths = {info.name: info.path for info in infos}
    for info in infos:
        for part in PARTS:
            if (other := paths.get(with_part(info.name, part))) is not None:
                raise UserError(
                    f"{other} is called as {info.path} and its part {part}, and with split.raster their chips would be "
                    "too; rename one of them."
                )


def _named_alike(first: RasterInfo, info: RasterInfo) -> tuple[Band, ...]:
    """Return a scene's bands as those of the data set: what finds them in one chip finds them in all."""
    return tuple(
        replace(same, bad=band.bad, units=band.units) for same, band in zip(first.bands, info.bands, strict=True)
    )


def _check_same_kind(first: RasterInfo, info: RasterInfo) -> None:
    if len(info.bands) != len(first.bands):
        raise UserError(
            f"{info.path} has {len(info.bands)} band{'s'[: len(info.bands) != 1]}, but {first.path} has "
            f"{len(first.bands)}; the scenes of a data set have the same bands."
        )
    if info.dtype != first.dtype:
        raise UserError(
            f"{info.path} is {info.dtype}, but {first.path} is {first.dtype}; the scenes of a data set have one data "
            "type. Convert one with gdal_translate -ot."
        )
    order = match_bands(first.bands, info.bands, info.path, f"a data set that begins with {first.path}")
    if moved := [number for number, there in enumerate(order) if number != there]:
        listed = " ".join(f"-b {there + 1}" for there in order[:20]) + " …" * (len(order) > 20)
        raise UserError(
            f"Band {moved[0] + 1} of {info.path} is {_band(info.bands[moved[0]])}, but that of {first.path} is "
            f"{_band(first.bands[moved[0]])}; the scenes of a data set have the same bands in the same order. Reorder "
            f"one: gdal_translate {listed}"
        )


def _band(band: Band) -> str:
    return f"{band.name!r} ({band.wavelength:g} nm)" if band.wavelength else repr(band.name)


def bad_bands(infos: Sequence[RasterInfo]) -> npt.NDArray[np.bool_]:
    """Tell which bands the metadata of any of some scenes of a data set mark as bad."""
    return np.asarray(np.any([[band.bad for band in info.bands] for info in infos], axis=0))


def scene_nodata(info: RasterInfo, override: float | None) -> tuple[float | None, ...]:
    """Return the nodata value that counts for each band of a scene.

    Args:
        info: The scene.
        override: Replaces what the file declares; None to keep that.

    Raises:
        UserError: The data type cannot hold the override.
    """
    if override is None:
        return info.nodata
    held = as_dtype(override, info.dtype)
    beyond = held is None if info.dtype.startswith(("int", "uint")) else math.isfinite(override) and np.isinf(held)
    if beyond:
        raise UserError(f"nodata={override:g} does not fit into {info.path}, which is {info.dtype}; give another.")
    return (override,) * len(info.bands)


def replaced_nodata(infos: Sequence[RasterInfo], override: float | None) -> str | None:
    """Say that scenes declare another nodata value than the given one, which takes its place; None where none does."""
    if override is None:
        return None

    def others(info: RasterInfo) -> list[float]:
        held = as_dtype(override, info.dtype)
        declared = {value for value in info.nodata if value is not None and math.isfinite(value)}
        return sorted(declared - {override, held})

    found = [info for info in infos if others(info)]
    if not found:
        return None
    more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
    return (
        f"{found[0].path}{more} declares nodata {others(found[0])[0]:g}, and nodata={override:g} takes its place: such "
        "pixels are measurements in training, while predict.py leaves out both. Where they are none, make them one "
        "value first (gdalwarp -srcnodata … -dstnodata …)"
    )


def unlike_scenes(
    infos: Sequence[RasterInfo], used: Sequence[bool], measured: Iterable[tuple[int, BandStatistics]]
) -> list[str]:
    """Say which scenes are in another unit, or of other pixels, than the rest: one network cannot learn from both.

    Args:
        infos: The scenes.
        used: Which bands are used.
        measured: Numbers of scenes, each with statistics of some of its pixels.

    Returns:
        A caution of each kind at most: the first scene of it, and how many more there are.
    """
    by_scene: dict[int, BandStatistics] = {}
    for index, statistics in measured:
        by_scene.setdefault(index, BandStatistics(len(used))).merge(statistics)
    units = other_units({infos[index].path: found for index, found in by_scene.items()})
    first = infos[0]
    scalings = {info.path: other_scaling(info.bands, first.bands, used, f"that of {first.path}") for info in infos}
    remedy = "Bring all scenes to one unit: gdal_translate -unscale -ot Float32"
    sizes = {info.path: other_size(sides_on_ground([info]), sides_on_ground([first]), first.path) for info in infos}
    cautions = []
    for kind in (units, {path: f"{said}. {remedy}" for path, said in scalings.items() if said}, sizes):
        if others := {path: said for path, said in kind.items() if said}:
            path, said = next(iter(others.items()))
            more = f" (and {len(others) - 1} more like it)" if len(others) > 1 else ""
            cautions.append(f"{path}{more}: {said}")
    return cautions


def common_nodata(per_scene: Sequence[Sequence[float | None]]) -> float | None:
    """Return the nodata value that all bands of all scenes share; None if they have none or differ."""
    values = {None if value is None else repr(float(value)) for scene in per_scene for value in scene}
    return float(values.pop() or "nan") if len(values) == 1 and None not in values else None
