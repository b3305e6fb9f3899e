"""Which files are meant where a command takes scenes or labels: a path, a glob, a folder, or a list of these."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from src.errors import UserError

GEOTIFFS = {".tif", ".tiff"}
"""Suffixes of the files that a folder stands for."""


class Files(list[str]):
    """Paths in an order.

    Attributes:
        by_name: Whether it is an order of their names, as of a glob's or a folder's, and not only the one they were
            given in.
    """

    by_name = False


def find_files(given: str | Sequence[str], key: str) -> Files:
    """Return the files that are meant, those of a glob or a folder in the order of their names.

    That is as people count: ``scene_2.tif`` comes before ``scene_10.tif``. A folder stands for the GeoTIFFs in it; one
    without any may be a data set itself (file geodatabases, Zarr). What GDAL names in its own way (``/vsizip/…``,
    ``NETCDF:…``) stays as it is.

    Args:
        given: Paths, globs, folders.
        key: What to call them in an error.

    Raises:
        UserError: Nothing or an empty path is given, or a glob matches nothing.
    """
    paths = Files()
    for text in [given] if isinstance(given, str) else given:
        if not text.strip():
            raise UserError(f"{key} is an empty path; give the path of a file, a list of paths, or a glob.")
        if not (found := _matches(text)):
            raise UserError(f"{key}={text} matches no file; give the path of a file, a list of paths, or a glob.")
        paths += found
        paths.by_name |= len(found) > 1
    if not paths:
        raise UserError(f"{key} is an empty list; give the path of a file, a list of paths, or a glob.")
    return paths


def _matches(text: str) -> list[str]:
    path = Path(text)
    if path.is_dir():
        inside = [str(entry) for entry in path.iterdir() if entry.suffix.lower() in GEOTIFFS]
        return sorted(inside, key=_as_counted) or [text]
    if text.startswith("/vsi") or "://" in text or path.exists() or not glob.has_magic(text):
        return [text]
    found = glob.glob(text, recursive=True)  # noqa: PTH207  pathlib globs no absolute patterns
    return sorted(found, key=_as_counted)


def _as_counted(text: str) -> tuple[list[list[str | int]], str]:
    """Return what to sort paths by: folder by folder, then stem, each with its numbers as numbers."""
    path = Path(text)
    return [_with_numbers(part) for part in (*path.parent.parts, path.stem)], text


def _with_numbers(text: str) -> list[str | int]:
    """Split ``a1b02`` into ``a``, 1, ``b``, 2 and an empty end: texts and numbers by turns."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", text)]


def check_names(images: Sequence[str], files: Sequence[str], key: str) -> None:
    """See that images and what belongs to them, both in an order of names, are not paired against their names.

    A file tells which image it is of if its stem is the image's, or begins or ends with that, as ``scene_1_label`` with
    ``scene_1``; of two such images it is the one with the longer stem. Names that tell nothing are no error.

    Args:
        images: The images.
        files: The file of each, in the same order.
        key: What to call these in an error.

    Raises:
        UserError: An image got a file that does not tell to be its own, and another file tells to be.
    """
    if not all(isinstance(paths, Files) and paths.by_name for paths in (images, files)):
        return
    stems = {Path(image).stem for image in images}
    parts = [_parts(Path(file).stem) & stems for file in files]
    owned = {max(own, key=len): file for own, file in zip(parts, files, strict=True) if own}
    for image, file, own in zip(images, files, parts, strict=True):
        stem = Path(image).stem
        if stem in owned and stem not in own:
            raise UserError(
                f"{key} would give {image} the file {file}, as both are sorted by name; expected {owned[stem]}, which "
                "is named after it. Rename the files alike, or give both as lists in the same order."
            )


def _parts(stem: str) -> set[str]:
    """Return a stem, and what stands before and behind each character in it that is no letter or digit."""
    cuts = [found.start() for found in re.finditer(r"[\W_]", stem)]
    return {stem, *(stem[:cut] for cut in cuts), *(stem[cut + 1 :] for cut in cuts)}
