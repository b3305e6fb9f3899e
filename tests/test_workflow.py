"""The four commands in order, as a user runs them: from a scene to a scored map."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch

from scripts.make_scene import SceneFiles, make_scene

ROOT = Path(__file__).parents[1]


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run one of our commands in a folder of its own; the workflow's logs go there too."""
    result = subprocess.run(
        [sys.executable, str(ROOT / arguments[0]), *arguments[1:], f"paths.logs={cwd / 'logs'}"],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    return result


@dataclass(frozen=True)
class Workflow:
    """Where one run of the four commands left its files."""

    folder: Path
    scene: SceneFiles
    other: SceneFiles
    outputs: dict[str, str]


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    folder = tmp_path_factory.mktemp("workflow")
    scene = make_scene(folder / "west", width=256, height=224, bands=4, seed=1, spectra_seed=7)
    other = make_scene(folder / "east", width=150, height=97, bands=4, seed=2, spectra_seed=7)
    outputs = {
        "prepare": command(
            "prepare.py",
            f"image={scene.image}",
            f"label={scene.label}",
            f"data_dir={folder / 'chips'}",
            *("chip.size=32", "chip.step=32", "split.train=60", "split.validation=20", "split.test=20"),
            cwd=folder,
        ).stdout,
        "train": command(
            "train.py",
            f"data_dir={folder / 'chips'}",
            *("trainer.max_epochs=8", "batch_size=8", f"hydra.run.dir={folder / 'run'}"),
            cwd=folder,
        ).stdout,
        "eval": command(
            "eval.py",
            f"checkpoint={folder / 'run'}",
            f"data_dir={folder / 'chips'}",
            f"output_dir={folder / 'scores'}",
            cwd=folder,
        ).stdout,
        "predict": command(
            "predict.py",
            f"checkpoint={folder / 'run'}",
            f"image={other.image}",
            f"label={other.label}",
            f"output={folder / 'map.tif'}",
            cwd=folder,
        ).stdout,
    }
    return Workflow(folder, scene, other, outputs)


def test_the_data_folder_is_whole(workflow: Workflow) -> None:
    chips = workflow.folder / "chips"
    spec = json.loads((chips / "dataset.json").read_text())
    assert spec["format"] == 1
    assert len(spec["bands"]) == 4
    listed = [
        row
        for part in ("train", "validation", "test")
        for row in pd.read_csv(chips / f"{part}_files.csv").itertuples(index=False)
    ]
    with rasterio.open(workflow.scene.label) as label:
        tiles = label.read(1).reshape(7, 32, 8, 32).swapaxes(1, 2)
    assert len(listed) == ((tiles > 0).mean((2, 3)) >= 0.5).sum()
    for row in listed:
        assert (chips / str(row.image)).is_file()
        assert (chips / str(row.mask)).is_file()


def test_the_best_checkpoint_is_plain_data_and_named_by_its_score(workflow: Workflow) -> None:
    checkpoints = sorted(path.name for path in workflow.folder.glob("run/**/*.ckpt"))
    assert "last.ckpt" in checkpoints
    best = next(path for path in workflow.folder.glob("run/**/*-val_iou_*.ckpt"))
    content = torch.load(best, weights_only=True, map_location="cpu")
    spec = content["hyper_parameters"]["spec"]
    assert spec["architecture"] == "unet"
    assert spec["encoder"] == "resnet18"
    assert [entry["value"] for entry in spec["classes"]] == [1, 2, 3, 4, 5]


def test_eval_writes_specdeepmaps_columns(workflow: Workflow) -> None:
    table = pd.read_csv(workflow.folder / "scores" / "iou.csv")
    assert list(table.columns) == ["Class", "IoU"]
    assert table["Class"].iloc[-1] == "Mean IoU"


def test_the_map_lies_on_the_images_grid_and_names_its_classes(workflow: Workflow) -> None:
    with rasterio.open(workflow.other.image) as image, rasterio.open(workflow.folder / "map.tif") as result:
        assert result.shape == image.shape
        assert result.transform == image.transform
        assert result.crs == image.crs
        assert result.dtypes == ("uint8",)
        assert result.nodata == 0
        assert set(np.unique(result.read(1))) <= {1, 2, 3, 4, 5}
        assert result.colormap(1)[1] == (0, 100, 0, 255)


def test_the_map_of_unseen_ground_is_better_than_the_commonest_class(workflow: Workflow) -> None:
    with rasterio.open(workflow.other.label) as label, rasterio.open(workflow.folder / "map.tif") as result:
        truth, found = label.read(1), result.read(1)
    labelled = truth > 0
    commonest = np.bincount(truth[labelled]).max() / labelled.sum()
    assert (found[labelled] == truth[labelled]).mean() > commonest


@pytest.mark.parametrize(
    ("task", "path"),
    [("train", "run/report.html"), ("eval", "scores/report.html"), ("predict", "map_report.html")],
)
def test_every_run_leaves_a_report_and_names_it_last(workflow: Workflow, task: str, path: str) -> None:
    report = workflow.folder / path
    assert workflow.outputs[task].splitlines()[-1] == str(report)
    assert "</html>" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize("task", ["prepare", "train", "eval", "predict"])
def test_every_file_named_on_the_last_lines_exists(workflow: Workflow, task: str) -> None:
    words = " ".join(workflow.outputs[task].splitlines()[-12:]).split()
    named = [word.strip(",.;:()") for word in words if word.startswith(("/", "logs/", "data/"))]
    assert named, workflow.outputs[task]
    for name in named:
        assert (workflow.folder / name).exists(), name


def test_a_report_names_the_whole_command(workflow: Workflow) -> None:
    page = html.unescape((workflow.folder / "run" / "report.html").read_text(encoding="utf-8"))
    assert f"hydra.run.dir={workflow.folder / 'run'}" in page
    assert "hydra.mode" not in page


def test_preparing_again_does_nothing(workflow: Workflow) -> None:
    dataset = workflow.folder / "chips" / "dataset.json"
    before = dataset.stat().st_mtime_ns
    result = command(
        "prepare.py",
        f"image={workflow.scene.image}",
        f"label={workflow.scene.label}",
        f"data_dir={workflow.folder / 'chips'}",
        *("chip.size=32", "chip.step=32", "split.train=60", "split.validation=20", "split.test=20"),
        cwd=workflow.folder,
    )
    assert "nothing to do" in result.stdout.lower()
    assert dataset.stat().st_mtime_ns == before
