"""How every command starts and ends: Hydra composes, one task runs, a user's mistake is one line."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from hydra.utils import execution_whitelist
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.cores import use_threads
from src.errors import UserError
from src.file_lock import only_run
from src.foreign_text import ShownRecord
from src.memory import use_large_pages
from src.tasks import schema
from src.tasks.command_line import arrange
from src.tasks.sweeper import GridSweeper, StudySweeper
from src.tasks.wording import GO_ON, explain, is_hydras, is_out_of_memory, is_unknown, reworded

log = logging.getLogger(__name__)

CONFIGS = Path(__file__).parents[2] / "configs"
MADE_BY_HYDRA = ["src.tasks.run_places.*", "hydra.experimental.callbacks.*", "logging.*"]
"""Where the classes come from that Hydra itself makes of a configuration."""
ASKING = {"--help", "-h", "--hydra-help", "--info", "-i", "--cfg", "-c"}
"""Options with which a command only answers."""


def start(task: str, main: Callable[[], Any]) -> None:
    """Run a ``@hydra.main`` function as a command and turn its exceptions into exit codes.

    Args:
        task: ``prepare``, ``train``, ``eval``, ``predict`` or ``export``; ``configs/<task>/`` is searched before
            ``configs/``, so that one name (``experiment=demo``) can mean something of its own to every command.
        main: The decorated function.
    """
    logging.setLogRecordFactory(ShownRecord)
    if ASKING & {argument.split("=")[0] for argument in sys.argv[1:]} and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads only the head of an answer has what they wanted
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of Hydra's own several lines
    os.environ.setdefault("SPECDEEPMAP_ROOT", str(CONFIGS.parent))
    # Launchers start other processes, which have to find src from wherever they are.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CONFIGS.parent), os.environ.get("PYTHONPATH")]))
    schema.register()
    search_before(CONFIGS / task)
    for sweeper in (GridSweeper, StudySweeper):
        Plugins.instance().register(sweeper)
    try:
        sys.argv[1:] = arrange(sys.argv[1:], os.environ, task)
        check_options(task, sys.argv[1:])
        with execution_whitelist(MADE_BY_HYDRA):
            main()
    except (UserError, HydraException, OmegaConfBaseException, OSError, MemoryError) as error:
        _leave(task, error)
    except yaml.MarkedYAMLError as error:
        _leave(task, UserError(_unreadable(error)))
    except ValueError as error:
        if not is_hydras(error):
            raise
        _leave(task, error)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        _leave(task, error)
    except KeyboardInterrupt as error:
        print(f"{task}.py: interrupted. {error if str(error) else GO_ON[task]}", file=sys.stderr)
        sys.exit(130)


def check_options(task: str, arguments: Sequence[str]) -> None:
    """Read a command line as Hydra will, whose parser would print its usage before what is wrong.

    Raises:
        UserError: There is no such option, or its value is none.
    """

    def fail(message: str) -> NoReturn:
        raise UserError(reworded(task, message))

    parser = get_args_parser()
    parser.error = fail  # type: ignore[method-assign]
    parser.parse_intermixed_args(arguments)


def run(task: str, config: DictConfig) -> float | None:
    """Import a task and run it with its composed config; returns what a sweep maximises, if anything.

    In a single run a user's mistake ends the process here, in one line and without leaving the run's folder
    behind; in a multirun it is raised, since the sweeper decides what follows.
    """
    # Here, so that a command that only answers does not wait for it.
    from src.spec import git_revision  # noqa: PLC0415

    logging.setLogRecordFactory(ShownRecord)  # launchers' processes begin here
    git_revision()  # now: what is edited while the command runs is not what runs
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise UserError(f"{missing[0]} is not given; {task}.py needs it. Add {missing[0]}=… to the command.")
        use_threads(config.get("threads"))
        if task not in {"eval", "predict"}:  # they choose by their device
            use_large_pages()
        with _held(task, config):
            result: float | None = importlib.import_module(f"src.tasks.{task}").run(config)
        return result
    except (UserError, OmegaConfBaseException, OSError, MemoryError) as error:
        if HydraConfig.get().mode is not RunMode.RUN:
            if "study_name" not in HydraConfig.get().sweeper:  # a study tells its failures itself
                log.error("%s.py: error: %s", task, explain(task, error))
            raise
        _forget(Path(HydraConfig.get().runtime.output_dir))
        _leave(task, error)


def _held(task: str, config: DictConfig) -> AbstractContextManager[None]:
    """Hold the folder of an evaluation; a training holds its own once it knows which run it goes on with."""
    if task != "eval":
        return nullcontext()
    return only_run(Path(config.output_dir or HydraConfig.get().runtime.output_dir))


def search_before(folder: Path) -> None:
    """Let Hydra search ``folder`` before the common configs."""

    class TaskConfigs(SearchPathPlugin):
        """Puts one task's own folder first."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            """Prepend the folder if there is one."""
            if folder.is_dir():
                search_path.prepend("task", f"file://{folder}", anchor="main")

    Plugins.instance().register(TaskConfigs)


def _unreadable(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "A configuration file"
    return f"{where} is no YAML ({error.problem}); expected keys and values, indented with spaces. Mend the file."


def _leave(task: str, error: Exception) -> NoReturn:
    if is_unknown(error):
        raise error
    sys.exit(f"{task}.py: error: " + explain(task, error))


def _forget(run_folder: Path) -> None:
    """Remove what this run put into its folder, and the folder, if nothing else stands there.

    The working directory stays: the other processes of a training, which write nothing, have it for their folder.
    """
    hydra = HydraConfig.get()
    made = {hydra.output_subdir, f"{hydra.job.name}.log"}
    if not run_folder.is_dir() or run_folder.samefile(Path.cwd()):
        return
    there = list(run_folder.iterdir())
    if any(entry.name not in made for entry in there):
        return
    with suppress(OSError):  # Windows keeps a log that is open; another process may have put something there
        for entry in there:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        run_folder.rmdir()
