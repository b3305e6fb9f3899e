"""Which bands a picture shows, and how."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from src.bands import Band, Normalization
from src.labels import ClassTable
from src.quicklook import colorize, limits, quicklook, rgb_bands, shown_bands, stretch
from src.raster.read import open_raster
from src.raster.write import write_geotiff
from src.spec import NetworkSpec


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        ([Band("a", 443), Band("b", 490), Band("c", 560), Band("d", 665), Band("e", 842)], (3, 2, 1)),
        ([Band(f"band {i}", 400 + 10 * i) for i in range(60)], (26, 16, 9)),
        ([Band("Blue"), Band("Green"), Band("Red"), Band("NIR")], (2, 1, 0)),
        ([Band(n) for n in ("B01", "B02", "B03", "B04", "B08")], (3, 2, 1)),
        ([Band("B4 near infrared", 842), Band("VV"), Band("VH")], (0, 1, 2)),
        ([Band("x"), Band("y")], (0, 0, 0)),
        ([Band("a", 1200), Band("b", 1600), Band("c", 2200)], (0, 1, 2)),
    ],
)
def test_bands_are_chosen_by_wavelength_then_name_then_order(bands: list[Band], expected: tuple[int, int, int]) -> None:
    assert rgb_bands(bands) == expected


def test_bad_bands_are_not_shown() -> None:
    bands = [Band("a", 490), Band("b", 560), Band("c", 664, bad=True), Band("d", 670)]
    assert rgb_bands(bands) == (3, 1, 0)


def test_stretch_leaves_nodata_transparent_and_out_of_the_percentiles() -> None:
    image = np.tile(np.arange(100, dtype=np.float32).reshape(10, 10), (3, 1, 1))
    image[:, 0, 0] = -9999
    valid = image[0] > -1
    picture = stretch(image, valid)
    assert picture[0, 0].tolist() == [0, 0, 0, 0]
    assert picture[9, 9].tolist() == [255, 255, 255, 255]
    assert 100 < picture[5, 0, 0] < 150


def test_quicklook_is_small_and_masks_nodata(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 1000, (4, 300, 200), dtype=np.uint16)
    image[:, :100] = 0
    write_geotiff(tmp_path / "scene.tif", image, crs=None, transform=(1, 0, 0, 0, -1, 300), nodata=0)
    picture = quicklook(str(tmp_path / "scene.tif"), max_side=60)
    assert picture.shape == (60, 40, 4)
    assert (picture[:19, :, 3] == 0).all()
    assert (picture[21:, :, 3] == 255).all()


@pytest.mark.parametrize(
    ("declared", "given", "transparent"), [(None, False, "ours"), (7, False, "declared"), (7, True, "both")]
)
def test_what_a_network_takes_for_nodata_stretches_no_picture(
    declared: float | None, given: bool, transparent: str, tmp_path: Path
) -> None:
    """With nodata=-9999 for files that declare none, the scene was painted from -9999 on: one white area."""
    image = np.random.default_rng(0).integers(100, 200, (3, 30, 20), dtype=np.int16)
    image[:, :5], image[:, 25:] = -9999, 7
    path = tmp_path / "scene.tif"
    write_geotiff(path, image, crs=None, transform=(1, 0, 0, 0, -1, 30), nodata=declared)
    bands, classes = tuple(Band(name) for name in "abc"), ClassTable.build([1, 2])
    spec = NetworkSpec(
        "test", "none", {}, bands, Normalization.identity(3), -9999, classes, (32, 32), nodata_given=given
    )
    alpha = quicklook(str(path), spec=spec)[..., 3]
    assert (alpha[:5] == 0).all() == (transparent != "declared")
    assert (alpha[25:] == 0).all() == (transparent != "ours")
    assert (alpha[5:25] == 255).all()
    with open_raster(path) as dataset:
        _, shown, valid = shown_bands(dataset, 1000, spec=spec)
    assert valid.tolist() == (alpha == 255).tolist()
    assert limits(shown[0], valid) == limits(image[0], alpha == 255)


def test_a_band_without_a_measurement_does_not_empty_the_picture(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 1000, (4, 30, 20), dtype=np.uint16)
    image[0], image[:, :5] = 0, 0
    write_geotiff(tmp_path / "scene.tif", image, crs=None, transform=(1, 0, 0, 0, -1, 30), nodata=0)
    picture = quicklook(str(tmp_path / "scene.tif"))
    assert (picture[:5, :, 3] == 0).all()
    assert (picture[5:, :, 3] == 255).all()
    assert (picture[..., 0] == picture[..., 1]).all()
    assert (picture[..., 1] != picture[..., 2]).any()
    write_geotiff(tmp_path / "empty.tif", image * 0, crs=None, transform=(1, 0, 0, 0, -1, 30), nodata=0)
    assert not quicklook(str(tmp_path / "empty.tif")).any()


def test_what_is_no_number_in_a_band_that_is_not_used_spoils_no_picture() -> None:
    image = np.tile(np.arange(100, dtype=np.float32).reshape(10, 10), (3, 1, 1))
    image[0, 0, 0], image[1] = np.nan, np.nan
    valid = np.ones((10, 10), bool)
    assert limits(image[0], valid) == pytest.approx(limits(image[2], valid), abs=1)
    picture = stretch(image, valid)
    assert picture[9, 9].tolist() == [255, 0, 255, 255]
    assert picture[..., 0].std() > 50


def test_colorize_paints_classes_and_leaves_the_rest_transparent() -> None:
    classes = ClassTable.build([2, 200], colors={2: "#102030", 200: "#ffffff"})
    picture = colorize(np.array([[0, 2], [200, 9]], np.uint8), classes)
    assert picture.tolist() == [[[0, 0, 0, 0], [16, 32, 48, 255]], [[255, 255, 255, 255], [0, 0, 0, 0]]]
