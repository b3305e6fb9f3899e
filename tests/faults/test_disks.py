"""A full disk, one that may not be written to, an input that vanishes: one clear line, and no half-written file."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Running, run
from tests.faults.kills import PAUSE, TRAIN, check_whole

CUT = ("image=i.tif", "label=l.tif", "chip.size=16", "chip.step=8")
MAP = ("checkpoint=good.ckpt", "image=wide.tif", "window=32", "vector=true")

COMMANDS = {
    "prepare": (*CUT, "data_dir=disk/new"),
    "train": (*TRAIN, "trainer.max_epochs=2", "output_dir=disk/run"),
    "eval": ("checkpoint=good.ckpt", "data_dir=d", "split=train", "output_dir=disk/scores"),
    "predict": (*MAP, "output=disk/out/m.tif"),
}


@pytest.fixture
def work(good: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder with what the commands need, and an empty ``disk`` in it that is one of its own if a test mounts it."""
    folder = tmp_path / "work"
    shutil.copytree(good, folder)
    (folder / "disk").mkdir()
    yield folder
    subprocess.run(["umount", folder / "disk"], capture_output=True, check=False)


def mount(folder: Path, options: str) -> None:
    """Put a small disk in memory at a folder; the test is left out where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        result = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if result.returncode:
        pytest.skip("only root may mount a disk")


@pytest.mark.parametrize(
    ("task", "kilobytes"), [("prepare", 60), ("train", 60), ("train", 100), ("eval", 40), ("predict", 100)]
)
def test_a_full_disk_is_one_line(task: str, kilobytes: int, work: Path) -> None:
    mount(work / "disk", f"size={kilobytes}k")
    line = run(task, *COMMANDS[task], cwd=work).error
    assert "disk/" in line
    assert "disk is full" in line or "expected room for" in line
    assert "ree some space" in line
    check_whole(work)
    if task == "prepare":
        assert list((work / "disk").iterdir()) == []


STUDY = (
    *("-m", *(argument for argument in TRAIN if not argument.startswith("batch_size")), "trainer.max_epochs=1"),
    *(
        "hparams_search=optuna",
        "hydra.sweep.dir=disk/study",
        "~hydra.sweeper.params.encoder",
        "hydra.sweeper.n_trials=9",
    ),
)


@pytest.mark.parametrize("kilobytes", [60, 340])  # as it begins; in its first trial
def test_a_disk_that_a_study_fills_is_one_line(kilobytes: int, work: Path) -> None:
    mount(work / "disk", f"size={kilobytes}k")
    line = run("train", *STUDY, cwd=work).error
    assert "The study's storage" in line
    assert "disk/study" in line
    assert "ree some space" in line
    check_whole(work)


@pytest.mark.parametrize("task", COMMANDS)
def test_a_disk_that_may_not_be_written_to_is_one_line(task: str, work: Path) -> None:
    mount(work / "disk", "size=1m,ro")
    line = run(task, *COMMANDS[task], cwd=work).error
    assert "disk" in line
    assert any(words in line for words in ("read-only", "cannot be written"))
    assert any(words in line for words in ("write elsewhere", "another"))


@pytest.mark.parametrize(
    ("task", "arguments", "sign", "vanishing"),
    [
        (
            "prepare",
            ("image=[i.tif,j.tif]", "label=[l.tif,k.tif]", *CUT[2:], "data_dir=new"),
            "new/.p*/images/*",
            "j.tif",
        ),
        (
            "train",
            (*TRAIN, "trainer.max_epochs=500", "output_dir=run", "datamodule.cache=false"),
            "run/checkpoints/last.ckpt",
            "d/images",
        ),
        (
            "eval",
            ("checkpoint=good.ckpt", "csv=d/many.csv", "batch_size=1", "export_predictions=true", "output_dir=o"),
            "o/.p*/*",
            "d/images",
        ),
        ("predict", (MAP[0], "image=[i.tif,j.tif]", "window=32", "output=out"), "out/i_map.tif", "j.tif"),
    ],
)
def test_an_input_that_vanishes_is_one_line(
    task: str, arguments: tuple[str, ...], sign: str, vanishing: str, work: Path
) -> None:
    for name, other in (("i.tif", "j.tif"), ("l.tif", "k.tif")):
        shutil.copy(work / name, work / other)
    listed = (work / "d/train_files.csv").read_text().splitlines()
    (work / "d/many.csv").write_text("\n".join([listed[0], *(300 * listed[1:]), ""]))
    running = Running(task, *arguments, cwd=work)
    while running.process.is_alive() and not list(work.glob(sign)):
        time.sleep(PAUSE)
    (work / vanishing).rename(work / "gone")
    line = running.wait().error
    assert line.startswith(f"{task}.py: error: ")
    assert vanishing in line
    check_whole(work)
    assert task != "prepare" or not (work / "new").exists()
    assert task != "eval" or not (work / "o").exists() or list((work / "o").iterdir()) == []
