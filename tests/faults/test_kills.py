"""A command that is killed at any moment and started again makes what it makes undisturbed.

``make test-faults`` kills each command twenty times; the ordinary suite takes a sample. Seeds are printed: the same
``FAULTS_SEED`` draws the same moments again.
"""

from __future__ import annotations

import csv
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from tests.faults.kills import TRAIN, Job, survives
from tests.sweeping import trials

KILLS = int(os.environ.get("FAULTS_KILLS", "1"))
SEED = int(os.environ.get("FAULTS_SEED", "0"))

TRIALS = 2


def same_bytes(whole: Path, broken: Path, folder: str, *but: str) -> None:
    """Fail where two folders hold other files or other bytes, hidden ones and those named aside."""

    def content(root: Path) -> dict[str, bytes]:
        found = (path for path in (root / folder).rglob("*") if path.is_file() and path.name not in but)
        return {str(path.relative_to(root)): path.read_bytes() for path in found if path.name[0] != "."}

    first, second = content(whole), content(broken)
    assert sorted(first) == sorted(second)
    assert first
    for name in first:
        assert first[name] == second[name], name


def same_map(whole: Path, broken: Path) -> None:
    """Fail where two runs leave other files or other bytes, but for the folder's name and what the clock says.

    The report prints both; the record of what a map was made of names the scene's place and when it was changed.
    """
    same_bytes(whole, broken, "out", "m_report.html", "m.json")
    records = [json.loads((root / "out/m.json").read_text()) for root in (whole, broken)]
    for record in records:
        for key in ("image", "image_changed"):
            del record["made_of"][key]
    assert records[0] == records[1]
    for root in (whole, broken):
        assert (root / "out/m_report.html").read_text().rstrip().endswith("</html>")


def same_training(whole: Path, broken: Path) -> None:
    """Fail where two runs end with other checkpoints, weights, states of the optimiser or numbers per epoch."""
    names = [sorted(p.name for p in (root / "run/checkpoints").iterdir()) for root in (whole, broken)]
    assert names[0] == names[1]
    for name in names[0]:
        first, second = (torch.load(root / "run/checkpoints" / name, weights_only=True) for root in (whole, broken))
        for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "val_matrix"):
            assert _equal(first[key], second[key]), f"{name}: {key}"
    tables = []
    for root in (whole, broken):
        with (root / "run/metrics.csv").open() as file:
            tables.append([{k: v for k, v in row.items() if k != "chips_per_second"} for row in csv.DictReader(file)])
    assert tables[0] == tables[1]


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)


def no_trial_lost(whole: Path, broken: Path) -> None:
    """Fail where a study has too few finished trials, or parameters that were begun but not finished."""
    del whole
    found = trials(f"sqlite:///{broken / 'study/study.db'}", "default")
    finished = [trial for trial in found if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(finished) == TRIALS, [(trial.number, trial.state.name) for trial in found]
    assert all(trial.state is not TrialState.RUNNING for trial in found)
    # A trial that died while it was drawn has some of its parameters; whoever repeats it draws the others.
    lost = [t.params for t in found if not any(t.params.items() <= other.params.items() for other in finished)]
    assert not lost, [(trial.number, trial.state.name, trial.params) for trial in found]
    for trial in finished:
        assert list((broken / "study" / str(trial.number) / "checkpoints").glob("*val_iou*.ckpt"))


JOBS = {
    "prepare": Job(
        "prepare",
        ("image=i.tif", "label=l.tif", "data_dir=new", "chip.size=16", "chip.step=8"),
        lambda whole, broken: same_bytes(whole, broken, "new", "overview.html"),  # which says when, and the command
    ),
    "train": Job(
        "train",
        (
            *TRAIN,
            "trainer.max_epochs=4",
            "output_dir=run",
            "resume=last",
            "callbacks.model_checkpoint.every_n_minutes=0",
        ),
        same_training,
    ),
    "predict": Job(
        "predict",
        (
            "checkpoint=good.ckpt",
            "image=wide.tif",
            "output=out/m.tif",
            "window=32",
            "vector=true",
            "probabilities=true",
        ),
        same_map,
    ),
    "sweep": Job(
        "train",
        (
            "-m",
            *(argument for argument in TRAIN if not argument.startswith("batch_size")),
            "hparams_search=optuna",
            "trainer.max_epochs=2",
            "hydra.sweep.dir=study",
            f"hydra.sweeper.n_trials={TRIALS}",
            "hydra.sweeper.grace=1",
            "~hydra.sweeper.params.encoder",
        ),
        no_trial_lost,
        most=2,  # a trial that dies more often counts as one that kills its process
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_killed_command_goes_on(name: str, good: Path, tmp_path: Path) -> None:
    seed = zlib.crc32(f"{SEED} {name}".encode())
    print(f"\n{name}: FAULTS_SEED={SEED}, {KILLS} kills", flush=True)
    survives(JOBS[name], good, tmp_path, KILLS, seed)
