"""Which files are meant where a command takes scenes or labels: a path, a glob, a folder, or a list of these."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from src.errors import UserError

GEOTIFFS = {".tif", ".tiff"}
"""Suffixes of the files that a folder stands for."""


def find_files(given: str | Sequence[str], key: str) -> list[str]:
    """Return the files that are meant, those of a glob or a folder in alphabetical order.

    A folder stands for the GeoTIFFs in it; one without any may be a data set itself (file geodatabases, Zarr). What
    GDAL names in its own way (``/vsizip/…``, ``NETCDF:…``) stays as it is.

    Args:
        given: Paths, globs, folders.
        key: What to call them in an error.

    Raises:
        UserError: Nothing or an empty path is given, or a glob matches nothing.
    """
    paths: list[str] = []
    for text in [given] if isinstance(given, str) else given:
        if not text.strip():
            raise UserError(f"{key} is an empty path; give the path of a file, a list of paths, or a glob.")
        if not (found := _matches(text)):
            raise UserError(f"{key}={text} matches no file; give the path of a file, a list of paths, or a glob.")
        paths += found
    if not paths:
        raise UserError(f"{key} is an empty list; give the path of a file, a list of paths, or a glob.")
    return paths


def _matches(text: str) -> list[str]:
    path = Path(text)
    if path.is_dir():
        inside = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in GEOTIFFS)
        return [str(entry) for entry in inside] or [text]
    if text.startswith("/vsi") or "://" in text or path.exists() or not glob.has_magic(text):
        return [text]
    return sorted(glob.glob(text, recursive=True))  # noqa: PTH207  pathlib globs no absolute patterns
