"""What the commands under test work on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bad_inputs.cases import image, make_scene, write
from tests.commands import run
from tests.faults.kills import TRAIN, succeeded


@pytest.fixture(scope="package")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes, a data folder and a checkpoint."""
    folder = tmp_path_factory.mktemp("good")
    make_scene(folder)
    write(folder / "wide.tif", image(height=150, width=90))
    cut = ("image=i.tif", "label=l.tif", "data_dir=d", "chip.size=16", "chip.step=16")
    succeeded(run("prepare", *cut, cwd=folder))
    succeeded(run("train", *TRAIN, "trainer.max_epochs=1", "output_dir=run", cwd=folder))
    shutil.copy(next(folder.glob("run/checkpoints/*val_iou*.ckpt")), folder / "good.ckpt")
    shutil.rmtree(folder / "run")
    shutil.rmtree(folder / "logs")
    return folder
