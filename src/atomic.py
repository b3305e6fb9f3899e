"""Files that are whole or not there."""

from __future__ import annotations

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
def whole_file(path: str | Path, suffix: str | None = None) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; it becomes ``path`` when the block ends well, else it disappears.

    The temporary name keeps the suffix, which some writers choose their format by, unless told another. A process that
    is killed leaves it behind. Missing folders are made. Errors of the system name ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix if suffix is None else suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)):  # a full disk does not say which file it was
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as UTF-8 with Unix line ends, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
