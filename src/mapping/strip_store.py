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
from src.positioned import PositionedFile

_PLAN = "plan.json"
_DONE = "strips"
_WHOLE = "whole"
"""What ends a strip's line there: one that a failing machine has cut off, 1 of 12, would name another strip."""


class StripStore:
    """The unfinished layers of one map; see the module's docstring. Several processes may write different strips."""

    def __init__(self, folder: Path, layers: Sequence[Layer], height: int, width: int) -> None:
        """Open or make the files for height × width pixels in ``folder``, which exists."""
        self.folder, self.width = folder, width
        self._layers = {layer.name: layer for layer in layers}
        self._files = {}
        for layer in layers:
            path = self.raw(layer.name)
            path.touch()
            file = self._files[layer.name] = PositionedFile(path.open("r+b", buffering=0))
            file.resize(height * width * layer.pixel_bytes)

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
            self._write_at(layer, ((row + number) * self.width + column) * size, memoryview(line))

    def _write_at(self, layer: str, offset: int, content: memoryview) -> None:
        try:
            self._files[layer].write_at(offset, content)
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written ({os.strerror(error.errno or 0)}); expected room for the map. Free "
                "some space and run the same command again: it goes on from the last whole strip."
            ) from error

    def finish(self, strip: int) -> None:
        """Note that a strip is whole, once its numbers are on the disk."""
        for file in self._files.values():
            file.to_disk()
        with (self.folder / _DONE).open("ab", buffering=0) as done:
            # A few bytes in one call: processes that append do not mix. A line of its own, whatever was cut off before.
            done.write(f"\n{strip} {_WHOLE}\n".encode())
            os.fsync(done.fileno())

    def __enter__(self) -> StripStore:
        """Give itself; leaving closes the files."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; they stay."""
        for file in self._files.values():
            file.close()
        self._files = {}


def finished_strips(folder: Path) -> set[int]:
    """Return the strips that are whole in a store's folder."""
    path = folder / _DONE
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.is_file() else []
    return {int(words[0]) for words in map(str.split, lines) if words[1:] == [_WHOLE] and words[0].isdecimal()}


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
        files = [file.stat() for file in folder.iterdir() if file.is_file()]
        return sum(file.st_blocks * 512 if hasattr(file, "st_blocks") else file.st_size for file in files)
    except OSError:
        return 0


def start_store(folder: Path, fingerprint: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Make an empty store with a plan; another run's strips are removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / _PLAN, json.dumps({"fingerprint": fingerprint, "plan": plan}, indent=1) + "\n")
