"""The demo's last step: the picture, and the lines that say how good the map is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from matplotlib.image import imread

from scripts import demo_picture as module
from scripts.demo_data import FCLASSES, REAL
from scripts.make_scene import CLASS_COLORS, make_scene
from src.datafolder import write_dataset
from src.labels import ClassTable
from src.spec import DatasetSpec

NAMES = ("forest", "grassland", "farmland", "residential", "water")
CLASSES = ClassTable.build(range(1, 6), dict(enumerate(NAMES, start=1)), dict(enumerate(CLASS_COLORS, start=1)))
CLASS_MAP = [{"value": value, "merge": [fclass]} for value, fclass in zip(CLASSES.values, FCLASSES, strict=True)]
SPEC = DatasetSpec(
    *((), (), (), 0, "uint16", (64, 64), (64, 64), CLASSES, {}, None, 42),
    config={"class_map": CLASS_MAP, "label_field": "fclass"},
)


@dataclass(frozen=True)
class Demo:
    """What the demo's earlier steps leave: the options that name it, and its labels as a raster."""

    options: list[str]
    label: npt.NDArray[Any]
    folder: Path


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    scene = make_scene(tmp_path, width=96, height=120, class_names=FCLASSES, polygons=True)
    assert scene.polygons is not None
    shutil.copy(scene.label, tmp_path / "map.tif")
    (tmp_path / "chips").mkdir()
    write_dataset(tmp_path / "chips/dataset.json", SPEC)
    rows = "".join(f"{value},0.{value + 3}\n" for value in CLASSES.values)
    (tmp_path / "iou.csv").write_text(f"Class,IoU\n{rows}Mean IoU,0.6123\n")
    paths = {
        "--image": scene.image,
        "--label": scene.polygons,
        "--data-dir": tmp_path / "chips",
        "--map": tmp_path / "map.tif",
        "--scores": tmp_path / "iou.csv",
        "--output": tmp_path / "out/map.png",
    }
    with rasterio.open(scene.label) as dataset:
        label = dataset.read(1)
    return Demo([str(part) for pair in paths.items() for part in pair], label, tmp_path)


def test_polygons_become_the_classes_that_training_knows(demo: Demo) -> None:
    burnt = module.read_labels(demo.folder / "scene_polygons.gpkg", demo.folder / "map.tif", SPEC)
    np.testing.assert_array_equal(burnt, demo.label)


def test_the_picture_shows_every_class_in_its_colour(demo: Demo) -> None:
    module.main(demo.options)
    picture = (imread(demo.folder / "out/map.png")[..., :3] * 255).round().astype(int)
    assert picture.shape[1] > picture.shape[0] > 500
    for color in CLASS_COLORS:
        wanted = np.array(list(bytes.fromhex(color[1:])))
        assert (abs(picture - wanted).max(axis=-1) <= 1).sum() > 500, color


def test_the_last_lines_give_the_score_the_files_and_the_picture(
    demo: Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    module.main(demo.options)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "mIoU 0.612 on the part to map, which training has not seen"
    assert said[1].split() == [
        "forest",
        "0.400",
        "grassland",
        "0.500",
        "farmland",
        "0.600",
        "residential",
        "0.700",
        "water",
        "0.800",
    ]
    named = [Path(word.strip(",")) for line in said[2:] for word in line.split()[1:]]
    assert demo.folder / "out/map.png" in named
    assert demo.folder / "map.tif" in named


def test_the_real_scene_is_compared_with_the_random_forest_and_credited(
    demo: Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    with rasterio.open(demo.folder / "scene_image.tif", "r+") as image:
        image.update_tags(**REAL)
    module.main(demo.options)
    assert "random forest on single pixels: 0.492" in capsys.readouterr().out


def test_a_missing_step_is_one_line_and_leaves_no_picture(demo: Demo) -> None:
    (demo.folder / "map.tif").unlink()
    with pytest.raises(SystemExit, match=r"error: There is no .*map\.tif; run .*make demo$"):
        module.main(demo.options)
    assert not (demo.folder / "out").exists()


@pytest.mark.parametrize(("width", "pixel", "words"), [(512, 10, "2 km"), (96, 10, "200 m"), (9000, 30, "100 km")])
def test_the_scale_bar_has_a_round_length(width: int, pixel: float, words: str) -> None:
    blank, scene = np.zeros((60, width), np.uint8), np.zeros((60, width, 4), np.uint8)
    figure = module.draw(scene, blank, blank, CLASSES, ("a", "b", "c"), pixel)
    assert [text.get_text() for text in figure.axes[0].texts] == [words]


def test_names_of_any_kind_stand_in_the_legend() -> None:
    names = ("_forest", r"$\foo$", "Land principally occupied by agriculture, with significant areas", "x" * 80, "y")
    classes = ClassTable.build(range(1, 6), dict(enumerate(names, start=1)))
    blank, scene = np.zeros((60, 96), np.uint8), np.zeros((60, 96, 4), np.uint8)
    figure = module.draw(scene, blank, blank, classes, ("a", "b", "c"), 10)
    figure.draw_without_rendering()
    legend = figure.legends[0]
    found = [text.get_text() for text in legend.get_texts()]
    assert found[:2] == list(names[:2])
    assert (found[4], found[5]) == ("y", "unclassified")
    assert legend.get_window_extent().x0 >= 0


@pytest.mark.parametrize(("option", "said"), [("--scores", "has no row Mean IoU"), ("--map", "cannot be read as a")])
def test_another_file_than_the_one_asked_for_is_one_line(demo: Demo, option: str, said: str) -> None:
    (demo.folder / "scores.csv").write_text("Aggregation,Class,IoU\nall pixels,1,0.5\n")
    with pytest.raises(SystemExit, match=rf"error: .*scores\.csv {said}"):
        module.main([*demo.options, option, str(demo.folder / "scores.csv")])
