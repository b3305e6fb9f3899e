"""A file that one process at a time holds; the operating system takes it back from a process that is killed."""

from __future__ import annotations

import errno
import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""What locking says when somebody else holds the file, on POSIX and on Windows."""


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a file, which is made if it is not there.

    Where the file system knows no locks, that is said, and every process is told that it holds the file.

    Yields:
        Whether it is ours; False if another process holds it.
    """
    with path.open("a+b") as file:
        yield _take(file)


def is_locked(path: Path) -> bool:
    """Tell whether a process holds a file; False where there is none."""
    if not path.is_file():
        return False
    with locked(path) as ours:
        return not ours


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
