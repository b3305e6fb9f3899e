"""Run many commands, and import their libraries once: that takes longer than a small run.

    python tests/command_runner.py < calls.json

Reads a JSON list of [command, its arguments], and writes a JSON list of [exit code, what was said on stderr]. Calls of
one command that follow each other share a process, which is forked; two commands never do, since what one of them
tells Hydra would hold for the other.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import logging
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

Answers = list[tuple[int, str]]


def run(task: str, arguments: list[str]) -> tuple[int, str]:
    """Run a command as ``python <task>.py <arguments>`` would, and return its exit code and last words."""
    sys.argv = [str(ROOT / f"{task}.py"), *arguments]
    said, before = io.StringIO(), set(_weights())
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return (0, "") if end.code in (None, 0) else (1, f"{end.code} {said.getvalue()}")
    except BaseException:  # noqa: BLE001  whatever a command dies of is its answer
        return 1, traceback.format_exc()
    finally:
        for handler in list(logging.getLogger().handlers):
            handler.close()
            logging.getLogger().removeHandler(handler)
        # Two hundred runs that nothing names are 5 GB of weights.
        for weights in set(_weights()) - before:
            weights.unlink()
    return 0, ""


def _weights() -> Iterator[Path]:
    return Path("logs/train").glob("20*/**/*.ckpt")


def run_forked(task: str, calls: list[list[str]]) -> Answers:
    """Run calls of one command in a process of their own."""
    importlib.import_module(f"src.tasks.{task}")  # here, so that the next process has its libraries too
    with tempfile.TemporaryFile("w+") as answers:
        child = os.fork()
        if child == 0:
            json.dump([run(task, call) for call in calls], answers)
            answers.flush()
            os._exit(0)  # what the parent has to say at its end is not the child's to say
        _, status = os.waitpid(child, 0)
        if status:
            return [(1, f"the process ended with {os.waitstatus_to_exitcode(status)}")] * len(calls)
        answers.seek(0)
        found: Answers = json.load(answers)
        return found


def main() -> None:
    """Run all calls, and answer on the real stdout."""
    calls: list[Any] = json.load(sys.stdin)
    groups = itertools.groupby(calls, key=lambda call: call[0])
    found = [run_forked(task, [arguments for _, arguments in group]) for task, group in groups]
    json.dump(list(itertools.chain(*found)), sys.stdout)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
