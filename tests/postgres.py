"""A PostgreSQL of our own: on loopback, in a temporary folder, ended with the block."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
"""Where Debian keeps its versions; the newest is the last."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(command: Sequence[str | Path]) -> None:
    """Run a program of PostgreSQL's, which root may not: then as the user that Debian made for it."""
    user = "postgres" if os.geteuid() == 0 else None
    result = subprocess.run(
        [str(word) for word in command], user=user, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@contextmanager
def postgres() -> Iterator[str]:
    """Start it with one empty database; gives SQLAlchemy's address of that."""
    programs, port = PROGRAMS[-1], free_port()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        call([programs / "initdb", "-D", folder / "data", "-U", "postgres", "--auth=trust", "--no-sync"])
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        control = [programs / "pg_ctl", "-D", folder / "data", "-w"]
        call([*control, "-l", folder / "log", "-o", options, "start"])
        try:
            call([programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "studies"])
            yield f"postgresql://postgres@127.0.0.1:{port}/studies"
        finally:
            call([*control, "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
