"""How far a long job is: a bar on a terminal, elsewhere a line now and then; both with rate and time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

log = logging.getLogger(__name__)

QUIET_SECONDS = 30.0
"""Between two lines where there is no terminal; a job that is done sooner has none."""


@dataclass(frozen=True)
class _Unit:
    """What is counted: its name, how many of what is reported make one, and decimals of amounts and rates."""

    name: str
    size: float = 1.0
    decimals: int = 0

    def amount(self, done: float, total: float) -> str:
        """Say how much of how much: ``310 of 1,024 chips``."""
        return f"{done / self.size:,.{self.decimals}f} of {total / self.size:,.{self.decimals}f} {self.name}"

    def rate(self, per_second: float) -> str:
        """Say how fast: ``93 chips/s``, with more decimals where it is slow."""
        shown = per_second / self.size
        return f"{shown:,.{max(self.decimals, 0 if shown >= 10 else 2)}f} {self.name}/s"


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show the progress of a job on stderr: how much is done, how fast, how long it still takes.

    Args:
        what: Verb and object: ``Scoring``.
        total: How much there is to do.
        unit: Of what: ``chips``.

    Yields:
        A function that takes how much has been done since its last call.
    """
    with _shown(what, total, _Unit(unit)) as advance:
        advance(0)
        yield advance


@contextmanager
def pixel_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress over a scene on stderr, in megapixels.

    Args:
        what: Verb: ``Mapping``.
        total: Pixels of the scene.

    Yields:
        A function that takes how many pixels are done: the first time those that an earlier run did, which say
        nothing about the speed, then those since its last call.
    """
    with _shown(what, total, _Unit("Mpx", 1e6, 1)) as advance:
        yield advance


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


@dataclass
class _Pace:
    """How much of a job is done, and how fast it went since the first report, which tells what was done before."""

    total: int
    done: int = 0
    _before: int | None = None
    _began: float = 0.0
    _latest: float = 0.0

    def advance(self, amount: int) -> float:
        """Take what has been done; return the time."""
        self._latest = time.monotonic()
        self.done += amount
        if self._before is None:
            self._before, self._began = self.done, self._latest
        return self._latest

    @property
    def rate(self) -> float | None:
        """What is done in a second; None as long as nothing tells."""
        if self._before is None or self.done == self._before or self._latest == self._began:
            return None
        return (self.done - self._before) / (self._latest - self._began)

    @property
    def left(self) -> float | None:
        """Return the seconds that remained at the latest report; None as long as nothing tells."""
        return None if self.rate is None else (self.total - self.done) / self.rate

    @property
    def left_now(self) -> float | None:
        """Return the seconds that remain by now: reports may be far apart."""
        return None if self.left is None else max(0.0, self.left - (time.monotonic() - self._latest))


@contextmanager
def _shown(what: str, total: int, unit: _Unit) -> Iterator[Callable[[int], None]]:
    """Yield a function that is first told what was done before, and then what has been done since its last call."""
    console, pace = Console(stderr=True), _Pace(total)
    if not console.is_terminal:
        yield _Lines(what, pace, unit).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _PaceColumn(pace, unit))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)

        def advance(amount: int) -> None:
            pace.advance(amount)
            bar.update(task, completed=pace.done)

        yield advance


class _PaceColumn(ProgressColumn):
    """How much is done, of how much, how fast, and how long it still takes.

    rich's own rate is that of the latest reports: of chips that are ready together it makes thousands in a second.
    """

    def __init__(self, pace: _Pace, unit: _Unit) -> None:
        super().__init__()
        self._pace, self._unit = pace, unit

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        rate, left = self._pace.rate, self._pace.left_now
        done = self._unit.amount(task.completed, task.total or 0)
        if rate is None or left is None:
            return Text(done)
        return Text(f"{done}, {self._unit.rate(rate)}, {_clock(round(left))} left")


@dataclass
class _Lines:
    """A line now and then, where there is no terminal."""

    what: str
    pace: _Pace
    unit: _Unit
    _spoke: float | None = None

    def advance(self, amount: int) -> None:
        """Take what has been done; say so if the last line is long ago."""
        now = self.pace.advance(amount)
        if self._spoke is None:
            self._spoke = now
        rate, left = self.pace.rate, self.pace.left
        if now - self._spoke >= QUIET_SECONDS and rate is not None and left is not None:
            self._spoke = now
            amounts = self.unit.amount(self.pace.done, self.pace.total)
            log.info("%s: %s, %s, %s left", self.what, amounts, self.unit.rate(rate), _clock(round(left)))


def _clock(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
