"""A folder that is whole or not there: everything is made in a folder inside it and moved when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from src.errors import UserError
from src.file_lock import locked

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
    if is_interrupted(folder):
        with locked(folder / STAGING / _LOCK) as ours:
            if ours:
                shutil.rmtree(folder / STAGING, ignore_errors=True)


@contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """Hold a folder, and make its contents aside; :func:`publish` lets them appear, without it they are thrown away.

    A process that is killed leaves the staging folder behind; the next one starts anew, with the same result.

    Args:
        folder: Made if it does not exist.
        last: The file whose presence says that the folder is whole.

    Yields:
        An empty folder to write to.

    Raises:
        UserError: The folder cannot be made, or another run is making it.
    """
    staging, existed = folder / STAGING, folder.exists()
    with ExitStack() as released:
        try:
            ours = released.enter_context(locked(staging / _LOCK))
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{folder} is no folder, and none can be made there; give another data_dir.") from error
        if not ours:
            raise UserError(
                f"Another prepare.py is writing to {folder}; expected one at a time. Wait for it, or give another "
                "data_dir."
            )
        released.callback(_leave, folder, existed=existed, last=last)
        _empty(staging)
        try:
            yield staging
        finally:
            _empty(staging)


def publish(staging: Path, last: str) -> None:
    """Move a staging folder's contents into place.

    What the folder has of the same names is replaced, other things stay. Cut off at any moment, the staging folder
    still tells that it is not whole.

    Args:
        staging: What :func:`staged` yielded.
        last: The file that goes first and comes last.
    """
    folder = staging.parent
    (folder / last).unlink(missing_ok=True)
    names = sorted(entry.name for entry in staging.iterdir() if entry.name not in (last, _LOCK))
    for name in [*names, last]:
        if (folder / name).exists():
            (folder / name).replace(staging / f"{name}.{_REPLACED}")
        (staging / name).replace(folder / name)


def _leave(folder: Path, *, existed: bool, last: str) -> None:
    """Remove the staging folder, and the folder if it was made in vain.

    Where this run or an earlier one was cut off while it moved files, the staging folder has to tell so.
    """
    alone = [entry.name for entry in folder.iterdir()] == [STAGING]
    if (folder / last).is_file() or alone:
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
