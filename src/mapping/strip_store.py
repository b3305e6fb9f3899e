"""What a mapping run has finished so far, kept so that a run killed at any moment goes on from its last whole strip.

A folder beside the output holds a file of numbers per layer, written in place, a list of the strips that are whole,
and the run's plan. The list is written after the numbers are on the disk.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.atomic import write_text
from src.errors import UserError
from src.mapping.cog import Layer

_PLAN = "plan.json"
_DONE = "strips"


class StripStore:
    """The unfinished layers of one map; see the module's docstring. Several processes may write different strips."""

    def __init__(self, folder: Path, layers: Sequence[Layer], height: int, width: int) -> None:
        """Open or make the files for height × width pixels in ``folder``, which exists."""
        self.folder, self.width = folder, width
        self._layers = {layer.name: layer for layer in layers}
        self._files = {}
        for layer in layers:
            descriptor = os.open(self.raw(layer.name), os.O_RDWR | os.O_CREAT, 0o644)
            os.truncate(descriptor, height * width * layer.pixel_bytes)
            self._files[layer.name] = descriptor

    def raw(self, layer: str) -> Path:
        """Path of a layer's numbers, rows × columns × bands."""
        return self.folder / f"{layer}.raw"

    def write(self, layer: str, row: int, column: int, block: npt.NDArray[Any]) -> None:
        """Write a block, h × w or h × w × bands, with its upper left pixel at (row, column).

        Raises:
            UserError: The disk is full.
        """
        size = self._layers[layer].pixel_bytes
        block = np.ascontiguousarray(block)
        lines = [block] if block.shape[1] == self.width else block
        for number, line in enumerate(lines):
            self._write_at(
                self._files[layer], memoryview(line).cast("B"), ((row + number) * self.width + column) * size
            )

    def _write_at(self, descriptor: int, data: memoryview, offset: int) -> None:
        try:
            while data:
                written = os.pwrite(descriptor, data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written ({os.strerror(error.errno or 0)}); expected room for the map. Free "
                "some space and run the same command again: it goes on from the last whole strip."
            ) from error

    def finish(self, strip: int) -> None:
        """Note that a strip is whole, once its numbers are on the disk."""
        for descriptor in self._files.values():
            os.fsync(descriptor)
        line = os.open(self.folder / _DONE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._write_at_end(line, f"{strip}\n".encode())
        finally:
            os.close(line)

    def _write_at_end(self, descriptor: int, data: bytes) -> None:
        os.write(descriptor, data)  # a few bytes in one call: processes that append do not mix
        os.fsync(descriptor)

    def __enter__(self) -> StripStore:
        """Give itself; leaving closes the files."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; they stay."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}


def finished_strips(folder: Path) -> set[int]:
    """Return the strips that are whole in a store's folder."""
    path = folder / _DONE
    lines = path.read_text(encoding="ascii").splitlines(keepends=True) if path.is_file() else []
    return {int(line) for line in lines if line.endswith("\n") and line.strip().isdigit()}


def read_plan(folder: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the plan of a run that was broken off, None if there is none or it was another run's."""
    try:
        content = json.loads((folder / _PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(content, dict) and content.get("fingerprint") == json.loads(json.dumps(fingerprint))
    return dict(content["plan"]) if same else None


def differing(folder: Path, fingerprint: Mapping[str, Any]) -> list[str]:
    """Name what is not the same as in the run whose store is in a folder; nothing where there is none."""
    try:
        before = json.loads((folder / _PLAN).read_text(encoding="utf-8"))["fingerprint"]
        now = json.loads(json.dumps(fingerprint))
        return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def strips_bytes(folder: Path) -> int:
    """Return how much room on the disk a store takes that another run has left, 0 without one."""
    try:
        return sum(file.stat().st_blocks * 512 for file in folder.iterdir() if file.is_file())
    except OSError:
        return 0


def start_store(folder: Path, fingerprint: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Make an empty store with a plan; another run's strips are removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / _PLAN, json.dumps({"fingerprint": fingerprint, "plan": plan}, indent=1) + "\n")
