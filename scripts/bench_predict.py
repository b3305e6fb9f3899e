"""Measure the peak memory of mapping, and how it grows with the scene.

    python scripts/bench_predict.py --sides 2000 20000

Every scene is mapped in a process of its own, tiled and untiled, with probabilities, polygons and a ground truth.
The network is a small one with random weights: memory that a larger one needs does not depend on the scene either.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.windows import Window as RasterioWindow

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds only what lies beside it

from src.bands import Band, Normalization
from src.labels import ClassTable
from src.mapping.ground_truth import LabelOptions, ground_truth
from src.mapping.map_scores import survey
from src.mapping.scene_map import MapOptions, Mapper, map_scene
from src.models.checkpoint import load_network, save_network
from src.models.network import build_network
from src.spec import NetworkSpec

BANDS = 13
CLASSES = ClassTable.build(range(1, 7))
LAYOUTS: dict[str, dict[str, object]] = {
    "tiled": {"tiled": True, "blockxsize": 256, "blockysize": 256},
    "in rows": {"blockysize": 1},
}


def main() -> None:
    """Map scenes of the sides that were asked for and print a table."""
    parser = argparse.ArgumentParser(description="Measure the peak memory of mapping.")
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 20_000], help="columns of the scenes")
    parser.add_argument("--rows", type=int, help="rows of the scenes (as many as columns)")
    parser.add_argument("--window", type=int, help="side of a window in pixels (chosen)")
    parser.add_argument("--folder", type=Path, help="where the scenes are kept meanwhile (a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder = Path(scratch)
        save_checkpoint(folder / "network.ckpt")
        print(f"{'scene':>24}  {'peak MB':>8}  {'growth':>8}  {'seconds':>8}")
        for name, layout in LAYOUTS.items():
            first = 0.0
            for side in given.sides:
                height = given.rows or side
                write_scene(folder, height, side, layout)
                seconds, peak = measure(folder, given.window)
                first = first or peak
                print(f"{side} × {height} {name:>8}  {peak:8.0f}  {peak - first:+8.0f}  {seconds:8.0f}", flush=True)


def save_checkpoint(path: Path) -> None:
    """Save a small network with random weights."""
    torch.manual_seed(0)
    bands = tuple(Band(f"band {number + 1}") for number in range(BANDS))
    normalization = Normalization((True,) * BANDS, 1.0, (3000.0,) * BANDS, (2000.0,) * BANDS)
    spec = NetworkSpec("compact_unet", "none", {}, bands, normalization, None, CLASSES, (256, 256))
    save_network(path, build_network(spec), spec, {})


def write_scene(folder: Path, height: int, width: int, layout: dict[str, object]) -> None:
    """Write a scene quickly, one square of smooth content again and again, and labels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, BANDS, 20, 20, generator=generator)
    square = torch.nn.functional.interpolate(coarse, size=(500, 500), mode="bilinear")[0].numpy()
    image, label = (square * 25).astype(np.uint16) * 250, (square[:6].argmax(0)[None] + 1).astype(np.uint8)
    place = rasterio.Affine(10, 0, 300_000, 0, -10, 6_000_000)
    for name, content, options in (("image", image, layout), ("label", label, LAYOUTS["tiled"])):
        count, dtype = len(content), content.dtype
        row = np.tile(content, (1, 1, -(-width // 500)))[:, :, :width]
        grid = {"height": height, "width": width, "count": count, "dtype": dtype, "crs": "EPSG:32633"}
        with rasterio.open(
            folder / f"{name}.tif",
            "w",
            driver="GTiff",
            transform=place,
            compress="deflate",
            zlevel=1,
            BIGTIFF="IF_SAFER",
            **grid,
            **options,
        ) as dataset:
            for first in range(0, height, 500):
                rows = min(500, height - first)
                dataset.write(row[:, :rows], window=RasterioWindow(0, first, width, rows))


def measure(folder: Path, window: int | None) -> tuple[float, float]:
    """Map the folder's scene in a new process; return its seconds and its peak memory in MB."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "one", str(folder), str(window or 0)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, float(result.stdout.split()[-1])


def map_one(folder: Path, window: int) -> None:
    """Map and score the folder's scene and print the peak memory of this process in MB."""
    network, spec = load_network(folder / "network.ckpt")
    options = MapOptions(window=window or None, probabilities="uint8", polygons=True)
    mapper = Mapper(folder / "network.ckpt", network, spec, torch.device("cpu"), options)
    found = map_scene(mapper, str(folder / "image.tif"), folder / "map" / "map.tif")
    source = ground_truth(str(folder / "label.tif"), found.grid, spec.classes, LabelOptions())
    with source.open() as label:
        survey(found.path, spec.classes, label)
    # The system's own counter would begin with what the process that started this one had.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")))


def run(arguments: Sequence[str]) -> None:
    """Run the measurement, or one of its processes."""
    if arguments[:1] == ["one"]:
        map_one(Path(arguments[1]), int(arguments[2]))
    else:
        main()


if __name__ == "__main__":
    run(sys.argv[1:])
