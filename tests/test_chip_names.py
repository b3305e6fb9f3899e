"""A chip's name is read as it was written, whatever the scene is called."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from src.chip_names import chip_name, named_places, place_in_name, with_part
from src.grid import Window
from src.tables import PARTS, Part

_WORDS = st.sampled_from(
    ("test", "train", "validation", "tile", "3", "4", "07", "٣", "Wälder", "森", "a b", "s.1", "\n", "")
)
SCENES = st.lists(_WORDS, min_size=1, max_size=6).map("_".join).filter(lambda name: name.strip("."))
"""Names out of all that chips' names are made of."""
NUMBERS = st.integers(0, 10**6)


@given(SCENES, st.sets(SCENES, max_size=3), NUMBERS, NUMBERS, st.sampled_from((None, *PARTS)))
@example("north_test", {"north"}, 3, 4, None)
@example("north_test", {"south"}, 3, 4, "test")
@example("city_tile_3_4", set(), 0, 0, "train")
@example("two\nlines", set(), 0, 0, None)
def test_a_name_is_read_as_it_was_written(scene: str, others: set[str], x: int, y: int, part: Part | None) -> None:
    scenes = {scene, *others}
    # Who cuts parts refuses such scenes (scene_files.check_part_names).
    assume(part is None or not any(with_part(one, each) in scenes for one in scenes for each in PARTS))
    name = chip_name(scene, Window(y, x, 8, 8), part)
    assert name.endswith(".tif")
    assert place_in_name(PurePath(name).stem, scenes) == (scene, x, y)


@given(SCENES, st.sets(st.tuples(NUMBERS, NUMBERS, st.sampled_from((None, *PARTS)))))
def test_no_two_chips_of_a_scene_have_one_name(scene: str, chips: set[tuple[int, int, Part | None]]) -> None:
    assert len({chip_name(scene, Window(y, x, 8, 8), part) for x, y, part in chips}) == len(chips)


@pytest.mark.parametrize(
    ("scenes", "expected"), [({"north", "north_test"}, "north_test"), ({"north"}, "north"), (set(), "north_test")]
)
def test_a_part_ends_a_name_only_where_the_rest_is_a_scene(scenes: set[str], expected: str) -> None:
    assert place_in_name("north_test_tile_3_4", scenes) == (expected, 3, 4)


def test_another_name_is_a_scene_of_its_own() -> None:
    assert place_in_name("north_3_4") == ("north_3_4", 0, 0)


def test_places_are_those_of_scenes_in_folders() -> None:
    images = [Path(f) for f in ("a/n_tile_0_8.tif", "b/n_tile_0_8.tif", "a/n_test_tile_8_8.tif", "a/other.tif")]
    assert named_places(images, {"n"}, (8, 4)) == [
        (0, Window(8, 0, 4, 8)),
        (1, Window(8, 0, 4, 8)),
        (0, Window(8, 8, 4, 8)),
        None,
    ]
    assert named_places([*images, Path("a/n_train_tile_8_8.tif")], {"n"}, (8, 4))[2::2] == [
        (2, Window(8, 8, 4, 8)),
        (4, Window(8, 8, 4, 8)),
    ]
