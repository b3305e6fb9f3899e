"""A file that one process at a time holds; the operating system takes it back from a process that is killed."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""What locking says when somebody else holds the file, on POSIX and on Windows."""

_TRIES = 100
"""After so many a folder that cannot be made is not one that others remove all the time."""


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
        system.locking(file.fileno(), system.LK_NBLCK, 1)
    else:
        system.flock(file, system.LOCK_EX | system.LOCK_NB)
