"""Scenes of any size for the benchmarks, written quickly: one square of content, again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from scripts.make_scene import SceneFiles, make_scene
from src.labels import ClassTable

BANDS = 13
CLASSES = ClassTable.build(range(1, 6))
SQUARE = 512
"""Side of the content in pixels."""

TILED: dict[str, Any] = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
ROWS: dict[str, Any] = {"blockysize": 1, "compress": "deflate"}
"""How the image is stored: in tiles, or in whole rows as ENVI's software does."""


def repeated_scene(
    folder: Path, height: int, width: int, *, noise: float = 0.02, layout: dict[str, Any] = TILED
) -> SceneFiles:
    """Write an image of 13 uint16 bands and its label with five classes.

    Args:
        folder: Where to; made if it is missing.
        height: Rows.
        width: Columns.
        noise: In reflectance. Without noise a large file stays small.
        layout: Of the image; TILED or ROWS.
    """
    content = make_scene(
        folder / "content", width=SQUARE, height=SQUARE, bands=BANDS, noise=noise, unclassified_share=0
    )
    made = SceneFiles(folder / f"image_{height}_{width}.tif", folder / f"label_{height}_{width}.tif", None)
    with rasterio.open(content.image) as image, rasterio.open(content.label) as label:
        pixels, classes = image.read(), label.read()
        place = {"crs": image.crs, "transform": image.transform}
    if not noise:
        pixels = pixels // 64 * 64
    _repeat(made.image, pixels, (height, width), {**place, **layout})
    _repeat(made.label, classes, (height, width), {**place, **TILED})
    return made


def _repeat(path: Path, content: npt.NDArray[Any], size: tuple[int, int], options: dict[str, Any]) -> None:
    height, width = size
    row = np.tile(content, (1, 1, -(-width // SQUARE)))[:, :, :width]
    grid = {"height": height, "width": width, "count": len(content), "dtype": content.dtype}
    fast = {"zlevel": 1, "num_threads": "all_cpus", "BIGTIFF": "IF_SAFER"}
    with rasterio.open(path, "w", driver="GTiff", **grid, **options, **fast) as dataset:
        for first in range(0, height, SQUARE):
            rows = min(SQUARE, height - first)
            dataset.write(row[:, :rows], window=Window(0, first, width, rows))
