"""How a scene is cut into windows and strips: decided once, written down, the same after a break."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from src.errors import UserError
from src.grid import Blend, Span, Window, axis_spans

CELL = 32
"""Windows start at multiples of it where they can: what most encoders' coarsest features are across, in pixels."""


@dataclass(frozen=True)
class MapPlan:
    """Windows of one size over a scene; a row of windows makes a strip.

    Attributes:
        height: Rows of the scene.
        width: Columns of the scene.
        window: Height and width of a window in pixels.
        halo: Pixels above and below, and left and right, that windows share at least.
        blend: How windows share them.
        batch: Windows that go through the network together.
        threads: With how many threads a batch is computed on a CPU: sums over other numbers of them are other sums.
    """

    height: int
    width: int
    window: tuple[int, int]
    halo: tuple[int, int]
    blend: Blend
    batch: int
    threads: int = 1

    @cached_property
    def rows(self) -> tuple[Span, ...]:
        """Windows down the scene; strip i is the rows ``rows[i].first`` to ``rows[i].final``."""
        return axis_spans(self.height, self.window[0], self.halo[0], self.blend, CELL)

    @cached_property
    def columns(self) -> tuple[Span, ...]:
        """Windows across the scene."""
        return axis_spans(self.width, self.window[1], self.halo[1], self.blend, CELL)

    @property
    def windows(self) -> int:
        """How many there are."""
        return len(self.rows) * len(self.columns)

    @property
    def computed_pixels(self) -> int:
        """Pixels that go through the network."""
        return self.windows * self.window[0] * self.window[1]

    def at(self, row: Span, column: Span) -> Window:
        """Return the window at a row and a column."""
        return Window(row.start, column.start, *self.window)

    def to_dict(self) -> dict[str, Any]:
        """Plain things for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> MapPlan:
        """Inverse of :meth:`to_dict`."""
        return cls(**{**row, "window": tuple(row["window"]), "halo": tuple(row["halo"])})


def halo_pixels(chip_size: tuple[int, int], overlap: float) -> tuple[int, int]:
    """Turn percent of the training chip's side into pixels (down, across).

    Raises:
        UserError: The overlap is not within 0 and 50.
    """
    if not 0 <= overlap < 50:
        raise UserError(
            f"overlap={overlap:g} is not possible; expected percent of the training chip's side on each side, at "
            "least 0 and below 50. Twenty is a good start."
        )
    width, height = chip_size
    return math.ceil(height * overlap / 100), math.ceil(width * overlap / 100)


def check_window(window: tuple[int, int], halo: tuple[int, int], overlap: float) -> None:
    """Raise UserError if a window (height, width) has nothing beside its halo (down, across)."""
    for side, margin in zip(window, halo, strict=True):
        if side <= 2 * margin:
            raise UserError(
                f"window={side} has nothing inside: overlap={overlap:g} % of the training chip is {margin} px on each "
                f"side; expected more than {2 * margin} px. Give a larger window or a smaller overlap."
            )
