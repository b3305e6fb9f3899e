"""What a grid came to: which run, with which keys, to which score, and where."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus

from src.errors import UserError
from src.tasks.wording import explain
from src.text_table import lay_out, write_csv

log = logging.getLogger(__name__)

SCORES = {"train": "val IoU", "eval": "mean IoU", "predict": "mean IoU"}
"""What the commands return, where they return something."""
REFITTED = "IoU on trained chips"
"""What a training with ``refit=true`` returns: nothing to choose by."""


def conclude(task: str, runs: Sequence[JobReturn], folder: Path) -> None:
    """Print a grid's runs and the best one, and write them as ``runs.csv``.

    Args:
        task: The command.
        runs: What came of each, in their order.
        folder: The sweep's.

    Raises:
        UserError: A run has failed.
    """
    errors = [_error(task, run) for run in runs]
    values = [None if error else run.return_value for run, error in zip(runs, errors, strict=True)]
    names = [_score_name(task, run) for run in runs]
    scores = list(dict.fromkeys(name for name, value in zip(names, values, strict=True) if value is not None))
    keys = varied(runs)
    head = ["run", *keys, *scores, "came to"]
    rows = []
    for number, (run, name, value, error) in enumerate(zip(runs, names, values, errors, strict=True)):
        given = _given(run)
        score = [_score(value) if name == each else "" for each in scores]
        came_to = f"failed: {error}" if error else _result(task, run, folder)
        rows.append([str(number), *(given.get(key, "") for key in keys), *score, came_to])
    for line in ("", *lay_out(head, rows)):
        log.info("%s", line)
    write_csv(folder / "runs.csv", head, rows)
    if REFITTED in scores:
        log.info("best: none, since refit=true trains on the chips that score; eval.py scores on others")
    elif best := max(((value, -number) for number, value in enumerate(values) if value is not None), default=None):
        log.info("best: run %d, %s %.4f, of %d runs", -best[1], scores[0], best[0], len(runs))
    log.info("%s: these lines as a table, and a folder per run", folder / "runs.csv")
    if failed := [number for number, error in enumerate(errors) if error]:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed, the first of them, run {failed[0]}, with: {errors[failed[0]]}"
        )


def varied(runs: Sequence[JobReturn]) -> list[str]:
    """List the keys whose values are not the same in all runs, in the order in which they were given."""
    given = [_given(run) for run in runs]
    keys = dict.fromkeys(key for overrides in given for key in overrides)
    return [key for key in keys if len({overrides.get(key) for overrides in given}) > 1]


def _given(run: JobReturn) -> dict[str, str]:
    given = (word.partition("=") for word in run.overrides or [])
    return {key: re.sub(r"\\(.)", r"\1", value.strip("'\"")) for key, _, value in given}


def _error(task: str, run: JobReturn) -> str:
    """Write what a run failed with; nothing if it did not."""
    if run.status is JobStatus.COMPLETED:
        return ""
    # Its return_value would print, and raise.
    return explain(task, run._return_value) or type(run._return_value).__name__


def _score_name(task: str, run: JobReturn) -> str:
    refitted = task == "train" and run.cfg is not None and run.cfg.refit
    return REFITTED if refitted else SCORES.get(task, "result")


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _result(task: str, run: JobReturn, folder: Path) -> str:
    """Name a training's best checkpoint, below the sweep's folder."""
    if task != "train":
        return "done"
    # Here, so that nobody waits for PyTorch who only submits runs.
    from src.models.checkpoint import find_checkpoint  # noqa: PLC0415

    path = _folder(run)
    try:
        return os.path.relpath(find_checkpoint(path), folder)
    except UserError:
        return f"no checkpoint in {path}"


def _folder(run: JobReturn) -> Path:
    """Return where a training has written: its own ``output_dir``, which may be made of Hydra's keys, or Hydra's."""
    assert run.cfg is not None
    assert run.hydra_cfg is not None
    hydra: Any = HydraConfig.instance()
    before, hydra.cfg = hydra.cfg, run.hydra_cfg
    try:
        return Path(run.cfg.output_dir or run.hydra_cfg.hydra.runtime.output_dir)
    finally:
        hydra.cfg = before
