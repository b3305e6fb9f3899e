"""A line of the benchmark's table: our figure, what it is held against, and how near it comes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.benchmarks.measuring import Turn, median_ratio

Against = Literal["limit", "others", "bound"]
"""A limit that nothing can pass, what others do today, or a figure that must not be passed."""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        step: What was measured.
        ours: Our figure.
        theirs: The figure it is held against.
        unit: Of both: ``s`` and ``MB`` are better when smaller, everything ending in ``/s`` when larger.
        against: What kind of figure ``theirs`` is.
        meaning: What ``theirs`` is, in a few words.
        share: Ours as a share of theirs, 1 where they are equal and more where ours is better; the median of the
            rounds' ratios.
        cpu_share: The same by the processors' time, None where that says nothing.
        goal: The share that is wanted, None where there is no goal.
        seconds: Of one run of ours, median; None where it was not measured.
        cpu_seconds: The same by the processors' time.
        peak_mb: Memory of our runs at most, None where it was not measured.
    """

    step: str
    ours: float
    theirs: float
    unit: str
    against: Against
    meaning: str
    share: float
    cpu_share: float | None = None
    goal: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_mb: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met, None without one."""
        return None if self.goal is None else self.share >= self.goal

    def as_json(self) -> dict[str, object]:
        """Return everything as plain values."""
        return {**asdict(self), "met": self.met}


def compared(
    step: str,
    turns: tuple[Sequence[Turn], Sequence[Turn]],
    meaning: str,
    *,
    unit: str,
    goal: float | None = None,
    against: Against = "limit",
) -> Row:
    """Make a row of turns that were taken together.

    Args:
        step: What was measured.
        turns: Ours, and those it is held against.
        meaning: What the latter are.
        unit: ``s`` for seconds per run, else what is done in a second: ``chips/s``.
        goal: The share that is wanted.
        against: What kind of figure it is held against.
    """
    ours, theirs = turns
    whole = unit == "s"

    def figure(one: Sequence[Turn]) -> float:
        return statistics.median(turn.seconds if whole else turn.amount / turn.seconds for turn in one)

    rates = [[turn.amount / turn.seconds for turn in one] for one in turns]
    cpu_rates = [[turn.amount / max(turn.cpu_seconds, 0.01) for turn in one] for one in turns]
    return Row(
        step=step,
        ours=figure(ours),
        theirs=figure(theirs),
        unit=unit,
        against=against,
        meaning=meaning,
        share=median_ratio(*rates),
        cpu_share=median_ratio(*cpu_rates),
        goal=goal,
        seconds=statistics.median(turn.seconds for turn in ours),
        cpu_seconds=statistics.median(turn.cpu_seconds for turn in ours),
        peak_mb=max(turn.peak_mb for turn in ours),
    )


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print the rows as a table."""
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", row_styles=("", "on grey15")
    )
    table.add_column("step", min_width=24)
    table.add_column("held against", min_width=24)
    for heading in ("ours", "theirs", "share", "by CPU", "goal", "", "CPU s", "peak MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)


def _cells(row: Row) -> list[str]:
    met = {None: "", True: "met", False: "not met"}[row.met]
    return [
        row.step,
        row.meaning,
        f"{_number(row.ours)} {row.unit}",
        _number(row.theirs),
        _share(row.share, row.against),
        _share(row.cpu_share, row.against),
        "" if row.goal is None else "≥ " + _share(row.goal, row.against),
        met,
        "" if row.cpu_seconds is None else _number(row.cpu_seconds),
        "" if row.peak_mb is None else f"{row.peak_mb:.0f}",
    ]


def _share(share: float | None, against: Against) -> str:
    if share is None:
        return ""
    return f"{100 * share:.0f} %" if against != "others" else f"{_number(share)} ×"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
