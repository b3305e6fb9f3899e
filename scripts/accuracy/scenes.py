"""The real scenes of the accuracy benchmark, and which of their pixels train and which are held out.

``test`` is the area that a scene's README gives; nothing is chosen by it. ``fold-…`` are areas inside the training
area, by which everything is chosen: whole strips with a buffer between, or squares like those that the test has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

Values = npt.NDArray[np.uint8]

TRAIN, VALIDATION, HELD_OUT = 1, 2, 3
"""Values of split rasters, as prepare.py takes them by default."""
TEST = "test"
BUFFER = 16
"""Pixels that count nowhere on each side of a strip that is held out."""


@dataclass(frozen=True)
class Area:
    """What one run learns from and what it is scored on.

    Attributes:
        image: Scene to learn from.
        label: Its class values, all of them.
        parts: H × W split of that scene; HELD_OUT pixels of it are scored where there is no other scene for it.
        held_image: Scene to map.
        held_label: Class values that the map is scored against.
    """

    image: Path
    label: Path
    parts: Values
    held_image: Path
    held_label: Values


@dataclass(frozen=True)
class BenchmarkScene:
    """A scene with its areas.

    Attributes:
        title: What to call it.
        experiment: Name of its recorded experiments.
        classes: Names of its classes, by value from 1 on.
        folds: Names of the areas to choose by.
        area: Makes an area from the folder of the data and the area's name.
    """

    title: str
    experiment: str
    classes: tuple[str, ...]
    folds: tuple[str, ...]
    area: Callable[[Path, str], Area]


def havel(source: Path, name: str) -> Area:
    """Sentinel-2: the west trains, the east is the test; folds are vertical strips of the west."""
    folder = source / "sentinel2_havel"
    image, label = folder / "havel_train_image.tif", folder / "havel_train_label.tif"
    values = read(label)[0]
    columns = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    if name == TEST:
        parts = np.where((columns >= 448) & (columns < 576), VALIDATION, TRAIN).astype(np.uint8)
        return Area(image, label, parts, folder / "havel_map_image.tif", read(folder / "havel_map_label.tif")[0])
    left = 256 * _number(name)
    parts = np.full(values.shape, TRAIN, np.uint8)
    parts[:, max(0, left - BUFFER) : left + 256 + BUFFER] = 0
    parts[:, left : left + 256] = HELD_OUT
    free = (left + 512) % 1024
    parts[:, free + 64 : free + 192] = VALIDATION
    return Area(image, label, parts, image, np.where(parts == HELD_OUT, values, np.uint8(0)))


def indian_pines(source: Path, name: str) -> Area:
    """AVIRIS: squares of 16 px like those of a checkerboard; folds are its training squares' own quarters."""
    folder = source / "hyperspectral"
    image, label = folder / "indian_pines_image.tif", folder / "indian_pines_label.tif"
    values, given = read(label)[0], read(folder / "indian_pines_split.tif")[0]
    row, column = np.indices(values.shape)
    parts = np.where(given == 2, HELD_OUT, TRAIN)
    if name != TEST:
        quarter = (row // 8 + column // 8) % 2
        parts = np.where(given == 2, 0, np.where(quarter == _number(name), HELD_OUT, TRAIN))
    parts[(parts == TRAIN) & (row // 16 == 4) & (column // 16 == 4)] = VALIDATION  # a token: refits learn from it too
    parts = parts.astype(np.uint8)
    return Area(image, label, parts, image, np.where(parts == HELD_OUT, values, np.uint8(0)))


def enmap_potsdam(source: Path, name: str) -> Area:
    """EnMAP: the tiles of the published lists; folds are every fourth of those for training and validation."""
    folder = source / "hyperspectral"
    image, label = folder / "enmap_potsdam_image.tif", folder / "enmap_potsdam_label.tif"
    values, parts = read(label)[0], read(folder / "enmap_potsdam_split.tif")[0].astype(np.uint8)
    if name != TEST:
        row, column = np.indices(values.shape)
        tile = row // 32 * 5 + column // 32
        known = np.unique(tile[(parts == TRAIN) | (parts == VALIDATION)])
        order = np.random.default_rng(1).permutation(known)
        held, validating = order[_number(name) :: 4], order[(_number(name) + 1) % 4 :: 4][:1]
        parts = np.where(np.isin(tile, known), TRAIN, 0)
        parts[np.isin(tile, validating)] = VALIDATION
        parts[np.isin(tile, held)] = HELD_OUT
        parts = parts.astype(np.uint8)
    return Area(image, label, parts, image, np.where(parts == HELD_OUT, values, np.uint8(0)))


SCENES = {
    "havel": BenchmarkScene(
        "Sentinel-2, Havel lakes",
        "havel",
        ("forest", "grassland", "farmland", "residential", "water"),
        ("fold-0", "fold-1", "fold-2", "fold-3"),
        havel,
    ),
    "indian_pines": BenchmarkScene(
        "AVIRIS, Indian Pines",
        "indian_pines",
        (
            *("alfalfa", "corn-notill", "corn-mintill", "corn", "grass-pasture", "grass-trees"),
            *("grass-pasture-mowed", "hay-windrowed", "oats", "soybean-notill", "soybean-mintill"),
            *("soybean-clean", "wheat", "woods", "buildings-grass-trees-drives", "stone-steel-towers"),
        ),
        ("fold-0", "fold-1"),
        indian_pines,
    ),
    "enmap_potsdam": BenchmarkScene(
        "EnMAP, Potsdam",
        "enmap_potsdam",
        ("roof", "pavement", "low vegetation", "tree", "soil", "water"),
        ("fold-0", "fold-1", "fold-2", "fold-3"),
        enmap_potsdam,
    ),
}
"""The scenes by name."""


def lay_out(scene: BenchmarkScene, source: Path, folder: Path) -> list[Path]:
    """Put a scene where its recorded experiments look for it, with the split and the labels of its test area.

    Args:
        scene: Which.
        source: Folder of the data.
        folder: Gets a folder of the experiment's name.

    Returns:
        The files: image, label and parts to prepare, image and label to map.
    """
    area, here = scene.area(source, TEST), folder / scene.experiment
    here.mkdir(parents=True, exist_ok=True)
    for path, name in ((area.image, "image"), (area.label, "label"), (area.held_image, "map_image")):
        shutil.copyfile(path, here / f"{name}.tif")
    write_like(here / "parts.tif", area.parts, area.image)
    write_like(here / "map_label.tif", area.held_label, area.held_image)
    return [here / f"{name}.tif" for name in ("image", "label", "parts", "map_image", "map_label")]


def read(path: Path) -> npt.NDArray[Any]:
    """Read a raster, bands first."""
    with rasterio.open(path) as dataset:
        found: npt.NDArray[Any] = dataset.read()
    return found


def write_like(path: Path, values: Values, like: Path) -> Path:
    """Write class or part values on another raster's grid."""
    with rasterio.open(like) as dataset:
        grid = {"crs": dataset.crs, "transform": dataset.transform}
    height, width = values.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=1, height=height, width=width, compress="deflate", **grid
    ) as dataset:
        dataset.write(values, 1)
    return path


def _number(name: str) -> int:
    return int(name.removeprefix("fold-"))
