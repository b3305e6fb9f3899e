"""Names out of other people's files are shown, and steer neither terminal nor spreadsheet."""

from __future__ import annotations

import logging

import pytest

from src.errors import UserError
from src.foreign_text import ShownRecord, cell, in_a_line, shown, steers
from src.tasks.wording import explain

NASTY = "\x1b]0;title\x07\x1b[31mred\x9b2J\u202edesrever"


def test_what_a_terminal_obeys_is_written_out() -> None:
    assert steers(NASTY)
    assert shown(NASTY) == r"\x1b]0;title\x07\x1b[31mred\x9b2J\u202edesrever"
    assert shown("Wald, Äcker · 森\n\tund \ud800") == "Wald, Äcker · 森\n\tund \\ud800"
    assert not steers("Wald, Äcker · 森")


def test_lines_and_errors_are_shown_so() -> None:
    record = ShownRecord("x", logging.INFO, "x.py", 1, "scene %s", (NASTY,), None)
    assert logging.Formatter("%(message)s").format(record) == f"scene {shown(NASTY)}"
    assert explain("predict", UserError(f"bands {NASTY}")) == f"bands {shown(NASTY)}"


def test_of_many_names_the_first_three_the_last_and_their_number_are_given() -> None:
    names = [f"B{number}" for number in range(1, 15)]
    assert in_a_line(names[:13]) == ", ".join(names[:13])
    assert in_a_line(names) == "B1, B2, B3 … B14 (14)"
    assert in_a_line(names, counted=False) == "B1, B2, B3 … B14"


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-water", "@x", "-1-1"])
def test_a_formula_is_text(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1", "+1.5e-3", "wood-land", "", "3 =x"])
def test_numbers_and_names_stay_as_they_are(text: str) -> None:
    assert cell(text) == text
