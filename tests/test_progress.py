"""What is said of a long job while it runs: how much is done, how fast, how long it still takes."""

from __future__ import annotations

import io
import logging
from itertools import count

import pytest
from rich.console import Console

from src import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 31 seconds pass between two looks at the clock."""
    seconds = count(0, 31)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))


@pytest.mark.usefixtures("clock")
def test_without_a_terminal_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with progress.progress("Cutting", 12_000, "chips") as advance:
        advance(3100)
    assert caplog.messages == ["Cutting: 3,100 of 12,000 chips, 100 chips/s, 0:01:29 left"]


@pytest.mark.usefixtures("clock")
def test_pixels_of_an_earlier_run_say_nothing_about_the_speed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with progress.pixel_progress("Mapping", 100_000_000) as advance:
        advance(50_000_000)
        advance(0)
        advance(31_000_000)
    assert caplog.messages == ["Mapping: 81.0 of 100.0 Mpx, 0.50 Mpx/s, 0:00:38 left"]


def test_on_a_terminal_a_bar_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=120))
    with progress.progress("Cutting", 1_000, "chips") as advance:
        advance(1)
        progress.time.sleep(0.2)
        advance(499)
        progress.time.sleep(0.2)
    assert "50%" in screen.getvalue()
    assert "500 of 1,000 chips, " in screen.getvalue()
    assert "chips/s" in screen.getvalue()
    assert "left" in screen.getvalue()


def test_chips_that_are_ready_together_are_not_thousands_in_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chips are cut in groups: a bar said 486,900 chips/s, and a second left of many."""
    screen, now = io.StringIO(), [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=120))
    with progress.progress("Cutting", 1_000, "chips") as advance:
        now[0] = 2.0
        for _ in range(200):
            advance(1)
    assert "200 of 1,000 chips, 100 chips/s, 0:00:08 left" in screen.getvalue()
