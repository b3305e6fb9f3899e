"""Reading and writing rasters: every window is a slice, every measurement is known for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio._err import CPLE_AppDefinedError
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from src.bands import Band
from src.errors import UserError
from src.grid import Window
from src.raster.georeference import bounds_in, offset_on, transform_points, warped
from src.raster.read import (
    category_names,
    describe,
    info_of,
    measurement_indexes,
    open_raster,
    read_decimated,
    read_valid,
    read_window,
    valid_decimated,
)
from src.raster.write import recode, write_geotiff
from tests import rasters

WINDOWS = st.builds(Window, *[st.integers(-12, 30)] * 2, *[st.integers(1, 25)] * 2)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rasters.image(tmp_path_factory.mktemp("raster") / "s.tif", 20, 24, bands=3)


@given(WINDOWS, st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_a_window_is_a_slice_and_filled_outside(image: Path, window: Window, bands: list[int]) -> None:
    whole = np.pad(rasters.read(image), ((0, 0), (40, 60), (40, 60)), constant_values=77)
    top, left = window.row + 40, window.column + 40
    with open_raster(image) as dataset:
        found = read_window(dataset, window, 77, bands)
    np.testing.assert_array_equal(found, whole[bands, top : top + window.height, left : left + window.width])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(WINDOWS)
def test_nothing_outside_or_under_a_mask_is_measured(tmp_path: Path, window: Window) -> None:
    mask = np.random.default_rng(0).random((20, 24)) < 0.6
    path = (
        rasters.image(tmp_path / "m.tif", 20, 24, mask=mask)
        if not (tmp_path / "m.tif").exists()
        else tmp_path / "m.tif"
    )
    padded = np.pad(mask, ((40, 60), (40, 60)))
    with open_raster(path) as dataset:
        assert info_of(dataset).masked
        valid = read_valid(dataset, window, read_window(dataset, window, 5), None)
    top, left = window.row + 40, window.column + 40
    np.testing.assert_array_equal(valid, padded[top : top + window.height, left : left + window.width])


def test_an_alpha_band_is_a_mask_and_no_band(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 200, (4, 9, 9)).astype(np.uint8)
    pixels[3] = 255
    pixels[3, :3] = 0
    path = rasters.write(tmp_path / "rgba.tif", pixels, photometric="RGB", alpha="YES")
    assert len(describe(path).bands) == 3
    with open_raster(path) as dataset:
        cube = read_window(dataset, Window(0, 0, 9, 9), 0)
        np.testing.assert_array_equal(cube, pixels[:3])
        np.testing.assert_array_equal(read_valid(dataset, Window(0, 0, 9, 9), cube, None), pixels[3] > 0)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    pixels = np.arange(32, dtype=np.int16).reshape(2, 4, 4)
    mask = pixels[0] > 3
    crs = describe(rasters.image(tmp_path / "s.tif")).crs
    bands = (Band("red", 665.0), Band("water vapour", 1400.0, bad=True))
    write_geotiff(tmp_path / "o.tif", pixels, crs=crs, transform=(1, 0, 5, 0, -1, 7), nodata=-1, bands=bands, mask=mask)
    info = describe(tmp_path / "o.tif")
    assert (info.bands, info.nodata, info.crs, info.transform) == (bands, (-1, -1), crs, (1, 0, 5, 0, -1, 7))
    with open_raster(tmp_path / "o.tif") as dataset:
        np.testing.assert_array_equal(read_valid(dataset, info.window, rasters.read(tmp_path / "o.tif"), -1), mask)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("o", "."))] == ["o.tif"]


def test_a_nodata_value_that_the_type_cannot_hold_is_not_declared(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "o.tif", np.ones((2, 2), np.uint8), crs=None, transform=(1, 0, 5, 0, -1, 7), nodata=-9999)
    assert describe(tmp_path / "o.tif").nodata == (None,)


def test_recoding_changes_values_and_nothing_else(tmp_path: Path) -> None:
    path = rasters.label(tmp_path / "l.tif")
    before, info = rasters.read(path), describe(path)
    lookup = np.arange(256, dtype=np.uint8)
    lookup[2] = 9
    recode(path, lookup)
    np.testing.assert_array_equal(rasters.read(path), np.where(before == 2, 9, before))
    assert (describe(path).crs, describe(path).transform) == (info.crs, info.transform)


@pytest.mark.parametrize(
    ("shift", "scale", "expected"),
    [
        ((3, -2), 1.0, (-2, 3)),
        ((0.0004, 0), 1.0, (0, 0)),
        ((0.3, 0), 1.0, None),
        ((0, 0), 1.001, None),
        ((0, 0), 2, None),
    ],
)
def test_grids_that_coincide_are_found(
    shift: tuple[float, float], scale: float, expected: tuple[int, int] | None, tmp_path: Path
) -> None:
    for own in (rasters.TURNED, rasters.NORTH_UP):
        grid = own @ Affine.translation(*shift) @ Affine.scale(scale)
        source = describe(rasters.image(tmp_path / "a.tif", transform=own))
        assert offset_on(source, describe(rasters.image(tmp_path / "b.tif", transform=grid))) == expected
    other = describe(rasters.image(tmp_path / "c.tif", crs="EPSG:32632"))
    assert offset_on(source, other) is None


def test_an_unreadable_raster_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_text("nothing")
    with pytest.raises(UserError, match=r"x\.tif cannot be read as a raster \(.*gdalinfo -checksum"):
        describe(tmp_path / "x.tif")
    with pytest.raises(UserError, match="There is no file"):
        describe(tmp_path / "y.tif")


def test_wavelengths_without_a_unit_are_micrometres_where_they_are_small(tmp_path: Path) -> None:
    path = rasters.image(
        tmp_path / "s.tif", tags={1: {"wavelength": "0.665"}, 2: {"wavelength": "842"}, 3: {"bbl": "0"}}
    )
    assert [band.wavelength for band in describe(path).bands] == [665.0, 842.0, None]
    assert [band.bad for band in describe(path).bands] == [False, False, True]


def test_widths_come_in_the_unit_of_the_wavelengths(tmp_path: Path) -> None:
    """As the EnMAP-Box and GDAL write them into a GeoTIFF: a tag per band, in micrometres or nanometres."""
    tags = {
        1: {"wavelength": "0.665", "fwhm": "0.038", "wavelength_units": "Micrometers"},
        2: {"WAVELENGTH": "842", "FWHM": "106", "WAVELENGTH_UNITS": "Nanometers"},
        3: {"wavelength": "1.61", "fwhm": "0.09"},
    }
    bands = describe(rasters.image(tmp_path / "s.tif", bands=4, tags=tags)).bands
    assert [band.wavelength for band in bands] == [pytest.approx(665), 842, pytest.approx(1610), None]
    assert [band.fwhm for band in bands] == [pytest.approx(38), 106, pytest.approx(90), None]


def test_the_suffix_is_no_part_of_the_name(tmp_path: Path) -> None:
    """SpecDeepMap cut four characters off, whatever they were."""
    assert describe(rasters.image(tmp_path / "my.scene.tiff")).name == "my.scene"
    with rasterio.open(rasters.image(tmp_path / "bare")) as dataset:
        assert info_of(dataset).name == "bare"


def test_bands_of_several_types_are_read_in_the_one_that_holds_all(tmp_path: Path) -> None:
    """Reflectance and heights in one VRT; rasterio reads no two types at once."""
    kinds = {"UInt16": np.uint16, "Int32": np.int32, "Float32": np.float32}
    cubes = [rasters.read(rasters.image(tmp_path / f"{k}.tif", 20, 24, bands=1, dtype=d)) for k, d in kinds.items()]
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{number}"><SimpleSource><SourceFilename relativeToVRT="1">{kind}.tif'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for number, kind in enumerate(kinds, start=1)
    )
    (tmp_path / "all.vrt").write_text(f'<VRTDataset rasterXSize="24" rasterYSize="20">{bands}</VRTDataset>')
    whole = np.concatenate([cube.astype(np.float64) for cube in cubes])
    with open_raster(tmp_path / "all.vrt") as dataset:
        assert info_of(dataset).dtype == "float64"
        np.testing.assert_array_equal(read_window(dataset, Window(2, 3, 5, 7), 0), whole[:, 2:7, 3:10])
        over = read_window(dataset, Window(-1, -2, 4, 6), 7, [2, 0])
        np.testing.assert_array_equal(over[:, 1:, 2:], whole[[2, 0], :3, :4])
        assert (over[:, 0] == 7).all()
        np.testing.assert_array_equal(read_decimated(dataset, [1, 2], 24), whole[[1, 2]])


def test_crss_without_a_way_between_them_are_one_line(tmp_path: Path) -> None:
    local = 'LOCAL_CS["site",LOCAL_DATUM["site",0],UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    here = describe(rasters.image(tmp_path / "s.tif", 20, 24, bands=1))
    assert here.crs is not None
    for call in (lambda: bounds_in(here, local), lambda: transform_points(np.zeros((1, 2)), local, str(here.crs))):
        with pytest.raises(UserError, match=r"no coordinates in .*; give both in") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("beside", ["alpha", "mask"])
def test_a_nodata_value_hides_neither_alpha_nor_mask(beside: str, tmp_path: Path) -> None:
    """GDAL's masks tell of the nodata value only where a file has an alpha band too (gdalwarp -dstalpha -dstnodata)."""
    pixels = np.random.default_rng(0).integers(1, 250, (3, 20, 24)).astype(np.uint8)
    pixels[1, 12] = 0
    there = np.ones((20, 24), bool)
    there[:5] = False
    if beside == "alpha":
        cube = np.concatenate([pixels, np.where(there, 255, 0).astype(np.uint8)[None]])
        path = rasters.write(tmp_path / "s.tif", cube, photometric="RGB", alpha="YES", nodata=0)
    else:
        path = rasters.write(tmp_path / "s.tif", pixels, mask=there, nodata=0)
    with open_raster(path) as dataset:
        info = info_of(dataset)
        valid = read_valid(dataset, info.window, read_window(dataset, info.window, 0), info.nodata)
    np.testing.assert_array_equal(valid, there & (pixels[1] != 0))
    assert (info.masked, info.alpha) == (True, (4,) if beside == "alpha" else ())


@pytest.mark.parametrize(
    ("dtype", "alpha"),
    [("uint8", 255), ("uint8", 254), ("uint8", 1), ("uint16", 65535), ("uint16", 255), ("int16", 1), ("float32", 0.2)],
)
@pytest.mark.parametrize("nodata", [None, 2])
def test_labels_that_are_not_fully_opaque_are_warped(
    dtype: str, alpha: float, nodata: float | None, tmp_path: Path
) -> None:
    """GDAL mixed them with what was below, which is NaN: all were lost, on another grid only."""
    values = np.random.default_rng(0).integers(1, 4, (20, 24))
    there = np.ones(values.shape, bool)
    there[:5] = False
    opaque = np.where(there, alpha, 0)
    upward = Affine(10, 0, 330_000, 0, 10, 5_820_000)
    cube = np.stack([values, opaque]).astype(dtype)[:, ::-1]
    path = rasters.write(tmp_path / "l.tif", cube, transform=upward, alpha="YES", nodata=nodata)
    finer = Affine(5, 0, 330_001, 0, -5, 5_820_199)
    target = describe(rasters.image(tmp_path / "s.tif", 40, 48, bands=1, transform=finer))
    with open_raster(path) as dataset, warped(dataset, target) as laid_over:
        found = read_window(laid_over, target.window, 0)
        valid = read_valid(laid_over, target.window, found, nodata)
    expected = np.where(there & (values != nodata), values, 0)
    np.testing.assert_array_equal(np.where(valid, found[0], 0), expected.repeat(2, 0).repeat(2, 1))


def test_nodata_of_a_picture_is_that_of_its_bands_where_an_alpha_band_comes_first(tmp_path: Path) -> None:
    rasters.write(tmp_path / "s.tif", np.array([[[255, 255]], [[7, 9]]], np.uint8))
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}"><ColorInterp>{meaning}</ColorInterp>{nodata}<SimpleSource>'
        f'<SourceFilename relativeToVRT="1">s.tif</SourceFilename><SourceBand>{number}</SourceBand></SimpleSource>'
        "</VRTRasterBand>"
        for number, meaning, nodata in ((1, "Alpha", ""), (2, "Gray", "<NoDataValue>7</NoDataValue>"))
    )
    (tmp_path / "s.vrt").write_text(f'<VRTDataset rasterXSize="2" rasterYSize="1">{bands}</VRTDataset>')
    with open_raster(tmp_path / "s.vrt") as dataset:
        assert valid_decimated(dataset, read_decimated(dataset, [0], 2), [0], 2).tolist() == [[False, True]]


def test_a_container_of_rasters_names_what_is_in_it(tmp_path: Path) -> None:
    path, options = tmp_path / "two.gpkg", {"driver": "GPKG"}
    for number, name in enumerate("AB"):
        page = rasters.image(tmp_path / f"{name}.tif", bands=1, dtype="uint8")
        more = {"APPEND_SUBDATASET": "YES"} if number else {}
        rasterio.shutil.copy(page, path, RASTER_TABLE=name, **options, **more)
    with pytest.raises(UserError, match=r"is no raster itself but holds 2; .*: GPKG:.*two\.gpkg:A, GPKG:.*two\.gpkg:B"):
        describe(path)
    assert describe(f"GPKG:{path}:B").dtype == "uint8"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_names_in_an_envi_header_of_any_encoding(encoding: str, tmp_path: Path) -> None:
    """Older programs write what the machine's code page is: rasterio stumbled over its umlauts."""
    rasters.write(tmp_path / "s.dat", np.ones((2, 4, 5), np.uint8), driver="ENVI")
    header = (tmp_path / "s.hdr").read_text().partition("band names")[0]
    header += "band names = {grün, Fluß}\nclasses = 2\nclass names = {nichts, Wälder}\n"
    header = header.replace("ENVI Standard", "ENVI Classification")
    (tmp_path / "s.hdr").write_text(header, encoding=encoding)
    with open_raster(tmp_path / "s.dat") as dataset:
        assert [band.name for band in info_of(dataset).bands] == ["grün", "Fluß"]
        assert category_names(dataset) == {0: "nichts", 1: "Wälder"}


def test_a_warning_about_an_earlier_call_is_no_error_of_the_next() -> None:
    """GDAL warns of tags that it does not know, of which there are many, when it reads masks."""

    class Warned:
        indexes = (1, 2)
        asked = 0

        @property
        def colorinterp(self) -> tuple[ColorInterp, ...]:
            self.asked += 1
            if self.asked == 1:
                raise CPLE_AppDefinedError(2, 1, "TIFFFetchNormalTag: custom tag 30798")
            return ColorInterp.gray, ColorInterp.alpha

    assert measurement_indexes(Warned()) == [1]  # type: ignore[arg-type]


def envi(path: Path, bands: int = 3, **changed: str) -> Path:
    """Write an ENVI file whose header is then changed or gets further entries."""
    rasters.write(path, np.ones((bands, 8, 10), np.int16), driver="ENVI")
    header = path.with_suffix(".hdr")
    kept = [line for line in header.read_text().splitlines() if line.split("=")[0].strip() not in changed]
    header.write_text("\n".join([*kept, *(f"{key} = {value}" for key, value in changed.items())]) + "\n")
    return path


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_a_raw_file_that_is_not_as_long_as_its_header_says_is_refused(interleave: str, tmp_path: Path) -> None:
    """GDAL reads zeros where nothing is, and they were mapped; with too few lines bands began in the middle."""
    path = tmp_path / f"s.{interleave}"
    rasters.write(path, np.ones((3, 8, 10), np.int16), driver="ENVI", interleave=interleave)
    content = path.read_bytes()
    assert describe(path).width == 10
    path.write_bytes(content + bytes(19))  # less than a row of a band is padding
    assert describe(path).width == 10
    for other, size in ((content[:-1], 479), (content[:240], 240), (content + bytes(20), 500)):
        path.write_bytes(other)
        said = f"{size} bytes, but its header says 10 samples × 8 lines × 3 bands of int16, which are 480; expected a"
        with pytest.raises(UserError, match=said):
            describe(path)


def test_a_raw_file_s_offset_counts(tmp_path: Path) -> None:
    path = envi(tmp_path / "s.bsq", **{"header offset": "100"})
    with pytest.raises(UserError, match="int16 behind 100 bytes, which are 580;"):
        describe(path)
    path.write_bytes(bytes(100) + path.read_bytes())
    assert describe(path).height == 8


@pytest.mark.parametrize(
    ("listed", "said"),
    [("{1, 0, 1}", None), ("{1, 0}", "2 entries for 3 bands"), ("{true, false, true}", "entries that are no numbers")],
)
def test_a_list_of_bad_bands_that_cannot_be_used_is_doubted(listed: str, said: str | None, tmp_path: Path) -> None:
    doubt = describe(envi(tmp_path / "s.bsq", bbl=listed)).doubt
    assert (doubt is None) if said is None else (said in str(doubt))
