"""What state files are in, so that a changed scene is not taken for one that was prepared or mapped before."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.raster.read import open_raster

_SHAPEFILE = (".dbf", ".shx", ".prj", ".cpg")
_OTHERS = (".aux.xml", ".ovr")
"""Ends of the names of files that programs write beside a raster when somebody only looks at it."""
_INSIDE = re.compile(r"/vsi(?:zip|tar|gzip|7z|rar)/(?:\{(.+?)\}.*|(.+))")
"""GDAL's names for what lies in an archive, which may stand in braces."""


def fingerprints(paths: Iterable[str]) -> list[dict[str, Any]]:
    """Tell the state of files, and of those that belong to them: an ENVI header, a Shapefile's table, a VRT's sources.

    Returns:
        A plain dict per file: path, bytes and time (of an archive, where it lies in one); the path only where there is
        no such file here. A folder that belongs to one, as a Zarr's groups do, is one entry for all files below it:
        path, how many, their bytes, and the time of the latest.
    """
    entries: dict[str, dict[str, Any]] = {}
    for path in paths:
        entries.setdefault(path, _fingerprint(path))
        for file in companions(path):
            entries.setdefault(file, _folder(file) if Path(file).is_dir() else _fingerprint(file))
    return list(entries.values())


def companions(path: str, *, rewritable: bool = False) -> list[str]:
    """List the files and folders that belong to a file and are read with it, through all VRTs that it is made of.

    Args:
        path: The file.
        rewritable: Also those that programs write beside a raster when somebody only looks at it: statistics and
            overviews.
    """
    found = [path]
    for file in found:  # it grows
        if file == path or file.lower().endswith(".vrt"):
            known = set(found)
            found += [other for other in _listed(file, () if rewritable else _OTHERS) if other not in known]
    return found[1:]


def _listed(path: str, without: tuple[str, ...]) -> list[str]:
    if Path(path).suffix.lower() == ".shp":
        return [str(file) for file in map(Path(path).with_suffix, _SHAPEFILE) if file.exists()]
    if Path(path).is_dir():
        return [str(entry) for entry in sorted(Path(path).iterdir())]
    try:
        with open_raster(path) as dataset:
            return [file for file in dataset.files if file != path and not file.endswith(without)]
    except UserError:  # a vector file, or one that whoever reads it will complain about
        return []


def archive_of(path: str) -> Path:
    """Return the archive that a path leads into, as ``/vsizip/scenes.zip/a.tif`` does; else the path itself."""
    inside = _INSIDE.fullmatch(path)
    within = Path(inside[1] or inside[2]) if inside else None
    places = [within, *within.parents] if within else []
    return next((place for place in places if place.is_file()), Path(path))


def _fingerprint(path: str) -> dict[str, Any]:
    try:
        status = archive_of(path).stat()
    except OSError:
        return {"path": path}
    return {"path": path, "bytes": status.st_size, "modified": status.st_mtime_ns}


def _folder(path: str) -> dict[str, Any]:
    """Tell the state of all files below a folder."""
    found = [_fingerprint(str(file)) for file in Path(path).rglob("*") if file.is_file()]
    states = [state for state in found if "bytes" in state]
    return {
        "path": path,
        "files": len(found),
        "bytes": sum(state["bytes"] for state in states),
        "modified": max((state["modified"] for state in states), default=0),
    }
