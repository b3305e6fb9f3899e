"""TensorBoard's port: free, and the first from 6006 that is."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import open_tensorboard as module


def test_a_port_in_use_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert module.free_port(range(port, port + 50)) > port
        with pytest.raises(OSError, match="all taken"):
            module.free_port(range(port, port + 1))


def test_it_listens_to_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(module.subprocess, "run", run)
    with pytest.raises(SystemExit):
        module.main([str(tmp_path)])
    (command,) = started
    assert command[command.index("--host") + 1] == "localhost"
    assert "--bind_all" not in command


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no folder .*runs"):
        module.main([str(tmp_path / "runs")])
