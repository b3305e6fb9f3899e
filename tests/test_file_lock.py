"""A file that one process at a time holds, also where its holder removes it with its folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import file_lock
from src.errors import UserError
from src.file_lock import RUN, check_no_run, locked, only_run

ROOT = Path(__file__).parents[1]

WORKER = """
import os, sys
from contextlib import suppress
from pathlib import Path
from src.file_lock import locked

folder, held = Path(sys.argv[1]), 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(400):
    with locked(folder / "staging" / ".lock") as ours:
        if ours:
            held += 1
            os.close(os.open(folder / "owner", os.O_CREAT | os.O_EXCL))  # fails if another believes that it holds it
            os.unlink(folder / "owner")
            (folder / "staging" / ".lock").unlink()
            with suppress(OSError):  # another has made its lock there already
                (folder / "staging").rmdir()
print(held)
"""


def test_no_two_processes_hold_a_file_although_its_holders_remove_it(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        assert int(out) > 0
    with locked(tmp_path / "staging" / ".lock") as ours:
        assert ours


def test_a_held_file_is_not_held_twice(tmp_path: Path) -> None:
    with locked(tmp_path / "new" / ".lock") as first, locked(tmp_path / "new" / ".lock") as second:
        assert (first, second) == (True, False)
    with locked(tmp_path / "new" / ".lock") as again:
        assert again


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems say that there is no such folder where one may not be made (/proc): that was tried for ever."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FileNotFoundError), locked(tmp_path / "new" / ".lock"):
        pass


HOLDER = """
import os, sys
from pathlib import Path
from src.file_lock import only_run

with only_run(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.readline()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Let another process hold a run's folder until it is told to end, or killed."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    return holder


def test_a_second_run_in_a_folder_is_told_who_is_there_and_a_killed_one_is_there_no_longer(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    holder = hold(folder)
    with pytest.raises(UserError, match=rf"mine is being written by another run \(process {holder.pid} on .*, since 2"):
        check_no_run(folder)
    with (
        pytest.raises(UserError, match=r"expected one at a time\. Wait for it, or give another folder"),
        only_run(folder),
    ):
        pass
    holder.kill()
    holder.communicate()
    assert (folder / RUN).exists()
    check_no_run(folder)
    with only_run(folder):
        (folder / "scores.csv").touch()
    assert [path.name for path in folder.iterdir()] == ["scores.csv"]


def test_a_run_that_writes_nothing_leaves_no_folder(tmp_path: Path) -> None:
    check_no_run(tmp_path / "runs" / "mine")
    with only_run(tmp_path / "runs" / "mine"):
        assert (tmp_path / "runs" / "mine").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file; expected a folder to write to"), only_run(tmp_path / "file"):
        pass


def test_a_file_system_without_locks_lets_runs_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(file_lock, "_lock", unsupported)
    with caplog.at_level("INFO"), only_run(tmp_path), only_run(tmp_path):
        pass
    assert "cannot be locked (No locks available)" in caplog.text
