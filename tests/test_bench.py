"""The benchmark's frame: turns, shares, the table and its file. What is measured is no test's business."""

from __future__ import annotations

import os
import time
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from rich.console import Console

from scripts.bench import STEPS, run_step
from scripts.benchmarks.measuring import Options, Turn, in_a_process, median_ratio, take_turn, take_turns
from scripts.benchmarks.rows import Row, compared, print_table
from src.memory import LARGE_PAGES


def turn(amount: float, seconds: float, cpu: float) -> Turn:
    return Turn(amount, seconds, cpu, 100.0)


def test_runs_take_turns_and_the_first_round_is_not_counted(tmp_path: Path) -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    turns = take_turns({"ours": lambda: run("ours"), "limit": lambda: run("limit")}, Options(tmp_path, rounds=2))
    assert order == ["ours", "limit"] * 3
    assert [t.amount for t in turns["ours"]] == [3.0, 5.0]
    assert [t.amount for t in turns["limit"]] == [4.0, 6.0]


@pytest.mark.parametrize(
    ("counted", "passed", "enough"),
    [(1, 900, False), (2, 60, False), (2, 90, True), (3, 30, False), (3, 60, True), (9, 0, True)],
)
def test_rounds_end_with_the_time_once_three_were_counted_or_two_long_ones(
    tmp_path: Path, counted: int, passed: float, enough: bool
) -> None:
    options = Options(tmp_path, rounds=9, seconds=40.0)
    assert options.enough(counted, time.perf_counter() - passed) is enough


def test_steps_that_map_take_memory_as_the_commands_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks for large pages would be taken for a user's choice against keeping memory, in their processes too."""
    asked: dict[str, bool] = {}
    for step, function in STEPS.items():
        monkeypatch.delenv(LARGE_PAGES, raising=False)
        monkeypatch.setattr(function, lambda _, s=step: asked.update({s: LARGE_PAGES in os.environ}) or [])
        run_step(step, Options(tmp_path))
    monkeypatch.delenv(LARGE_PAGES, raising=False)
    assert [step for step, large in asked.items() if not large] == [
        "eval",
        "predict",
        "memory",
        "growth",
        "predict-default",
    ]


def test_no_round_begins_when_it_is_enough(tmp_path: Path) -> None:
    turns = take_turns({"ours": lambda: 1.0}, Options(tmp_path, rounds=9, seconds=0.0))
    assert len(turns["ours"]) == 2


def test_a_share_is_the_median_of_ratios_within_rounds() -> None:
    # The machine is ten times slower in the second round: each round still says one half.
    ours = [turn(1, 2, 2), turn(1, 20, 2), turn(1, 2, 2)]
    limit = [turn(1, 1, 1), turn(1, 10, 1), turn(1, 1, 4)]
    row = compared("step", (ours, limit), "bare loop", unit="chips/s", goal=0.95)
    assert row.share == pytest.approx(0.5)
    assert row.cpu_share == pytest.approx(0.5)
    assert (row.ours, row.theirs) == (0.5, 1.0)
    assert row.met is False
    assert compared("step", (limit, ours), "bare loop", unit="s", goal=1).met is True
    assert median_ratio([1, 9, 1], [2, 3, 2]) == 0.5


def _large() -> float:
    return float(np.ones(30_000_000, np.uint8).sum())


def _two_turns() -> tuple[Turn, Turn]:
    return take_turn(_large), take_turn(float, 1)


def test_the_peak_is_that_of_one_turn() -> None:
    # In a process of its own: in one that has freed memory before, what is taken anew raises nothing.
    first, second = in_a_process(_two_turns)
    assert first.amount == 30_000_000
    assert first.peak_mb > second.peak_mb + 20


def test_the_table_names_what_is_held_against_what() -> None:
    limit = Row("train", 4.8, 5.0, "chips/s", "limit", "bare loop", 0.96, goal=0.95, peak_mb=812.4)
    step, meaning = "predict unet/resnet18, halo counted", "224 px tiles, one by one, float32"
    others = Row(step, 0.927, 0.2, "Mpx/s", "others", meaning, 7.5, 12.34, 6, cpu_seconds=0.265, peak_mb=4321.0)
    console = Console(width=140)
    with console.capture() as captured:
        print_table([limit, others], console)
    first, second = (line for line in captured.get().splitlines() if "chips/s" in line or "Mpx/s" in line)
    assert "96 %" in first
    assert "≥ 95 %" in first
    assert "812" in first
    assert "7.5 ×" in second
    assert "≥ 6 ×" in second
    assert "4321" in second  # nothing is cut off where a terminal is narrow


@pytest.mark.parametrize("step", STEPS)
def test_every_step_can_be_measured(step: str) -> None:
    assert callable(resolve_name(STEPS[step]))
