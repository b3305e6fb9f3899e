"""Paths on a command line reach the program as they were typed, whatever stands in them."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from src.tasks.command_line import arrange, quoted


@given(st.text(st.sampled_from("ab1_.\\'\", üé()[]{}=$%:\n"), min_size=1))
@example(r"C:\maps\new.tif")
@example("it's \\")
@example(r"a\'b")
def test_a_quoted_path_is_the_path(path: str) -> None:
    assert OverridesParser.create().parse_override(f"key={quoted(path)}").value() == path


@pytest.mark.parametrize(
    ("typed", "files"),
    [
        ('["a,b.tif",ü.tif]', ["a,b.tif", "ü.tif"]),
        ("['x, y.tif', scene (1).tif,2021_06]", ["x, y.tif", "scene (1).tif", "2021_06"]),
        ("[it's.tif,ü.tif]", ["it's.tif", "ü.tif"]),
    ],
)
def test_commas_in_quotes_part_no_files(typed: str, files: list[str]) -> None:
    (arranged,) = arrange([f"image={typed}"], {}, "predict")
    assert OverridesParser.create().parse_override(arranged).value() == files


@pytest.mark.parametrize("folder", ["2021_06", "/data/a (1)", "1e3"])
def test_the_folder_of_all_data_and_logs_is_a_path(folder: str) -> None:
    (arranged,) = arrange([f"paths.root={folder}"], {}, "prepare")
    assert OverridesParser.create().parse_override(arranged).value() == folder
