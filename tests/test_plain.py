"""Chips that are read epoch by epoch: from the second time on without GDAL, and never other numbers than GDAL's."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio

from src.bands import Band
from src.datamodules import chips
from src.datamodules.base import SegmentationData
from src.datamodules.chips import ChipData, ChipDataset
from src.errors import UserError
from src.grid import Window
from src.labels import IGNORE, ClassTable
from src.raster.plain import PlainRaster, find_plain
from src.raster.read import open_chip, read_window
from src.tables import Sample
from tests.chip_folder import make_chip_folder
from tests.rasters import write

SIDE = 12
PLAIN: dict[str, Any] = {"interleave": "band", "blockysize": SIDE}
"""As prepare.py writes chips."""


def found(path: Path, bands: list[int]) -> tuple[PlainRaster | None, npt.NDArray[Any]]:
    with open_chip(path) as dataset:
        image = read_window(dataset, Window(0, 0, SIDE, SIDE), 0, bands)
        return find_plain(dataset, bands, image), image


def numbers(dtype: str, bands: int = 5) -> npt.NDArray[Any]:
    drawn = np.random.default_rng(3).integers(0, 250, (bands, SIDE, SIDE)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        drawn[0, 0, 0] = np.nan
    return drawn


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("bands", [[0, 1, 2, 3, 4], [3, 1], [2]])
@pytest.mark.parametrize(
    "options", [PLAIN, {}, {"interleave": "band", "blockysize": 4}], ids=["ours", "GDAL's", "strips"]
)
def test_the_same_numbers_come_without_gdal(
    tmp_path: Path, dtype: str, bands: list[int], options: dict[str, Any]
) -> None:
    plain, image = found(write(tmp_path / "chip.tif", numbers(dtype), crs=None, **options), bands)
    assert plain is not None
    again = plain.read()
    assert again is not None
    assert again.dtype == image.dtype
    np.testing.assert_array_equal(again, image)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "deflate"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"ENDIANNESS": "BIG"},
        {"nbits": 12},
        {"mask": np.eye(SIDE) > 0},
        {"driver": "ENVI"},
        {"driver": "PNG"},
    ],
    ids=str,
)
def test_what_lies_otherwise_in_its_file_is_left_to_gdal(tmp_path: Path, options: dict[str, Any]) -> None:
    bands = 3 if options.get("driver") == "PNG" else 5
    suffix = {"ENVI": ".img", "PNG": ".png"}.get(options.get("driver", ""), ".tif")
    plain, _ = found(write(tmp_path / f"chip{suffix}", numbers("uint16", bands), **options), [0, 1, 2])
    assert plain is None


def test_a_file_whose_bands_lie_in_another_order_is_left_to_gdal(tmp_path: Path) -> None:
    """Only what gives the numbers that GDAL gives counts: here the places of two bands are exchanged in the tag."""
    path = write(tmp_path / "chip.tif", numbers("uint16"), **PLAIN)
    with rasterio.open(path) as dataset:
        places = [int(dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=i)) for i in dataset.indexes]
    content = path.read_bytes()
    listed = np.array(places, "<u4").tobytes()
    assert content.count(listed) == 1
    path.write_bytes(content.replace(listed, np.array([places[i] for i in (0, 2, 1, 3, 4)], "<u4").tobytes()))
    plain, image = found(path, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(image, numbers("uint16")[[0, 2, 1, 3, 4]])
    assert plain is None


def test_a_file_that_changes_or_goes_is_not_read_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "chip.tif", numbers("uint16"), **PLAIN)
    plain, _ = found(path, [0])
    assert plain is not None
    before = path.stat()
    write(path, numbers("uint16") + 1, **PLAIN)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert plain.read() is None
    path.unlink()
    assert plain.read() is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_chip_folder(tmp_path / "data")


def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    plain = chips.read_labelled

    def counting(sample: Any, *given: Any, **named: Any) -> Any:
        seen.append(sample.image)
        return plain(sample, *given, **named)

    monkeypatch.setattr(chips, "read_labelled", counting)
    return seen


def test_each_chip_is_opened_once_and_all_epochs_have_the_same_pixels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = opened(monkeypatch)
    data = ChipData(folder, 4, cache=False)
    data.setup()
    once = len(seen)
    batches = [list(data.train_dataloader()) for _ in range(2)]
    assert len(seen) == once == len(data._sources["train"]) + len(data._sources["validation"])
    by_name = [
        {name: i for b in epoch for name, *i in zip(b.names, b.image, b.valid, b.target, strict=True)}
        for epoch in batches
    ]
    source = ChipDataset(data.source("train").samples, data.folder.spec)  # by GDAL
    for epoch in by_name:
        for chip in (source[index] for index in range(len(source))):
            image, valid, target = epoch[chip.name]
            np.testing.assert_array_equal(image.numpy(), chip.image.astype(image.numpy().dtype))
            np.testing.assert_array_equal(valid.numpy(), chip.valid)
            np.testing.assert_array_equal(target.numpy(), chip.target)


def test_chips_that_stay_in_memory_note_no_places(folder: Path) -> None:
    data = ChipData(folder, 4)
    data.setup()
    assert not any(isinstance(source, ChipDataset) for source in data._sources.values())


def test_a_label_that_is_changed_between_epochs_is_checked_again(folder: Path) -> None:
    data: SegmentationData = ChipData(folder, 4, cache=False)
    data.setup()
    source = data._sources["train"]
    assert isinstance(source, ChipDataset)
    label = source.samples[0].label
    with rasterio.open(label, "r+") as dataset:
        values = dataset.read(1)
        values[0, 0] = 77
        dataset.write(values, 1)
    os.utime(label, ns=(0, label.stat().st_mtime_ns + 1))
    with pytest.raises(UserError, match="has the value 77"):
        source[0]


def test_a_band_that_is_not_used_masks_nothing_in_any_reading(tmp_path: Path) -> None:
    data = ChipData(make_chip_folder(tmp_path / "data", bands=2), cache=False)
    sample = data.source("train").samples[0]
    write(sample.image, np.stack([np.ones((32, 32), np.uint16), np.zeros((32, 32), np.uint16)]), nodata=0, **PLAIN)
    source = ChipDataset([sample], replace(data.folder.spec, used=(True, False)), again=True)
    assert source[0].valid.all()
    assert source._plain
    assert source[0].valid.all()


@pytest.mark.parametrize("nodata_is_data", [False, True])
def test_the_second_reading_of_a_chip_has_the_mask_of_the_first(tmp_path: Path, nodata_is_data: bool) -> None:
    image = np.ones((2, 4, 4), np.float32)
    image[0, 0, 0], image[1, 1, 1] = np.nan, -9
    write(tmp_path / "image.tif", image, nodata=-9)
    write(tmp_path / "label.tif", np.ones((1, 4, 4), np.uint8))
    sample = Sample(tmp_path / "image.tif", tmp_path / "label.tif")
    bands = (Band("a"), Band("b"))
    classes = ClassTable.build([1])
    chip = chips.read_labelled(sample, bands, [True, True], None, classes, nodata_is_data, again=True)
    assert chip.valid.sum() == (15 if nodata_is_data else 14)
    assert (chip.plain is None) == nodata_is_data
    again = chip.plain.read() if chip.plain else None
    assert again is None or np.array_equal(again.valid, chip.valid)


def test_numbers_beyond_single_precision_are_missing_in_both_readings(tmp_path: Path) -> None:
    image = np.ones((1, 4, 4))
    image[0, 0, 0] = np.finfo(np.float64).min
    write(tmp_path / "image.tif", image)
    write(tmp_path / "label.tif", np.ones((1, 4, 4), np.uint8))
    sample = Sample(tmp_path / "image.tif", tmp_path / "label.tif")
    chip = chips.read_labelled(sample, (Band("a"),), [True], None, ClassTable.build([1]), again=True)
    again = chip.plain.read() if chip.plain else None
    assert again is not None
    expected = np.ones((4, 4), bool)
    expected[0, 0] = False
    for reading in (chip, again):
        np.testing.assert_array_equal(reading.valid, expected)
        assert reading.target[0, 0] == IGNORE
