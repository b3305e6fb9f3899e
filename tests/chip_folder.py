"""A data folder in a moment: chips of two easily told classes and an unclassified border."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio.crs import CRS

from src.bands import Band, BandStatistics
from src.raster.write import write_geotiff
from src.tables import BandTable, write_samples, write_statistics

WKT = CRS.from_epsg(32633).to_wkt()
GRID = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)


def make_chip_folder(
    folder: Path,
    parts: tuple[int, int, int] = (6, 3, 0),
    *,
    size: int = 32,
    bands: int = 3,
    names: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """Write chips whose class 2 is bright in every band, class 7 dark, and whose left columns are unclassified.

    ``parts`` is how many train, validate and test; ``names`` are the bands'.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    statistics = BandStatistics(bands)
    train, validation, _ = parts
    samples: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for number in range(sum(parts)):
        label = np.where(rng.random((size // 8, size // 8)).repeat(8, 0).repeat(8, 1) < 0.5, 2, 7).astype(np.uint8)
        image = (rng.normal(1000, 30, (bands, size, size)) + 400 * (label == 2)).astype(np.uint16)
        label[:, :4] = 0
        image[:, :2, -2:] = 0
        name = f"scene_tile_{number * size}_0.tif"
        described = [Band(band) for band in names]
        write_geotiff(folder / "images" / name, image, crs=WKT, transform=GRID, nodata=0, bands=described)
        write_geotiff(folder / "labels" / name, label, crs=WKT, transform=GRID, nodata=0)
        part = "train" if number < train else "validation" if number < train + validation else "test"
        samples[part].append((f"images/{name}", f"labels/{name}"))
        if number < train:
            statistics.update(image, image > 0)
    for part, rows in samples.items():
        write_samples(folder / f"{part}_files.csv", rows)
    table = BandTable(tuple(statistics.mean.tolist()), tuple(statistics.std.tolist()))
    write_statistics(folder / "Normalize_Bands.csv", table, None)
    return folder
