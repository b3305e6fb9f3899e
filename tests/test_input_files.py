"""Which files a path, a glob, a folder or a list of these stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import UserError
from src.input_files import find_files


def test_a_folder_stands_for_the_geotiffs_in_it(tmp_path: Path) -> None:
    for name in ("b.tif", "a.TIFF", "notes.txt"):
        (tmp_path / name).touch()
    assert find_files(str(tmp_path), "image") == [str(tmp_path / "a.TIFF"), str(tmp_path / "b.tif")]
    (tmp_path / "fields.gdb").mkdir()
    assert find_files([str(tmp_path / "fields.gdb")], "label") == [str(tmp_path / "fields.gdb")]


def test_globs_are_sorted_and_lists_keep_their_order(tmp_path: Path) -> None:
    for name in ("b.tif", "a.tif", "c [1].tif"):
        (tmp_path / name).touch()
    there = [str(tmp_path / "c [1].tif"), str(tmp_path / "?.tif"), "/vsizip/a*.zip/x.tif", "NETCDF:x.nc:band"]
    assert find_files(there, "image") == [there[0], str(tmp_path / "a.tif"), str(tmp_path / "b.tif"), *there[2:]]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("gone/*.tif", r"label=gone/\*\.tif matches no file"),
        ([], "label is an empty list"),
        (" ", "label is an empty path"),
    ],
)
def test_nothing_is_one_line(given: str | list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        find_files(given, "label")
