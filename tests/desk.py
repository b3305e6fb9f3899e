"""A folder with every file that the documents' commands speak of, small: scenes, data sets, weights, a checkpoint.

``python -m tests.desk FOLDER`` lays it out; weights go to the caches that $HF_HOME and $TORCH_HOME name.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import rasterio
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
from PIL import Image

from scripts.demo_data import FCLASSES, WAVELENGTHS
from scripts.make_scene import make_scene
from src.errors import UserError
from src.models import imagenet, pretrained, satellite
from src.raster.write import write_geotiff
from tests.chip_folder import make_chip_folder
from tests.l8biome import make_l8biome
from tests.specdeepmap import Justo, foreign

SENTINEL2 = tuple(WAVELENGTHS)
LANDSAT = tuple(f"SR_B{number}" for number in range(1, 8))
CLASSES = {"havel": (13, 5), "indian_pines": (40, 16), "enmap_potsdam": (40, 6)}
"""Bands and classes of the benchmark's scenes here; the real ones have up to 218 bands."""


def lay_out(folder: Path) -> None:
    """Write all of it."""
    _scenes(folder)
    _demo(folder / "data" / "demo")
    for name, (bands, classes) in CLASSES.items():
        _benchmark(folder / "data" / "benchmark" / name, bands, classes)
    _landsat(folder / "data" / "landsat.tif", folder / "data" / "landsat_labels.tif")
    make_l8biome(folder / "data" / "l8biome")
    _landcoverai(folder / "data" / "landcoverai")
    _weight_files(folder)
    _caches()
    make_chip_folder(folder / "specdeepmap_tutorial", parts=(6, 3, 2), bands=len(SENTINEL2), names=SENTINEL2)
    torch.manual_seed(0)
    theirs = Justo(outputs=3, bands=len(SENTINEL2))
    foreign(folder / "00026-val_iou_0.7115.ckpt", theirs, "JustoUNetSimple", values=(2, 7), bands=len(SENTINEL2))


def _name_bands(path: Path, wavelengths: Mapping[str, int | None]) -> None:
    """Say which sensor's bands they are."""
    with rasterio.open(path, "r+") as dataset:
        for number, (name, wavelength) in enumerate(wavelengths.items(), start=1):
            dataset.set_band_description(number, name)
            dataset.update_tags(number, wavelength=str(wavelength or ""))


def _scenes(folder: Path) -> None:
    scene = make_scene(folder, name="scene", width=256, height=224, bands=13, seed=1, polygons=True)
    assert scene.polygons is not None
    _name_bands(scene.image, WAVELENGTHS)
    scene.image.rename(folder / "scene.tif")
    scene.label.rename(folder / "labels.tif")
    meta, _, geometry, values = pyogrio.raw.read(scene.polygons)
    kind = {"crs": meta["crs"], "geometry_type": meta["geometry_type"]}
    pyogrio.raw.write(folder / "fields.gpkg", geometry, values, fields=["crop"], **kind)
    for side in ("west", "east"):
        shutil.copy(folder / "scene.tif", folder / f"{side}.tif")
        shutil.copy(folder / "labels.tif", folder / f"{side}_labels.tif")
    enmap = make_scene(folder, name="enmap", width=160, height=128, bands=30, seed=2)
    enmap.image.rename(folder / "enmap.tif")
    enmap.label.rename(folder / "enmap_labels.tif")
    (folder / "scenes").mkdir()
    for name in ("one", "two"):
        one = make_scene(folder / "scenes", name=name, width=64, height=64, bands=13, seed=3)
        _name_bands(one.image, WAVELENGTHS)
        one.label.unlink()


def _demo(folder: Path) -> None:
    """What scripts/demo_data.py leaves."""
    made = make_scene(
        folder, width=192, height=160, bands=13, class_names=FCLASSES, nodata=0, noise=0.05, polygons=True, seed=4
    )
    assert made.polygons is not None
    _name_bands(made.image, WAVELENGTHS)
    shutil.copy(made.image, folder / "map_image.tif")
    made.image.rename(folder / "train_image.tif")
    made.polygons.rename(folder / "landuse.gpkg")


def _benchmark(folder: Path, bands: int, classes: int) -> None:
    """What ``scripts/benchmark.py --data`` leaves: a scene and which pixels train (1), validate (2) and test (3)."""
    made = make_scene(folder, width=160, height=128, bands=bands, values=range(1, classes + 1), seed=5, feature_size=12)
    with rasterio.open(made.label) as label:
        grid = {"crs": label.crs.to_wkt(), "transform": tuple(label.transform)[:6]}
    parts = np.full((1, 128, 160), 1, np.uint8)
    parts[:, :, 64:112], parts[:, :, 112:] = 2, 3
    write_geotiff(folder / "parts.tif", parts, nodata=0, **grid)
    made.image.rename(folder / "image.tif")
    made.label.rename(folder / "label.tif")


def _landsat(image: Path, label: Path) -> None:
    made = make_scene(image.parent, name="landsat", width=128, height=96, bands=len(LANDSAT), seed=6)
    _name_bands(made.image, dict.fromkeys(LANDSAT))
    made.image.rename(image)
    made.label.rename(label)


def _landcoverai(folder: Path) -> None:
    """Aerial pictures and masks under the names that torchgeo looks for."""
    rng = np.random.default_rng(0)
    (folder / "output").mkdir(parents=True)
    for part in ("train", "val", "test"):
        names = [f"{part}_{number}" for number in range(4)]
        (folder / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(folder / "output" / f"{name}.jpg")
            Image.fromarray(rng.integers(0, 5, (64, 64)).astype(np.uint8)).save(folder / "output" / f"{name}_m.png")


def _weight_files(folder: Path) -> None:
    """Weights as others publish them, by random numbers."""
    torch.manual_seed(0)
    bands = len(SENTINEL2)
    satellite_state = timm.create_model("resnet18", in_chans=bands, num_classes=0).state_dict()
    for name in ("resnet18.pth", "resnet18_sentinel2_all_moco-59bfdff9.pth"):
        torch.save(satellite_state, folder / name)
    torch.save(_encoder("resnet34", bands), folder / "encoder.pth")
    safetensors.torch.save_file(_encoder("resnet18", bands), folder / "encoder.safetensors")
    safetensors.torch.save_file(_timm("convnext_tiny"), folder / "model.safetensors")


def _encoder(name: str, bands: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = smp.encoders.get_encoder(name, in_channels=bands, weights=None).state_dict()
    return state


def _timm(name: str, bands: int = 3) -> dict[str, torch.Tensor]:
    return dict(timm.create_model(name, in_chans=bands).state_dict())


def _caches() -> None:
    """Put weights where a download would: each place is the one that the error names."""
    for encoder, state in (("tu-convnext_tiny", _timm("convnext_tiny")), ("resnet50", _encoder("resnet50", 3))):
        path = _place(imagenet.locate, encoder, None)
        safetensors.torch.save_file(state, path)
    for name, model, bands in (
        ("ResNet18_Weights.SENTINEL2_ALL_MOCO", "resnet18", 13),
        ("ResNet50_Weights.SENTINEL2_ALL_MOCO", "resnet50", 13),
        ("ResNet18_Weights.LANDSAT_OLI_SR_MOCO", "resnet18", 7),
    ):
        torch.save(_timm(model, bands), _place(pretrained.url_file, satellite.find_weights(name).url))


def _place(find: Callable[..., Path], *arguments: Any) -> Path:
    try:
        return find(*arguments)
    except UserError as error:
        path = Path(str(error).partition(" at ")[2].partition(", or")[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
