"""The folder of a training run: what is set aside, what describes it, and what stands at its end."""

from __future__ import annotations

import itertools
import json
import logging
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.atomic import write_text
from src.errors import UserError
from src.models.checkpoint import read_checkpoint, validation_scores
from src.passwords import hide_passwords
from src.scores import Scores
from src.spec import git_revision, software_versions

log = logging.getLogger(__name__)

DESCRIPTION = "run.json"
"""What describes a training, in the folder of its run."""
EARLIER = "earlier"
"""Folder within a run's that holds the run before it; those before later ones are numbered: ``earlier-2``."""
_OF_A_RUN = (
    "checkpoints",
    "tensorboard",
    "metrics.csv",
    "lr_finder.png",
    "report.html",
    DESCRIPTION,
    "run_from_*.json",  # of a run that was resumed
    "hpc_ckpt_*.ckpt",  # Lightning's, of a run under SLURM: it would go on from it
)


@dataclass(frozen=True)
class Trained:
    """What a training comes to: its best checkpoint, that one's validation scores, and the last checkpoint."""

    best: Path
    scores: Scores
    last: Path


def set_aside(folder: Path) -> None:
    """Set aside what an earlier run left in the folder that a new one was given: its scores would be taken for ours.

    It is moved into ``earlier/``, or where a run before that is there into ``earlier-2/`` and so on: none is ever lost.
    One that never got as far as a checkpoint is removed instead.
    """
    old = [path for name in _OF_A_RUN for path in sorted(folder.glob(name))]
    trained = any(path.suffix == ".ckpt" or any(path.glob("*.ckpt")) for path in old)
    aside = folder / EARLIER
    if trained:
        numbers = itertools.count(2)
        while aside.exists():
            aside = folder / f"{EARLIER}-{next(numbers)}"
        log.info("%s: an earlier run was there; it is in %s now", folder, aside)
        aside.mkdir()
    for path in old:
        if trained:
            path.rename(aside / path.name)
        else:
            _remove(path)


def holds_training(folder: Path) -> bool:
    """Tell whether a folder is that of a training: a ``run.json`` may be the record of a map ``run.tif``, too."""
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"command", "config"} <= content.keys()


def is_set_aside(folder: Path) -> bool:
    """Tell by its name whether a run's folder is one that :func:`set_aside` has made."""
    return re.fullmatch(rf"{EARLIER}(-\d+)?", folder.name) is not None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def describe(folder: Path, config: Mapping[str, Any], overrides: Sequence[str], epoch: int = 0) -> None:
    """Write ``run.json``: command, composed configuration, software versions, git revision; no passwords.

    Args:
        folder: The run's folder.
        config: The composed configuration.
        overrides: What was given on the command line.
        epoch: First epoch of a resumed run, which gets a file of its own: ``run_from_00025.json``.
    """
    row = {
        "command": hide_passwords(["python", Path(sys.argv[0]).name, *overrides]),
        "revision": git_revision(),
        "versions": software_versions(),
        "config": hide_passwords(config),
    }
    name = f"run_from_{epoch:05d}.json" if epoch else DESCRIPTION
    write_text(folder / name, json.dumps(row, indent=2, ensure_ascii=False, default=str) + "\n")


def read_trained(best: Path, last: Path) -> Trained:
    """Read the validation scores that stand in a checkpoint; raises UserError where its epoch was not validated."""
    content = read_checkpoint(best, weights=False) if best.is_file() else {}
    if (scores := validation_scores(content)) is None:
        kept = f"; {best} is as far as it came, and resume= goes on from there" if content else ""
        raise UserError(
            "The training ended before a validation of what it keeps: there are no scores and no best "
            f"checkpoint{kept}. Give it more time (trainer.max_time), or validate more often "
            "(trainer.check_val_every_n_epoch)."
        )
    return Trained(best, scores, last)
