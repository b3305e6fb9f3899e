"""A folder that is whole or not there: everything is made in a folder inside it and moved when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError

STAGING = ".prepare-partial"
"""Inside the folder, so that moving needs no copying; it stands for as long as the folder is not whole."""
_REPLACED = "replaced"


def is_interrupted(folder: Path) -> bool:
    """Tell whether a run was cut off while it made this folder."""
    return (folder / STAGING).is_dir()


def clear_leftover(folder: Path) -> None:
    """Remove what a run left behind that was cut off after the folder was complete."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)


@contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """Make a folder's contents; they appear when the block ends well, and nothing does when it does not.

    A process that is killed leaves the staging folder behind; the next one starts anew, with the same result.

    Args:
        folder: Made if it does not exist. What it has of the same names is replaced, other things stay.
        last: The file whose presence says that the folder is whole: it goes first and comes last.

    Yields:
        An empty folder to write to.

    Raises:
        UserError: The folder cannot be made.
    """
    staging = folder / STAGING
    existed, interrupted = folder.exists(), staging.exists()
    try:
        staging.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder} is no folder, and none can be made there; give another data_dir.") from error
    _empty(staging)
    try:
        yield staging
    except BaseException:
        _empty(staging)
        if not interrupted or [entry.name for entry in folder.iterdir()] == [STAGING]:
            staging.rmdir()
            if not existed:
                folder.rmdir()
        raise
    _publish(staging, folder, last)


def _publish(staging: Path, folder: Path, last: str) -> None:
    """Move everything into place. Cut off at any moment, the staging folder still tells that it is not whole."""
    (folder / last).unlink(missing_ok=True)
    names = sorted(entry.name for entry in staging.iterdir() if entry.name != last)
    for name in [*names, last]:
        if (folder / name).exists():
            (folder / name).replace(staging / f"{name}.{_REPLACED}")
        (staging / name).replace(folder / name)
    shutil.rmtree(staging)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
