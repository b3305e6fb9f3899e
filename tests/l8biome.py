"""A data set of torchgeo's in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.raster.write import write_geotiff
from tests.chip_folder import WKT


def make_l8biome(folder: Path) -> None:
    """Landsat scenes and cloud masks under the names that torchgeo looks for; each place is a part of its own."""
    rng = np.random.default_rng(0)
    for number in range(5):
        name = f"LC8042{number:03d}2013220LGN00"
        (folder / name).mkdir(parents=True)
        place = (30.0, 0.0, 500_000.0 + 3000 * number, 0.0, -30.0, 5_800_000.0)
        image = rng.integers(1, 9000, (11, 48, 48)).astype(np.uint16)
        mask = rng.choice(np.array([0, 64, 128, 192, 255], np.uint8), (48, 48))
        write_geotiff(folder / name / f"{name}.TIF", image, crs=WKT, transform=place)
        write_geotiff(folder / name / f"{name}_fixedmask.TIF", mask, crs=WKT, transform=place)
