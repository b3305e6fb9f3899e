"""Kills a command at random moments, starts it again, and looks at what stands in its folder in between.

A moment is a share of the time that an undisturbed run takes, or one of the changes that it makes to its folder: most
of the time passes in computing, but faults live where files are made and moved.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyogrio
import rasterio
import torch
import yaml
from PIL import Image

from tests.commands import Result, Running

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TRAIN = ("data_dir=d", "model=justo_unet_simple", "accelerator=cpu", "batch_size=4", "logger.tensorboard=null")
"""A training of a second."""
PAUSE = 0.002
"""Seconds between two looks at the folder."""
GRACE = 180
"""Seconds that a command may take to end when it is told to."""


@dataclass(frozen=True)
class Job:
    """A command, the same at every start.

    Attributes:
        task: Which one.
        arguments: Its arguments.
        compare: Fails where the folder of an undisturbed run (first) and that of a broken one differ.
        most: Kills that one piece of work has to get over.
    """

    task: str
    arguments: tuple[str, ...]
    compare: Callable[[Path, Path], None]
    most: int = 5


@dataclass(frozen=True)
class Course:
    """How an undisturbed run went: its seconds, and how often it changed its folder."""

    seconds: float
    changes: int


@dataclass(frozen=True)
class Moment:
    """When a kill comes: after some seconds, or after some changes of the folder, whichever is given."""

    number: signal.Signals
    seconds: float | None = None
    changes: int | None = None

    @classmethod
    def draw(cls, draw: random.Random, course: Course) -> Moment:
        """Draw one out of the course of a run."""
        number = draw.choice(SIGNALS)
        if draw.random() < 0.5:
            return cls(number, seconds=draw.uniform(0, course.seconds))
        return cls(number, changes=draw.randint(1, course.changes))

    def __str__(self) -> str:
        when = f"after {self.seconds:.2f} s" if self.seconds is not None else f"at change {self.changes}"
        return f"{self.number.name} {when}"


def undisturbed(job: Job, folder: Path) -> Course:
    """Run a command to its end; fails unless it succeeds."""
    began = time.monotonic()
    running = Running(job.task, *job.arguments, cwd=folder)
    watched = _Watched(folder)
    while running.process.is_alive():
        watched.look()
        time.sleep(PAUSE)
    succeeded(running.wait())
    return Course(time.monotonic() - began, max(1, watched.changes))


def kill(job: Job, folder: Path, moment: Moment) -> bool:
    """Start a command and kill it; returns whether it was still running then."""
    began = time.monotonic()
    running = Running(job.task, *job.arguments, cwd=folder)
    watched = _Watched(folder)
    while running.process.is_alive():
        watched.look()
        if moment.changes is not None and watched.changes >= moment.changes:
            break
        if moment.seconds is not None and time.monotonic() - began >= moment.seconds:
            break
        time.sleep(PAUSE)
    killed = running.process.is_alive()
    if killed:
        running.signal(moment.number)
    result = running.wait(GRACE)
    if not killed:
        succeeded(result)
    assert moment.number is signal.SIGKILL or result.code != -signal.SIGKILL, f"did not end at {moment}"
    running.signal(signal.SIGKILL)  # whoever of its group is left
    return killed


def succeeded(result: Result) -> None:
    """Fail unless a command has succeeded."""
    assert result.code == 0, result.out + result.err


def survives(job: Job, good: Path, folder: Path, kills: int, seed: int) -> list[str]:
    """Kill a job's command again and again; what it makes in the end is what it makes undisturbed.

    Args:
        job: The command.
        good: A folder with what it needs.
        folder: Where to work.
        kills: How many.
        seed: Of the moments.

    Returns:
        The kills, in words.
    """
    draw = random.Random(seed)
    whole = folder / "whole"
    shutil.copytree(good, whole)
    course = undisturbed(job, whole)
    check_whole(whole)
    told: list[str] = []
    for life in range(4 * kills):
        if len(told) >= kills:
            break
        broken = folder / f"broken-{life}"
        shutil.copytree(good, broken)
        for _ in range(min(job.most, kills - len(told))):
            moment = Moment.draw(draw, course)
            killed = kill(job, broken, moment)
            check_whole(broken)
            if not killed:
                break
            told.append(str(moment))
            print(f"  {job.task}: {moment}", flush=True)
        succeeded(Running(job.task, *job.arguments, cwd=broken).wait())
        check_whole(broken)
        job.compare(whole, broken)
        shutil.rmtree(broken)
    assert len(told) >= kills, "the command was nearly always done before the moment came"
    return told


class _Watched:
    """Counts how often the names in a folder change."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.changes = folder, 0
        self._names = self._list()

    def look(self) -> None:
        names = self._list()
        self.changes += names != self._names
        self._names = names

    def _list(self) -> set[str]:
        try:
            return {str(path) for path in self.folder.rglob("*")}
        except FileNotFoundError:  # one that was there a moment ago
            return self._names if hasattr(self, "_names") else set()


def check_whole(folder: Path) -> None:
    """Open every file that stands under a final name (neither it nor its folder is hidden) to its last byte."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and (check := _CHECKS.get(path.suffix)):
            try:
                check(path)
            except Exception as error:
                raise AssertionError(f"{path} is not whole: {error}") from error


def _raster(path: Path) -> None:
    with rasterio.open(path) as dataset:
        dataset.read()


def _table(path: Path) -> None:
    text = path.read_bytes().decode("utf-8")
    rows = list(csv.reader(text.splitlines()))
    assert text.endswith("\n")
    assert len({len(row) for row in rows}) == 1


def _database(path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        connection.close()


def _page(path: Path) -> None:
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


def _picture(path: Path) -> None:
    with Image.open(path) as picture:
        assert np.asarray(picture).size


_CHECKS: dict[str, Callable[[Path], object]] = {
    ".tif": _raster,
    ".csv": _table,
    ".db": _database,
    ".html": _page,
    ".png": _picture,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".yaml": lambda path: yaml.safe_load(path.read_text(encoding="utf-8")),
    ".ckpt": lambda path: torch.load(path, weights_only=True),
    ".gpkg": pyogrio.raw.read,
    ".qml": ElementTree.parse,
    ".qlr": ElementTree.parse,
    ".xml": ElementTree.parse,
}
