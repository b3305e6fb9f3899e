"""How every command starts and ends: Hydra composes, one task runs, a user's mistake is one line."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

CONFIGS = Path(__file__).parents[2] / "configs"


def start(task: str, main: Callable[[], Any]) -> None:
    """Run a ``@hydra.main`` function as a command and turn its exceptions into exit codes.

    Args:
        task: ``prepare``, ``train``, ``eval`` or ``predict``; ``configs/<task>/`` is searched before ``configs/``,
            so that one name (``experiment=demo``) can mean something of its own to every command.
        main: The decorated function.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of Hydra's own several lines
    os.environ.setdefault("SPECDEEPMAP_ROOT", str(CONFIGS.parent))
    schema.register()
    search_before(CONFIGS / task)
    try:
        main()
    except UserError as error:
        sys.exit(_line(task, str(error)))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(_line(task, explain(error)))
    except KeyboardInterrupt:
        sys.exit(130)


def run(task: str, config: DictConfig) -> Any:
    """Import a task and run it with its composed config; returns what the task returns."""
    module = importlib.import_module(f"src.tasks.{task}")
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise UserError(f"{missing[0]} is not given; {task}.py needs it. Add {missing[0]}=… to the command.")
        return module.run(config)
    except UserError as error:
        if HydraConfig.get().mode is RunMode.RUN:
            # Out at once: Hydra would print a line of its own. In a multirun the sweeper decides what follows.
            sys.exit(_line(task, str(error)))
        raise


def search_before(folder: Path) -> None:
    """Let Hydra search ``folder`` before the common configs."""

    class TaskConfigs(SearchPathPlugin):
        """Puts one task's own folder first."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            """Prepend the folder if there is one."""
            if folder.is_dir():
                search_path.prepend("task", f"file://{folder}", anchor="main")

    Plugins.instance().register(TaskConfigs)


def explain(error: BaseException) -> str:
    """Put a composition error into one line: what was given, what was expected, what to do."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text = " ".join([str(error), str(cause) if cause else ""])
    text = re.sub(r"\s*(full_key|object_type|reference_type)[:=]\S*", "", text)
    return re.sub(r"\s+", " ", text).strip()


def _line(task: str, message: str) -> str:
    return f"{task}.py: error: " + re.sub(r"\s+", " ", message).strip()
