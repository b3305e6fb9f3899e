"""Sweeps without trainings: a stand-in for ``train.py`` that answers at once, or as slowly as it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import optuna

ROOT = Path(__file__).parents[1]

STAND_IN = '''
"""python train.py, but for the training: what it returns follows from lr; dice cannot be trained here."""
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
    time.sleep(float(os.environ.get("PAUSE", 0)))
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
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, out + err
    return out


def trials(storage: str, name: str) -> list[optuna.trial.FrozenTrial]:
    """Read the trials of a study."""
    return optuna.load_study(study_name=name, storage=storage).get_trials()
