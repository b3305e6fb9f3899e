"""A network together with the hash of the very file that it was read from, which another may replace at any time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from src.errors import UserError
from src.models.checkpoint import load_network
from src.models.network import Network
from src.spec import NetworkSpec

Loaded = TypeVar("Loaded")

TRIES = 5
"""How often a file is read that is replaced meanwhile; a training writes its last checkpoint once per epoch."""


def file_hash(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashed(path: Path, load: Callable[[Path], Loaded]) -> tuple[Loaded, str]:
    """Load a file, and return the SHA-256 of what was loaded.

    Args:
        path: A checkpoint's file.
        load: What reads it.

    Raises:
        UserError: It cannot be loaded, or is replaced each time that it is read.
    """
    for _ in range(TRIES):
        with path.open("rb") as file:  # as long as it is open, no other file gets its number
            before = _state(os.fstat(file.fileno()))
            loaded = load(path)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if _state(path.stat()) == before:
                return loaded, digest
    raise UserError(
        f"{path} was replaced each of the {TRIES} times that it was read; expected a file that stays as it is. Copy "
        "it, and give the copy."
    )


def load_same(path: Path, expected: str) -> tuple[Network, NetworkSpec]:
    """Load a network from a file that must be the one which was loaded before.

    Args:
        path: A checkpoint's file.
        expected: Its SHA-256 then.

    Raises:
        UserError: It cannot be loaded, or is another one now.
    """
    (network, spec), found = hashed(path, load_network)
    if found != expected:
        raise UserError(
            f"{path} was replaced after it was loaded, as by a training that goes on; expected one network for all "
            "strips of a map. Copy the checkpoint, and give the copy."
        )
    return network, spec


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
