"""The commands' outer shell: one clear line for a user's mistake, and nothing left behind."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src import spec
from src.tasks import entry, schema, wording

ROOT = Path(__file__).parents[1]


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / arguments[0]), *arguments[1:], f"paths.logs={cwd / 'logs'}"],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict.py", "windo=3"], ["windo is not a key", "did you mean", "window"]),
        (["predict.py", "window=wide"], ["window=wide", "whole number"]),
        (["eval.py"], ["checkpoint is not given"]),
        (["prepare.py", "class_map=[{value: 1, merg: [2]}]"], ["an entry with the key merg", "did you mean merge?"]),
        (["train.py", "model=unett"], ["model=unett", "segformer", "did you mean unet?"]),
        (["train.py", "modle=unet"], ["modle is not a key", "did you mean model?"]),
        (["train.py", "trainer.max_epoch=3"], ["max_epoch is not a key", "did you mean", "max_epochs"]),
        (["eval.py", "experiment=dem"], ["experiment=dem", "did you mean demo?"]),
        (["train.py", "model=segformer"], ["data_dir is not given", "prepare.py"]),
        (["train.py", "logger=null"], ["A group is given as null", "train.py --help", "logger.tensorboard=null"]),
        (["train.py", "lr=fast"], ["lr=fast", "a number"]),
        (["eval.py", "-m", "checkpoint=a,b", "output_dir=x"], ["output_dir=x is given to 2 runs", "hydra.sweep.dir=x"]),
        (
            ["predict.py", "-m", "checkpoint=a,b", "image=s.tif", "output=maps/s.tif"],
            ["output makes 2 runs write maps/s.tif", "hydra.sweep.dir=…"],
        ),
        (
            ["predict.py", "-m", "checkpoint=c", "image=a/s.tif,b/s.tif,c/t.tif", "output=maps"],
            ["output makes 2 runs write maps/s_map.tif"],
        ),
        (["export.py", "-m", "checkpoint=a,b", "output=m.onnx"], ["output makes 2 runs write m.onnx"]),
        (["prepare.py", "chip.sise=3"], ["chip.sise is not a key", "size"]),
        (["prepare.py", "chip_size=64"], ["chip_size is not a key", "did you mean chip.size?"]),
        (["train.py", "epochs=64"], ["epochs is not a key", "did you mean trainer.max_epochs?"]),
        (["train.py", "model.encoder=resnet18"], ["model.encoder is not a key", "did you mean encoder?"]),
        (["prepare.py", "chip=64"], ["chip=64 does not fit", "keys of its own (chip.size, chip.step,"]),
        (["prepare.py", "split=[8,1,1]"], ["split=[8,1,1] does not fit", "split.train, split.validation, split.test,"]),
        (["predict.py", "output.polygons=true"], ["output.polygons is not a key of predict.py", "Give output=…"]),
        (["predict.py", "class_map=3"], ["class_map=3 does not fit; expected a list"]),
        (["train.py", "init_from={}"], ["init_from={} does not fit; expected a text"]),
        (["train.py", "trainer=3"], ["A group is given as a number", "train.py --help"]),
        (["train.py", "-m", "lr=0.001,0.003", "--cfg", "job"], ["-m, --cfg,", "show a single run", "Leave -m out"]),
        (["train.py", "--resolve"], ["--resolve is given alone", "--cfg job --resolve"]),
        (["train.py", "--foo"], ["--foo is no option", "key=value", "train.py --hydra-help"]),
        (["train.py", "--cfg=foo"], ["--cfg foo does not exist; choose one of: job, hydra, all."]),
        (["eval.py", "--info=foo"], ["--info foo does not exist; choose one of: all, ", ", searchpath."]),
        (["predict.py", "--cfg", "--run"], ["--cfg is given without its value", "predict.py --hydra-help"]),
        (["train.py", "augmentation=[flip]"], ["augmentation has no choice flip", "configs/augmentation"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_leaves_nothing(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    result = command(*arguments, cwd=tmp_path)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 1
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_keys_of_other_programs_lead_to_keys_that_there_are() -> None:
    def has(config: DictConfig, key: str) -> bool:
        group, _, name = key.rpartition(".")
        within = OmegaConf.select(config, group) if group else config
        return isinstance(within, DictConfig) and name in within.keys()  # noqa: SIM118  needed ones count too

    schema.register()
    with initialize_config_dir(str(ROOT / "configs")):
        everything = [compose(task) for task in ("prepare", "train", "eval", "predict")]
    for given, ours in wording.ELSEWHERE.items():
        assert any(has(config, ours) for config in everything), ours
        assert not any(has(config, given) for config in everything), given


@pytest.mark.parametrize("task", ["prepare", "train", "eval", "predict", "export"])
def test_help_names_every_group_and_ten_keys_within_eighty_columns(task: str, tmp_path: Path) -> None:
    text = command(f"{task}.py", "--help", cwd=tmp_path).stdout
    groups = {path.parent.name for path in (ROOT / "configs" / task).glob("*/*.yaml")}
    if task == "train":
        hidden = {"hydra", "paths", "job_logging", "hydra_logging", "help", "prepare", "eval", "predict", "export"}
        groups |= {path.parent.name for path in (ROOT / "configs").glob("*/*.yaml")} - hidden
    for group in groups:
        assert f"\n  {group} " in text, f"{task}.py --help does not name the group {group}"
    assert max(map(len, text.splitlines())) <= 80
    composed = command(f"{task}.py", "--cfg", "job", cwd=tmp_path).stdout
    keys = text.split("(key=value):\n\n")[1].split("\n\n")[0]
    named = [word for line in keys.splitlines() for word in line.split("  ")[1].split()]
    assert len(named) == (4 if task == "export" else 10)
    also = text.split("\n\nAlso:")[1].split("\n\n")[0].split() if "Also:" in text else []
    for key in named + also:
        assert re.search(rf"^ *{key.split('.')[-1]}:", composed, re.MULTILINE), f"{task}.py has no key {key}"


HEAVY = {"torch", "lightning", "rasterio", "pandas", "torchgeo", "matplotlib", "optuna"}
"""What takes longer to import than a command may take to say what it takes."""


@pytest.mark.parametrize(
    ("task", "asked"),
    [*((task, ["--help"]) for task in ("prepare", "train", "eval", "predict", "export")), ("train", ["--cfg", "job"])],
)
def test_a_command_that_only_answers_imports_no_torch(task: str, asked: list[str], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / f"{task}.py"), *asked],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & HEAVY


def test_whoever_reads_only_the_head_of_an_answer_gets_no_more(tmp_path: Path) -> None:
    for asked in ("--info defaults-tree", "--cfg job"):
        line = f"'{sys.executable}' '{ROOT / 'train.py'}' {asked} | head -1"
        result = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert result.stdout
        assert not result.stderr


def test_preparing_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys, src.tasks.prepare; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert not set(result.stdout.split()) & {"torch", "lightning", "optuna", "segmentation_models_pytorch"}


@pytest.mark.parametrize("task", ["train", "eval", "predict"])
def test_an_experiment_decides_over_the_commands_own_defaults(task: str, tmp_path: Path) -> None:
    text = command(f"{task}.py", "experiment=demo", "--cfg", "hydra", cwd=tmp_path).stdout
    folder = text.split("run:", 1)[1].split("dir:", 1)[1].split(maxsplit=1)[0]
    assert folder.endswith(f"{task}/demo")


def forget(folder: Path, **hydra: str | None) -> set[str]:
    """Let a run of train.py whose folder is ``folder`` forget it; returns what is there afterwards."""
    name = {"output_subdir": ".hydra", "job": {"name": "train"}} | hydra
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": name})
    try:
        entry._forget(folder)
    finally:
        HydraConfig.instance().cfg = None
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_mistake_takes_away_no_log_but_its_own(tmp_path: Path) -> None:
    """All logs of an existing folder went, and the working directory of torchrun's other processes."""
    folder = tmp_path / "mine"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "train.log").touch()
    (folder / "notes.log").touch()
    assert forget(folder) == {".hydra", "train.log", "notes.log"}
    (folder / "notes.log").unlink()
    assert forget(folder) == set()
    assert not folder.exists()


def test_a_mistake_leaves_the_working_directory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.log").touch()
    assert forget(Path(), output_subdir=None) == {"train.log"}
    assert forget(tmp_path) == {"train.log"}


def test_a_command_knows_its_revision_before_its_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint was asked for it when it was saved, and named code that somebody had edited meanwhile."""
    order: list[str] = []
    task = SimpleNamespace(run=lambda _: order.append("work"))
    monkeypatch.setattr(spec, "git_revision", lambda: order.append("revision"))
    monkeypatch.setattr(importlib, "import_module", lambda _: task)
    entry.run("predict", OmegaConf.create({}))
    assert order == ["revision", "work"]
