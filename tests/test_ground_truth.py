"""Labels of a map: what the network does not know is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import shapely

from src.class_map import ClassMap, ClassRule
from src.grid import Window
from src.labels import UNCLASSIFIED, ClassTable
from src.mapping.ground_truth import LabelOptions, check_ground_truth, ground_truth
from src.raster.read import describe
from tests.mapping_scenes import CLASSES, UTM, write_raster


def squares(path: Path, texts: list[str]) -> None:
    """Write a square of a pixel for each text, next to each other, and one over all that the network does not know."""
    left, top = 300_000, 5_800_000
    boxes = [shapely.box(left + 10 * i, top - 10, left + 10 * i + 10, top) for i in range(len(texts))]
    boxes.append(shapely.box(left, top - 20, left + 10 * len(texts), top))
    fields = [np.array([*texts, "all of it"], object)]
    options = {"driver": "GPKG", "geometry_type": "Polygon", "crs": UTM}
    pyogrio.raw.write(path, np.array(shapely.to_wkb(boxes), object), fields, ["kind"], **options)


def test_text_classes_without_a_match_are_counted_and_hide_none_that_matches(tmp_path: Path) -> None:
    image = describe(write_raster(tmp_path / "scene.tif", np.zeros((1, 2, 4), np.uint8)))
    squares(tmp_path / "labels.gpkg", ["water", "7", "07", "Town"])
    truth = ground_truth(str(tmp_path / "labels.gpkg"), image, CLASSES, LabelOptions())
    with truth.open() as reader:
        values = reader.read(image.window)
    assert (values[0, 0], values[0, 3]) == (1, 9)
    assert not np.isin(values[1], CLASSES.values).any()
    counts = dict(zip(*np.unique(values[1], return_counts=True), strict=True))
    assert [(entry.value, entry.title, entry.pixels) for entry in truth.unknown(counts)] == [(None, "all of it", 4)]


def test_names_that_differ_in_case_only_are_told_apart(tmp_path: Path) -> None:
    """Prepare takes wood and Wood for two classes; the same file could not score a map of them."""
    image = describe(write_raster(tmp_path / "scene.tif", np.zeros((1, 2, 4), np.uint8)))
    squares(tmp_path / "labels.gpkg", ["wood", "Wood", "WOOD", "LAKE"])
    classes = ClassTable.build([1, 2, 3], {1: "Wood", 2: "wood", 3: "Lake"})
    truth = ground_truth(str(tmp_path / "labels.gpkg"), image, classes, LabelOptions())
    with truth.open() as reader:
        values = reader.read(image.window)[0]
    assert (values[0], values[1], values[3]) == (2, 1, 3)
    assert int(values[2]) not in classes.values
    assert list(truth.texts.values()) == ["WOOD", "all of it"]


@pytest.mark.parametrize("rules", [None, ClassMap((ClassRule(4, (0,)), ClassRule(1, (1,))))])
def test_labels_with_a_class_that_is_0_are_said_not_to_be_scored(
    rules: ClassMap | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = describe(write_raster(tmp_path / "scene.tif", np.zeros((1, 2, 4), np.uint8)))
    path = write_raster(tmp_path / "labels.tif", np.array([[[0, 0, 1, 1], [0, 0, 255, 1]]], np.uint8), nodata=255)
    truth = ground_truth(str(path), image, CLASSES, LabelOptions(rules))
    check_ground_truth(truth, str(path), image, CLASSES)
    assert [message.split(",")[0] for message in caplog.messages] == [
        f"CAUTION: {path} declares 255 as nodata and has pixels of 0 beside it"
    ] * (rules is None)


def test_more_text_classes_than_there_are_values_are_counted_together(tmp_path: Path) -> None:
    image = describe(write_raster(tmp_path / "scene.tif", np.zeros((1, 2, 301), np.uint8)))
    squares(tmp_path / "labels.gpkg", ["water", *(f"crop {i:03}" for i in range(300))])
    truth = ground_truth(str(tmp_path / "labels.gpkg"), image, CLASSES, LabelOptions())
    with truth.open() as reader:
        values = reader.read(Window(1, 0, 1, 301))
    assert UNCLASSIFIED not in values
    assert len(truth.texts) == 255 - len(CLASSES)
    assert list(truth.texts.values())[-1].endswith(" and 49 more")
