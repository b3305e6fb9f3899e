"""What a map was made of, written beside it: for whoever uses it, and for a run that would make it once more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.atomic import write_text


def record_path(output: Path) -> Path:
    """Name a map's record: ``map.tif`` → ``map.json``."""
    return output.with_suffix(".json")


@dataclass(frozen=True)
class Finished:
    """A map that is there: its files, the class map first, and the plan that it was made by."""

    files: tuple[Path, ...]
    plan: dict[str, Any]


@dataclass(frozen=True)
class MapRecord:
    """The record of one map.

    Attributes:
        path: Where it lies, beside the map.
        made_of: All that the map's files depend on; plain things.
    """

    path: Path
    made_of: Mapping[str, Any]

    def finished(self) -> Finished | None:
        """Return the map if it is there, whole and made of the same; else None."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["made_of"] != json.loads(json.dumps(self.made_of)):
                return None
            files = tuple(self.path.with_name(name) for name in content["files"])
            if any(file.stat().st_size != size for file, size in zip(files, content["files"].values(), strict=True)):
                return None
            return Finished(files, dict(content["plan"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def files(self) -> tuple[Path, ...]:
        """Return the files of whatever map the record is of, whether they are there or not."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            ours = [name for name in dict(content["files"]) if "made_of" in content and name.startswith(self.path.stem)]
            return tuple(self.path.with_name(name) for name in ours)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # there is none, or it is somebody else's
            return ()

    def remove(self) -> None:
        """Take the record away before the map is replaced."""
        self.path.unlink(missing_ok=True)

    def write(self, files: Sequence[Path], plan: Mapping[str, Any]) -> None:
        """Write the record once all files are in their places."""
        sizes = {file.name: file.stat().st_size for file in files}
        content = {"files": sizes, "made_of": self.made_of, "plan": plan}
        write_text(self.path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
