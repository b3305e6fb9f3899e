"""A folder that is whole or not there: everything is made in a folder inside it and moved when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from src.errors import UserError
from src.file_lock import is_locked, locked

STAGING = ".prepare-partial"
"""Inside the folder, so that moving needs no copying; it stands for as long as the folder is not whole."""
_REPLACED = "replaced"
_LOCK = ".lock"
"""In the staging folder: held by the run that makes it. A run that is killed holds it no longer."""


def is_interrupted(folder: Path) -> bool:
    """Tell whether a run was cut off while it made this folder."""
    return (folder / STAGING).is_dir()


def clear_leftover(folder: Path) -> None:
    """Remove what a run left behind that was cut off after the folder was complete, unless another is at work."""
    if not is_locked(folder / STAGING / _LOCK):
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
        UserError: The folder cannot be made, or another run is making it.
    """
    staging = folder / STAGING
    existed, interrupted = folder.exists(), staging.exists()
    try:
        staging.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder} is no folder, and none can be made there; give another data_dir.") from error
    with ExitStack() as released, locked(staging / _LOCK) as ours:
        if not ours:
            raise UserError(
                f"Another prepare.py is writing to {folder}; expected one at a time. Wait for it, or give another "
                "data_dir."
            )
        released.callback(_leave, folder, existed=existed, interrupted=interrupted, last=last)
        _empty(staging)
        try:
            yield staging
        except BaseException:
            _empty(staging)
            raise
        _publish(staging, folder, last)


def _publish(staging: Path, folder: Path, last: str) -> None:
    """Move everything into place. Cut off at any moment, the staging folder still tells that it is not whole."""
    (folder / last).unlink(missing_ok=True)
    names = sorted(entry.name for entry in staging.iterdir() if entry.name not in (last, _LOCK))
    for name in [*names, last]:
        if (folder / name).exists():
            (folder / name).replace(staging / f"{name}.{_REPLACED}")
        (staging / name).replace(folder / name)
    _empty(staging)


def _leave(folder: Path, *, existed: bool, interrupted: bool, last: str) -> None:
    """Remove the staging folder, and the folder if it was made in vain.

    Where an earlier run was cut off while it moved files, and this one failed, the staging folder has to tell so.
    """
    alone = [entry.name for entry in folder.iterdir()] == [STAGING]
    if (folder / last).is_file() or not interrupted or alone:
        with suppress(OSError):  # another run begins just now
            (folder / STAGING / _LOCK).unlink()
            (folder / STAGING).rmdir()
            if alone and not existed:
                folder.rmdir()


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
