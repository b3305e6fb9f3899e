"""What a user calls classes takes the place of what the data call them, and what does not fit is one line."""

from __future__ import annotations

from typing import Any

import pytest

from src.class_names import renamed
from src.errors import UserError
from src.labels import ClassTable
from src.palette import PALETTE

CLASSES = ClassTable.build([2, 7], {7: "lake"})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ("class_2", "lake")),
        (["forest", "water"], ("forest", "water")),
        ({"7": "water"}, ("class_2", "water")),
        ({2: "lake", 7: "forest"}, ("lake", "forest")),
    ],
)
def test_names_are_given_in_order_or_by_value_and_others_stay(names: Any, expected: tuple[str, str]) -> None:
    table = renamed(CLASSES, names, {7: "#0000ff"}, "data/mine")
    assert (table.names, table.colors) == (expected, (PALETTE[0], "#0000ff"))
    assert ClassTable.from_dicts(table.to_dicts()) == table


def test_what_the_data_say_is_kept_where_it_is_something_else() -> None:
    table = renamed(renamed(CLASSES, {7: "water"}, None, "a"), {2: "wood", 7: "sea"}, None, "b")
    assert [entry.data_name for entry in table.classes] == ["class_2", "lake"]
    assert renamed(CLASSES, ["class_2", "lake"], None, "a") == CLASSES
    assert "data_name" not in CLASSES.to_dicts()[0]


@pytest.mark.parametrize(
    ("names", "colors", "message"),
    [
        ({7: "a", 9: "b"}, None, r"^class_names is given for 9, but the classes of data/mine are 2, 7; .* Leave out"),
        (None, {1: "#000000"}, r"^class_colors is given for 1, but the classes of data/mine are 2, 7"),
        (["a"], None, r"class_names has 1 entries for 2 classes \(2, 7\)"),
        ("forest", None, "class_names=forest is no list or mapping"),
        ({"a": "b"}, None, "class_names has a key that is no class value"),
        (["a", "a"], None, "class_names calls class 2 'a', and another the same"),
        ({7: " "}, None, "class_names calls class 7 ' '"),
        (None, ["red", "blue"], "written #rrggbb"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(names: Any, colors: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        renamed(CLASSES, names, colors, "data/mine")
    assert "\n" not in str(error.value)
