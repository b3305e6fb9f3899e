"""Which files a path, a glob, a folder or a list of these stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import UserError
from src.input_files import check_names, find_files


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


def touched(folder: Path, names: str) -> str:
    """Make empty GeoTIFFs; returns their folder."""
    folder.mkdir()
    for name in names.split():
        (folder / f"{name}.tif").touch()
    return str(folder)


def test_numbers_in_names_are_sorted_as_people_count(tmp_path: Path) -> None:
    """By alphabet scene_1 got the label of scene_10."""
    folder = touched(tmp_path / "2021_06", "scene_10_label scene_1_label scene_2_label scene_02")
    expected = ["scene_1_label", "scene_02", "scene_2_label", "scene_10_label"]
    for given in (folder, f"{folder}/*.tif", f"{tmp_path}/**/*.tif"):
        assert [Path(file).stem for file in find_files(given, "image")] == expected
    touched(tmp_path / "2021_10", "a b")
    assert [Path(file).parent.name[-2:] for file in find_files(f"{tmp_path}/*/*.tif", "image")] == ["06"] * 4 + [
        "10"
    ] * 2


@pytest.mark.parametrize(
    ("images", "labels", "given", "better"),
    [
        ("scene scene_1", "scene_label scene_1_label", "scene_label", "scene_1_label"),
        ("2020 2021", "2021 2022", "2022", "2021"),
        ("north south", "1_south 2_north", "1_south", "2_north"),
    ],
)
def test_files_that_are_paired_against_their_names_are_refused(
    tmp_path: Path, images: str, labels: str, given: str, better: str
) -> None:
    pairs = touched(tmp_path / "images", images), touched(tmp_path / "labels", labels)
    found_images, found_labels = (find_files(given, key) for given, key in zip(pairs, ("image", "label"), strict=True))
    with pytest.raises(UserError, match=rf"label would give .* the file .*{given}\.tif, .* expected .*{better}\.tif,"):
        check_names(found_images, found_labels, "label")
    check_names(list(found_images), found_labels, "label")  # whoever lists them says which is which


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("a b", "x y"),
        ("a b", "b_mask 0"),
        ("scene_1 scene_2 scene_10", "scene_1_label scene_10_label scene_2_label"),
        ("scene_1_image scene_10_image", "scene_10_label scene_1_label"),
        ("a a_x", "1 a_x_mask"),
        ("1 2021", "2021_1 2021_2"),
        ("tile1 tile12", "tile1 tile12"),
    ],
)
def test_names_that_tell_nothing_or_the_same_are_welcome(tmp_path: Path, images: str, labels: str) -> None:
    pairs = touched(tmp_path / "images", images), touched(tmp_path / "labels", labels)
    check_names(find_files(pairs[0], "image"), find_files(pairs[1], "label"), "label")


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
