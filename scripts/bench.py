"""Measure what the documentation says about speed and memory.

    python scripts/bench.py prepare
    python scripts/bench.py prepare-memory

Absolute figures wander with the machine; what counts are ratios of runs that took turns.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window as RasterioWindow

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds only what lies beside it

from scripts.make_scene import make_scene
from src.grid import chip_windows
from src.preparation.cutting import cores
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation

BANDS = 13
CHIP = 256


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("prepare", "prepare-memory"))
    parser.add_argument("--side", type=int, default=4096, help="rows and columns of the scene (default 4096)")
    parser.add_argument("--rounds", type=int, default=5, help="how often both take turns (default 5)")
    parser.add_argument("--folder", type=Path, help="where the scenes are kept (default: a temporary folder)")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        if given.what == "prepare":
            bench_prepare(Path(scratch), given.side, given.rounds)
        else:
            bench_memory(Path(scratch))


def bench_prepare(scratch: Path, side: int, rounds: int) -> None:
    """Compare prepare with reading the same windows and writing the same bytes, and nothing else."""
    files = make_scene(scratch, width=side, height=side, bands=BANDS, unclassified_share=0)
    settings = Preparation(str(files.image), str(files.label), (CHIP, CHIP), (CHIP, CHIP), min_coverage=0)
    runs: dict[str, Callable[[], object]] = {
        "prepare": lambda: prepare(settings, scratch / "prepare"),
        "read and write, all cores": lambda: read_and_write(files.image, files.label, scratch / "all", cores()),
        "read and write, one core": lambda: read_and_write(files.image, files.label, scratch / "one", 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            for made in ("prepare", "all", "one"):
                shutil.rmtree(scratch / made, ignore_errors=True)
    chips = (side + CHIP - 1) // CHIP
    print(f"{side} × {side} × {BANDS} uint16 in deflate tiles, {chips * chips} chips of {CHIP} px, {cores()} cores")
    for name, times in seconds.items():
        print(f"  {name}: {statistics.median(times[1:]):.2f} s (median of {rounds}, first round left out)")
    for name in list(runs)[1:]:
        ratio = statistics.median(a / b for a, b in zip(seconds["prepare"][1:], seconds[name][1:], strict=True))
        print(f"  prepare / {name}: {ratio:.2f}")


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
            part = RasterioWindow(window.column, window.row, window.width, window.height)
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


def bench_memory(scratch: Path) -> None:
    """Compare the peak memory of preparing 2 000 × 2 000 and 20 000 × 20 000 pixels."""
    peaks = []
    for side in (2000, 20_000):
        image, label = large_scene(scratch, side)
        command = [sys.executable, __file__, "peak", str(image), str(label), str(scratch / f"folder_{side}")]
        start = time.perf_counter()
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(result.stdout) / 1024)
        print(f"{side} × {side} × {BANDS} uint16: peak {peaks[-1]:.0f} MB, {time.perf_counter() - start:.0f} s")
        shutil.rmtree(scratch / f"folder_{side}")
    print(f"difference: {peaks[1] - peaks[0]:.0f} MB")


def large_scene(scratch: Path, side: int, block: int = 512) -> tuple[Path, Path]:
    """Write a scene of any size quickly: one block of content, again and again."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(500, 4000, block).astype(np.uint16)
    pixels = np.stack([ramp[None] // 8 * 8 + ramp[:, None] // 16 + 100 * band for band in range(BANDS)]).astype(
        np.uint16
    )
    classes = generator.integers(1, 6, (block // 32, block // 32)).astype(np.uint8).repeat(32, 0).repeat(32, 1)
    layout = {"driver": "GTiff", "tiled": True, "blockxsize": block, "blockysize": block, "compress": "zstd"}
    grid = {"width": side, "height": side, "crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    paths = scratch / f"image_{side}.tif", scratch / f"label_{side}.tif"
    with (
        rasterio.open(paths[0], "w", count=BANDS, dtype="uint16", nodata=0, **layout, **grid) as image,
        rasterio.open(paths[1], "w", count=1, dtype="uint8", **layout, **grid) as label,
    ):
        for row in range(0, side, block):
            for column in range(0, side, block):
                height, width = min(block, side - row), min(block, side - column)
                part = RasterioWindow(column, row, width, height)
                image.write(pixels[:, :height, :width], window=part)
                label.write(classes[:height, :width], 1, window=part)
    return paths


def peak(image: str, label: str, folder: str) -> None:
    """Prepare and print the process's peak memory in kilobytes."""
    prepare(Preparation(image, label, (CHIP, CHIP), (CHIP, CHIP)), folder)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        peak(*sys.argv[2:5])
    else:
        main()
