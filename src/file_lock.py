"""A file that one process at a time holds; the operating system takes it back from a process that is killed."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from src.atomic import check_output_folder
from src.errors import UserError

log = logging.getLogger(__name__)

_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""What locking says when somebody else holds the file, on POSIX and on Windows."""

_TRIES = 100
"""After so many a folder that cannot be made is not one that others remove all the time."""

_BEHIND = 1 << 20
"""The byte that is locked on Windows: behind what is written there, which others may read."""

RUN = ".run.lock"
"""The file in a run's folder that the run holds, and what it says of itself there."""


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is made if it is not there, and removed if nothing has come into it.

    Raises:
        UserError: Another run holds it, or nothing can be written there.
    """
    check_output_folder(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / RUN
    with locked(path) as ours:
        if not ours:
            raise UserError(
                f"{folder} is being written by another run{_holder(path)}; expected one at a time. Wait for it, or "
                "give another folder: output_dir=…"
            )
        try:
            with suppress(OSError):  # on a full disk others do without
                since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
                path.write_text(f"process {os.getpid()} on {platform.node()}, since {since}")
            yield
        finally:
            with suppress(OSError):  # Windows keeps a file that is open, and a folder stays that has something in it
                path.unlink(missing_ok=True)
                for place in made:
                    place.rmdir()


def check_no_run(folder: Path) -> None:
    """Raise UserError if a run holds a folder, in which nothing is changed."""
    if (folder / RUN).exists():
        with only_run(folder):
            pass


def _holder(path: Path) -> str:
    """Say in brackets what the holder of a file has written there."""
    try:
        said = path.read_text(errors="replace")
    except OSError:
        return ""
    return f" ({said})" if said else ""


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a file, which is made if it is not there, with its folder. Who holds it may remove it.

    Where the file system knows no locks, that is said, and every process is told that it holds the file.

    Yields:
        Whether it is ours; False if another process holds it.
    """
    with ExitStack() as opened:
        while True:
            file = opened.enter_context(_made(path))
            ours = _take(file)
            if not ours or _is_at(file, path):
                break
            opened.close()  # who held it before has removed it just now, and a third may hold a new one
        yield ours


def _made(path: Path) -> IO[bytes]:
    """Open a file for locking, whose folder another process may be removing just now."""
    for attempt in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("a+b")
        except (FileNotFoundError, FileExistsError):
            if attempt == _TRIES - 1 or _is_no_folder(path.parent):
                raise
    raise AssertionError


def _is_no_folder(path: Path) -> bool:
    """Tell whether something else is there; asked once, as it may be removed between two questions."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Tell whether an open file is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _take(file: IO[bytes]) -> bool:
    try:
        _lock(file)
    except OSError as error:
        if error.errno in _HELD:
            return False
        log.info("%s cannot be locked (%s): let no second run write there.", file.name, error.strerror)
    return True


def _lock(file: IO[bytes]) -> None:
    """Lock until the file is closed, or raise OSError at once."""
    try:
        system: Any = importlib.import_module("fcntl")
    except ModuleNotFoundError:  # Windows
        system = importlib.import_module("msvcrt")
        file.seek(_BEHIND)
        system.locking(file.fileno(), system.LK_NBLCK, 1)
    else:
        system.flock(file, system.LOCK_EX | system.LOCK_NB)
