"""Make a synthetic scene: an image with smooth class regions, its labels and, on request, their polygons.

    python scripts/make_scene.py data/synthetic --width 1024 --height 768 --bands 13

The tests' scenes come from here, and the demo's where there is no package index. A scene is written strip
by strip, so only the disk bounds its size. The same arguments give the same pixels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio.raw
import rasterio
import rasterio.features
import shapely
import shapely.geometry
from rasterio.transform import from_origin
from rasterio.windows import Window

Floats = npt.NDArray[np.float32]

CLASS_NAMES = ("forest", "grassland", "farmland", "residential", "water")
CLASS_COLORS = ("#006400", "#a0dc64", "#f0c850", "#dc3232", "#1e5adc")
SCALES = {"uint8": 255.0, "int16": 10_000.0, "uint16": 10_000.0, "float32": 1.0, "float64": 1.0}
"""What reflectance 1 is stored as, by data type."""

STRIP = 256
"""Rows that are held at a time. Noise is drawn for whole strips, so another height is another scene."""


@dataclass(frozen=True)
class SceneFiles:
    """The files of one scene; ``polygons`` is None where none were asked for."""

    image: Path
    label: Path
    polygons: Path | None


@dataclass(frozen=True)
class SmoothField:
    """A random surface without an edge anywhere: cubic B-splines over random control points.

    Attributes:
        control: Control points, (rows + 3) × (columns + 3).
        spacing: Pixels between two control points.
    """

    control: Floats
    spacing: float

    @classmethod
    def draw(cls, rng: np.random.Generator, height: int, width: int, spacing: float) -> SmoothField:
        """Draw a field that covers height × width pixels with features of about ``spacing`` pixels."""
        shape = (int(height / spacing) + 4, int(width / spacing) + 4)
        return cls(rng.standard_normal(shape, np.float32), spacing)

    def at(self, rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> Floats:
        """Evaluate on a grid of pixels: len(rows) × len(columns)."""
        first, down = _spline_taps(rows, self.spacing)
        second, across = _spline_taps(columns, self.spacing)
        partial = np.stack([down[k][:, None] * self.control[first + k] for k in range(4)]).sum(axis=0)
        field: Floats = np.stack([across[k] * partial[:, second + k] for k in range(4)]).sum(axis=0)
        return field


def _spline_taps(positions: npt.NDArray[Any], spacing: float) -> tuple[npt.NDArray[np.intp], list[Floats]]:
    """Index of the first of four control points for each position, and the four B-spline weights."""
    scaled = positions / spacing
    first = np.floor(scaled).astype(np.intp)
    t = scaled - first
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    return first, [(weight / 6).astype(np.float32) for weight in weights]


def make_scene(
    folder: str | Path,
    *,
    name: str = "scene",
    width: int = 256,
    height: int = 256,
    bands: int = 4,
    values: Sequence[int] = (1, 2, 3, 4, 5),
    class_names: Sequence[str] | None = None,
    class_colors: Sequence[str] | None = None,
    dtype: str = "uint16",
    nodata: float | None = None,
    nodata_share: float = 0.0,
    unclassified_share: float = 0.1,
    noise: float = 0.02,
    feature_size: float | None = None,
    crs: str | None = "EPSG:32633",
    pixel_size: float = 10.0,
    origin: tuple[float, float] = (330_000.0, 5_822_040.0),
    polygons: bool = False,
    seed: int = 0,
    spectra_seed: int | None = None,
) -> SceneFiles:
    """Write ``<name>_image.tif`` and ``<name>_label.tif``, and ``<name>_polygons.gpkg`` if asked for.

    Args:
        folder: Where to; made if it is missing.
        name: What the files' names start with.
        width: Columns.
        height: Rows.
        bands: Number of bands; their wavelengths are spread evenly over 443–2190 nm.
        values: Class values in the label raster, 1–255, ascending; gaps are fine.
        class_names: One per value; forest, grassland, … and then class_6, class_7, … without.
        class_colors: One ``#rrggbb`` per value; the same kind of default.
        dtype: Of the image: uint8, uint16, int16, float32 or float64. Reflectance 1 is stored as 255 (uint8),
            10 000 (16 bits) or 1 (floats).
        nodata: Declared as the image's nodata value; valid pixels never have it.
        nodata_share: Share (0–0.5) of the pixels, in the upper left corner, that are nodata in all bands.
        unclassified_share: Share (0–1) of the pixels that have the label 0, in blobs.
        noise: Standard deviation of the noise, in reflectance.
        feature_size: Pixels that a region is across, about; a sixth of the shorter side without.
        crs: Anything that GDAL understands, None for a raster without one.
        pixel_size: In units of the CRS.
        origin: x and y of the upper left corner, in units of the CRS.
        polygons: Also write the label's regions as polygons with the class's name in the field ``fclass``.
        seed: Another seed is another scene.
        spectra_seed: Scenes of one ``spectra_seed`` show the same classes; without, each has spectra of its own.

    Returns:
        The paths of what was written.

    Raises:
        ValueError: The arguments contradict each other; the message says which and what would do.
    """
    _check(bands, values, dtype, nodata, nodata_share)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(class_names or default_names(len(values)))
    colors = tuple(class_colors or default_colors(len(values)))
    has_polygons = folder / f"{name}_polygons.gpkg" if polygons else None
    files = SceneFiles(folder / f"{name}_image.tif", folder / f"{name}_label.tif", has_polygons)
    landscape = _Landscape.draw(
        seed, height, width, len(values), bands, feature_size, unclassified_share, spectra_seed=spectra_seed
    )
    transform = from_origin(*origin, pixel_size, pixel_size)
    grid = {"width": width, "height": height, "crs": crs, "transform": transform}
    layout = {"driver": "GTiff", "compress": "deflate", "tiled": True, "blockxsize": 128, "blockysize": 128}
    with (
        rasterio.open(files.image, "w", count=bands, dtype=dtype, nodata=nodata, **grid, **layout) as image,
        rasterio.open(files.label, "w", count=1, dtype="uint8", nodata=0, **grid, **layout) as label,
    ):
        _describe(image, label, values, names, colors)
        lookup = np.array([0, *values], np.uint8)
        for first in range(0, height, STRIP):
            rows = np.arange(first, min(first + STRIP, height))
            grows, classes = landscape.classes(rows)
            cube = landscape.reflectance(rows, grows, noise) * SCALES[dtype]
            stored = _store(cube, dtype, nodata, landscape.outside(rows, nodata_share))
            window = Window(0, first, width, len(rows))
            image.write(stored, window=window)
            label.write(lookup[classes], 1, window=window)
    if files.polygons is not None:
        _write_polygons(files.label, files.polygons, dict(zip(values, names, strict=True)))
    return files


def default_names(count: int) -> tuple[str, ...]:
    """Class names for ``count`` classes: forest, grassland, farmland, residential, water, class_6, and so on."""
    return tuple(CLASS_NAMES[i] if i < len(CLASS_NAMES) else f"class_{i + 1}" for i in range(count))


def default_colors(count: int) -> tuple[str, ...]:
    """Colours for ``count`` classes; after the fifth, greys that get lighter and start again."""
    greys = (f"#{level:02x}{level:02x}{level:02x}" for i in range(count) for level in [60 + 20 * (i % 9)])
    return tuple(CLASS_COLORS[i] if i < len(CLASS_COLORS) else grey for i, grey in enumerate(greys))


@dataclass(frozen=True)
class _Landscape:
    """Everything random about a scene but its noise."""

    seed: int
    width: int
    height: int
    regions: tuple[SmoothField, ...]
    clearing: SmoothField
    clearing_level: float
    shade: SmoothField
    texture: SmoothField
    spectra: Floats

    @classmethod
    def draw(
        cls,
        seed: int,
        height: int,
        width: int,
        classes: int,
        bands: int,
        feature_size: float | None,
        unclassified_share: float,
        *,
        spectra_seed: int | None,
    ) -> _Landscape:
        rng = np.random.default_rng(seed)
        size = feature_size or max(4.0, min(height, width) / 6)
        regions = tuple(SmoothField.draw(rng, height, width, size) for _ in range(classes))
        clearing = SmoothField.draw(rng, height, width, size / 2)
        sample = clearing.at(np.linspace(0, height - 1, 200), np.linspace(0, width - 1, 200))
        return cls(
            seed=seed,
            width=width,
            height=height,
            regions=regions,
            clearing=clearing,
            clearing_level=float(np.quantile(sample, unclassified_share)) if unclassified_share else -np.inf,
            shade=SmoothField.draw(rng, height, width, size * 2),
            texture=SmoothField.draw(rng, height, width, 3.0),
            spectra=draw_spectra(rng if spectra_seed is None else np.random.default_rng(spectra_seed), classes, bands),
        )

    def classes(self, rows: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """For a strip: what grows there (0…n−1) and what the label says (1…n, 0 = unclassified)."""
        columns = np.arange(self.width)
        grows = np.stack([field.at(rows, columns) for field in self.regions]).argmax(axis=0)
        labelled = self.clearing.at(rows, columns) >= self.clearing_level
        return grows, np.where(labelled, grows + 1, 0)

    def reflectance(self, rows: npt.NDArray[Any], grows: npt.NDArray[np.intp], noise: float) -> Floats:
        """Bands × rows × columns: the classes' spectra under shade, texture and noise."""
        columns = np.arange(self.width)
        light = 1 + 0.08 * self.shade.at(rows, columns) + 0.10 * self.texture.at(rows, columns)
        rng = np.random.default_rng([self.seed, rows[0]])
        grain = rng.standard_normal((len(self.spectra[0]), *grows.shape), np.float32)
        cube: Floats = np.moveaxis(self.spectra[grows], -1, 0) * light + np.float32(noise) * grain
        return cube

    def outside(self, rows: npt.NDArray[Any], share: float) -> npt.NDArray[np.bool_]:
        """The corner that no sensor saw: a triangle of ``share`` of the scene."""
        down, across = (rows + 0.5) / self.height, (np.arange(self.width) + 0.5) / self.width
        corner: npt.NDArray[np.bool_] = down[:, None] + across < np.sqrt(2 * share)
        return corner


def draw_spectra(rng: np.random.Generator, classes: int, bands: int) -> Floats:
    """Draw one smooth spectrum per class, reflectance 0.03–0.6, the most different of 200 draws.

    Returns:
        Classes × bands.
    """
    positions = np.linspace(0, 4, bands)
    first, weights = _spline_taps(positions, 1.0)
    control = rng.uniform(0.03, 0.6, (200, classes, 9)).astype(np.float32)
    drawn = np.stack([weights[k] * control[:, :, first + k] for k in range(4)]).sum(axis=0)
    distance = np.linalg.norm(drawn[:, :, None] - drawn[:, None], axis=-1)
    distance[:, range(classes), range(classes)] = np.inf
    best: Floats = drawn[distance.min(axis=(1, 2)).argmax()]
    return best


def _store(cube: Floats, dtype: str, nodata: float | None, outside: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Round into the data type, keep valid pixels off the nodata value, and put it outside."""
    if np.issubdtype(np.dtype(dtype), np.integer):
        stored = cube.round().clip(0, float(np.iinfo(dtype).max)).astype(dtype)
    else:
        stored = cube.clip(1e-4).astype(dtype)
    if nodata is not None:
        stored[stored == np.dtype(dtype).type(nodata)] = _beside(dtype, nodata)
        stored[:, outside] = nodata
    return stored


def _beside(dtype: str, nodata: float) -> float:
    """Return the next value of a data type after another, of its highest the one before."""
    if np.issubdtype(np.dtype(dtype), np.integer):
        return nodata + 1 if nodata < np.iinfo(dtype).max else nodata - 1
    return float(np.nextafter(np.dtype(dtype).type(nodata), np.inf))


def _describe(image: Any, label: Any, values: Sequence[int], names: Sequence[str], colors: Sequence[str]) -> None:
    """Give the bands names and wavelengths, and the label its colours and names."""
    for index, wavelength in enumerate(np.linspace(443, 2190, image.count), start=1):
        image.set_band_description(index, f"B{index:02d} {wavelength:.0f}nm")
        image.update_tags(index, wavelength=f"{wavelength:.0f}", wavelength_units="Nanometers")
    rgb = {value: tuple(bytes.fromhex(color[1:])) for value, color in zip(values, colors, strict=True)}
    label.write_colormap(1, {0: (0, 0, 0, 0)} | {value: (*color, 255) for value, color in rgb.items()})
    label.update_tags(CLASSES=" ".join(f"{v}={n}" for v, n in zip(values, names, strict=True)))


def _write_polygons(label: Path, target: Path, names: dict[int, str]) -> None:
    """Turn the regions of a label raster, read as a whole, into polygons of a GeoPackage."""
    with rasterio.open(label) as dataset:
        classes, transform, crs = dataset.read(1), dataset.transform, dataset.crs
    found = [
        (shapely.geometry.shape(shape), names[int(value)])
        for shape, value in rasterio.features.shapes(classes, classes > 0, transform=transform)
    ]
    pyogrio.raw.write(
        target,
        np.array([shapely.to_wkb(geometry) for geometry, _ in found], dtype=object),
        [np.array([name for _, name in found], dtype=object)],
        ["fclass"],
        layer=target.stem,
        driver="GPKG",
        geometry_type="Polygon",
        crs=crs.to_wkt() if crs else None,
    )


def _check(bands: int, values: Sequence[int], dtype: str, nodata: float | None, nodata_share: float) -> None:
    """Raise ValueError for arguments that contradict each other."""
    if dtype not in SCALES:
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(SCALES)}.")
    if bands < 1:
        raise ValueError(f"bands={bands}: a scene has at least one band.")
    if not values or list(values) != sorted(set(values)) or not 1 <= min(values) <= max(values) <= 255:
        raise ValueError(f"values={list(values)}: class values are different, ascending and within 1–255.")
    if nodata_share and nodata is None:
        raise ValueError(f"nodata_share={nodata_share} needs a nodata value, for example nodata=0.")
    if not 0 <= nodata_share <= 0.5:
        raise ValueError(f"nodata_share={nodata_share}: the missing corner is at most half of the scene, 0.5.")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the options are :func:`make_scene`'s arguments."""
    parser = argparse.ArgumentParser(description="Make a synthetic scene with its labels.")
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--name", default="scene", help="what their names start with (scene)")
    parser.add_argument("--width", type=int, default=1024, help="columns (1024)")
    parser.add_argument("--height", type=int, default=1024, help="rows (1024)")
    parser.add_argument("--bands", type=int, default=13, help="bands over 443–2190 nm (13)")
    parser.add_argument("--values", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="class values (1 2 3 4 5)")
    parser.add_argument("--dtype", choices=list(SCALES), default="uint16", help="of the image (uint16)")
    parser.add_argument("--nodata", type=float, help="nodata value of the image (none)")
    parser.add_argument("--nodata-share", type=float, default=0.0, help="share of nodata pixels (0)")
    parser.add_argument("--unclassified-share", type=float, default=0.1, help="share of the label that is 0 (0.1)")
    parser.add_argument("--noise", type=float, default=0.02, help="standard deviation, in reflectance (0.02)")
    parser.add_argument("--feature-size", type=float, help="pixels across a region (a sixth of the shorter side)")
    parser.add_argument("--crs", default="EPSG:32633", help="of all files (EPSG:32633)")
    parser.add_argument("--polygons", action="store_true", help="write the label's regions as polygons, too")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another scene (0)")
    return parser.parse_args(arguments)


def main() -> None:
    """Make the scene that the command line describes and print its files."""
    try:
        files = make_scene(**vars(parse_arguments()))
    except ValueError as error:
        sys.exit(str(error))
    for path in (files.image, files.label, files.polygons):
        if path is not None:
            print(path)


if __name__ == "__main__":
    main()
