"""The four commands, each run in a process of its own that has the libraries imported already."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT = 120
"""Seconds after which a command counts as hanging."""
_numbers = itertools.count()
PRELOADED = ["lightning", "hydra", "src.tasks.prepare", "src.tasks.train", "src.tasks.eval", "src.tasks.predict"]


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on stderr."""
        return [line for line in self.err.splitlines() if line.strip()]

    @property
    def error(self) -> str:
        """The line on stderr; fails where there is another number of lines, or no failure."""
        assert self.code not in (0, None), self.out + self.err
        assert "Traceback" not in self.err, self.err
        assert len(self.lines) == 1, self.err
        return self.lines[0]


class Running:
    """A command that has been started in a folder, where its logs go, too.

    It leads a process group of its own, so that a signal reaches it as Ctrl-C does: with every process that it has
    started.
    """

    def __init__(self, task: str, *arguments: str, cwd: Path, environment: dict[str, str] | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._streams = [cwd / f".{name}-{next(_numbers)}" for name in ("stdout", "stderr")]
        streams = [str(path) for path in self._streams]
        arguments = (*arguments, f"paths.logs='{cwd / 'logs'}'")
        self.process = context.Process(target=_child, args=(task, arguments, str(cwd), streams, environment or {}))
        self.process.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group, if it still is."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def wait(self, seconds: float = TIMEOUT) -> Result:
        """Wait for its end; after some seconds it counts as hanging and is killed."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.signal(signal.SIGKILL)
            self.process.join()
        streams = (re.sub(r"\x1b\[[0-9;?]*\w", "", p.read_text()) if p.exists() else "" for p in self._streams)
        result = Result(self.process.exitcode or 0, *streams)
        for path in self._streams:
            path.unlink(missing_ok=True)
        return result


def run(task: str, *arguments: str, cwd: Path, environment: dict[str, str] | None = None) -> Result:
    """Run ``python <task>.py`` in a folder, where its logs go, too."""
    return Running(task, *arguments, cwd=cwd, environment=environment).wait()


def _child(task: str, arguments: Sequence[str], cwd: str, streams: Sequence[str], environment: dict[str, str]) -> None:
    """Become the command."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts with & ignore Ctrl-C
    os.chdir(cwd)
    os.environ.update(environment)
    for stream, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    script = ROOT / f"{task}.py"
    sys.argv = [str(script), *arguments]
    code = 0
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
        code = 1 if isinstance(exit_.code, str) else exit_.code or 0
    except Exception:  # noqa: BLE001  what a command lets through is what its user would see
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time, to see whether a command has left or changed one."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in found}
