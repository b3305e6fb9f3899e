"""Labels of a map: read as at preparation, and what the network does not know is counted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import rasterio.shutil
import shapely

from src.class_map import ClassMap, ClassRule
from src.errors import UserError
from src.grid import Window
from src.label_sources import label_sources
from src.labels import UNCLASSIFIED, ClassTable
from src.mapping.ground_truth import LabelOptions, check_ground_truth, ground_truth, read_otherwise
from src.raster.read import describe
from tests.mapping_scenes import CLASSES, UTM, write_raster


def squares(path: Path, texts: list[str]) -> None:
    """Write one over all that the network does not know, and on it a square of a pixel for each text, side by side."""
    left, top = 300_000, 5_800_000
    boxes = [shapely.box(left, top - 20, left + 10 * len(texts), top)]
    boxes += [shapely.box(left + 10 * i, top - 10, left + 10 * i + 10, top) for i in range(len(texts))]
    polygons(path, boxes, ["all of it", *texts])


def polygons(path: Path, shapes: Sequence[shapely.Geometry], classes: Sequence[str | int]) -> str:
    """Write polygons, one upon the other in this order."""
    column = np.array(classes, object if isinstance(classes[0], str) else np.int64)
    options = {"driver": "GPKG", "geometry_type": "Polygon", "crs": UTM}
    pyogrio.raw.write(path, np.array(shapely.to_wkb(shapes), object), [column], ["kind"], **options)
    return str(path)


def named_raster(folder: Path, names: Sequence[str]) -> str:
    """Write an ENVI raster of the values 1, 2 … side by side, which calls them so."""
    plain = write_raster(folder / "plain.tif", np.arange(1, len(names) + 1, dtype=np.uint8)[None, None])
    label, header = folder / "label.dat", folder / "label.hdr"
    rasterio.shutil.copy(plain, label, driver="ENVI")
    known = f"classes = {len(names) + 1}\nclass names = {{Unclassified, {', '.join(names)}}}\n"
    header.write_text(header.read_text().replace("ENVI Standard", "ENVI Classification") + known)
    return str(label)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (["clearing", "forest"], ["forest", "ruin", "clearing", "forest"]),
        (["clearing"], ["forest", "ruin", "clearing", "forest"]),
        (["clearing", "forest", *(f"crop {i:03}" for i in range(253))], ["forest", None, "clearing", "forest"]),
    ],
)
def test_text_classes_overlap_as_at_preparation(known: list[str], expected: list[str | None], tmp_path: Path) -> None:
    """The class of the highest value lay on top, and what the network does not know below all: a clearing was gone.

    A network of 255 classes leaves no value for what it does not know.
    """
    image = describe(write_raster(tmp_path / "scene.tif", np.zeros((1, 2, 4), np.uint8)))
    left, top = 300_000, 5_800_000
    widths, texts = [40, 30, 20, 10], ["forest", "clearing", "ruin", "forest"]
    label = polygons(tmp_path / "l.gpkg", [shapely.box(left, top - 20, left + w, top) for w in widths], texts)
    (prepared,), hints = label_sources([label], [image], None, None, None)
    with prepared.open() as reader:
        before = [hints.names[value] for value in reader.read(image.window)[0].tolist()]
    assert before == ["forest", "ruin", "clearing", "forest"]
    classes = ClassTable.build(range(1, len(known) + 1), dict(enumerate(known, start=1)))
    truth = ground_truth(label, image, classes, LabelOptions())
    with truth.open() as reader:
        values = reader.read(image.window)[0].tolist()
    names = dict(zip(classes.values, classes.names, strict=True)) | dict(truth.texts) | {UNCLASSIFIED: None}
    assert [names[value] for value in values] == expected


@pytest.mark.parametrize(
    ("names", "text", "value"),
    [
        ({2: "meadow"}, "grass", 2),
        ({2: "meadow"}, "Meadow", 2),
        ({1: "trees", 2: "forest"}, "forest", 1),
        ({1: "trees", 2: "forest"}, "grass", 2),
        ({1: "trees", 2: "forest"}, "Trees", 1),
        ({1: "Wood", 2: "wood"}, "WOOD", None),
    ],
)
def test_polygons_are_of_the_classes_that_the_data_call_so(
    names: dict[int, str], text: str, value: int | None, tmp_path: Path
) -> None:
    """After class_names at training its own polygons were of no class, or of another that now had their name."""
    image = describe(write_raster(tmp_path / "scene.tif", np.zeros((1, 1, 4), np.uint8)))
    squares(tmp_path / "l.gpkg", [text, "lake"])
    classes = ClassTable.build([1, 2, 3], {1: "forest", 2: "grass", 3: "lake"}).renamed(names, {})
    truth = ground_truth(str(tmp_path / "l.gpkg"), image, classes, LabelOptions())
    with truth.open() as reader:
        found = int(reader.read(image.window)[0, 0])
    assert found == value if value else found in truth.texts


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["water", "forest"], "calls 1 'water', but to the checkpoint that is 2 water, and 1 is forest; expected one"),
        (["grass", "x", "Forest "], "calls 3 'Forest', but to the checkpoint that is 1 forest; expected one meaning"),
        (["forest", "wood"], "calls 2 'wood', but to the checkpoint that is 1 forest, and 2 is water; expected one"),
    ],
)
def test_labels_that_call_a_class_by_the_name_of_another_are_refused(
    names: list[str], said: str, tmp_path: Path
) -> None:
    """All water counted as forest, and a line of the log said that they count as the same."""
    label = named_raster(tmp_path, names)
    image = describe(write_raster(tmp_path / "scene.tif", np.zeros((1, 1, len(names)), np.uint8)))
    classes = ClassTable.build([1, 2], {1: "wood", 2: "water"}).renamed({1: "forest"}, {})
    with pytest.raises(UserError, match=said) as caught:
        ground_truth(label, image, classes, LabelOptions())
    assert "\n" not in str(caught.value)
    assert "class_map='[{value: " in str(caught.value)
    rules = ClassMap((ClassRule(2, (1,)), ClassRule(1, (2,))))
    assert ground_truth(label, image, classes, LabelOptions(rules)).names.keys() <= {1, 2}


@pytest.mark.parametrize(
    ("names", "second", "said"),
    [
        (["Wood", "water", "forest"], "water", []),
        (["forest", "lake"], "water", ["calls 2 'lake', the checkpoint 'water'"]),
        (
            ["class_2", "b"],
            "class_2",
            ["calls 1 'class_2', the checkpoint 'forest'", "calls 2 'b', the checkpoint 'class_2'"],
        ),
    ],
)
def test_other_words_for_a_value_are_named_only(
    names: list[str], second: str, said: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    label = named_raster(tmp_path, names)
    image = describe(write_raster(tmp_path / "scene.tif", np.zeros((1, 1, len(names)), np.uint8)))
    classes = ClassTable.build([1, 2], {1: "wood", 2: second}).renamed({1: "forest"}, {})
    ground_truth(label, image, classes, LabelOptions())
    told = [message for message in caplog.messages if message.startswith("Label    calls")]
    assert told == [f"Label    {words}; they count as the same." for words in said]


WOODS = ClassMap((ClassRule(1, (1, 2), "woods"), ClassRule(2, (3,), "open"), ClassRule(0, (9,))))
TEXTS = ClassMap((ClassRule(1, ("forest", "scrub"), "woods"), ClassRule(2, ("grass",), "grass")))


@pytest.mark.parametrize(
    ("label", "class_map", "otherwise"),
    [
        ("raster", WOODS, True),
        ("raster", ClassMap((ClassRule(1, (1,), "trees"), ClassRule(2, ("2",)), ClassRule(0, (9,)))), False),
        ("raster", TEXTS, False),
        ([1, 3], WOODS, True),
        ([1, 7], WOODS, False),
        (["1", "2"], WOODS, True),
        (["forest", "grass"], TEXTS, True),
        (["woods", "grass"], TEXTS, False),
        (["grass", "lake"], TEXTS, False),
        (["grass", "woods"], ClassMap((ClassRule(2, ("grass",)), ClassRule(1, ("woods",)))), True),
        (["heath", "lake"], TEXTS, False),
    ],
)
def test_labels_that_a_class_map_would_read_otherwise(
    label: Any, class_map: ClassMap, otherwise: bool, tmp_path: Path
) -> None:
    classes = ClassTable.build([1, 2], {1: "woods", 2: "grass"})
    if label == "raster":
        path = str(write_raster(tmp_path / "l.tif", np.array([[[1, 2]]], np.uint8)))
    else:
        path = polygons(tmp_path / "l.gpkg", [shapely.box(0, 0, 10, 10)] * len(label), label)
    assert read_otherwise(path, classes, LabelOptions(), class_map) is otherwise


def test_text_classes_without_a_match_are_counted_and_hide_none_that_lies_on_them(tmp_path: Path) -> None:
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
