"""What is done to a command line before Hydra reads it, and how one run's command line is told from a sweep's."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, read_write

from src.errors import UserError
from src.first_process import is_first

FILES = ("image", "label", "checkpoint", "data_dir", "csv")
"""Keys whose ``glob(…)`` means files; Hydra's own means the choices of a group."""

OF_PROCESSES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
"""What Lightning tells the processes of a training by the environment."""
QUIET = ("hydra.output_subdir=null", "hydra/job_logging=disabled")
"""What lets Hydra write nothing."""
PATHS = (
    *FILES,
    *("output", "output_dir", "resume", "init_from", "weights.path", "paths.root", "paths.logs"),
    *("hydra.run.dir", "hydra.sweep.dir"),
    *("datamodule.image", "datamodule.label", "datamodule.root", "split.raster", "hydra.sweep.subdir"),
    *("label_field", "label_layer", "datamodule.label_field", "datamodule.label_layer", "hydra.sweeper.study_name"),
)
"""Keys that take paths or names, which may hold any character and look like a number."""
ENTRY = re.compile(
    r"""'(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | (?<=[=,\[(]) (\s*) ([^\s,\[\]()'"]+) (?=\s*(?:[,\])]|$))""",
    re.VERBOSE | re.DOTALL,
)
"""What stands in quotes, or without them as second group: alone, in a list, or among the choices of a multirun."""

IN_LIST = re.compile(r"""\s*(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")\s*(?=,|$)|[^,]+""", re.DOTALL)
"""An entry of a list: in quotes, in which commas are no end, or up to the next comma."""


def arrange(arguments: Sequence[str], environment: Mapping[str, str], task: str) -> list[str]:
    """Return the command line as Hydra shall see it.

    In a multirun ``image=glob(scenes/*.tif)`` becomes one run per file. In all processes of a distributed training
    but the first Hydra writes nothing; each process of another task is a run of its own. Paths that Hydra's grammar
    does not know (``ü.tif``, ``scene (1).tif``) or takes for numbers (``2021_06``) are quoted.

    Raises:
        UserError: A pattern matches no file, or a training's process has no number.
    """
    arranged = [_understandable(argument) for argument in arguments]
    if {"-m", "--multirun"} & set(arranged):
        arranged = [_expanded(argument) for argument in arranged]
    if task == "train" and not is_first(environment):
        arranged += [word for word in QUIET if word not in arranged]  # which Lightning gives on to those that it starts
    return arranged


def _understandable(argument: str) -> str:
    """Quote a path, or each of a list of paths, where Hydra would not take the argument as it is; expand ``~/``."""
    found = re.fullmatch(rf"\+{{0,2}}({'|'.join(map(re.escape, PATHS))})=(.+)", argument, re.DOTALL)
    if found is None:
        return argument
    argument = _at_home(argument)
    key, value = argument.split("=", 1)
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        if listed := re.fullmatch(r"\[(.*)\]", value, re.DOTALL):
            return f"{key}=[{','.join(_quoted_entry(path.strip()) for path in IN_LIST.findall(listed[1]))}]"
        return f"{key}={quoted(value)}"
    if re.match(r"(?!choice\()\w+\(", value):  # what Hydra's other functions take are no paths
        return argument
    named = ENTRY.sub(_as_name, argument)
    try:
        OverridesParser.create().parse_override(named)
    except HydraException:  # an escaped comma, or a blank at the end
        return argument
    return named


def _quoted_entry(path: str) -> str:
    return path if re.fullmatch(r"'.*'|\".*\"", path, re.DOTALL) else quoted(path)


def _as_name(entry: re.Match[str]) -> str:
    """Quote what Hydra would take for a number, or for true or false."""
    if entry[2] is None or not isinstance(_parsed(entry[2]), int | float):
        return entry[0]
    return entry[1] + quoted(entry[2])


def _at_home(argument: str) -> str:
    """Expand what shells leave alone: zsh after an equals sign, all of them within a list or quotes."""
    return re.sub(r"(?<=[=\[, '\"(])~(?=/)", lambda _: str(Path.home()), argument)


def _expanded(argument: str) -> str:
    found = re.fullmatch(rf"({'|'.join(FILES)})=glob\((.*)\)", argument)
    if found is None:
        return argument
    pattern = found[2].strip("'\"")
    paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  pathlib globs no absolute patterns
    if not paths:
        raise UserError(f"{argument} matches no file; expected at least one. Check the pattern.")
    return f"{found[1]}=choice({','.join(quoted(path) for path in paths)})"


def quoted(path: str) -> str:
    """Write a path as a value that Hydra takes as it is, whatever stands in it."""
    if re.fullmatch(r"[\w./-]+", path, re.ASCII) and isinstance(_parsed(path), str):
        return path
    # To Hydra a backslash is one, but before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + end[2].replace("'", "\\'"), path) + "'"


def _parsed(value: str) -> Any:
    """Return what Hydra takes a value for; None where it does not know."""
    with suppress(HydraException):
        return OverridesParser.create().parse_override(f"key={value}").value()
    return None


@contextmanager
def as_single_run(output_dir: str) -> Iterator[None]:
    """Let this process's command line be that of the one run that it is at, in the folder that it has by now.

    Lightning starts the other processes of a training with the command line of the first; that of a multirun would
    start the whole of it once more, and ``resume=last`` would be asked anew in each. What Lightning leaves behind in a
    multirun is taken away, or the next run would believe that its other processes are there already.
    """
    config, before = HydraConfig.get(), sys.argv
    multirun = config.mode is RunMode.MULTIRUN
    sys.argv = [before[0], *(config.overrides.task if multirun else before[1:]), f"output_dir={quoted(output_dir)}"]
    try:
        with _one_of_several(config, output_dir) if multirun else nullcontext():
            yield
    finally:
        sys.argv = before


@contextmanager
def _one_of_several(config: Any, output_dir: str) -> Iterator[None]:
    """Let Hydra's folder be that of one run of a multirun, and take away what its other processes were told by."""
    variables = {name: os.environ.get(name) for name in OF_PROCESSES}
    with read_write(cast(DictConfig, config.run)):
        config.run.dir = output_dir
    try:
        yield
    finally:
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        torch = sys.modules.get("torch")
        if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
