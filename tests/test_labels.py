"""The class table is the one place that translates between values and indices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from src.errors import UserError
from src.labels import IGNORE, ClassTable, LandClass
from src.palette import PALETTE

VALUES = st.sets(st.integers(1, 255), min_size=1, max_size=255)


@given(VALUES, arrays(np.uint8, (5, 7)))
def test_encoding_and_decoding_give_back_every_value_that_is_a_class(values: set[int], pixels: np.ndarray) -> None:
    table = ClassTable.build(values)
    indices = table.encode(pixels)
    np.testing.assert_array_equal(table.decode(indices), np.where(np.isin(pixels, list(values)), pixels, 0))
    assert set(np.unique(indices)) <= {*range(len(values)), IGNORE}


def test_values_with_gaps_keep_their_names_and_order() -> None:
    """SpecDeepMap counted 4 as 3 where the values were 1, 2 and 4."""
    table = ClassTable.build([4, 1, 2], {4: "water"}, {1: "#000000"})
    assert (table.values, table.names) == ((1, 2, 4), ("class_1", "class_2", "water"))
    assert table.colors == ("#000000", PALETTE[1], PALETTE[2])
    np.testing.assert_array_equal(table.encode(np.array([0, 1, 2, 3, 4])), [IGNORE, 0, 1, IGNORE, 2])


def test_names_that_repeat_are_told_apart_by_their_values() -> None:
    table = ClassTable.build([1, 2, 4], {1: "forest", 2: "water", 4: "forest"})
    assert table.distinct_names == ("forest (1)", "water", "forest (4)")
    assert table.titles == ("1 forest", "2 water", "4 forest")


def test_a_title_does_not_say_a_value_twice() -> None:
    assert ClassTable.build([1, 2, 3, 4], {1: "1", 2: "", 4: "class_3"}).titles == ("1", "2", "3", "4 class_3")


def test_all_255_values_can_be_classes() -> None:
    table = ClassTable.build(range(256))
    assert len(table) == 255
    np.testing.assert_array_equal(table.decode(table.encode(np.arange(256))), np.arange(256))


def test_what_is_no_class_is_named() -> None:
    assert ClassTable.build([1, 2]).unknown(np.array([0, 1, 7, 9])) == (7, 9)


def test_a_table_survives_json() -> None:
    table = ClassTable.build([3, 9], {3: "Wiese"})
    assert ClassTable.from_dicts(table.to_dicts()) == table
    assert table.classes[0].rgb == (31, 119, 180)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClassTable.build([0]), "no class"),
        (lambda: LandClass(0, "nothing", "#000000"), "1–255"),
        (lambda: LandClass(256, "much", "#000000"), "1–255"),
        (lambda: LandClass(1, "green", "green"), "#rrggbb"),
        (lambda: ClassTable((LandClass(2, "b", "#000000"), LandClass(1, "a", "#000000"))), "order"),
    ],
)
def test_what_cannot_be_a_class_is_refused(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(UserError, match=words):
        make()
