"""The command: scenes in, maps and scores out, and one line for everything that a user can get wrong."""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pandas as pd
import pyogrio.raw
import pytest
import rasterio
import rasterio.shutil
import shapely
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine

from src.class_map import ClassRule
from src.datafolder import DATASET, read_dataset, write_dataset
from src.errors import UserError
from src.mapping import outputs, scene_map
from src.models.checkpoint import load_described, save_network
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.report.blocks import Pictures
from src.report.prediction import prediction_report
from src.report.provenance import Run
from src.score_files import MEANINGS
from src.tasks import predict, schema
from src.tasks.schema import ClassRuleConfig, PredictConfig
from tests.mapping_scenes import CLASSES, make_trained, noise, read, write_raster

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_trained(tmp_path_factory.mktemp("run")).checkpoint


def run(tmp_path: Path, **keys: Any) -> list[Any]:
    settings = PredictConfig(**{"accelerator": "cpu", "output": str(tmp_path / "out" / "map.tif"), **keys})
    return predict.map_all(settings, tmp_path / "run")[1]


def scene(folder: Path, name: str = "scene.tif", height: int = 90, width: int = 70, **options: Any) -> str:
    return str(write_raster(folder / name, noise(height, width), **options))


HOOK = """
import os, signal, sys, time
left = [{strips}]
def hook(event, args):
    if event == "open" and str(args[0]).endswith("strips") and args[1] == "a":
        left[0] -= 1
        if left[0] < 0:
            {happens}
sys.addaudithook(hook)
"""
"""What Python imports at its start by the name of sitecustomize: a strip is whole when a line is added to a list."""


def start(
    tmp_path: Path, checkpoint: Path, *arguments: str, after: int | None = None, happens: str = "", **options: Any
) -> subprocess.Popen[str]:
    """Start the command; when ``after`` strips are whole, a line of Python happens in each process before the next."""
    command = [sys.executable, str(ROOT / "predict.py"), f"checkpoint={checkpoint}", "accelerator=cpu", *arguments]
    hooks = tmp_path / "hooks"
    if after is not None:
        hooks.mkdir()
        (hooks / "sitecustomize.py").write_text(HOOK.format(strips=after, happens=happens))
    paths = [str(ROOT), *([str(hooks)] if after is not None else [])]
    return subprocess.Popen(
        [*command, f"hydra.run.dir={tmp_path / 'run'}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_run_per_scene_on_a_launcher_gives_the_bytes_of_single_runs(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "scenes").mkdir()
    for number in range(2):
        write_raster(tmp_path / f"scenes/a {number}.tif", noise(90, 70, seed=number))
    given = ["-m", f"image=glob({tmp_path / 'scenes'}/*.tif)", "window=64", f"output={tmp_path / 'maps'}"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    process = start(tmp_path, checkpoint, *given, *launcher)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors + output
    for number in range(2):
        name, single = f"a {number}_map", tmp_path / f"{number}.tif"
        image = str(tmp_path / f"scenes/a {number}.tif")
        run(tmp_path, checkpoint=str(checkpoint), image=image, window=64, output=str(single))
        assert (tmp_path / "maps" / f"{name}.tif").read_bytes() == single.read_bytes()
        assert (tmp_path / "maps" / f"{name}_report.html").is_file()
    rows = list(csv.DictReader((tmp_path / "sweep/runs.csv").read_text(encoding="utf-8").splitlines()))
    assert [(Path(row["image"]).name, row["came to"]) for row in rows] == [("a 0.tif", "done"), ("a 1.tif", "done")]


def test_killed_and_started_again_the_command_ends_with_the_same_bytes(tmp_path: Path, checkpoint: Path) -> None:
    image = scene(tmp_path, height=600, width=150)
    arguments = [f"image={image}", "window=64", "probabilities=true"]
    broken = tmp_path / "broken" / "map.tif"
    killing = "os.kill(os.getpid(), signal.SIGKILL)"
    process = start(tmp_path, checkpoint, *arguments, f"output={broken}", after=3, happens=killing)
    said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert (broken.parent / ".map.tif.partial/strips").read_text().count("whole") == 3
    assert not list(broken.parent.glob("*.tif"))
    again = start(tmp_path, checkpoint, *arguments, f"output={broken}")
    output, errors = again.communicate()
    assert (again.returncode, errors) == (0, "")
    assert "as before the break" in output
    named = [line.split("  ")[0] for line in output.splitlines() if line.startswith(str(tmp_path))]
    assert {Path(name).name for name in named} >= {"map.tif", "map_probabilities.tif", "map_uncertainty.tif"}
    assert all(Path(name).is_file() for name in named)
    run(tmp_path, checkpoint=str(checkpoint), image=image, window=64, probabilities=True)
    for name in ("map.tif", "map_probabilities.tif", "map_uncertainty.tif"):
        assert (broken.parent / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def test_a_scene_without_measurements_is_mapped_and_has_nothing_to_score(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One empty tile of many must not take the maps of the others with it: this ended in an error, after mapping."""
    images = [scene(tmp_path), str(write_raster(tmp_path / "empty.tif", 0 * noise(90, 70), nodata=0))]
    label = str(write_raster(tmp_path / "label.tif", np.full((1, 90, 70), CLASSES.values[0], np.uint8)))
    caplog.set_level(logging.INFO)
    found = run(tmp_path, checkpoint=str(checkpoint), image=images, label=label, output=str(tmp_path / "out"))
    assert [entry.evaluation is None for entry in found] == [False, True]
    assert caplog.text.count("Label    has no class where the map has one: there is nothing to score.") == 1
    assert not read(found[1].output).any()
    assert [path.name for path in (tmp_path / "out").glob("*scores.csv")] == ["scene_map_scores.csv"]


def test_scores_of_the_map_before_do_not_stay_beside_another(tmp_path: Path, checkpoint: Path) -> None:
    image, out = scene(tmp_path), tmp_path / "out"
    label = str(write_raster(tmp_path / "label.tif", np.full((1, 90, 70), CLASSES.values[0], np.uint8)))
    keys = {"checkpoint": str(checkpoint), "image": image}

    def scores() -> set[str]:
        return {path.name for path in out.iterdir() if path.name in MEANINGS}

    run(tmp_path, **keys, label=label)
    assert scores() >= {"iou.csv", "scores.json", "confusion.png"}
    before = scores()
    run(tmp_path, **keys)  # the same map: its scores still are
    assert scores() == before
    run(tmp_path, **keys, window=64)
    assert not scores()
    contents = {'{"chips": "data (test)"}': True, '{"map": "other.tif"}': True, '{"map": "moved/map.tif"}': False}
    for number, (content, kept) in enumerate((contents | {"[]": True, "no JSON": True}).items()):
        (out / "scores.json").write_text(content)
        (out / "iou.csv").write_text("of an evaluation in the same folder")
        run(tmp_path, **keys, overlap=10 + number)
        assert scores() == ({"scores.json", "iou.csv"} if kept else set()), content


def test_labels_on_another_grid_score_the_map_and_leave_it_whole(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = scene(tmp_path)
    caplog.set_level(logging.INFO)
    (alone,) = run(tmp_path / "alone", checkpoint=str(checkpoint), image=image)
    mapped = read(alone.output)
    # A ground truth of the lower right quarter, three pixels finer than the scene, right but for class 9.
    fine = np.kron(mapped, np.ones((2, 2), np.uint8))[60:, 60:]
    fine[fine == 9] = 4
    with rasterio.open(image) as dataset:
        corner = dataset.transform * rasterio.Affine.translation(30, 30) * rasterio.Affine.scale(0.5)
    label = str(write_raster(tmp_path / "label.tif", fine[None], transform=corner))
    (scored,) = run(tmp_path, checkpoint=str(checkpoint), image=image, label=label)
    np.testing.assert_array_equal(read(scored.output), mapped)
    truth = np.where(mapped == 9, 4, mapped)[30:, 30:]
    table = pd.read_csv(tmp_path / "out" / "iou.csv", index_col="Class")["IoU"]
    for value in CLASSES.values:
        both, either = (truth == value) & (mapped[30:, 30:] == value), (truth == value) | (mapped[30:, 30:] == value)
        if either.any():
            assert table[str(value)] == pytest.approx(both.sum() / either.sum())
    assert {"Class", "IoU", "F1", "Support"} <= set(pd.read_csv(tmp_path / "out" / "scores.csv").columns)
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["all_pixels"]["overall_accuracy"] == pytest.approx((truth == mapped[30:, 30:]).mean())
    assert "is warped onto the grid" in caplog.text


def test_polygons_score_by_their_classes_names_and_by_a_class_map(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    image = scene(tmp_path)
    with rasterio.open(image) as dataset:
        left, bottom, right, top = dataset.bounds
    boxes = [shapely.box(left, bottom, right, (top + bottom) / 2), shapely.box(left, (top + bottom) / 2, right, top)]
    for name, texts in (
        ("named.gpkg", ["Town", "water"]),
        ("other.gpkg", ["city", "lake"]),
        ("half.gpkg", ["city", "water"]),
        ("codes.gpkg", ["112", "311"]),  # CORINE's, which are no class values: they were scored by the alphabet
    ):
        pyogrio.raw.write(
            tmp_path / name,
            np.array(shapely.to_wkb(boxes), object),
            [np.array(texts, object)],
            ["fclass"],
            driver="GPKG",
            geometry_type="Polygon",
            crs="EPSG:32633",
        )
    given = {"checkpoint": str(checkpoint), "image": image}
    (by_name,) = run(tmp_path / "a", **given, label=str(tmp_path / "named.gpkg"), label_field="fclass")
    assert by_name.evaluation.pooled.support.tolist() == [45 * 70, 0, 45 * 70]
    rules = [ClassRuleConfig(9, ["city"]), ClassRuleConfig(1, ["lake"])]
    (mapped,) = run(tmp_path / "b", **given, label=str(tmp_path / "other.gpkg"), class_map=rules)
    np.testing.assert_array_equal(mapped.evaluation.pooled.matrix, by_name.evaluation.pooled.matrix)
    for name, texts in (("other.gpkg", "city, lake"), ("codes.gpkg", "112, 311")):
        with pytest.raises(UserError, match=f"has the classes {texts}; the checkpoint knows water, forest"):
            run(tmp_path / "c", **given, label=str(tmp_path / name))
    assert "does not know" not in caplog.text
    (half,) = run(tmp_path / "d", **given, label=str(tmp_path / "half.gpkg"))
    assert half.evaluation.pooled.support.tolist() == [45 * 70, 0, 0]
    assert caplog.text.count("Label    has city, which the checkpoint does not know; they do not count.") == 1
    assert "Label    has pixels of city (3,150), which the checkpoint does not know" in caplog.text
    known = json.loads((tmp_path / "d/out/scores.json").read_text())["unknown_classes"]
    assert known == [{"value": None, "name": "city", "pixels": 45 * 70}]


def test_a_value_that_label_and_checkpoint_call_differently_is_named(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where classes were merged before training, and the labels of before score the map."""
    caplog.set_level(logging.INFO)
    label, header = tmp_path / "label.dat", tmp_path / "label.hdr"
    rasterio.shutil.copy(write_raster(tmp_path / "l.tif", np.full((1, 90, 70), 4, np.uint8)), label, driver="ENVI")
    header.write_text(
        header.read_text().replace("ENVI Standard", "ENVI Classification")
        + "classes = 5\nclass names = {Unclassified, Water, b, c, bare soil}\n"
    )
    run(tmp_path, checkpoint=str(checkpoint), image=scene(tmp_path), label=str(label))
    assert caplog.text.count("Label    calls") == 1
    assert "Label    calls 4 'bare soil', the checkpoint 'forest & heath'" in caplog.text


def made_with_class_map(folder: Path, checkpoint: Path, config: dict[str, Any]) -> Path:
    """Write a checkpoint whose training says so; ``{data}`` is a data folder that was prepared with MERGED."""
    from_data = config == {"data": True}
    if from_data:
        scenes = [scene(folder, "trained.tif"), str(write_raster(folder / "t.tif", np.ones((1, 90, 70), np.uint8)))]
        rules = tuple(ClassRule(value, tuple(merge)) for value, merge in MERGED)
        prepare(Preparation(scenes[0], scenes[1], (16, 16), (16, 16), class_map=rules), folder / "data")
        spec = read_dataset(folder / "data" / DATASET)
        write_dataset(folder / "data" / DATASET, replace(spec, classes=CLASSES))
        config = {"data_dir": str(folder / "data"), "datamodule": {"data_dir": str(folder / "data")}}
    network, said = load_described(checkpoint)
    save_network(folder / "merged.ckpt", network, said.spec, config)
    return folder / "merged.ckpt"


MERGED = ((1, (1, 2)), (4, (3, "wet land")), (9, (4,)))
ENTRIES = [{"value": value, "merge": list(merge), "name": None, "color": None} for value, merge in MERGED]
SAID = "class_map='[{value: 1, merge: [1, 2]}, {value: 4, merge: [3, \"wet land\"]}, {value: 9, merge: [4]}]'"


@pytest.mark.parametrize("config", [{"data": True}, {"datamodule": {"class_map": ENTRIES}}])
def test_labels_that_are_not_merged_as_those_of_training_are_scored_with_a_caution(
    config: dict[str, Any], tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What training's class map puts into the class 9 was scored as the class 4, whose value it has, without a word."""
    given = {"checkpoint": str(made_with_class_map(tmp_path, checkpoint, config)), "image": scene(tmp_path)}
    label = str(write_raster(tmp_path / "label.tif", np.full((1, 90, 70), 4, np.uint8)))
    (found,) = run(tmp_path / "a", **given, label=label)
    said = [message for message in caplog.messages if "read without one" in message]
    assert len(said) == 1
    assert said[0].startswith(f"CAUTION: {label}: the labels of training were read with a class_map")
    assert said[0].endswith(f"if they have the classes that those had, add {SAID}")
    assert SAID in json.loads((tmp_path / "a/out/scores.json").read_text())["caution"]
    assert SAID in str(found.seen)
    caplog.clear()
    rules = [ClassRuleConfig(value, list(merge)) for value, merge in MERGED]
    (mapped,) = run(tmp_path / "b", **given, label=label, class_map=rules)
    run(tmp_path / "c", **given)
    assert "class_map" not in f"{caplog.text}{mapped.seen}"


@pytest.mark.parametrize("entries", [None, "nonsense", [{"value": 4, "merge": [4], "name": "heath"}]])
def test_a_class_map_of_training_that_changes_no_label_is_no_reason_for_caution(
    entries: Any, tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    merged = made_with_class_map(tmp_path, checkpoint, {"datamodule": {"class_map": entries}})
    label = str(write_raster(tmp_path / "label.tif", np.full((1, 90, 70), 4, np.uint8)))
    (found,) = run(tmp_path, checkpoint=str(merged), image=scene(tmp_path), label=label)
    assert "class_map" not in f"{caplog.text}{found.seen}"


def test_an_empty_map_says_which_band_has_no_measurement(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    image = noise(90, 70)
    image[1] = np.nan
    (found,) = run(tmp_path, checkpoint=str(checkpoint), image=str(write_raster(tmp_path / "scene.tif", image)))
    assert not read(found.output).any()
    assert "Map      is empty" in caplog.text
    assert "there is none in band 2." in caplog.text


def test_values_that_the_checkpoint_does_not_know_do_not_count_and_are_named(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    image = scene(tmp_path)
    truth = np.full((1, 90, 70), 4, np.uint8)
    truth[0, :40] = 77
    label = str(write_raster(tmp_path / "label.tif", truth))
    (found,) = run(tmp_path, checkpoint=str(checkpoint), image=image, label=label)
    assert found.evaluation.pooled.matrix.sum() == 50 * 70
    assert "has pixels of 77 (2,800), which the checkpoint does not know" in caplog.text
    (entry,) = found.unknown
    assert (entry.value, entry.name, entry.pixels) == (77, "", 40 * 70)
    written = json.loads((tmp_path / "out/scores.json").read_text())
    assert written["unknown_classes"] == [{"value": 77, "name": "", "pixels": 40 * 70}]
    assert written["caution"] is None
    rules = [ClassRuleConfig(4, [4]), ClassRuleConfig(8, [77], name="reed")]
    (named,) = run(tmp_path, checkpoint=str(checkpoint), image=image, label=label, class_map=rules)
    assert [entry.title for entry in named.unknown] == ["8 reed"]


@pytest.mark.parametrize("name", ["report.html", "run.json"])
def test_the_files_of_a_training_are_not_written_over(tmp_path: Path, checkpoint: Path, name: str) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"command": [], "config": {}}))
    images = [scene(tmp_path), scene(tmp_path, "b.tif")]
    output = {"report.html": {"image": images, "output": str(folder)}, "run.json": {"output": str(folder / "run.tif")}}
    with pytest.raises(UserError, match=rf"train/{name}, but .*train is the folder of a training"):
        run(tmp_path, **{"checkpoint": str(checkpoint), "image": images[0], **output[name]})
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    run(tmp_path, checkpoint=str(checkpoint), image=images[0], output=str(folder / "map.tif"))
    (folder / "run.json").write_text(json.dumps({"made_of": {}}))  # the record of a map
    run(tmp_path, **{"checkpoint": str(checkpoint), "image": images[0], **output[name]})


def test_ctrl_c_ends_all_processes_with_one_line(tmp_path: Path, checkpoint: Path) -> None:
    """It goes to all of them, and each printed its own traceback."""
    image, output = scene(tmp_path, height=600, width=150), tmp_path / "out/map.tif"
    given = [f"image={image}", "window=64", f"output={output}", "devices=2"]
    process = start(
        tmp_path, checkpoint, *given, after=1, happens="time.sleep(600)", start_new_session=True
    )  # and so it cannot be through before it is interrupted
    raw = output.parent / ".map.tif.partial/classes.raw"
    while process.poll() is None and not raw.is_file():
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "predict.py: interrupted." in errors


def test_several_scenes_load_the_network_once(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[object] = []
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **keys: (loads.append(path), real(path, **keys))[1])
    for name in ("a.tif", "b.tif"):
        scene(tmp_path, name)
    given: dict[str, Any] = {"checkpoint": str(checkpoint), "output": str(tmp_path / "maps")}
    run(tmp_path, image=str(tmp_path / "?.tif"), **given)
    assert len(loads) == 1
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.tif")) == ["a_map.tif", "b_map.tif"]
    with pytest.raises(UserError, match="is one file for 2 scenes"):
        run(tmp_path, image=[str(tmp_path / "a.tif"), str(tmp_path / "b.tif")], checkpoint=str(checkpoint))


def test_maps_are_not_put_among_the_scenes(tmp_path: Path, checkpoint: Path) -> None:
    """The same command would take them for scenes next time."""
    for name in ("a.tif", "b.tif"):
        scene(tmp_path, name)
    for image in (tmp_path, tmp_path / "*.tif"):
        with pytest.raises(UserError, match=r"a_map\.tif among the scenes that image=.* stands for"):
            run(tmp_path, checkpoint=str(checkpoint), image=str(image), output=str(tmp_path))
    run(tmp_path, checkpoint=str(checkpoint), image=str(tmp_path / "[ab].tif"), output=str(tmp_path))
    assert (tmp_path / "a_map.tif").is_file()


def test_the_scores_of_a_map_do_not_take_the_place_of_an_evaluation_s(tmp_path: Path, checkpoint: Path) -> None:
    label = str(write_raster(tmp_path / "label.tif", np.full((1, 90, 70), 4, np.uint8)))
    given = {"checkpoint": str(checkpoint), "image": scene(tmp_path)}
    (tmp_path / "out").mkdir()
    (tmp_path / "out/scores.json").write_text(json.dumps({"checkpoint": "a.ckpt", "chips": "d (test)"}))
    with pytest.raises(UserError, match=r"out has the scores of an evaluation of chips.* Give another output\."):
        run(tmp_path, **given, label=label)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scores.json"]
    (unscored,) = run(tmp_path, **given)
    assert unscored.evaluation is None
    run(tmp_path, **given, label=label, output=str(tmp_path / "out/scene.tif"))
    assert {"scores.json", "scene_scores.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("given", [True, False])
def test_a_run_that_is_broken_off_says_where_it_can_be_gone_on_with(
    given: bool, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a run has the time in its name: the same command would begin anew."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_map, "write_cog", interrupted)
    output = str(tmp_path / "out/map.tif") if given else None
    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path, checkpoint=str(checkpoint), image=scene(tmp_path), output=output)
    words = f"What is finished is kept; add output={tmp_path / 'run/map.tif'} to the same command to go on from there."
    assert str(caught.value) == ("" if given else words)


def test_scenes_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    images = ["north/s.tif", "south/s.tif", "t.tif"]
    maps = outputs.choose_outputs(images, None, tmp_path)
    assert [path.name for path in maps] == ["s_map.tif", "s_map_2.tif", "t_map.tif"]


def test_a_raster_without_crs_works_and_says_so(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (found,) = run(tmp_path, checkpoint=str(checkpoint), image=scene(tmp_path, crs=None))
    assert "Without a CRS" in caplog.text
    assert read(found.output).all()


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32633"])
def test_a_map_keeps_the_control_points_of_a_scene_that_has_no_grid(
    crs: str, tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It lay nowhere; gdalwarp puts it where it puts the scene."""
    caplog.set_level(logging.INFO)
    path = scene(tmp_path, crs=None, transform=Affine.identity())
    corners = [(0.0, 0.0, 13.1, 52.6), (0.0, 9.5, 13.2, 52.7), (9.25, 0.0, 13.3, 52.3), (9.25, 9.5, 13.4, 52.4)]
    points = [GroundControlPoint(row, column, x, y, 34.5) for row, column, x, y in corners]
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = points, CRS.from_string(crs)
    (found,) = run(tmp_path, checkpoint=str(checkpoint), image=path, vector=True)
    assert "Without a CRS the map has the scene's control points; areas and polygons are in pixels." in caplog.text
    with rasterio.open(found.output) as mapped:
        kept, its = mapped.gcps
    assert [(p.row, p.col, p.x, p.y, p.z) for p in kept] == [(p.row, p.col, p.x, p.y, p.z) for p in points]
    assert its == CRS.from_string(crs)


def broken_scene(tmp_path: Path) -> str:
    path = Path(scene(tmp_path, height=400, compress="deflate", blockysize=4))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return str(path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"checkpoint": "nowhere.ckpt"}, "There is no checkpoint nowhere.ckpt"),
        ({"checkpoint": __file__}, "cannot be read as a checkpoint"),
        ({"image": "nowhere.tif"}, "There is no file nowhere.tif"),
        ({"image": "nowhere/*.tif"}, "matches no file"),
        ({"image": []}, "empty list"),
        ({"image": __file__}, "cannot be read as a raster"),
        ({"label": "nowhere.tif"}, "There is no file nowhere.tif"),
        ({"blend": "sharp"}, "blend=sharp is not known"),
        ({"probabilities": "int8"}, "probabilities=int8 is not known"),
        ({"probabilities": [1]}, r"probabilities=\[1\] is not known"),
        ({"sieve": 4}, "Add vector=true"),
        ({"sieve": -1, "vector": True}, "sieve=-1 is no number of pixels"),
        ({"devices": 0}, "devices=0 is no number of processes"),
        ({"accelerator": "tpu"}, "accelerator=tpu is not known"),
        ({"label": ["a.tif", "b.tif"]}, "label names 2 files for 1 image; give one for each"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    tmp_path: Path, checkpoint: Path, wrong: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"checkpoint": str(checkpoint), "image": scene(tmp_path)} | wrong
    with pytest.raises(UserError, match=words) as caught:
        run(tmp_path, **given)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_a_raster_that_ends_in_the_middle_leaves_no_map(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(UserError, match="whole file that GDAL reads"):
        run(tmp_path, checkpoint=str(checkpoint), image=broken_scene(tmp_path))
    assert not list((tmp_path / "out").glob("map*"))


@pytest.mark.parametrize("beside", ["outside", "without a class"])
def test_scenes_that_the_label_of_all_has_no_class_on_are_mapped_without_scores(
    beside: str, tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One scene beside the label ended the command."""
    inside, east = scene(tmp_path, "in.tif", 40, 40), rasterio.Affine(10, 0, 301_000, 0, -10, 5_800_000)
    away = scene(tmp_path, "away.tif", 40, 40, transform=east)
    values = np.zeros((1, 40, 140 if beside == "without a class" else 40), np.uint8)
    values[:, :, :40] = 4
    label = str(write_raster(tmp_path / "label.tif", values))
    found = run(tmp_path, checkpoint=str(checkpoint), image=[inside, away], label=label, output=str(tmp_path / "maps"))
    assert [scene.evaluation is None for scene in found] == [False, True]
    assert f"CAUTION: 1 of 2 scenes have no label ({away}); they are mapped without scores." in caplog.messages
    for images, labels in (([away], label), ([inside, away], [label, str(write_raster(tmp_path / "two.tif", values))])):
        with pytest.raises(UserError, match="do not overlap" if beside == "outside" else "has a class of the checkp"):
            run(tmp_path, checkpoint=str(checkpoint), image=images, label=labels, output=str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_the_scene_in_layer_file_and_report_knows_the_network_s_nodata(tmp_path: Path) -> None:
    """After prepare nodata=-9999 for files that declare none, the scene was stretched from -9999 on in both."""
    image = noise(40, 40)
    image[:, :10] = -9999
    path, mapper = write_raster(tmp_path / "scene.tif", image), make_trained(tmp_path)
    spec = replace(mapper.spec, nodata=-9999, nodata_given=True)
    save_network(mapper.checkpoint, mapper.network, spec, {})
    found = run(tmp_path, checkpoint=str(mapper.checkpoint), image=str(path))
    layers = Xml.parse(tmp_path / "out" / "map.qlr").getroot().iter("maplayer")
    (shown,) = (layer for layer in layers if layer.findtext("layername") == "Scene")
    assert all(float(node.text or -1) >= 0 for node in shown.iter("minValue"))
    report = prediction_report(Run("", "", datetime.now(UTC)), found, spec=spec, checkpoint=mapper.checkpoint)
    (pictures,) = (block for block in report.sections[0].blocks if isinstance(block, Pictures))
    (uri,) = (picture.uri for picture in pictures.pictures if picture.alt.startswith("Image of"))
    painted = np.array(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))
    assert not painted[:10, :, 3].any()
    assert painted[10:, :, :3].std() > 30


def test_a_label_that_does_not_overlap_is_refused_before_anything_is_mapped(tmp_path: Path, checkpoint: Path) -> None:
    far = rasterio.Affine(10, 0, 900_000, 0, -10, 5_000_000)
    label = str(write_raster(tmp_path / "label.tif", np.ones((1, 20, 20), np.uint8), transform=far))
    with pytest.raises(UserError, match="do not overlap"):
        run(tmp_path, checkpoint=str(checkpoint), image=scene(tmp_path), label=label)
    assert not (tmp_path / "out").exists()


def test_the_scene_itself_is_never_overwritten(tmp_path: Path, checkpoint: Path) -> None:
    image = scene(tmp_path)
    with pytest.raises(UserError, match="is the scene itself"):
        run(tmp_path, checkpoint=str(checkpoint), image=image, output=image)


@pytest.mark.parametrize(
    ("label", "keys"),
    [
        ("map.tif", {}),
        ("map_polygons.gpkg", {"vector": True}),
        ("map_uncertainty.tif", {"probabilities": True}),
        ("map.json", {}),
        ("map.vrt", {}),
        ("../a_map.tif", {"output": "{folder}", "image": ["{folder}/a.tif", "{folder}/b.tif"]}),
    ],
)
def test_the_ground_truth_is_never_overwritten(
    tmp_path: Path, checkpoint: Path, label: str, keys: dict[str, Any]
) -> None:
    """The map was scored against itself, and the labels were gone."""
    (tmp_path / "out").mkdir()
    for name in ("a.tif", "b.tif"):
        scene(tmp_path, name)
    truth = tmp_path / "out" / label
    if truth.suffix in {".json", ".gpkg"}:
        frame = shapely.box(300_000, 5_799_100, 300_700, 5_800_000)
        driver = {".json": "GeoJSON", ".gpkg": "GPKG"}[truth.suffix]
        field = [np.array([4])]
        pyogrio.raw.write(
            truth, shapely.to_wkb([frame]), field, ["class"], geometry_type="Polygon", crs="EPSG:32633", driver=driver
        )
    else:
        raster = write_raster(truth.with_suffix(".tif"), np.full((1, 90, 70), 4, np.uint8))
        if truth.suffix == ".vrt":
            rasterio.shutil.copy(str(raster), str(truth), driver="VRT")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    given = {"image": str(tmp_path / "a.tif")} | json.loads(json.dumps(keys).replace("{folder}", str(tmp_path)))
    with pytest.raises(UserError, match=r"which is the label .*; expected another file") as caught:
        run(tmp_path, checkpoint=str(checkpoint), label=str(truth), **given)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_checkpoint_is_never_overwritten(tmp_path: Path, checkpoint: Path) -> None:
    named = shutil.copy(checkpoint, tmp_path / "map.tif")
    with pytest.raises(UserError, match="is the checkpoint itself"):
        run(tmp_path, image=scene(tmp_path), checkpoint=str(named), output=str(tmp_path / "map.tif"))


def test_what_will_be_written_is_known_before(tmp_path: Path, checkpoint: Path) -> None:
    label = str(write_raster(tmp_path / "label.tif", np.full((1, 90, 70), 4, np.uint8)))
    keys: dict[str, Any] = {"probabilities": True, "vector": True, "label": label}
    (found,) = run(tmp_path, checkpoint=str(checkpoint), image=scene(tmp_path), **keys)
    options = predict.map_options(PredictConfig(checkpoint=str(checkpoint), image="", **keys))
    assert {path for path, _ in found.files} <= set(outputs.written(found.output, options, scored=True))
    assert set(outputs.map_files(found.output, options)) <= {path for path, _ in found.files}


def test_an_output_that_cannot_be_is_one_line(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "map.tif").mkdir()
    given = {"checkpoint": str(checkpoint), "image": scene(tmp_path)}
    with pytest.raises(UserError, match="file is a file; expected a folder to write to"):
        run(tmp_path, **given, output=str(tmp_path / "file" / "map.tif"))
    with pytest.raises(UserError, match="is a folder; expected a file to write"):
        run(tmp_path, **given, output=str(tmp_path / "map.tif"))


def test_a_list_of_scenes_goes_on_where_it_ended(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "scenes").mkdir()
    given = {"checkpoint": str(checkpoint), "image": str(tmp_path / "scenes"), "output": str(tmp_path / "maps")}
    for name in ("a.tif", "b.tif"):
        scene(tmp_path / "scenes", name)
    first, _ = run(tmp_path, **given)
    (tmp_path / "maps" / "b_map.tif").unlink()
    caplog.clear()
    again, _ = run(tmp_path, **given)
    assert caplog.text.count("is there already") == 1
    assert (tmp_path / "maps" / "b_map.tif").is_file()
    assert again.areas == first.areas
    table = pd.read_csv(tmp_path / "maps" / "a_map_areas.csv")
    assert table["Pixels"].sum() == 90 * 70
    assert table["Hectares"].sum() == pytest.approx(90 * 70 / 100)


def test_a_scene_that_is_wrong_is_found_before_others_are_mapped(tmp_path: Path, checkpoint: Path) -> None:
    good = scene(tmp_path, "good.tif")
    bad = str(write_raster(tmp_path / "two_bands.tif", noise(40, 40)[:2]))
    with pytest.raises(UserError, match=r"two_bands\.tif has 2 bands"):
        run(tmp_path, checkpoint=str(checkpoint), image=[good, bad], output=str(tmp_path / "maps"))
    assert not (tmp_path / "maps").exists()


def test_the_demo_maps_what_training_has_not_seen_with_preparation_s_classes() -> None:
    schema.register()
    with initialize_config_dir(str(ROOT / "configs")):
        rules = [
            OmegaConf.load(ROOT / "configs" / task / "experiment" / "demo.yaml").class_map
            for task in ("prepare", "predict")
        ]
        config = compose("predict")
    merged = [{rule.value: list(rule.merge) for rule in part} for part in rules]
    assert merged[0] == merged[1]
    demo = OmegaConf.load(ROOT / "configs" / "predict" / "experiment" / "demo.yaml")
    del demo["hydra"]
    settings = OmegaConf.merge(config, demo)
    assert settings.image.endswith("data/demo/map_image.tif")
    assert settings.checkpoint.endswith("train/demo")
