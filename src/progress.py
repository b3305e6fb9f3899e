"""How far a long job is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

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


class PixelsColumn(ProgressColumn):
    """Megapixels that are done, of how many, and how many in a second."""

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        rate = f"{task.speed / 1e6:.2f} Mpx/s" if task.speed else ""
        return Text(f"{task.completed / 1e6:.1f} of {(task.total or 0) / 1e6:.1f} Mpx  {rate}")


@contextmanager
def pixel_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress over a scene on stderr: megapixels, megapixels per second, time left.

    Args:
        what: Verb: ``Mapping``.
        total: Pixels of the scene.

    Yields:
        A function that takes how many pixels are done: the first time those that an earlier run did, which say
        nothing about the speed, then those since its last call.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _pixel_lines(what, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), PixelsColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, start=False)
        begun = False

        def advance(pixels: int) -> None:
            nonlocal begun
            if begun:
                bar.advance(task, pixels)
            else:
                begun = True
                bar.reset(task, completed=pixels)

        yield advance


def _pixel_lines(what: str, total: int) -> Callable[[int], None]:
    began = spoke = time.monotonic()
    before: int | None = None
    done = 0

    def advance(pixels: int) -> None:
        nonlocal began, before, done, spoke
        done += pixels
        now = time.monotonic()
        if before is None:
            before, began, spoke = done, now, now
        elif now - spoke >= QUIET_SECONDS:
            spoke = now
            rate = (done - before) / (now - began)
            left = round((total - done) / rate)
            clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
            log.info("%s: %.1f of %.1f Mpx, %.2f Mpx/s, %s left", what, done / 1e6, total / 1e6, rate / 1e6, clock)

    return advance


@contextmanager
def waiting(what: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal that something is under way whose progress nobody tells, and for how long.

    Args:
        what: Verb and object: ``Writing map.tif``.

    Yields:
        A function that takes anything and does nothing.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), SpinnerColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(what, total=None)
        yield lambda _: None


def stage(what: str, pixels: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """Show one of several parts of a long job: with its pixels, or only that it is under way."""
    return waiting(what) if pixels is None else pixel_progress(what, pixels)
