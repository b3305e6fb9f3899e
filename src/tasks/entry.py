"""How every command starts and ends: Hydra composes, one task runs, a user's mistake is one line."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.errors import UserError
from src.tasks import schema
from src.tasks.command_line import arrange
from src.tasks.sweeper import NO_SLURM, StudySweeper
from src.tasks.wording import reworded

log = logging.getLogger(__name__)

CONFIGS = Path(__file__).parents[2] / "configs"

_DISK = {
    errno.ENOSPC: "the disk is full; free some space or write elsewhere",
    errno.EDQUOT: "your quota is used up; free some space or write elsewhere",
    errno.EROFS: "the folder is read-only; write elsewhere",
    errno.EEXIST: "there is a file of that name; write elsewhere",
    errno.ENOTDIR: "a part of the path is a file, not a folder; write elsewhere",
    errno.EISDIR: "it is a folder, not a file; give a file",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.EPERM: "not permitted; write elsewhere or have the permission changed",
    errno.EACCES: "permission denied; write elsewhere or have the permission changed",
}

_SMALLER = {
    "prepare": "Give a smaller chip.size.",
    "train": "Give a smaller batch_size, or chips of a smaller size.",
    "eval": "Give a smaller batch_size.",
    "predict": "Give a smaller window or batch_size.",
}
"""What each command needs less memory with."""


def start(task: str, main: Callable[[], Any]) -> None:
    """Run a ``@hydra.main`` function as a command and turn its exceptions into exit codes.

    Args:
        task: ``prepare``, ``train``, ``eval``, ``predict`` or ``export``; ``configs/<task>/`` is searched before
            ``configs/``, so that one name (``experiment=demo``) can mean something of its own to every command.
        main: The decorated function.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of Hydra's own several lines
    os.environ.setdefault("SPECDEEPMAP_ROOT", str(CONFIGS.parent))
    # Launchers start other processes, which have to find src from wherever they are.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CONFIGS.parent), os.environ.get("PYTHONPATH")]))
    schema.register()
    search_before(CONFIGS / task)
    Plugins.instance().register(StudySweeper)
    try:
        sys.argv[1:] = arrange(sys.argv[1:], os.environ)
        main()
    except (UserError, HydraException, OmegaConfBaseException, OSError, MemoryError) as error:
        _leave(task, error)
    except RuntimeError as error:
        if "srun" not in str(error):  # submitit's word for a machine without SLURM
            raise
        _leave(task, UserError(NO_SLURM))
    except KeyboardInterrupt:
        sys.exit(130)


def run(task: str, config: DictConfig) -> float | None:
    """Import a task and run it with its composed config; returns what a sweep maximises, if anything.

    In a single run a user's mistake ends the process here, in one line and without leaving the run's folder
    behind; in a multirun it is raised, since the sweeper decides what follows.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise UserError(f"{missing[0]} is not given; {task}.py needs it. Add {missing[0]}=… to the command.")
        result: float | None = importlib.import_module(f"src.tasks.{task}").run(config)
        return result
    except (UserError, OmegaConfBaseException, OSError, MemoryError) as error:
        if HydraConfig.get().mode is not RunMode.RUN:
            if "study_name" not in HydraConfig.get().sweeper:  # a study tells its failures itself
                log.error("%s.py: error: %s", task, explain(task, error))
            raise
        _forget(Path(HydraConfig.get().runtime.output_dir))
        _leave(task, error)


def search_before(folder: Path) -> None:
    """Let Hydra search ``folder`` before the common configs."""

    class TaskConfigs(SearchPathPlugin):
        """Puts one task's own folder first."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            """Prepend the folder if there is one."""
            if folder.is_dir():
                search_path.prepend("task", f"file://{folder}", anchor="main")

    Plugins.instance().register(TaskConfigs)


def explain(task: str, error: Exception) -> str:
    """Put an error into one line: what was given, what was expected, what to do."""
    return re.sub(r"\s+", " ", _explanation(task, error)).strip()


def _explanation(task: str, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"The memory is not enough ({str(error) or 'no more to be had'}). {_SMALLER[task]}"
    if _is_system_error(error):
        return f"{error.filename or 'A file'} cannot be read or written: {_DISK.get(error.errno or 0, error.strerror)}."
    text = " ".join(str(part) for part in (error, error.__cause__) if part)
    return reworded(task, text)


def _is_system_error(error: Exception) -> TypeGuard[OSError]:
    """Tell an error of the operating system from Hydra's missing configs, which are OSErrors too."""
    return isinstance(error, OSError) and not isinstance(error, HydraException)


def _leave(task: str, error: Exception) -> NoReturn:
    if _is_system_error(error) and error.errno not in _DISK and not isinstance(error, FileNotFoundError):
        raise error
    sys.exit(f"{task}.py: error: " + explain(task, error))


def _forget(run_folder: Path) -> None:
    """Remove a run's folder if nothing stands in it but what Hydra put there."""
    if run_folder.is_dir() and all(entry.name == ".hydra" or entry.suffix == ".log" for entry in run_folder.iterdir()):
        shutil.rmtree(run_folder, ignore_errors=True)
