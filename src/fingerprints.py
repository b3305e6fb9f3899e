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
        no such file here.
    """
    files = dict.fromkeys(file for path in paths for file in (path, *companions(path)))
    return [_fingerprint(file) for file in files]


def companions(path: str) -> list[str]:
    """List the files that belong to a file and are read with it, a VRT's through all VRTs that it is made of."""
    found = [path]
    for file in found:  # it grows
        if file == path or file.lower().endswith(".vrt"):
            known = set(found)
            found += [other for other in _listed(file) if other not in known]
    return found[1:]


def _listed(path: str) -> list[str]:
    if Path(path).suffix.lower() == ".shp":
        return [str(file) for file in map(Path(path).with_suffix, _SHAPEFILE) if file.exists()]
    if Path(path).is_dir():
        return [str(file) for file in sorted(Path(path).iterdir()) if file.is_file()]
    try:
        with open_raster(path) as dataset:
            return [file for file in dataset.files if file != path and not file.endswith(_OTHERS)]
    except UserError:  # a vector file, or one that whoever reads it will complain about
        return []


def _archive(path: str) -> Path:
    """Return the archive that a path leads into, as ``/vsizip/scenes.zip/a.tif`` does; else the path itself."""
    inside = _INSIDE.fullmatch(path)
    within = Path(inside[1] or inside[2]) if inside else None
    places = [within, *within.parents] if within else []
    return next((place for place in places if place.is_file()), Path(path))


def _fingerprint(path: str) -> dict[str, Any]:
    try:
        status = _archive(path).stat()
    except OSError:
        return {"path": path}
    return {"path": path, "bytes": status.st_size, "modified": status.st_mtime_ns}
