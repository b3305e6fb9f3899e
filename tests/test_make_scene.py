"""Synthetic scenes: what is asked for is what is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio.raw
import pytest
import rasterio
import rasterio.features
import shapely
from sklearn.neighbors import NearestCentroid

from scripts import make_scene as module
from scripts.make_scene import SCALES, default_colors, default_names, make_scene

ROOT = Path(__file__).parents[1]


def read(path: Path) -> npt.NDArray[Any]:
    with rasterio.open(path) as dataset:
        cube: npt.NDArray[Any] = dataset.read()
    return cube


def test_image_and_label_lie_on_the_grid_that_was_asked_for(tmp_path: Path) -> None:
    files = make_scene(tmp_path, width=70, height=50, bands=7, crs="EPSG:32733", pixel_size=30, origin=(5e5, 9e6))
    for path, count in ((files.image, 7), (files.label, 1)):
        with rasterio.open(path) as dataset:
            assert (dataset.count, dataset.height, dataset.width) == (count, 50, 70)
            assert dataset.crs.to_epsg() == 32733
            assert tuple(dataset.transform)[:6] == (30, 0, 5e5, 0, -30, 9e6)
    assert files.polygons is None


@pytest.mark.parametrize("side", [32, 96, 300])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_class_and_some_unclassified_pixels_occur(side: int, seed: int, tmp_path: Path) -> None:
    label = read(make_scene(tmp_path, width=side, height=side, values=(2, 5, 9, 200), seed=seed).label)
    assert set(np.unique(label)) == {0, 2, 5, 9, 200}


def test_the_same_seed_is_the_same_scene_and_another_is_not(tmp_path: Path) -> None:
    first, again, other = (make_scene(tmp_path / str(i), width=40, height=40, seed=s) for i, s in enumerate([3, 3, 4]))
    np.testing.assert_array_equal(read(first.image), read(again.image))
    np.testing.assert_array_equal(read(first.label), read(again.label))
    assert (read(first.image) != read(other.image)).any()


def test_regions_go_on_across_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_scene(tmp_path / "whole", width=40, height=64)
    monkeypatch.setattr(module, "STRIP", 16)
    strips = make_scene(tmp_path / "strips", width=40, height=64)
    np.testing.assert_array_equal(read(whole.label), read(strips.label))


@pytest.mark.parametrize("dtype", list(SCALES))
def test_numbers_fit_the_data_type_and_the_classes_differ_in_them(dtype: str, tmp_path: Path) -> None:
    files = make_scene(tmp_path, width=64, height=64, dtype=dtype, bands=6)
    image, label = read(files.image), read(files.label)[0]
    assert image.dtype == dtype
    assert 0.02 < image.mean() / SCALES[dtype] < 0.7
    pixels, classes = image[:, label > 0].T, label[label > 0]
    assert NearestCentroid().fit(pixels, classes).score(pixels, classes) > 0.8


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        *(("uint16", 0), ("int16", -32768), ("uint8", 255), ("float32", np.nan)),
        *(("uint16", 1000), ("uint8", 60), ("float32", 1e-4)),  # in the middle of what bands measure, and at their end
    ],
)
def test_nodata_is_where_it_was_asked_for_and_nowhere_else(dtype: str, nodata: float, tmp_path: Path) -> None:
    files = make_scene(tmp_path, width=80, height=60, dtype=dtype, nodata=nodata, nodata_share=0.2, noise=0.1)
    image = read(files.image)
    missing = np.isnan(image) if np.isnan(nodata) else image == image.dtype.type(nodata)
    assert (missing.all(axis=0) == missing.any(axis=0)).all()
    assert missing.mean() == pytest.approx(0.2, abs=0.02)
    assert missing[0, 0, 0]
    assert not missing[0, -1, -1]


def test_unclassified_share_is_kept(tmp_path: Path) -> None:
    for share in (0.0, 0.5):
        label = read(make_scene(tmp_path, width=256, height=256, unclassified_share=share).label)
        assert (label == 0).mean() == pytest.approx(share, abs=0.05)


def test_bands_have_names_and_wavelengths_and_the_label_colours_and_names(tmp_path: Path) -> None:
    files = make_scene(tmp_path, width=32, height=32, bands=3, values=(1, 4), class_names=("rock", "ice"))
    with rasterio.open(files.image) as image:
        assert image.descriptions == ("B01 443nm", "B02 1316nm", "B03 2190nm")
        assert [image.tags(i)["wavelength"] for i in (1, 2, 3)] == ["443", "1316", "2190"]
    with rasterio.open(files.label) as label:
        assert label.tags()["CLASSES"] == "1=rock 4=ice"
        assert label.colormap(1)[1] == (0, 100, 0, 255)
        assert label.colormap(1)[0] == (0, 0, 0, 0)


def test_polygons_cover_the_labelled_pixels(tmp_path: Path) -> None:
    files = make_scene(tmp_path, width=64, height=64, polygons=True)
    assert files.polygons is not None
    info = pyogrio.read_info(files.polygons)
    assert (info["crs"], list(info["fields"]), info["geometry_type"]) == ("EPSG:32633", ["fclass"], "Polygon")
    _, _, geometry, (names,) = pyogrio.raw.read(files.polygons)
    values = [default_names(5).index(name) + 1 for name in names]
    with rasterio.open(files.label) as dataset:
        burnt = rasterio.features.rasterize(
            zip(shapely.from_wkb(geometry), values, strict=True), dataset.shape, transform=dataset.transform
        )
        np.testing.assert_array_equal(burnt, dataset.read(1))


def test_names_and_colours_never_run_out() -> None:
    assert default_names(7)[4:] == ("water", "class_6", "class_7")
    assert len(default_colors(255)) == 255
    assert all(len(bytes.fromhex(color[1:])) == 3 for color in default_colors(255))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dtype": "complex64"}, "uint8, int16"),
        ({"bands": 0}, "at least one band"),
        ({"values": (3, 1)}, "ascending"),
        ({"values": (0, 1)}, "1–255"),
        ({"nodata_share": 0.1}, "nodata=0"),
        ({"nodata_share": 0.7, "nodata": 0}, "at most half"),
    ],
)
def test_contradictions_are_named(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        make_scene(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_the_command_line_says_what_it_wrote_and_ends_in_one_line(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts/make_scene.py"), str(tmp_path), "--width", "40", "--height", "40"]
    done = subprocess.run([*script, "--polygons"], capture_output=True, text=True, check=True)
    assert [Path(line).name for line in done.stdout.split()] == [
        "scene_image.tif",
        "scene_label.tif",
        "scene_polygons.gpkg",
    ]
    failed = subprocess.run([*script, "--bands", "0"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
