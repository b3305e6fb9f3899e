"""Labels of a map: what the network does not know is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio.raw
import shapely

from src.grid import Window
from src.labels import UNCLASSIFIED
from src.mapping.ground_truth import LabelOptions, ground_truth
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


def test_more_text_classes_than_there_are_values_are_counted_together(tmp_path: Path) -> None:
    image = describe(write_raster(tmp_path / "scene.tif", np.zeros((1, 2, 301), np.uint8)))
    squares(tmp_path / "labels.gpkg", ["water", *(f"crop {i:03}" for i in range(300))])
    truth = ground_truth(str(tmp_path / "labels.gpkg"), image, CLASSES, LabelOptions())
    with truth.open() as reader:
        values = reader.read(Window(1, 0, 1, 301))
    assert UNCLASSIFIED not in values
    assert len(truth.texts) == 255 - len(CLASSES)
    assert list(truth.texts.values())[-1].endswith(" and 49 more")
