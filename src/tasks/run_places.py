"""Where a run writes: in a folder of its own where nobody has named one, and in no other run's where somebody has."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.errors import UserError
from src.file_lock import check_no_run
from src.first_process import is_first
from src.tasks.command_line import quoted
from src.tasks.launching import given_path
from src.tasks.wording import explain

Kind = Literal["run", "sweep"]

ALONE = ("train", "eval")
"""Commands that a folder holds one run of at a time."""
NOWHERE = "${now:.}"
"""Folder of the other processes of a training that nobody has named one for, ``.``, as the time would name it."""


class OwnFolder(Callback):
    """Chooses the folder of a run or a multirun before Hydra writes into it.

    Hydra makes warnings of the errors in here: what is to end the command has to leave it.
    """

    def __init__(self) -> None:
        self.made: Path | None = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the folder, or see that no run holds the one that was named; leaves in one line if one does."""
        del kwargs
        task = config.hydra.job.config_name
        if task == "train" and not is_first():
            if not is_named(config.hydra):
                _set_folder(config, "run", NOWHERE)
            return
        _claim(config, "run")
        if task not in ALONE:
            return
        folder = given_path(config, "output_dir") or config.hydra.run.dir
        try:
            check_no_run(Path(folder))
        except UserError as error:
            sys.exit(f"{task}.py: error: {explain(task, error)}")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the folder."""
        del kwargs
        self.made = _claim(config, "sweep")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Remove a folder into which nothing came, as of a command that was refused."""
        del config, kwargs
        if self.made is not None:
            with suppress(OSError):
                self.made.rmdir()


def is_named(hydra: DictConfig, kind: Kind = "run") -> bool:
    """Tell whether the user or an experiment has named the folder of a run or a multirun; else the time names it.

    Args:
        hydra: Hydra's own part of a configuration.
        kind: Whose folder.
    """
    if any(re.match(rf"\+{{0,2}}hydra\.{kind}\.dir=", words) for words in hydra.overrides.hydra):
        return True
    return "${now:" not in _written(hydra, kind)


def _written(hydra: DictConfig, kind: Kind) -> str:
    node = OmegaConf.to_container(hydra[kind], resolve=False)
    assert isinstance(node, dict)
    return str(node["dir"])


def _set_folder(config: DictConfig, kind: Kind, folder: str) -> None:
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra[kind].dir = folder


def _claim(config: DictConfig, kind: Kind) -> Path | None:
    """Make the folder that is named by the time, under another name if it is there; None where somebody named one."""
    if is_named(config.hydra, kind):
        return None
    wanted = Path(config.hydra[kind].dir)
    own = make_own(wanted)
    if own != wanted:
        written = _written(config.hydra, kind).rstrip("/")  # it stays one that the time names
        _set_folder(config, kind, written + own.name.removeprefix(wanted.name))
        if kind == "sweep":  # its runs are composed anew
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(own))}")
    return own


def make_own(wanted: Path) -> Path:
    """Make a folder that was not there: the one that is wanted, or the first that is free of ``_2``, ``_3`` and on.

    Where none can be made, the wanted one is returned: whoever writes there first will tell.
    """
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return wanted
    for number in count(1):
        own = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        try:
            own.mkdir()
        except FileExistsError:
            continue
        except OSError:
            return wanted
        return own
    raise AssertionError
