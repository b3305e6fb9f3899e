"""Where classes come from: rasters and polygons, on the image's grid, window by window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.transform import Affine

from src.class_map import ClassMap, ClassRule, class_values, free_value, rare_values
from src.errors import UserError
from src.grid import Window, chip_windows
from src.label_sources import label_sources
from src.raster.read import describe
from src.vector import Burner
from tests import rasters


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(5, 40), st.booleans())
def test_windows_of_polygons_are_slices_of_the_whole(seed: int, count: int, chip: int, rotated: bool) -> None:
    generator = np.random.default_rng(seed)
    grid = Affine(7, 0, 500, 0, -7, 900) @ (Affine.rotation(20) if rotated else Affine.identity())
    centres = [grid @ tuple(xy) for xy in generator.uniform(0, 64, (count, 2))]
    shapes = np.array(
        [shapely.Point(p).buffer(r, 200) for p, r in zip(centres, generator.uniform(1, 150, count), strict=True)]
    )
    values = generator.integers(1, 255, count).astype(np.uint8)
    whole = rasterio.features.rasterize(
        list(zip(shapes, values, strict=True)), out_shape=(64, 64), transform=grid, dtype="uint8"
    )
    burner = Burner(shapes, values, tuple(grid)[:6])
    padded = np.pad(whole, ((0, chip), (0, chip)))
    for window in chip_windows(64, 64, (chip, chip), (chip, chip)):
        inside = window.intersection(Window(0, 0, 64, 64))
        part = burner.read(inside)
        np.testing.assert_array_equal(part, padded[inside.row : inside.row_stop, inside.column : inside.column_stop])


@given(arrays(np.int16, (6, 6), elements=st.integers(-5, 400)), st.sets(st.integers(-5, 400), max_size=6))
def test_a_class_map_translates_every_value(raw: np.ndarray, named: set[int]) -> None:
    rules = tuple(ClassRule(i + 1, (value,)) for i, value in enumerate(sorted(named)))
    found = class_values(raw, None, ClassMap(rules), "labels")
    target = {value: i + 1 for i, value in enumerate(sorted(named))}
    np.testing.assert_array_equal(found, [[target.get(int(v), 0) for v in row] for row in raw])


def test_nodata_and_nan_are_unclassified() -> None:
    np.testing.assert_array_equal(class_values(np.array([3, 255], np.uint8), 255, None, ""), [3, 0])
    np.testing.assert_array_equal(class_values(np.array([3, -9999], np.int16), -9999, None, ""), [3, 0])
    np.testing.assert_array_equal(class_values(np.array([3, np.nan, -1e38]), -1e38, None, ""), [3, 0, 0])


def test_rare_values_are_shares_of_the_labelled_pixels() -> None:
    counts = np.zeros(256, np.int64)
    counts[[0, 1, 2, 3]] = [10_000, 960, 30, 10]
    assert rare_values(counts, 3.0) == (3,)
    assert rare_values(counts, 3.1) == (2, 3)
    assert rare_values(counts, 0.0) == ()
    assert free_value([1, 2, 4], 9) == 3
    assert free_value(range(1, 256), 9) == 9


def test_names_from_envi_and_from_gdal(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    envi = rasters.label(tmp_path / "envi.bsq", driver="ENVI")
    header = envi.with_suffix(".hdr")
    header.write_text(header.read_text() + "classes = 4\nclass names = {none, wood, lake, town}\n")
    _, hints = label_sources([str(envi)], [image], None, None, None)
    assert hints.names == {1: "wood", 2: "lake", 3: "town"}
    tiff = rasters.label(tmp_path / "named.tif", colors={1: (1, 2, 3)})
    (tmp_path / "named.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category/><Category>oak</Category></CategoryNames>"
        "</PAMRasterBand></PAMDataset>"
    )
    _, hints = label_sources([str(tiff)], [image], None, None, None)
    assert (hints.names, hints.colors[1]) == ({1: "oak"}, "#010203")


def test_a_label_raster_without_georeference_of_the_same_size_is_taken_pixel_by_pixel(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        label = rasters.label(tmp_path / "l.png", driver="PNG", crs=None, transform=Affine.identity())
    (source,), _ = label_sources([str(label)], [image], None, None, None)
    assert source.note is not None
    assert "no georeference" in source.note
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), rasters.read(label)[0])


def test_a_mask_of_the_label_raster_counts(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    mask = np.ones((64, 64), bool)
    mask[:, :9] = False
    label = rasters.label(tmp_path / "l.tif", mask=mask)
    (source,), _ = label_sources([str(label)], [image], None, None, None)
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), np.where(mask, rasters.read(label)[0], 0))


def test_polygons_and_image_need_a_crs_both_or_neither(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif", crs=None))
    label = rasters.polygons(tmp_path / "l.gpkg", [(shapely.box(330_000, 5_821_400, 330_600, 5_822_000), 1)])
    with pytest.raises(UserError, match=r"s\.tif has no CRS, but .*l\.gpkg has one"):
        label_sources([str(label)], [image], None, None, None)


def test_several_fields_or_layers_have_to_be_chosen_from(tmp_path: Path) -> None:
    import pyogrio.raw

    image = describe(rasters.image(tmp_path / "s.tif"))
    box = shapely.to_wkb(np.array([shapely.box(330_000, 5_821_400, 330_600, 5_822_000)]))
    path = str(tmp_path / "l.gpkg")
    columns = [np.array([1]), np.array([2])]
    for layer in ("land", "water"):
        pyogrio.raw.write(
            path,
            box,
            columns,
            ["a", "b"],
            driver="GPKG",
            layer=layer,
            geometry_type="Polygon",
            crs=rasters.UTM,
            append=layer == "water",
        )
    with pytest.raises(UserError, match="several layers; give label_layer=… as one of: land, water"):
        label_sources([path], [image], None, None, None)
    with pytest.raises(UserError, match="several fields; give label_field=… as one of: a, b"):
        label_sources([path], [image], None, None, "land")
    (source,), _ = label_sources([path], [image], None, "b", "water")
    with source.open() as reader:
        assert np.unique(reader.read(image.window)).tolist() == [0, 2]
