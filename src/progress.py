"""How far a long job is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

QUIET_SECONDS = 30.0
"""Between two lines where there is no terminal; a job that is done sooner has none."""


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show the progress of a job on stderr.

    Args:
        what: Verb and object: ``Scoring``.
        total: How much there is to do.
        unit: Of what: ``chips``.

    Yields:
        A function that takes how much has been done since its last call.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_now_and_then(what, total, unit)
        return
    text, units = TextColumn("{task.description}"), TextColumn(unit)
    columns = (text, BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), units, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)


def _line_now_and_then(what: str, total: int, unit: str) -> Callable[[int], None]:
    done, spoke = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, spoke
        done += amount
        if time.monotonic() - spoke >= QUIET_SECONDS:
            spoke = time.monotonic()
            log.info("%s: %d of %d %s", what, done, total, unit)

    return advance
