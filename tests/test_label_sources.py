"""Where classes come from: rasters and polygons, on the image's grid, window by window."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import rasterio.features
import shapely
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.crs import CRS
from rasterio.transform import Affine

from src.class_map import ClassMap, ClassRule, class_values, free_value, rare_values
from src.errors import UserError
from src.grid import Window, chip_windows
from src.label_sources import ClassHints, label_sources, scenes_with_labels
from src.preparation.class_choice import known_values, merge_rare
from src.raster.georeference import apply_transform, transform_points
from src.raster.read import RasterInfo, describe
from src.vector import Burner, read_features
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


@pytest.mark.parametrize("sources", [(10, 2), ("10", "2"), (10, "2")])
@pytest.mark.parametrize("kind", ["numbers", "text", "raster"])
def test_a_class_map_knows_codes_as_numbers_and_as_text(
    sources: tuple[int | str, int | str], kind: str, tmp_path: Path
) -> None:
    """Shapefiles of land use hold their codes as text; a rule for 10 left all of them out without a word."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    values = np.full((64, 64), 10, np.uint8)
    values[:, 32:] = 2
    if kind == "raster":
        label = rasters.write(tmp_path / "l.tif", values)
    else:
        label = rasters.polygons(tmp_path / "l.shp", _halves(*((10, 2) if kind == "numbers" else ("10", "2"))))
    rules = ClassMap((ClassRule(1, (sources[0],)), ClassRule(2, (sources[1],))))
    (source,), _ = label_sources([str(label)], [image], rules, None, None)
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), np.where(values == 10, 1, 2))


@pytest.mark.parametrize("merge", [1, "1", "01"])
def test_codes_with_zeros_in_front_are_their_numbers(merge: int | str, tmp_path: Path) -> None:
    """Without a class map 01 was 1; with one it was in no class, without a word."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    label = rasters.polygons(tmp_path / "l.gpkg", _halves("01", "11"))
    rules = ClassMap((ClassRule(5, (merge,), "wood"), ClassRule(6, (11,))))
    (source,), _ = label_sources([str(label)], [image], rules, None, None)
    with source.open() as reader:
        assert reader.read(image.window)[0, ::63].tolist() == [5, 6]
    mixed = rasters.polygons(tmp_path / "m.gpkg", _halves("01", "forest"))
    rules = ClassMap((ClassRule(5, (merge,)), ClassRule(6, ("forest",))))
    assert label_sources([str(mixed)], [image], rules, None, None)[1].names == {5: "01", 6: "forest"}


@pytest.mark.parametrize("kind", ["numbers", "text", "class map"])
def test_later_polygons_of_class_0_make_pixels_unclassified(kind: str, tmp_path: Path) -> None:
    """Without a class map they were left out: what lay below them stayed a class."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    shapes = [(shapely.box(330_000, 5_821_360, 330_640, 5_822_000), 3), *_halves(0, 4)]
    if kind == "text":
        shapes = [(shape, str(value)) for shape, value in shapes]
    label = rasters.polygons(tmp_path / "l.gpkg", shapes)
    rules = ClassMap(tuple(ClassRule(value, (value,)) for value in (3, 4, 0))) if kind == "class map" else None
    (source,), _ = label_sources([str(label)], [image], rules, None, None)
    with source.open() as reader:
        assert reader.read(image.window)[0, ::63].tolist() == [0, 4]


def test_a_class_map_burns_in_the_order_of_its_rules_or_in_that_of_the_file(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    whole = shapely.box(330_000, 5_821_360, 330_640, 5_822_000)
    label = rasters.polygons(tmp_path / "l.gpkg", [(whole, "wood"), *_halves("lake", "mine")])
    rules = ClassMap((ClassRule(1, ("lake",)), ClassRule(2, ("wood",))))
    for in_file_order, values in ((False, [2, 2]), (True, [1, 2])):
        given = replace(rules, in_file_order=in_file_order)
        (source,), _ = label_sources([str(label)], [image], given, None, None)
        with source.open() as reader:
            assert reader.read(image.window)[0, ::63].tolist() == values


def test_a_class_map_is_written_as_the_command_line_takes_it() -> None:
    texts = ["wood", "wet land", "x, y]", 'say "x"', "back\\", '\\"', "it's", "null", "TRUE", "nan", "1e3", "ü", "a: b"]
    rules = ClassMap((ClassRule(3, (112, -5, *texts), "wood", "#006400"), ClassRule(0, ("01",))))
    parsed = OverridesParser.create().parse_override(f"class_map={rules.written()}").value()
    assert parsed == [{"value": 3, "merge": [112, -5, *texts]}, {"value": 0, "merge": ["01"]}]


def test_a_number_and_the_same_as_text_are_one_class() -> None:
    with pytest.raises(UserError, match="puts 5 into 1 and 2"):
        ClassMap((ClassRule(1, (5,)), ClassRule(2, ("5",))))


def _halves(left: str | float | None, right: str | float | None) -> list[tuple[shapely.Polygon, str | float | None]]:
    """Return two halves of an image and the class of each."""
    x, y = 330_000, 5_822_000
    return [(shapely.box(x, y - 640, x + 320, y), left), (shapely.box(x + 320, y - 640, x + 640, y), right)]


@pytest.mark.parametrize(
    ("texts", "values", "names"),
    [
        (("10", "2"), (10, 2), {}),
        (("0", "2"), (0, 2), {}),
        (("112", "311"), (1, 2), {1: "112", 2: "311"}),
        (("wood", "lake"), (2, 1), {1: "lake", 2: "wood"}),
        (("wood", " wood "), (1, 1), {1: "wood"}),
        (("wood", "  "), (1, 0), {1: "wood"}),
        (("wood", None), (1, 0), {1: "wood"}),
    ],
)
def test_text_classes_have_values(
    texts: tuple[str, str | None], values: tuple[int, int], names: dict[int, str], tmp_path: Path
) -> None:
    """Numbers that are text keep their value, 112 and more as there are no such class values; blanks do not count."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    label = rasters.polygons(tmp_path / "l.gpkg", _halves(*texts))
    (source,), hints = label_sources([str(label)], [image], None, None, None)
    with source.open() as reader:
        assert reader.read(image.window)[0, ::63].tolist() == list(values)
    assert hints.names == names


@pytest.mark.parametrize("encoding", ["UTF-8", "ISO-8859-1"])
@pytest.mark.parametrize("told", [True, False])
def test_names_of_a_shapefile_are_read_with_and_without_what_tells_their_encoding(
    encoding: str, told: bool, tmp_path: Path
) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    path, texts = str(tmp_path / "l.shp"), ["Grünland", "Äcker"]
    shapes = shapely.to_wkb(np.array([shape for shape, _ in _halves(*texts)]))
    columns = [np.array(texts, object)]
    pyogrio.raw.write(path, shapes, columns, ["c"], geometry_type="Polygon", crs=rasters.UTM, encoding=encoding)
    if not told:
        (tmp_path / "l.cpg").unlink()
    _, hints = label_sources([path], [image], None, None, None)
    assert set(hints.names.values()) == set(texts)


@pytest.mark.parametrize("kind", ["bool", "datetime64[D]"])
def test_a_field_of_another_kind_is_one_line(kind: str, tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    shapes = shapely.to_wkb(np.array([shape for shape, _ in _halves(1, 2)]))
    path, column = str(tmp_path / "l.gpkg"), np.array([1, 0]).astype(kind)
    pyogrio.raw.write(path, shapes, [column], ["c"], driver="GPKG", geometry_type="Polygon", crs=rasters.UTM)
    with pytest.raises(UserError, match=r"l\.gpkg has .* in its field c; classes are whole numbers or text"):
        label_sources([path], [image], None, None, None)


def test_a_field_of_another_kind_is_one_line_without_a_feature(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    path, column = str(tmp_path / "l.gpkg"), np.array([], "datetime64[D]")
    pyogrio.raw.write(
        path, np.array([], object), [column], ["c"], driver="GPKG", geometry_type="Polygon", crs=rasters.UTM
    )
    with pytest.raises(UserError, match=r"l\.gpkg has values of the kind datetime64.* in its field c; classes are"):
        label_sources([path], [image], None, None, None)


def test_shapes_that_are_no_polygons_are_one_line(tmp_path: Path) -> None:
    """Terrain as CAD writes it: GDAL reads it, and no other library."""
    corners = [(330_000, 5_822_000), (330_600, 5_822_000), (330_300, 5_821_400), (330_000, 5_822_000)]
    ring = struct.pack("<II", 1, 4) + b"".join(struct.pack("<dd", *corner) for corner in corners)
    mesh = b"\x01" + struct.pack("<II", 16, 1) + b"\x01" + struct.pack("<I", 17) + ring
    path, columns = str(tmp_path / "l.gpkg"), [np.array([1])]
    with pytest.warns(RuntimeWarning, match="gpkg_geom_TIN"):
        pyogrio.raw.write(
            path, np.array([mesh], object), columns, ["c"], driver="GPKG", geometry_type="Unknown", crs=rasters.UTM
        )
    with pytest.raises(UserError, match=r"l\.gpkg has geometries that cannot be read .*; expected polygons"):
        label_sources([path], [describe(rasters.image(tmp_path / "s.tif"))], None, None, None)


def test_what_a_class_map_names_in_vain_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    label = rasters.polygons(tmp_path / "l.gpkg", _halves(10, 2))
    caplog.set_level("INFO")
    label_sources([str(label)], [image], ClassMap((ClassRule(1, (10, 7)), ClassRule(0, (8,)))), None, None)
    assert caplog.messages == [
        "class_map merges 7 into 1, which no label has.",
        "class_map merges 8 into 0, which no label has.",
    ]
    with pytest.raises(UserError, match=r"class_map merges 3, which no label has; there is: 2, 10\."):
        label_sources([str(label)], [image], ClassMap((ClassRule(1, (3,)), ClassRule(2, (2,)))), None, None)


def test_text_classes_that_differ_in_case_only_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    label = rasters.polygons(tmp_path / "l.gpkg", [*_halves("wood", "Wood"), *_halves("lake", "lake")])
    _, hints = label_sources([str(label)], [image], None, None, None)
    assert hints.names == {1: "Wood", 2: "lake", 3: "wood"}
    assert caplog.messages == [
        "CAUTION: the text classes Wood and wood differ in case only and are classes of their own; if they are one, "
        "correct the labels, or merge them: class_map='[{value: 1, merge: [Wood, wood]}, …]'."
    ]
    caplog.clear()
    rules = ClassMap((ClassRule(1, ("wood",)), ClassRule(2, ("Wood", "lake"))))
    label_sources([str(label)], [image], rules, None, None)
    assert not caplog.messages


@pytest.mark.parametrize("kind", ["raster", "polygons"])
def test_labels_for_several_scenes_may_miss_some(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One scene without a label was an error, though the labels were for all of them."""
    places = [_moved(0), *(_moved(1000 * n) for n in range(1, 6))]
    images = [describe(rasters.image(tmp_path / f"s{n}.tif", transform=place)) for n, place in enumerate(places)]
    label = rasters.label(tmp_path / "l.tif") if kind == "raster" else None
    label = str(label or rasters.polygons(tmp_path / "l.gpkg", _halves(1, 2)))
    sources, _ = label_sources([label] * 6, images, None, None, None)
    assert scenes_with_labels(sources) == [0]
    (words,) = caplog.messages
    assert words.startswith("CAUTION: 5 of 6 scenes have no label (")
    assert words.endswith("s1.tif, " + f"{tmp_path}/s2.tif, {tmp_path}/s3.tif …); they are left out.")
    with sources[1].open() as reader:
        assert not reader.read(Window(0, 0, 4, 5)).any()
    for labels in ([label], [label, label]):  # its own, and one for all that has something on none
        with pytest.raises(UserError, match="do not overlap"):
            label_sources(labels, images[1:][: len(labels)], None, None, None)


ARBITRARY = CRS.from_wkt('LOCAL_CS["Arbitrary",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]')


@pytest.mark.parametrize("crs", [None, ARBITRARY])
@pytest.mark.parametrize("grid", [Affine.identity(), Affine(1, 0, 0, 0, -1, 0), Affine(10, 0, 0, 0, -10, 640)])
@pytest.mark.parametrize("of_image", [None, "arbitrary", "earth"])
def test_labels_without_a_place_are_taken_pixel_by_pixel(
    of_image: str | None, grid: Affine, crs: CRS | None, tmp_path: Path
) -> None:
    """ENVI's Arbitrary was a CRS, which an image without map info lacked; y downwards a georeference."""
    places: dict[str | None, tuple[Any, Affine]] = {
        None: (None, Affine.identity()),
        "arbitrary": (ARBITRARY, Affine(1, 0, 0, 0, -1, 0)),
        "earth": (rasters.UTM, rasters.NORTH_UP),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        image_crs, image_grid = places[of_image]
        image = describe(rasters.image(tmp_path / "s.tif", crs=image_crs, transform=image_grid))
        label = rasters.label(tmp_path / "l.tif", crs=crs, transform=grid)
        larger = str(rasters.label(tmp_path / "larger.tif", 70, 64, crs=crs, transform=grid @ Affine.scale(1, 64 / 70)))
    (source,), _ = label_sources([str(label)], [image], None, None, None)
    assert bool(source.note) == (of_image == "earth" or image_grid.a != grid.a)
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), rasters.read(label)[0])
    with pytest.raises(UserError, match=r"larger\.tif \(64 × 70 px\) has no georeference"):
        label_sources([larger], [image], None, None, None)


@pytest.mark.parametrize("crs", [None, ARBITRARY])
def test_labels_of_another_extent_on_the_grid_of_one_plan_are_cut_out(crs: CRS | None, tmp_path: Path) -> None:
    plan = Affine(10, 0, 0, 0, -10, 640)
    image = describe(rasters.image(tmp_path / "s.tif", 40, 40, crs=crs, transform=plan @ Affine.translation(8, 24)))
    label = rasters.label(tmp_path / "l.tif", crs=crs, transform=plan)
    (source,), _ = label_sources([str(label)], [image], None, None, None)
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), rasters.read(label)[0, 24:, 8:48])


def test_a_number_of_polygons_that_is_no_class_gets_advice_for_polygons(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    label = rasters.polygons(tmp_path / "l.gpkg", _halves(300, 1))
    with pytest.raises(UserError, match=r"the value 300; .* with class_map, or choose another field with label_field"):
        label_sources([str(label)], [image], None, None, None)


def test_nodata_and_nan_are_unclassified() -> None:
    np.testing.assert_array_equal(class_values(np.array([3, 255], np.uint8), 255, None, ""), [3, 0])
    np.testing.assert_array_equal(class_values(np.array([3, -9999], np.int16), -9999, None, ""), [3, 0])
    np.testing.assert_array_equal(class_values(np.array([3, np.nan, -1e38]), -1e38, None, ""), [3, 0, 0])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
@pytest.mark.parametrize("unknown", ["nodata", "mask"])
@pytest.mark.parametrize("offset", [0, 0.25])
def test_a_class_map_takes_the_zeros_that_a_raster_has_and_no_others(
    dtype: str, unknown: str, offset: float, tmp_path: Path
) -> None:
    """Nodata, what a mask leaves out and all outside the raster became the class that merges 0, warped or not."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    values = np.zeros((32, 32), dtype)
    values[:16] = 1
    told: dict[str, Any] = {"nodata": 200}
    if unknown == "nodata":
        values[:, 24:] = 200
    else:
        told = {"mask": np.repeat([[True, False]], 32, 0).repeat([24, 8], 1)}
    label = rasters.write(tmp_path / "l.tif", values, transform=_moved(offset), **told)
    (source,), _ = label_sources([str(label)], [image], ClassMap((ClassRule(3, (0,)), ClassRule(2, (1,)))), None, None)
    assert ("is warped" in (source.note or "")) == bool(offset)
    expected = np.zeros((64, 64))
    expected[:32, :24] = np.repeat([2, 3], 16)[:, None]
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), expected)
        np.testing.assert_array_equal(reader.read(Window(20, 10, 16, 16)), expected[20:36, 10:26])


def _moved(pixels: float) -> Affine:
    return rasters.NORTH_UP @ Affine.translation(pixels, pixels)


@pytest.mark.parametrize("dtype", ["int16", "int32"])
def test_warped_zeros_stay_unclassified(dtype: str, tmp_path: Path) -> None:
    """GDAL made −1 of them, to tell them from the 0 that it was given for nodata."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    values = np.zeros((64, 64), dtype)
    values[:, 32:] = 7
    label = rasters.write(tmp_path / "l.tif", values, transform=_moved(0.25))
    (source,), _ = label_sources([str(label)], [image], None, None, None)
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), values)


def test_large_codes_are_warped_exactly(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    values = np.full((64, 64), 231_000_001, np.int32)
    label = rasters.write(tmp_path / "l.tif", values, transform=_moved(0.25))
    (source,), _ = label_sources([str(label)], [image], ClassMap((ClassRule(4, (231_000_001,)),)), None, None)
    with source.open() as reader:
        assert (reader.read(image.window) == 4).all()


def test_infinity_is_no_class(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    label = rasters.polygons(tmp_path / "l.gpkg", _halves(1.0, np.inf))
    with pytest.raises(UserError, match=r"l\.gpkg has the class inf; classes are whole numbers or text"):
        label_sources([str(label)], [image], ClassMap((ClassRule(1, (1,)),)), None, None)


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
    _, hints = label_sources([str(envi)], [image], ClassMap((ClassRule(9, (0,)), ClassRule(1, (1,)))), None, None)
    assert hints.names == {1: "wood", 9: "none"}
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


@pytest.mark.parametrize("beside", ["alpha", "mask"])
@pytest.mark.parametrize("shift", [0, 0.25])
def test_a_nodata_value_hides_neither_mask_nor_alpha_of_labels(beside: str, shift: float, tmp_path: Path) -> None:
    """Warped, GDAL heeds either the one or the other."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    grid = rasters.NORTH_UP @ Affine.translation(shift, shift)
    values = rasters.read(rasters.label(tmp_path / "plain.tif"))[0]
    there = np.ones((64, 64), bool)
    there[:, :9] = False
    if beside == "alpha":
        cube = np.stack([values, np.where(there, 255, 0).astype(np.uint8)])
        label = rasters.write(tmp_path / "l.tif", cube, transform=grid, alpha="YES", nodata=3)
    else:
        label = rasters.write(tmp_path / "l.tif", values, transform=grid, mask=there, nodata=3)
    (source,), _ = label_sources([str(label)], [image], None, None, None)
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), np.where(there & (values != 3), values, 0))


@pytest.mark.parametrize("kind", ["raster", "polygon", "crossing"])
def test_labels_of_all_the_earth(kind: str, tmp_path: Path) -> None:
    """In the image's UTM zone most of it has wrong coordinates: rasters lay elsewhere, polygons were lost."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    if kind == "raster":
        degrees = Affine(1, 0, -180, 0, -1, 90)
        label = rasters.write(tmp_path / "l.tif", np.full((180, 360), 2, np.uint8), crs="EPSG:4326", transform=degrees)
    else:
        ring = [(-180, -90), (180, -90), (180, 83), (-180, 83)]
        ring += [(-180, -80), (-170, -80), (-180, -70)] if kind == "crossing" else []
        label = rasters.polygons(tmp_path / "l.gpkg", [(shapely.Polygon(ring), 2)], crs="EPSG:4326")
    (source,), _ = label_sources([str(label)], [image], None, None, None)
    with source.open() as reader:
        assert np.unique(reader.read(image.window)).tolist() == [2]


def test_a_table_without_geometries_is_no_layer_to_choose_from(tmp_path: Path) -> None:
    """QGIS keeps its styles in one, in the GeoPackage itself."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    path = rasters.polygons(tmp_path / "l.gpkg", [(shapely.box(330_000, 5_821_360, 330_640, 5_822_000), 1)])
    pyogrio.raw.write(path, None, [np.array(["x"], object)], ["styleQML"], driver="GPKG", layer="layer_styles")
    (source,), _ = label_sources([str(path)], [image], None, None, None)
    with source.open() as reader:
        assert (reader.read(image.window) == 1).all()


def test_text_classes_of_their_own_numbers_keep_their_names(tmp_path: Path) -> None:
    """A text that was its class's number by chance lost its name, and labels found it no longer by that."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    box = shapely.box(330_000, 5_821_400, 330_600, 5_822_000)
    codes = rasters.polygons(tmp_path / "l.gpkg", [(box, code) for code in ("10", "2", "311")])
    assert label_sources([str(codes)], [image], None, None, None)[1].names == {1: "10", 2: "2", 3: "311"}


def test_numbers_and_text_classes_are_not_thrown_together(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    box = shapely.box(330_000, 5_821_400, 330_600, 5_822_000)
    texts = str(rasters.polygons(tmp_path / "t.gpkg", [(box, "forest"), (box, "water")]))
    numbers = [rasters.label(tmp_path / "l.tif"), rasters.polygons(tmp_path / "n.gpkg", [(box, 1)])]
    for path in map(str, numbers):
        with pytest.raises(UserError, match=rf"{Path(path).name} has numbers without names, and other labels"):
            label_sources([path, texts], [image, image], None, None, None)
        merged = ClassMap((ClassRule(1, (1, "forest")), ClassRule(2, (2, "water"))))
        assert len(label_sources([path, texts], [image, image], merged, None, None)[0]) == 2


@pytest.mark.parametrize("suffix", ["gpkg", "shp", "geojson"])
def test_polygons_come_in_the_file_s_order(suffix: str, tmp_path: Path) -> None:
    """Within an extent, a GeoPackage has them in the order of its spatial index: earlier ones lay on later ones."""
    image = describe(rasters.image(tmp_path / "s.tif"))
    places = np.random.default_rng(0).random((500, 2)) * 600
    boxes = [shapely.box(330_000 + x, 5_821_300 + y, 330_060 + x, 5_821_360 + y) for x, y in places]
    path = rasters.polygons(tmp_path / f"l.{suffix}", list(zip(boxes, range(500), strict=True)))
    if suffix == "geojson":  # where features may have numbers of their own, in any order
        content = json.loads(path.read_text())
        for number, feature in enumerate(content["features"]):
            feature["id"] = 1000 - number
        path.write_text(json.dumps(content))
    assert (np.diff(read_features(path, image, None, None).classes) > 0).all()


TAVEUNI = Affine(100, 0, 815_000, 0, -100, 8_145_000)
"""An island of Fiji in UTM zone 60, through which the 180th meridian runs."""
EARTH = Affine(1, 0, -180, 0, -1, 90)


def _from_degrees(shape: shapely.Geometry, crs: str) -> shapely.Geometry:
    source, goal = CRS.from_epsg(4326).to_wkt(), CRS.from_user_input(crs).to_wkt()
    return shapely.transform(shape, lambda points: transform_points(points, source, goal))


def _degrees(image: RasterInfo) -> tuple[np.ndarray, np.ndarray]:
    """Return the longitude and latitude of every pixel's centre."""
    rows, columns = np.indices((image.height, image.width)) + 0.5
    points = apply_transform(image.transform, np.column_stack([columns.ravel(), rows.ravel()]))
    found = transform_points(points, str(image.crs), CRS.from_epsg(4326).to_wkt())
    return found[:, 0].reshape(rows.shape), found[:, 1].reshape(rows.shape)


@pytest.mark.parametrize(
    ("crs", "suffix"),
    [
        ("EPSG:4326", "gpkg"),
        ("EPSG:4326", "geojson"),
        ("EPSG:4326", "shp"),
        ("EPSG:3857", "gpkg"),
        ("EPSG:32701", "shp"),
    ],
)
def test_polygons_on_both_sides_of_the_180th_meridian(crs: str, suffix: str, tmp_path: Path) -> None:
    """Of Taveuni's extent, GDAL made all the earth but Taveuni."""
    image = describe(rasters.image(tmp_path / "s.tif", crs="EPSG:32760", transform=TAVEUNI))
    west, east = shapely.box(179.9, -16.9, 180, -16.7), shapely.box(-180, -16.9, -179.9, -16.7)
    shapes = [(west, 1), (east, 2), (shapely.box(179.97, -16.9, 180, -16.7), 3)]
    if crs != "EPSG:32701":  # a zone has no coordinates for all the earth
        shapes += [(shapely.box(longitude, -17, longitude + 1, -16), 9) for longitude in (-179, -90, 0, 90, 178)]
        shapes += [(shapely.box(-180, -16.79, 180, -16.78), 4)]
    path = rasters.polygons(tmp_path / f"l.{suffix}", [(_from_degrees(s, crs), v) for s, v in shapes], crs=crs)
    (source,), _ = label_sources([str(path)], [image], None, None, None)
    with source.open() as reader:
        found = reader.read(image.window)
    longitudes, latitudes = _degrees(image)
    expected = np.where(longitudes > 179.97, 3, np.where(longitudes > 0, 1, 2))
    edges = (np.abs(longitudes) > 180 - 1e-3) | (np.abs(longitudes - 179.97) < 1e-3)
    if crs != "EPSG:32701":
        expected[(latitudes > -16.79) & (latitudes < -16.78)] = 4
        edges |= (np.abs(latitudes + 16.79) < 1e-3) | (np.abs(latitudes + 16.78) < 1e-3)
    np.testing.assert_array_equal(found[~edges], expected[~edges])
    assert (found > 0).all()
    assert [value for value in read_features(path, image, None, None).classes if value < 4] == [1, 2, 3]


@pytest.mark.parametrize("crs", ["EPSG:3035", "EPSG:32633"])
def test_polygons_of_a_region_in_an_image_of_all_the_earth(crs: str, tmp_path: Path) -> None:
    """The edges of the earth's map bound little of it in a CRS for a part; there the polygons were lost."""
    image = describe(rasters.image(tmp_path / "s.tif", 180, 360, crs="EPSG:4326", transform=EARTH))
    boxes = [(shapely.box(2, 48, 6, 52), 1), (shapely.box(14, 44, 16, 46), 2), (shapely.box(20, 60, 24, 62), 3)]
    shapes = [(_from_degrees(shapely.segmentize(box, 0.1), crs), value) for box, value in boxes]
    path = rasters.polygons(tmp_path / "l.gpkg", shapes, crs=crs)
    (source,), _ = label_sources([str(path)], [image], None, None, None)
    expected = rasterio.features.rasterize(boxes, (180, 360), transform=EARTH, dtype="uint8")
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), expected)


@pytest.mark.parametrize("first", [-180, -180.5, 0])
def test_polygons_across_the_180th_meridian_in_an_image_in_degrees(first: float, tmp_path: Path) -> None:
    """Point by point, one became a band around the earth that held all but itself."""
    grid = Affine(1, 0, first, 0, -1, 90)
    image = describe(rasters.image(tmp_path / "s.tif", 180, 360, crs="EPSG:4326", transform=grid))
    island = shapely.box(3_100_000, -2_100_000, 3_700_000, -1_600_000)  # 177.8 to 183.2 degrees
    path = rasters.polygons(tmp_path / "l.gpkg", [(island, 1)], crs="EPSG:3832")
    (source,), _ = label_sources([str(path)], [image], None, None, None)
    with source.open() as reader:
        found = reader.read(image.window)
    longitudes, latitudes = _degrees(image)
    corners = transform_points(
        shapely.get_coordinates(island)[:, :2], CRS.from_epsg(3832).to_wkt(), CRS.from_epsg(4326).to_wkt()
    )
    (west, east), (south, north) = np.sort(corners[:3, 0] % 360)[[0, -1]], np.sort(corners[:3, 1])[[0, -1]]
    expected = (longitudes % 360 > west) & (longitudes % 360 < east) & (latitudes > south) & (latitudes < north)
    np.testing.assert_array_equal(found, expected)


def test_polygons_up_to_180_degrees_in_an_image_that_goes_on(tmp_path: Path) -> None:
    grid = Affine(0.5, 0, 170, 0, -0.5, 10)
    image = describe(rasters.image(tmp_path / "s.tif", 40, 40, crs="EPSG:4326", transform=grid))
    shapes = [(shapely.box(175, -5, 180, 5), 1), (shapely.box(-180, -5, -175, 5), 2), (shapely.box(-90, -5, 90, 5), 3)]
    path = rasters.polygons(tmp_path / "l.gpkg", shapes, crs="EPSG:4326")
    (source,), _ = label_sources([str(path)], [image], None, None, None)
    expected = np.zeros((40, 40), np.uint8)
    expected[10:30, 10:20], expected[10:30, 20:30] = 1, 2
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), expected)


def test_polygons_beside_an_image_of_half_the_earth_do_not_overlap(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif", 180, 160, crs="EPSG:4326", transform=EARTH))
    box = _from_degrees(shapely.box(2, 48, 6, 52), "EPSG:3035")
    path = rasters.polygons(tmp_path / "l.gpkg", [(box, 1)], crs="EPSG:3035")
    with pytest.raises(UserError, match="do not overlap"):
        label_sources([str(path)], [image], None, None, None)


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("grid", [Affine.identity(), Affine(1, 0, 40, 0, 1, 20)])
def test_labels_of_another_size_need_a_place(size: int, grid: Affine, tmp_path: Path) -> None:
    """Where neither has a georeference, they were laid onto the upper left corner; a split raster too."""
    options: dict[str, Any] = {"crs": None, "transform": Affine.identity()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        image = describe(rasters.image(tmp_path / "s.tif", crs=None, transform=grid))
        label = str(rasters.label(tmp_path / "l.png", size, size, driver="PNG", **options))
        same = str(rasters.label(tmp_path / "same.png", driver="PNG", **options))
    words = (
        rf"l\.png \({size} × {size} px\) has no georeference .*s\.tif \(64 × 64 px\); expected labels of the image's"
    )
    for rules in (None, ClassMap((ClassRule(1, (1,)),), "split.values")):
        with pytest.raises(UserError, match=words):
            label_sources([label], [image], rules, None, None)
    (source,), _ = label_sources([same], [image], None, None, None)
    with source.open() as reader:
        np.testing.assert_array_equal(reader.read(image.window), rasters.read(Path(same))[0])


def _named(path: Path, names: dict[int, str], colors: dict[int, tuple[int, int, int]]) -> str:
    label = rasters.label(path, colors=colors)
    listed = "".join(f"<Category>{names.get(value, '')}</Category>" for value in range(10))
    path.with_name(path.name + ".aux.xml").write_text(
        f"<PAMDataset><PAMRasterBand band='1'><CategoryNames>{listed}</CategoryNames></PAMRasterBand></PAMDataset>"
    )
    return str(label)


@pytest.mark.parametrize(
    ("rule", "name", "color"),
    [
        (ClassRule(7, (2,)), "lake", "#000002"),
        (ClassRule(7, ("2",)), "lake", "#000002"),
        (ClassRule(7, (2,), "water", "#0000ff"), "water", "#0000ff"),
        (ClassRule(7, (2, "2")), "lake", "#000002"),
        (ClassRule(7, (3, 4)), None, "#000003"),
        (ClassRule(7, (9, 2)), None, "#000002"),
        (ClassRule(7, (3, 2)), None, "#000003"),
        (ClassRule(2, (3, 2)), "lake", "#000002"),
        (ClassRule(9, (3, 9)), None, "#000003"),
        (ClassRule(7, (9,)), None, "#000000"),
        (ClassRule(0, (2,)), None, None),
    ],
)
def test_a_class_map_keeps_what_the_labels_call_and_how_they_show_what_it_merges(
    rule: ClassRule, name: str | None, color: str | None, tmp_path: Path
) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    shown = {0: (0, 0, 0), **{value: (0, 0, value) for value in (2, 3, 4)}}
    label = _named(tmp_path / "l.tif", {2: "lake", 3: "Wood", 4: "wood"}, shown)
    _, hints = label_sources([label], [image], ClassMap((rule,)), None, None)
    found = hints.names.get(rule.value)
    assert (found and found.lower(), hints.colors.get(rule.value)) == (name, color)


def test_a_class_map_keeps_text_classes_and_no_numbers(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    rules = ClassMap((ClassRule(5, ("lake",)), ClassRule(6, ("10", "oak", "pine"), "wood")))
    label = rasters.polygons(tmp_path / "l.gpkg", _halves("lake", "oak"))
    assert label_sources([str(label)], [image], rules, None, None)[1].names == {5: "lake", 6: "wood"}
    rules = ClassMap((ClassRule(5, ("lake",)), ClassRule(6, ("oak", "pine"))))  # other labels have pine only
    assert label_sources([str(label)], [image], rules, None, None)[1].names == {5: "lake"}
    codes = rasters.polygons(tmp_path / "codes.gpkg", _halves("10", "20"))
    rules = ClassMap((ClassRule(1, (10,)), ClassRule(2, (20,))))
    assert label_sources([str(codes)], [image], rules, None, None)[1].names == {}


def test_a_class_map_takes_no_name_where_files_name_a_class_differently(tmp_path: Path) -> None:
    image = describe(rasters.image(tmp_path / "s.tif"))
    labels = [_named(tmp_path / f"{name}.tif", {1: name, 2: "lake"}, {}) for name in ("oak", "pine")]
    rules = ClassMap((ClassRule(1, (1,)), ClassRule(2, (2,))))
    _, hints = label_sources(labels, [image, image], rules, None, None)
    assert (hints.names, hints.contradictions) == ({2: "lake"}, {})


def test_what_rare_classes_become_has_no_other_meaning() -> None:
    """They became the value of a class without a pixel, and had its name and colour."""
    counts = np.zeros(256, np.int64)
    counts[[1, 2, 5, 6]] = [500, 480, 10, 10]

    def other(hints: ClassHints, known: Iterable[int] = ()) -> int:
        lookup, found = merge_rare(counts, 5.0, hints, known)
        assert found.names[int(lookup[5])] == "other"
        assert int(lookup[5]) not in found.colors
        assert lookup[[1, 2, 6]].tolist() == [1, 2, lookup[5]]
        return int(lookup[5])

    assert other(ClassHints()) == 3
    assert other(ClassHints({3: "soil"}, {4: "#000000"})) == 7
    assert other(ClassHints({3: "soil"}, dict.fromkeys(range(256), "#000000"))) == 4
    rules = (ClassRule(3, (30,)), ClassRule(0, (9,)))
    assert other(ClassHints(), known_values(rules, {"4": "urban", 5: "vineyard"}, {7: "#000000"})) == 8
    assert other(ClassHints(), known_values(None, ["a", "b", "c"], None)) == 3


def test_lines_among_labels_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Roads were drawn over polygons, one pixel wide, without a word."""
    scene = describe(rasters.image(tmp_path / "s.tif"))
    left, top = scene.transform[2], scene.transform[5]
    area = shapely.box(left, top - 300, left + 300, top)
    road = shapely.LineString([(left, top - 100), (left + 300, top - 100)])
    polygons = rasters.polygons(tmp_path / "p.gpkg", [(area, 1)])
    mixed = rasters.polygons(tmp_path / "l.gpkg", [(area, 1), (road, 2), (shapely.Point(left + 9, top - 9), 2)])
    label_sources([str(polygons)], [scene], None, None, None)
    assert not caplog.messages
    label_sources([str(mixed)] * 2, [scene, replace(scene, path="other.tif")], None, None, None)
    assert caplog.messages == [
        f"CAUTION: {mixed} has lines, and each is drawn one pixel wide; labels are polygons or points. Take lines out, "
        "or give them a width (buffer them in QGIS)."
    ]
