"""prepare.py against reading the same windows and writing the same bytes, and nothing else."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rasterio
from rasterio.windows import Window

from scripts.benchmarks.measuring import Options, take_turns
from scripts.benchmarks.rows import Row, compared
from scripts.benchmarks.scenes import BANDS, repeated_scene
from src.cores import cores
from src.grid import chip_windows
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation

SIDE = 6144
"""A third of a Sentinel-2 tile: on less, drawing the overview, which takes as long for any scene, is a large part."""
CHIP = 256
GOAL = 1 / 1.3


def measure(options: Options) -> list[Row]:
    """Compare prepare with plain reading and writing on as many cores."""
    files = repeated_scene(options.folder, SIDE, SIDE)
    settings = Preparation(str(files.image), str(files.label), (CHIP, CHIP), (CHIP, CHIP), min_coverage=0)
    made = options.folder / "made"

    def ours() -> float:
        shutil.rmtree(made, ignore_errors=True)
        prepare(settings, made)
        return 1.0

    def plain() -> float:
        shutil.rmtree(made, ignore_errors=True)
        read_and_write(files.image, files.label, made, cores())
        return 1.0

    turns = take_turns({"ours": ours, "plain": plain}, options)
    meaning = f"read and write, {cores()} threads"
    return [compared(f"prepare {SIDE}² px × {BANDS}", (turns["ours"], turns["plain"]), meaning, unit="s", goal=GOAL)]


def read_and_write(image: Path, label: Path, folder: Path, workers: int) -> None:
    """Copy every chip's window of image and label into files of their own, laid out as prepare lays them out."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    with rasterio.open(image) as dataset:
        height, width = dataset.height, dataset.width
    windows = list(chip_windows(height, width, (CHIP, CHIP), (CHIP, CHIP)))
    opened = [(rasterio.open(image), rasterio.open(label)) for _ in range(workers)]

    def copy(worker: int) -> None:
        for window in windows[worker::workers]:
            part = Window(window.column, window.row, window.width, window.height)
            for source, kind in zip(opened[worker], ("images", "labels"), strict=True):
                pixels = source.read(window=part)
                path = folder / kind / f"{window.column}_{window.row}.tif"
                options = {"count": len(pixels), "dtype": pixels.dtype, "crs": source.crs, "interleave": "band"}
                shape = {"height": window.height, "width": window.width, "blockysize": window.height}
                with rasterio.open(
                    path, "w", driver="GTiff", transform=source.window_transform(part), **shape, **options
                ) as out:
                    out.write(pixels)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(copy, range(workers)))
    for pair in opened:
        for source in pair:
            source.close()
