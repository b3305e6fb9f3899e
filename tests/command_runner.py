"""Run several calls of one command in this process, one after the other: importing its libraries takes seconds.

    python tests/command_runner.py train < calls.json

Reads a JSON list of argument lists, and writes a JSON list of [exit code, what was said on stderr].
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import runpy
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(task: str, arguments: list[str]) -> tuple[int, str]:
    """Run a command as ``python <task>.py <arguments>`` would, and return its exit code and last words."""
    sys.argv = [str(ROOT / f"{task}.py"), *arguments]
    said = io.StringIO()
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
    return 0, ""


def main() -> None:
    """Run all calls, and answer on the real stdout."""
    task, calls = sys.argv[1], json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    json.dump([run(task, call) for call in calls], answer)
    answer.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
