"""Sweeps without trainings: a stand-in for ``train.py`` that answers at once, or as slowly as it is told."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import optuna
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.storages._rdb.models import TrialHeartbeatModel
from optuna.trial import TrialState

from src.studies.study import Search, Terms
from src.studies.study_storage import connect, disconnect

ROOT = Path(__file__).parents[1]

STAND_IN = '''
"""python train.py, but for the training: what it returns follows from lr; dice cannot be trained, DIES kills a run.

A trial waits until trials of as many processes as TOGETHER says have begun.
"""
import os, sys, time
sys.path.insert(0, {root!r})
import hydra
from hydra.core.hydra_config import HydraConfig
from pathlib import Path
from src.errors import UserError
from src.tasks import entry

@hydra.main(config_path={configs!r}, config_name="train")
def main(config):
    here = Path(HydraConfig.get().runtime.output_dir)
    (here / "began").write_text(os.environ.get("OMP_NUM_THREADS", "") + " " + str(os.getpid()))
    together = int(os.environ.get("TOGETHER", 0))
    while len({{began.read_text() for began in here.parent.glob("*/began")}} - {{""}}) < together:
        time.sleep(0.05)
    time.sleep(float(os.environ.get("PAUSE", 0)))
    if os.environ.get("DIES") == here.name:
        os.kill(os.getpid(), 9)  # as the kernel does when the memory is used up
    if config.loss._target_.endswith("CrossEntropyDice"):
        raise UserError("ce_dice does not go with these chips")
    (here / "ended").touch()
    return 1 - config.lr

if __name__ == "__main__":
    entry.start("train", main)
'''


def stand_in(folder: Path) -> Path:
    """Write the stand-in as a script."""
    script = folder / "train.py"
    script.write_text(STAND_IN.format(root=str(ROOT), configs=str(ROOT / "configs")), encoding="utf-8")
    return script


def start(script: Path, *arguments: str, seconds: float = 0, **environment: str) -> subprocess.Popen[str]:
    """Start a multirun of the stand-in; its logs go beside it."""
    return subprocess.Popen(
        [sys.executable, str(script), "-m", *arguments, f"paths.logs={script.parent / 'logs'}"],
        cwd=script.parent,
        env=os.environ | {"PAUSE": str(seconds)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a multirun that has to succeed; returns what it printed."""
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, out + err
    return out


def trials(storage: str, name: str) -> list[optuna.trial.FrozenTrial]:
    """Read the trials of a study, and leave no connection open."""
    database = connect(storage)
    try:
        return optuna.load_study(study_name=name, storage=database).get_trials()
    finally:
        disconnect(database)


def forget_signs_of_life(storage: str, trial_id: int) -> None:
    """Let a trial's last sign of life be two days old, a long grace period ago: nobody has to wait for a short one."""
    database = connect(storage)
    long_ago = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(days=2)
    row = sqlalchemy.update(TrialHeartbeatModel).where(TrialHeartbeatModel.trial_id == trial_id)
    try:
        with database.engine.begin() as connection:
            connection.execute(row.values(heartbeat=long_ago))
    finally:
        disconnect(database)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Look again and again until something has happened."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def join(url: str, together: Barrier) -> None:
    """Open a study in the moment in which other processes do; fails where it cannot."""
    together.wait(timeout=300)
    terms = Terms({"lr": FloatDistribution(0, 1)}, {"data_dir": "here"})
    Search(url, "one", lambda _: optuna.samplers.RandomSampler(), terms, total=1).close()


def check_sharing(script: Path, storage: str, *arguments: str) -> None:
    """Kill a process in its trial, let two others do five trials, and see that each was done once and none lost."""
    study = ("hparams_search=demo", "data_dir=here", "loss=focal", "hydra.sweeper.n_trials=5")
    killed = start(script, *study, *arguments, seconds=600)
    wait_for((script.parent / "logs/study/demo/0/began").is_file)
    others = [start(script, *study, *arguments, TOGETHER="3") for _ in range(2)]  # the killed one is the third
    killed.kill()
    killed.communicate()
    forget_signs_of_life(storage, trials(storage, "demo")[0]._trial_id)
    said = [finish(other) for other in others]
    lost, *rest = sorted(trials(storage, "demo"), key=lambda trial: trial.number)
    assert lost.state is TrialState.FAIL
    assert [trial.state for trial in rest] == [TrialState.COMPLETE] * 5
    assert [trial.params for trial in rest].count(lost.params) == 1
    assert len({trial.params["lr"] for trial in rest}) == 5
    ran = [re.findall(r"^trial (\d+),", text, re.MULTILINE) for text in said]
    assert sorted(int(number) for each in ran for number in each) == [trial.number for trial in rest]
    assert all(ran), "one process did everything"
