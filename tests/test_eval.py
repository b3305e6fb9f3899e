"""``python eval.py`` from a checkpoint and chips to files, and what it says to those who mistype."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from src.bands import Band, Normalization
from src.errors import UserError
from src.labels import ClassTable
from src.models.checkpoint import TrainedOn, save_network
from src.models.network import build_network
from src.raster.write import write_geotiff
from src.report.provenance import Run
from src.spec import NetworkSpec
from src.tables import write_samples
from src.tasks import eval as eval_task
from src.tasks import schema
from src.tasks.eval import score
from src.tasks.schema import EvalConfig

ROOT = Path(__file__).parents[1]
CLASSES = ClassTable.build([1, 5], {1: "water", 5: "forest"})
BANDS = (Band("red"), Band("nir"))
FILES = {
    "iou.csv",
    "iou_mean_over_chips.csv",
    "scores.csv",
    "scores.json",
    "confusion.csv",
    "confusion_normalized.csv",
    "confusion.png",
    "reliability.png",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as SpecDeepMap makes it, without dataset.json; its validation list is empty."""
    folder = tmp_path_factory.mktemp("data with space")
    rng = np.random.default_rng(0)
    for part, count in {"train": 1, "validation": 0, "test": 3}.items():
        rows = []
        for number in range(count):
            names = f"images/{part}_tile_{number}_0.tif", f"labels/{part}_tile_{number}_0.tif"
            image = rng.integers(0, 1000, (2, 16, 16)).astype(np.uint16)
            label = rng.choice(np.array([0, 1, 5], np.uint8), (16, 16))
            for name, cube, bands in zip(names, (image, label), (BANDS, ()), strict=True):
                (folder / name).parent.mkdir(exist_ok=True)
                # Neither a CRS nor a place: such rasters are welcome, and no warning reaches the terminal.
                write_geotiff(folder / name, cube, crs=None, transform=(1, 0, 0, 0, 1, 0), bands=bands)
            rows.append(names)
        write_samples(folder / f"{part}_files.csv", rows)
    return folder


def save_checkpoint(
    path: Path,
    classes: ClassTable = CLASSES,
    bands: tuple[Band, ...] = BANDS,
    statistics: Normalization | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    torch.manual_seed(0)
    normalization = Normalization.identity(len(bands), 1000.0)
    spec = NetworkSpec(
        "justo_unet_simple", "none", {}, bands, normalization, None, classes, (16, 16), statistics=statistics
    )
    save_network(path, build_network(spec), spec, config or {})
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("run") / "00002-val_iou_0.5000.ckpt")


def test_chips_in_another_unit_are_scored_with_a_caution(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, mean in {"same": 500.0, "other": 0.05}.items():
        seen = Normalization((True,) * 2, 1.0, (mean,) * 2, (mean / 2,) * 2)
        path = save_checkpoint(tmp_path / f"{name}.ckpt", statistics=seen)
        scored = score(EvalConfig(str(path), str(data), accelerator="cpu"), tmp_path / name)
        assert (scored.caution is not None) == (name == "other")
        told = [message for message in caplog.messages if message.startswith(f"CAUTION: {data} (test): its numbers")]
        assert len(told) == (name == "other")
    report = scored.report(Run("eval.py", "", datetime.now(UTC)))
    assert report.lead[-1].startswith("Note: its numbers are ")
    assert "(about 10,000 times as large)" in report.lead[-1]
    both = score(EvalConfig(str(path), str(data), split="train", accelerator="cpu"), tmp_path / "both").caution
    assert both is not None
    assert both.startswith("these are training chips, ")
    assert "; its numbers are " in both


def test_the_command_scores_and_names_every_file(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    arguments = [f"checkpoint={checkpoint.parent}", f"data_dir='{data}'", "export_predictions=true", "accelerator=cpu"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "eval.py"), *arguments, f"hydra.run.dir={tmp_path / 'run'}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    named = [Path(line) for line in lines if line.startswith(str(tmp_path))]
    assert {path.name for path in named} == FILES | {"predictions", "report.html"}
    assert named[-1].name == "report.html"
    assert all(path.exists() for path in named)
    assert len(list((tmp_path / "run" / "predictions").glob("test_tile_*_0.tif"))) == 3
    table = pd.read_csv(tmp_path / "run" / "iou.csv", index_col="Class")["IoU"]
    mean = next(line for line in lines if line.startswith("mean"))
    assert mean.split()[1] == f"{table['Mean IoU']:.4f}"


def run(tmp_path: Path, **keys: Any) -> float:
    return score(EvalConfig(**{"accelerator": "cpu", **keys}), tmp_path / "out").evaluation.pooled.mean_iou


def test_a_list_of_chips_scores_as_the_data_folder_does(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    by_folder = run(tmp_path / "a", checkpoint=str(checkpoint), data_dir=str(data))
    by_list = run(tmp_path / "b", checkpoint=str(checkpoint), csv=str(data / "test_files.csv"), batch_size=1)
    assert by_folder == by_list
    first, second = (json.loads((tmp_path / name / "out/scores.json").read_text()) for name in "ab")
    assert first["confusion_matrix"] == second["confusion_matrix"]
    assert (first["chip_count"], first["checkpoint"]) == (3, str(checkpoint))
    assert {path.name for path in (tmp_path / "a" / "out").iterdir()} == FILES


def test_another_part_can_be_scored(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    run(tmp_path, checkpoint=str(checkpoint), data_dir=str(data), split="train")
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["chip_count"] == 1
    with rasterio.open(data / "labels" / "train_tile_0_0.tif") as label:
        assert sum(content["all_pixels"]["support"]) == np.count_nonzero(label.read(1))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "Neither data_dir nor csv is given"),
        ({"data_dir": "{data}", "csv": "{data}/test_files.csv"}, "Both data_dir and csv are given"),
        ({"data_dir": "{data}", "split": "tset"}, "split=tset is no part of a data folder; expected one of train, val"),
        ({"data_dir": "{data}", "split": "validation"}, "validation_files.csv lists no chip"),
        ({"data_dir": "{data}/images"}, "is no data folder"),
        ({"csv": "{data}/validation_files.csv"}, "lists no chip"),
        ({"csv": "{data}/none.csv"}, r"none\.csv"),
        ({"data_dir": "{data}", "checkpoint": "{data}/none.ckpt"}, "There is no checkpoint"),
        ({"data_dir": "{data}", "checkpoint": "{data}/test_files.csv"}, "cannot be read as a checkpoint"),
        ({"data_dir": "{data}", "accelerator": "tpu"}, "accelerator=tpu is not known"),
        ({"data_dir": "{data}", "batch_size": 0}, "batch_size=0 is no number of chips"),
    ],
)
def test_a_mistake_is_one_error_and_nothing_is_written(
    data: Path, checkpoint: Path, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    given = {key: value.format(data=data) if isinstance(value, str) else value for key, value in keys.items()}
    with pytest.raises(UserError, match=message):
        run(tmp_path, **{"checkpoint": str(checkpoint), "export_predictions": True} | given)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("classes", "bands", "message"),
    [
        (ClassTable.build([1]), BANDS, "5 class_5 is unknown to it"),
        (CLASSES, (*BANDS, Band("swir")), r"has 2 bands \(red, nir\).*expects 3 .*swir is missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_difference(
    data: Path, tmp_path: Path, classes: ClassTable, bands: tuple[Band, ...], message: str
) -> None:
    other = save_checkpoint(tmp_path / "other.ckpt", classes, bands)
    with pytest.raises(UserError, match=message):
        run(tmp_path, checkpoint=str(other), data_dir=str(data))


def test_predictions_appear_only_when_all_are_written(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"checkpoint": str(checkpoint), "data_dir": str(data), "export_predictions": True, "batch_size": 1}
    run(tmp_path, **keys)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def full(path: Path, *_: object, **__: object) -> None:
        if path.name == "test_tile_2_0.tif":
            raise OSError(28, "No space left on device", str(path))
        path.write_text("")

    monkeypatch.setattr("src.evaluation.write_geotiff", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, **keys)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_predictions_of_an_earlier_evaluation_do_not_stay_beside_other_scores(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    given = EvalConfig(str(checkpoint), str(data), accelerator="cpu")
    score(replace(given, export_predictions=True), tmp_path)
    assert (tmp_path / "predictions").is_dir()
    score(given, tmp_path)
    assert not (tmp_path / "predictions").exists()
    (tmp_path / "predictions").mkdir()  # of somebody else's, as predict.py output=…/predictions
    score(given, tmp_path)
    assert (tmp_path / "predictions").is_dir()


def test_a_data_folder_without_training_chips_is_scored(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(data, tmp_path / "data")
    write_samples(copied / "train_files.csv", [])
    assert score(EvalConfig(str(checkpoint), str(copied), accelerator="cpu"), tmp_path).caution is None


def test_the_scores_of_chips_do_not_take_the_place_of_a_map_s(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(json.dumps({"checkpoint": "a.ckpt", "map": "map.tif"}))
    with pytest.raises(UserError, match=r"has the scores of a map.* Give another output_dir\."):
        score(EvalConfig(str(checkpoint), str(data), accelerator="cpu"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_chips_on_training_ground_are_scored_with_a_caution(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """SpecDeepMap puts overlapping chips into all parts, and their scores are the ones that are published."""
    copied = shutil.copytree(data, tmp_path / "data")
    given = EvalConfig(str(checkpoint), str(copied), accelerator="cpu")
    assert score(given, tmp_path / "apart").caution is None
    listed = copied / "test_files.csv"
    listed.write_text(listed.read_text().replace("test_tile_0_0", "train_tile_8_8"))
    for kind in ("images", "labels"):
        (copied / kind / "test_tile_0_0.tif").rename(copied / kind / "train_tile_8_8.tif")
    caution = score(given, tmp_path / "shared").caution
    assert caution is not None
    assert caution.startswith("1 of 3 test chips show ground that training chips show too (first train_tile_8_8.tif): ")


def take_from_test(folder: Path) -> None:
    """Make the first test chip a validation chip that does not overlap those which are left."""
    for kind in ("images", "labels"):
        (folder / kind / "test_tile_0_0.tif").rename(folder / kind / "validation_tile_0_0.tif")
    header, _, *others = (folder / "test_files.csv").read_text().splitlines()
    (folder / "test_files.csv").write_text("\n".join([header, *others, ""]))
    write_samples(
        folder / "validation_files.csv", [("images/validation_tile_0_0.tif", "labels/validation_tile_0_0.tif")]
    )


@pytest.mark.parametrize("by", ["data_dir", "csv"])
def test_validation_chips_that_a_refit_was_trained_on_are_scored_with_a_caution(
    data: Path, tmp_path: Path, by: str
) -> None:
    copied = shutil.copytree(data, tmp_path / "data")
    take_from_test(copied)
    validation = {
        "data_dir": {"data_dir": str(copied), "split": "validation"},
        "csv": {"csv": str(copied / "validation_files.csv")},
    }
    for name, refit, trained in (("refit", True, copied), ("plain", False, copied), ("elsewhere", True, data)):
        path = save_checkpoint(tmp_path / f"{name}.ckpt", config={"refit": refit, "data_dir": str(trained)})
        given = EvalConfig(str(path), accelerator="cpu", **validation[by])
        caution = score(given, tmp_path / name).caution
        assert (caution is not None and "refit=true" in caution) == (name == "refit")
    assert score(EvalConfig(str(tmp_path / "refit.ckpt"), str(copied), accelerator="cpu"), tmp_path).caution is None


def test_chips_on_the_ground_of_validation_chips_are_scored_with_a_caution_where_a_refit_was_trained_on_them(
    data: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(data, tmp_path / "data")
    take_from_test(copied)
    listed = copied / "test_files.csv"
    listed.write_text(listed.read_text().replace("test_tile_1_0", "validation_tile_8_8"))
    for kind in ("images", "labels"):
        (copied / kind / "test_tile_1_0.tif").rename(copied / kind / "validation_tile_8_8.tif")
    for refit in (True, False):
        path = save_checkpoint(tmp_path / f"{refit}.ckpt", config={"refit": refit, "data_dir": str(copied)})
        for keys in ({"data_dir": str(copied)}, {"csv": str(listed)}):
            caution = score(EvalConfig(str(path), accelerator="cpu", **keys), tmp_path / "out").caution
            assert (caution is not None and caution.startswith("1 of 2 test chips show ground")) == refit


def test_a_list_in_a_data_folder_is_held_against_the_training_chips_as_the_folder_is(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(data, tmp_path / "data")
    shutil.move(copied / "images" / "test_tile_0_0.tif", copied / "images" / "train_tile_8_8.tif")
    rows = [
        ("images/train_tile_8_8.tif", "labels/test_tile_0_0.tif"),
        ("images/test_tile_1_0.tif", "labels/test_tile_1_0.tif"),
    ]
    write_samples(copied / "mine.csv", rows)
    given = EvalConfig(str(checkpoint), csv=str(copied / "mine.csv"), accelerator="cpu")
    caution = score(given, tmp_path / "ground").caution
    assert caution is not None
    assert caution.startswith("1 of 2 chips show ground that training chips show too (first train_tile_8_8.tif): ")
    trained = ("images/train_tile_0_0.tif", "labels/train_tile_0_0.tif")
    write_samples(copied / "mine.csv", [*rows, trained])
    unknown = score(given, tmp_path / "unknown").caution
    assert unknown is not None
    assert unknown.startswith("1 of them are training chips; the scores of a network that was trained on them")
    other = save_checkpoint(tmp_path / "other.ckpt", config={"data_dir": str(data)})
    assert score(replace(given, checkpoint=str(other)), tmp_path / "other").caution is None
    given = replace(given, checkpoint=str(save_checkpoint(tmp_path / "own.ckpt", config={"data_dir": str(copied)})))
    with pytest.raises(
        UserError, match=r"mine\.csv lists images/train_tile_0_0\.tif, which train_files\.csv lists too"
    ):
        score(given, tmp_path / "mixed")
    write_samples(copied / "elsewhere.csv", rows[1:])
    assert score(replace(given, csv=str(copied / "elsewhere.csv")), tmp_path / "apart").caution is None


@pytest.mark.parametrize("keys", [{"csv": "{data}/train_files.csv"}, {"data_dir": "{data}", "split": "train"}])
def test_training_chips_are_scored_with_a_caution(
    data: Path, checkpoint: Path, tmp_path: Path, keys: dict[str, str]
) -> None:
    given = {key: value.format(data=data) for key, value in keys.items()}
    caution = score(EvalConfig(str(checkpoint), accelerator="cpu", **given), tmp_path).caution
    assert caution is not None
    assert caution.startswith("these are training chips")


def test_scores_name_the_very_checkpoint_that_they_are_of(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that went on replaced it: network and data folder could be of two files, and nobody saw which."""
    path = save_checkpoint(tmp_path / "last.ckpt", config={"data_dir": str(data)})
    later = save_checkpoint(tmp_path / "later.ckpt", config={"data_dir": str(tmp_path), "refit": True})
    digest = hashlib.sha256(later.read_bytes()).hexdigest()
    said, real = [], eval_task.load_described

    def replaced(file: Path) -> Any:
        loaded = real(file)
        if later.is_file():
            later.replace(file)
        return loaded

    monkeypatch.setattr(eval_task, "load_described", replaced)
    monkeypatch.setattr(eval_task, "_training_caution", lambda _, trained_on: said.append(trained_on))
    score(EvalConfig(str(path), str(data), accelerator="cpu"), tmp_path / "out")
    assert json.loads((tmp_path / "out/scores.json").read_text())["checkpoint_sha256"] == digest
    assert said == [TrainedOn(tmp_path, True)]


@pytest.mark.parametrize("there", ["run.json", "report.html"])
def test_scores_do_not_take_the_place_of_another_command_s_report(
    data: Path, checkpoint: Path, tmp_path: Path, there: str
) -> None:
    """output_dir=logs/train/mine replaced the training's report without a word."""
    given = EvalConfig(str(checkpoint), str(data), accelerator="cpu")
    (tmp_path / there).write_text('{"command": [], "config": {}}')
    with pytest.raises(
        UserError, match=r"(the folder of a training|another command's report).*Give another output_dir"
    ):
        score(given, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]


def test_an_evaluation_s_own_report_is_replaced(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    given = EvalConfig(str(checkpoint), str(data), accelerator="cpu")
    score(given, tmp_path)
    (tmp_path / "report.html").write_text("of the scores")
    score(given, tmp_path)


def test_log_report_and_file_say_how_many_pixels_several_chips_show(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for step in (8, 16):
        folder, rows = tmp_path / f"step{step}", []
        for column in (0, step):
            names = f"images/scene_tile_{column}_0.tif", f"labels/scene_tile_{column}_0.tif"
            for name, cube, bands in zip(
                names, (np.ones((2, 16, 16), np.uint16), np.ones((16, 16), np.uint8)), (BANDS, ()), strict=True
            ):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_geotiff(folder / name, cube, crs=None, transform=(1, 0, column, 0, 1, 0), bands=bands)
            rows.append(names)
        write_samples(folder / "test_files.csv", rows)
        caplog.clear()
        scored = score(
            EvalConfig(str(checkpoint), csv=str(folder / "test_files.csv"), accelerator="cpu"), tmp_path / "out"
        )
        content = json.loads((tmp_path / "out" / "scores.json").read_text())
        assert content["pixels_of_several_chips"] == (128 if step == 8 else 0)
        assert sum(content["all_pixels"]["support"]) == 16 * (16 + step)
        said = "Several chips show 128 of the 384 labelled pixels: over all pixels each counts once"
        lead = scored.report(Run("eval.py", "", datetime.now(UTC))).lead
        for words in ("\n".join(caplog.messages), "\n".join(lead)):
            assert (said in words) == (step == 8)


def test_predictions_do_not_replace_the_chips_that_are_scored(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Predictions that became labels were deleted when they were scored into the folder that they are from."""
    keys = {"checkpoint": str(checkpoint), "export_predictions": True}
    images = shutil.copytree(data / "images", tmp_path / "images")
    run(tmp_path, data_dir=str(data), **keys)
    rows = [(f"images/{image.name}", f"out/predictions/{image.name}") for image in sorted(images.glob("test*"))]
    write_samples(tmp_path / "pseudo.csv", rows)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"would replace .*predictions, where test_tile_2_0.tif lies, .*output_dir"):
        run(tmp_path, csv=str(tmp_path / "pseudo.csv"), **keys)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert run(tmp_path / "b", csv=str(tmp_path / "pseudo.csv"), **keys) == 1.0


def test_an_output_folder_that_cannot_be_is_refused_before_anything_runs(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"out is a file; expected a folder to write to"):
        run(tmp_path, checkpoint=str(checkpoint), data_dir=str(data))


def test_the_demo_scores_the_best_checkpoint_of_the_demo() -> None:
    schema.register()
    with initialize_config_dir(str(ROOT / "configs")):
        config = compose("eval", ["paths.root=/here"])
    demo = OmegaConf.load(ROOT / "configs/eval/experiment/demo.yaml")
    del demo["hydra"]
    merged = OmegaConf.merge(config, demo)
    assert (merged.checkpoint, merged.data_dir) == ("/here/logs/train/demo", "/here/data/demo/chips")
