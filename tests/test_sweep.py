"""``python train.py -m``: grids, studies, launchers, and what is said about those that cannot be."""

from __future__ import annotations

import csv
import gc
import logging
import os
import re
import shlex
import signal
import stat
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import hydra
import optuna
import pytest
from omegaconf import DictConfig
from optuna.trial import TrialState

from src.errors import UserError
from src.studies.study import TERMS
from src.studies.study_storage import connect, disconnect
from src.tasks import entry
from src.tasks.command_line import arrange
from src.tasks.entry import CONFIGS
from tests.browser import CHROMIUM, chromium
from tests.chip_folder import make_chip_folder
from tests.sweeping import ROOT, check_sharing, finish, stand_in, start, trials, wait_for

Sweep = Callable[..., list[str]]


def objective(config: DictConfig) -> float:
    """What a training would return."""
    if config.loss._target_.endswith("CrossEntropyDice"):
        raise UserError("ce_dice does not go with these chips")
    if config.batch_size == 13:
        raise MemoryError("out of memory")
    if config.batch_size == 11:
        return float("nan")
    return 1 - float(config.lr)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Sweep]:
    """Run a multirun in this process; returns its lines, or those on stderr if it ends with an error."""
    handlers = logging.getLogger().handlers[:]
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, task: Callable[[DictConfig], float] = objective) -> list[str]:
        logs = f"paths.logs={tmp_path / 'logs'}"
        monkeypatch.setattr(sys, "argv", ["train.py", "-m", "data_dir=here", logs, *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.setenv("SPECDEEPMAP_ROOT", str(tmp_path))
        capsys.readouterr()
        main = hydra.main(config_path=str(CONFIGS), config_name="train")(task)
        try:
            entry.start("train", main)
        except SystemExit as end:
            return str(end.code).splitlines()
        printed = capsys.readouterr()
        assert "Error executing job" not in printed.err  # Hydra's own words for a failed trial, which has ours
        return printed.out.splitlines()

    yield run
    logging.getLogger().handlers[:] = handlers


def storage(folder: Path, name: str = "demo") -> str:
    return f"sqlite:///{folder / 'logs/study' / name / 'study.db'}"


def test_a_grid_runs_every_combination_and_ends_with_a_table_of_them(sweep: Sweep) -> None:
    checkpoint = Path("grid/2/checkpoints/00001-val_iou_0.8000.ckpt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    lines = sweep("lr=0.1,0.2", "encoder=resnet18,tu-convnext_tiny", "batch_size=4", "hydra.sweep.dir=grid")
    assert sorted(path.name for path in Path("grid").iterdir() if path.is_dir()) == ["0", "1", "2", "3"]
    head = lines.index("run  lr   encoder           val IoU  came to")
    assert lines[head + 2].startswith("1    0.1  tu-convnext_tiny  0.9000   no checkpoint in ")
    assert lines[head + 3] == "2    0.2  resnet18          0.8000   2/checkpoints/00001-val_iou_0.8000.ckpt"
    assert lines[head + 5 :] == [
        "best: run 0, val IoU 0.9000, of 4 runs",
        "grid/runs.csv: these lines as a table, and a folder per run",
    ]


def test_the_table_finds_the_checkpoint_of_a_run_that_has_named_its_own_folder(sweep: Sweep) -> None:
    def resume(config: DictConfig) -> float:
        config.output_dir = config.resume
        return objective(config)

    for folder in ("runs/1", "b"):
        checkpoint = Path(folder, "checkpoints/00001-val_iou_0.8000.ckpt")
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
    lines = sweep("lr=0.1,0.2", "output_dir='runs/${hydra:job.num}'", "hydra.sweep.dir=grid")
    assert "0    0.1  0.9000   no checkpoint in runs/0" in lines
    assert "1    0.2  0.8000   ../runs/1/checkpoints/00001-val_iou_0.8000.ckpt" in lines
    lines = sweep("resume=a,b", "lr=0.1", "hydra.sweep.dir=grid", task=resume)
    assert "0    a       0.9000   no checkpoint in a" in lines
    assert "1    b       0.9000   ../b/checkpoints/00001-val_iou_0.8000.ckpt" in lines


def test_what_a_refit_comes_to_is_no_score_to_choose_by(sweep: Sweep) -> None:
    lines = sweep("refit=true,false", "lr=0.1", "hydra.sweep.dir=grid")
    head = lines.index("run  refit  IoU on trained chips  val IoU  came to")
    assert lines[head + 1].startswith("0    True   0.9000                         no")
    assert lines[head + 2].startswith("1    False                        0.9000   no")
    assert lines[head + 3] == ("best: none, since refit=true trains on the chips that score; eval.py scores on others")


def test_a_failed_run_stands_in_the_table_and_the_others_are_done(sweep: Sweep) -> None:
    (line,) = sweep("loss=ce_dice,focal", "lr=0.3", "hydra.sweeper.max_batch_size=1", "hydra.sweep.dir=grid")
    assert line.startswith("train.py: error: 1 of 2 runs failed, the first of them, run 0, with: ce_dice does not go")
    with Path("grid/runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["loss"], row["val IoU"]) for row in rows] == [
        ("0", "ce_dice", ""),
        ("1", "focal", "0.7000"),
    ]
    assert rows[0]["came to"] == "failed: ce_dice does not go with these chips"


def test_a_study_goes_on_with_the_same_command_and_a_failed_trial_does_not_end_it(sweep: Sweep, tmp_path: Path) -> None:
    study = ("hparams_search=demo", "loss=focal,ce_dice", "hydra/sweeper/sampler=random")
    first = sweep(*study, "hydra.sweeper.n_trials=2")
    again = sweep(*study, "hydra.sweeper.n_trials=2")
    more = sweep(*study, "hydra.sweeper.n_trials=6")
    done = trials(storage(tmp_path), "demo")
    assert any("2 of 2 trials to do" in line for line in first)
    assert any("0 of 2 trials to do" in line for line in again)
    assert any("4 of 6 trials to do" in line for line in more)
    assert len(done) == 6
    for trial in done:
        fails = trial.params["loss"] == "ce_dice"
        assert trial.state is (TrialState.FAIL if fails else TrialState.COMPLETE)
        assert ("does not go with" in trial.user_attrs.get("error", "")) == fails
        assert (tmp_path / "logs/study/demo" / str(trial.number) / ".hydra/config.yaml").is_file()
    assert {trial.state for trial in done} == {TrialState.FAIL, TrialState.COMPLETE}
    best = max((t for t in done if t.value is not None), key=lambda t: t.value or 0)
    assert f"best         trial {best.number}, validation IoU {best.value:.4f}" in more
    command = next(line for line in more if line.startswith("repeat it"))
    words = shlex.split(command.removeprefix("repeat it"))
    assert words[:2] == ["python", "train.py"]
    assert {"hparams_search=demo", f"lr={best.params['lr']}", "data_dir=here"} <= set(words)
    assert not any(word.startswith("hydra.sweeper") for word in words)
    assert (tmp_path / "logs/study/demo/study.html").is_file()


def test_what_is_fixed_on_the_command_line_leaves_the_space(sweep: Sweep, tmp_path: Path) -> None:
    sweep("hparams_search=demo", "loss=focal", "batch_size=4", "lr=0.1,0.2", "hydra.sweeper.n_trials=1")
    (only,) = trials(storage(tmp_path), "demo")
    assert set(only.params) == {"lr", "encoder", "augmentation"}
    assert only.params["lr"] in (0.1, 0.2)


def test_a_study_searches_no_encoder_where_no_model_of_its_has_one(sweep: Sweep, tmp_path: Path) -> None:
    """A third of the space was the encoder, which these models do not have."""
    study = ("hparams_search=demo", "loss=focal", "hydra.sweeper.n_trials=1")
    lines = sweep(*study, "model=pixel_resnet,compact_unet")
    assert "encoder is not searched: model=pixel_resnet, compact_unet has none" in lines
    (only,) = trials(storage(tmp_path), "demo")
    assert set(only.params) == {"lr", "batch_size", "augmentation", "model"}
    lines = sweep(*study, "model=unet,compact_unet", "hydra.sweeper.study_name=both")
    assert not any("not searched" in line for line in lines)
    assert "encoder" in trials(storage(tmp_path, "both"), "both")[0].params


def test_a_grid_of_a_study_ends_when_it_is_through(sweep: Sweep, tmp_path: Path) -> None:
    fixed = ("hparams_search=demo", "loss=focal", "batch_size=4", "encoder=resnet18", "augmentation=none")
    sweep(*fixed, "lr=0.1,0.2,0.3", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=9")
    assert sorted(trial.params["lr"] for trial in trials(storage(tmp_path), "demo")) == [0.1, 0.2, 0.3]


def test_a_grid_of_a_study_that_goes_on_orders_its_cells_as_it_was_begun(sweep: Sweep, tmp_path: Path) -> None:
    fixed = ("hparams_search=demo", "loss=focal", "batch_size=4", "encoder=resnet18", "augmentation=none")
    cells = (*fixed, "lr=0.1,0.2,0.3,0.4,0.5,0.6", "hydra/sweeper/sampler=grid")
    sweep(*cells, "hydra.sweeper.n_trials=3")
    sweep(*cells, "hydra.sweeper.n_trials=6")
    done = sorted(trial.params["lr"] for trial in trials(storage(tmp_path), "demo"))
    assert done == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


class Network:
    """What a training holds much memory with."""


STUDY = ("hparams_search=demo", "loss=focal", "hydra/sweeper/sampler=random")


@pytest.mark.parametrize(
    "arguments",
    [
        ("lr=0.1,0.2,0.3", "hydra.sweep.dir=grid"),
        (*STUDY, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=3"),
    ],
)
def test_a_failed_run_holds_nothing_while_the_next_one_runs(sweep: Sweep, arguments: tuple[str, ...]) -> None:
    networks: list[weakref.ref[Network]] = []

    def fit(network: Network) -> None:
        raise ValueError(f"loss of {type(network).__name__}")

    def train(config: DictConfig) -> float:
        assert all(network() is None for network in networks)
        network = Network()
        networks.append(weakref.ref(network))
        try:
            fit(network)
        except ValueError as error:
            raise UserError(f"{config.loss._target_} does not go") from error
        return 0.0

    gc.disable()  # else it may come at the right moment by chance
    try:
        lines = sweep(*arguments, task=train)
    finally:
        gc.enable()
    assert len(networks) == 3
    assert "does not go" in lines[-1]


def test_a_failed_run_is_written_down_with_its_traceback(sweep: Sweep) -> None:
    sweep("loss=ce_dice,focal", "hydra.sweep.dir=grid")
    (log,) = Path("grid/0").glob("*.log")
    assert "in objective" in log.read_text(encoding="utf-8")


def test_every_run_of_a_sweep_is_a_run_of_its_own_on_wandb(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's logger took up the run that the one before had left open."""
    finished: list[tuple[object, int]] = []
    wandb = SimpleNamespace(run=None)

    def finish(exit_code: int) -> None:
        finished.append((wandb.run, exit_code))
        wandb.run = None

    def train(config: DictConfig) -> float:
        assert wandb.run is None
        wandb.run = config.loss._target_.rpartition(".")[2]
        return objective(config)

    wandb.finish = finish
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    sweep("loss=ce_dice,focal", "hydra.sweep.dir=grid", task=train)
    assert finished == [("CrossEntropyDice", 1), ("CrossEntropy", 0)]


def test_a_grid_may_give_every_run_a_folder_by_output_dir(sweep: Sweep) -> None:
    folders = (
        ("lr=0.1", "output_dir=a,b"),
        ("lr=0.1,0.2", "output_dir='a/${lr}'"),
        ("lr=0.1,0.2", "output_dir='${hydra:runtime.output_dir}/a'"),
        ("lr=0.1", "output_dir=a"),
    )
    for arguments in folders:
        lines = sweep(*arguments, "hydra.sweep.dir=grid")
        assert any(line.startswith("best: run 0") for line in lines), lines


def test_trials_that_all_fail_alike_end_the_sweep_and_tell_why(sweep: Sweep, tmp_path: Path) -> None:
    (line,) = sweep("hparams_search=demo", "loss=ce_dice", "hydra.sweeper.n_trials=9")
    assert line.startswith("train.py: error: All of 5 trials failed alike")
    assert "ce_dice does not go with these chips" in line
    assert len(trials(storage(tmp_path), "demo")) == 5


@pytest.mark.parametrize(("batch_size", "words"), [(13, "out of memory"), (11, "validation IoU is no number")])
def test_out_of_memory_and_no_number_are_failed_trials(
    sweep: Sweep, tmp_path: Path, batch_size: int, words: str
) -> None:
    (line,) = sweep("hparams_search=demo", "loss=focal", f"batch_size={batch_size}", "hydra.sweeper.n_trials=1")
    assert "came to an end" in line
    assert words in line
    assert [trial.state for trial in trials(storage(tmp_path), "demo")] == [TrialState.FAIL]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hparams_search=demo", "lrr=1,2"], ["lrr is not a key", "did you mean 'lr'"]),
        (["hparams_search=demo", "model=unet,unett"], ["model=unett does not exist", "segformer"]),
        (["hparams_search=demo", "hydra.sweeper.n_trials=0"], ["n_trials=0", "1 and more"]),
        (["hparams_search=demo", "hydra.sweeper.params=null"], ["nothing to search", "interval"]),
        (["hparams_search=demo", "lr=interval(0.1,0.01)"], ["lr=interval(0.1,0.01)", "lower number first"]),
        (["hparams_search=demo", "lr=range(1,1)"], ["lr=range(1,1)", "cannot be searched"]),
        (["hparams_search=demo", "hydra/sweeper/sampler=grid"], ["lr has no end of values", "range"]),
        (
            ["hparams_search=demo", "hydra/sweeper/sampler=cmaes"],
            ["sampler=cmaes needs a package", "pip install", "tpe"],
        ),
        (["hparams_search=demo", "hydra.sweeper.storage=here"], ["no storage of a study", "sqlite:///FILE"]),
        (["hparams_search=demo", "hydra.sweeper.storage=null"], ["hydra.sweeper.storage is empty"]),
        (["hparams_search=demo", "hydra/launcher=lsf"], ["hydra/launcher=lsf does not exist", "joblib"]),
        (["hparams_search=demo", "hydra/launcher=submitit_slurm"], ["finds no srun", "joblib"]),
        (["lr=0.1,0.2", "hydra/launcher=submitit_slurm", "hydra.sweep.dir=grid"], ["finds no srun", "joblib"]),
        (["hparams_search=demo", "output_dir=x"], ["output_dir=x does not go with a study", "hydra.sweep.dir=…"]),
        (["hparams_search=demo", "output_dir=x,y"], ["output_dir=x does not go with a study"]),
        (["lr=0.1,0.2", "output_dir=x/", "hydra.sweep.dir=grid"], ["output_dir=x is given to 2 runs", "dir=x"]),
        (["lr=0.1,0.2", "output_dir=x,y", "hydra.sweep.dir=grid"], ["output_dir=x is given to 2 runs"]),
        (["lr=0.1,0.2", "output_dir='${data_dir}'", "hydra.sweep.dir=grid"], ["output_dir=here is given to 2 runs"]),
        (["lr=0.1,fast", "hydra.sweep.dir=grid"], ["lr=fast", "a number"]),
        (["lr=0.1,0.2", "hydra.sweep.dir=grid", "hydra.sweep.subdir=${encoder}"], ["subdir=resnet18 is given to 2"]),
        (["hparams_search=demo", "refit=true"], ["refit=true does not go with a study", "once more with refit=true"]),
        (["hparams_search=optuna", "experiment=indian_pines"], ["refit=true does not go with a study"]),
        (
            ["hparams_search=demo", "hydra.sweeper.params=null", "model=pixel_resnet", "encoder=resnet18,resnet34"],
            ["There is nothing to search"],
        ),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(
    arguments: list[str], words: list[str], sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    (line,) = sweep(*arguments)
    assert line.startswith("train.py: error: ")
    for word in words:
        assert word in line
    assert not (tmp_path / "logs/study").exists()
    assert not (tmp_path / "grid").exists()


def test_another_study_of_the_same_name_is_one_line(sweep: Sweep, tmp_path: Path) -> None:
    study = ("hparams_search=demo", "loss=focal", "hydra.sweeper.n_trials=1")
    sweep(*study)
    (space,) = sweep(*study, "encoder=resnet34,resnet50")
    (data,) = sweep(*study, "data_dir=elsewhere")
    assert "encoder in resnet18, tu-mobilenetv3_small_100, here resnet34, resnet50" in space
    assert "data_dir=here, here elsewhere" in data
    assert "hydra.sweeper.study_name" in space
    assert any("0 of 1 trials to do" in line for line in sweep(*study, "accelerator=cpu", "devices=2"))
    assert len(trials(storage(tmp_path), "demo")) == 1


def test_what_is_given_below_a_searched_group_is_part_of_the_question(sweep: Sweep, tmp_path: Path) -> None:
    """Only the choice is searched: the study went on, and chose the best among the trials of two questions."""
    study = ("hparams_search=demo", "loss=cross_entropy,focal", "hydra.sweeper.n_trials=1")
    more = ("loss.label_smoothing=0.2", "augmentation.zoom=0.25")  # which the choice strong has by itself
    sweep(*study)
    (refused,) = sweep(*study, *more)
    assert "loss.label_smoothing=unset, here 0.2" in refused
    assert "augmentation.zoom=unset, here 0.25" in refused
    assert any("0 of 1 trials to do" in line for line in sweep(*study))
    assert not any(key.startswith(("loss.", "augmentation.")) for key in fixed(storage(tmp_path)))
    recipe = (*study, "hydra.sweeper.study_name=recipe", "experiment=demo")
    sweep(*recipe)
    assert fixed(storage(tmp_path, "recipe"), "recipe")["augmentation.rotation"] == 45
    assert any("0 of 1 trials to do" in line for line in sweep(*recipe))
    (refused,) = sweep(*recipe, "augmentation.rotation=30")
    assert "augmentation.rotation=45, here 30" in refused


def fixed(storage: str, name: str = "demo") -> dict[str, object]:
    """Read what a study has fixed."""
    database = connect(storage)
    try:
        return dict(optuna.load_study(study_name=name, storage=database).user_attrs[TERMS]["fixed"])
    finally:
        disconnect(database)


def test_processes_share_a_study_and_the_trial_of_a_killed_one_is_not_lost(tmp_path: Path) -> None:
    check_sharing(stand_in(tmp_path), storage(tmp_path))


def test_ctrl_c_gives_the_trial_back_and_says_how_to_go_on(tmp_path: Path) -> None:
    script = stand_in(tmp_path)
    study = ("hparams_search=demo", "data_dir=here", "loss=focal", "hydra.sweeper.n_trials=2")
    process = start(script, *study, seconds=600)
    try:
        wait_for((tmp_path / "logs/study/demo/0/began").is_file)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines() == [
        "train.py: interrupted. The study demo has 0 of 2 trials; the same command goes on with it, beginning with "
        "what was interrupted."
    ]
    interrupted, waiting = trials(storage(tmp_path), "demo")
    assert (interrupted.state, waiting.state) == (TrialState.FAIL, TrialState.WAITING)
    finish(start(script, *study))
    assert [trial.state for trial in trials(storage(tmp_path), "demo")] == [TrialState.FAIL, *[TrialState.COMPLETE] * 2]


def test_joblib_runs_trials_at_once_and_shares_the_threads(tmp_path: Path) -> None:
    study = ("hparams_search=demo", "data_dir=here", "loss=focal", "hydra/launcher=joblib")
    said = finish(start(stand_in(tmp_path), *study, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", seconds=1))
    began = [(tmp_path / f"logs/study/demo/{i}/began").read_text().split() for i in range(2)]
    cores = len(os.sched_getaffinity(0))
    assert [threads for threads, _ in began] == [str(max(1, cores // 2))] * 2
    assert len({process for _, process in began}) == 2
    assert said.count("validation IoU") == 3


def test_submitit_runs_a_grid_in_processes_of_its_own(tmp_path: Path) -> None:
    finish(
        start(
            stand_in(tmp_path), "lr=0.1,0.2", "data_dir=here", "hydra/launcher=submitit_local", "hydra.sweep.dir=grid"
        )
    )
    processes = {(tmp_path / f"grid/{i}/began").read_text().split()[-1] for i in range(2)}
    assert len(processes) == 2
    assert all((tmp_path / f"grid/{i}/ended").is_file() for i in range(2))


def test_a_job_that_dies_is_one_failed_run_and_one_failed_trial(tmp_path: Path) -> None:
    cluster = ("data_dir=here", "hydra/launcher=submitit_local")
    process = start(stand_in(tmp_path), "lr=0.1,0.2,0.3", *cluster, "hydra.sweep.dir=grid", DIES="0")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert re.search(r"^train\.py: error: 1 of 3 runs failed, .*run 0, with: Its job \S+ died; see \S+\.$", err)
    assert "best: run 1, val IoU 0.8000" in out
    study = ("hparams_search=demo", "loss=focal", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=3")
    said = finish(start(stand_in(tmp_path), *study, *cluster, DIES="0"))
    states = [trial.state for trial in trials(storage(tmp_path), "demo")]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE], said


FAILING = """
import os, sys
sys.path.insert(0, {root!r})
import hydra
from pathlib import Path
from src.errors import UserError
from src.models.segmenter import Segmenter
from src.tasks import entry

step, rank = Segmenter.training_step, int(os.environ.get("LOCAL_RANK", 0))
Path(f"process.{{os.getpid()}}").touch()

def failing(self, *batch):
    if self.lr == 0.1 and rank == 1:
        os.kill(os.getpid(), 9)  # as the kernel does when the memory is used up
    if self.lr == 0.2 and "LOCAL_RANK" in os.environ and rank == 0:
        raise UserError("the first process cannot go on")
    return step(self, *batch)

@hydra.main(config_path={configs!r}, config_name="train")
def main(config):
    return entry.run("train", config)

Segmenter.training_step = failing
if __name__ == "__main__":
    entry.start("train", main)
"""


def test_a_failed_training_by_two_processes_is_one_failed_run_and_leaves_none_of_them(tmp_path: Path) -> None:
    """Lightning killed the sweep when the second one failed, and left the second one alone when the first one did."""
    script = tmp_path / "train_failing.py"
    script.write_text(FAILING.format(root=str(ROOT), configs=str(CONFIGS)))
    data = make_chip_folder(tmp_path / "data")
    small = ("model.encoder_depth=3", "model.decoder_channels=[16,16,8]", "callbacks.pictures.chips=0", "batch_size=3")
    two = ("trainer=ddp", "accelerator=cpu", "devices=2", "trainer.max_epochs=1", "trainer.precision=32-true")
    process = start(script, *small, *two, "lr=0.1,0.2,0.003", f"data_dir={data}", "hydra.sweep.dir=grid", "threads=1")
    out, err = process.communicate(timeout=900)
    assert process.returncode == 1, out + err
    with (tmp_path / "grid/runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["came to"].startswith("failed: Process 1 of a training of 2 was ended by SIGKILL; expected all"), (
        rows
    )
    assert rows[1]["came to"] == "failed: the first process cannot go on"
    assert float(rows[2]["val IoU"]) > 0
    processes = [int(path.suffix[1:]) for path in tmp_path.glob("process.*")]
    assert len(processes) == 4  # one for all runs, and another for each
    assert not any(Path(f"/proc/{number}").exists() for number in processes)


@pytest.mark.skipif("TEST_RAY" not in os.environ, reason="make test-ray runs it, with the extra that it needs")
def test_ray_runs_a_grid_on_a_cluster_of_this_machine(tmp_path: Path) -> None:
    grid = ("lr=0.1,0.2", "data_dir=here", f"hydra.sweep.dir={tmp_path / 'grid'}")
    finish(start(stand_in(tmp_path), *grid, "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"))
    assert all((tmp_path / f"grid/{i}/ended").is_file() for i in range(2))


SLURM = {
    # Keeps the script, and soon afterwards runs its array as the cluster would.
    "sbatch": """cp "${@: -1}" "$SLURM_KEPT"
(sleep 1; for task in 0 1; do
  SLURM_JOB_ID=7 SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 SLURM_NODEID=0 SLURM_LOCALID=0 \\
    SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_JOB_NODELIST=here bash "$SLURM_KEPT"
done) > /dev/null 2>&1 &
echo Submitted batch job 7""",
    "srun": """while [[ "$1" == --* ]]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec "$@" """,
    "sacct": "printf 'JobID|State|NodeList\\n7_0|RUNNING|here\\n7_1|RUNNING|here\\n'",
    "scontrol": "echo here",
}


def test_the_batch_script_for_slurm_asks_for_what_was_given_and_runs(tmp_path: Path) -> None:
    for name, text in SLURM.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/bash\n{text}\n")
        command.chmod(command.stat().st_mode | stat.S_IEXEC)
    kept = tmp_path / "script.sh"
    asked = ("timeout_min=90", "partition=gpu", "gpus_per_node=4", "cpus_per_task=8", "mem_gb=64")
    process = start(
        stand_in(tmp_path),
        *("lr=0.1,0.2", "data_dir=here", "hydra/launcher=submitit_slurm", "hydra.sweep.dir=grid"),
        *(f"hydra.launcher.{key}" for key in asked),
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        SLURM_KEPT=str(kept),
    )
    finish(process)
    script = kept.read_text()
    for option in (
        *("--array=0-1%2", "--time=90", "--partition=gpu", "--gpus-per-node=4"),
        *("--ntasks-per-node=1", "--cpus-per-task=8", "--nodes=1", "--mem=64GB", "--job-name=train"),
    ):
        assert f"#SBATCH {option}\n" in script
    assert re.search(rf"^srun .*{re.escape(sys.executable)} -u -m submitit.core._submit", script, re.MULTILINE)
    assert all((tmp_path / f"grid/{i}/ended").is_file() for i in range(2))


def test_globs_of_files_become_one_run_each(tmp_path: Path) -> None:
    for name in ("b.tif", "a, it's.tif"):
        (tmp_path / name).touch()
    given = f"image=glob({tmp_path}/*.tif)"
    arranged = arrange(["-m", given, "model=glob(unet*)"], {}, "train")
    assert arranged == ["-m", f"image=choice('{tmp_path}/a, it\\'s.tif',{tmp_path}/b.tif)", "model=glob(unet*)"]
    assert arrange([given], {}, "train") == [given]
    with pytest.raises(UserError, match="matches no file"):
        arrange(["-m", "image=glob(none/*.tif)"], {}, "train")


def test_a_tilde_is_the_home_folder_where_the_shell_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/é")
    assert arrange(["output=~/maps/a.tif"], {}, "train") == ["output='/home/é/maps/a.tif'"]
    assert arrange(["image=[~/a.tif, ~/b~/c.tif]"], {}, "train") == ["image=['/home/é/a.tif','/home/é/b~/c.tif']"]
    assert arrange(["hydra.run.dir=~/runs/a"], {}, "train") == ["hydra.run.dir='/home/é/runs/a'"]
    assert arrange(["datamodule.image=ü (1).tif"], {}, "train") == ["datamodule.image='ü (1).tif'"]
    untouched = ["hydraXrun.dir=~/runs/a", "image='~a/b.tif'", "image='a~/b.tif'", "model.name=~/a"]
    assert arrange(untouched, {}, "train") == untouched


@pytest.mark.parametrize(
    ("given", "arranged"),
    [
        ("data_dir=2021_06", "data_dir='2021_06'"),
        ("output_dir=1e3", "output_dir='1e3'"),
        ("hydra.run.dir=2021", "hydra.run.dir='2021'"),
        ("label_field=true", "label_field='true'"),
        ("image=[2021_06, 1e3,a.tif]", "image=['2021_06', '1e3',a.tif]"),
        ("data_dir=2021_06,b", "data_dir='2021_06',b"),
        ("data_dir=choice(1_0,b)", "data_dir=choice('1_0',b)"),
    ],
)
def test_paths_that_look_like_numbers_stay_paths(given: str, arranged: str) -> None:
    """Of data_dir=2021_06 Hydra made 202106, and 1000.0 of 1e3."""
    assert arrange([given], {}, "train") == [arranged]
    assert arrange([arranged], {}, "train") == [arranged]
    for other in (
        "label=null",
        "data_dir=range(1,3)",
        "image=['a, 1_0 ,b']",
        "lr=1e3",
        r"image=a\=b",
        r"data_dir=a\,1",
        "data_dir=1 ",
    ):
        assert arrange([other], {}, "train") == [other]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_of_a_study_shows_its_plots_without_a_network(sweep: Sweep, tmp_path: Path) -> None:
    sweep("hparams_search=demo", "loss=focal,cross_entropy", "hydra.sweeper.n_trials=4")
    with chromium(tmp_path / "profile") as page:
        page.show(tmp_path / "logs/study/demo/study.html")
        assert page.complaints == []
