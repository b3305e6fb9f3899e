"""Files that are whole or not there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError


def check_output_folder(folder: str | Path) -> None:
    """See before the work starts that files can be written to a folder, which need not be there yet.

    Raises:
        UserError: It is a file or lies below one, or writing is not allowed.
    """
    nearest = Path(folder).absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"{nearest} is a file; expected a folder to write to. Give another output folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest} cannot be written to; expected a folder of yours. Give another output folder.")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; it becomes ``path`` when the block ends well, else it disappears.

    The temporary name keeps the suffix, which some writers choose their format by. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as UTF-8 with Unix line ends, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def claimed(path: str | Path) -> Iterator[None]:
    """Keep other processes from making the same file or folder while the block runs.

    The system holds the claim, in a file beside: it ends with the process, however that ends.

    Raises:
        UserError: Another process makes it right now.
    """
    path = Path(path)
    file = path.with_name(f".{path.name}.lock")
    descriptor = _lock(file)
    if descriptor is None:
        raise UserError(f"{path} is being made by another run; expected one at a time. Wait for it, or name another.")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(file: Path) -> int | None:
    """Open and lock a file; None where another process has locked it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks: nobody is kept out, and nobody is stopped
            return descriptor
        if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
            return descriptor
        os.close(descriptor)  # who had locked it has removed it meanwhile
