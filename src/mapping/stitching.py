"""From the probabilities of overlapping windows to finished blocks of a map, row of windows by row of windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from src.grid import Span

Block = tuple[slice, slice]
"""Rows and columns of the scene."""


class Stitcher:
    """Adds up what windows contribute and gives back what no later window changes.

    Windows come row by row, left to right. What is held is not the row of windows but only the parts that the
    next window to the right and the next row of windows still add to.
    """

    def __init__(self, rows: Sequence[Span], columns: Sequence[Span], classes: int, device: torch.device) -> None:
        """Prepare for windows at ``rows`` × ``columns`` with ``classes`` values per pixel, held on ``device``."""
        self.rows, self.columns = rows, columns
        below = max(span.stop - span.final for span in rows)
        self._below = torch.zeros((classes, below, columns[-1].stop), device=device)
        self._right = torch.zeros((classes, 0, 0), device=device)
        self._weights = (
            [torch.from_numpy(span.weights).to(device)[:, None] for span in rows],
            [torch.from_numpy(span.weights).to(device) for span in columns],
        )

    def first_row_for(self, row: int) -> int:
        """Return the first row of windows that contributes to what ``row`` finishes."""
        return next(i for i, span in enumerate(self.rows) if span.stop > self.rows[row].first)

    def reset(self) -> None:
        """Forget all windows, to go on at another row."""
        self._below.zero_()

    def add(self, row: int, column: int, values: torch.Tensor | None) -> torch.Tensor:
        """Add a window and return the block that it finishes.

        Args:
            row: Index of the window's row.
            column: Index of the window's column; they come in order.
            values: n × height × width of the window as it was read; None adds nothing.

        Returns:
            n × rows × columns for :meth:`block`, sums of all contributions.
        """
        down, across = self.rows[row], self.columns[column]
        part = self._weighted(row, column, values)
        if column > 0 and (shared := self.columns[column - 1].stop - across.first) > 0:
            part[:, :, :shared] += self._right
        self._right = part[:, :, across.final - across.first :]
        done = part[:, :, : across.final - across.first]
        here = slice(across.first, across.final)
        if row > 0 and (shared := self.rows[row - 1].stop - down.first) > 0:
            done[:, :shared] += self._below[:, :shared, here]
        if (rest := down.stop - down.final) > 0:
            self._below[:, :rest, here] = done[:, down.final - down.first :]
        return done[:, : down.final - down.first]

    def block(self, row: int, column: int) -> Block:
        """Rows and columns of the scene that the window at (row, column) finishes."""
        down, across = self.rows[row], self.columns[column]
        return slice(down.first, down.final), slice(across.first, across.final)

    def _weighted(self, row: int, column: int, values: torch.Tensor | None) -> torch.Tensor:
        down, across = self.rows[row], self.columns[column]
        height, width = down.stop - down.first, across.stop - across.first
        if values is None:
            return self._below.new_zeros((len(self._below), height, width))
        top, left = down.first - down.start, across.first - across.start
        part = values[:, top : top + height, left : left + width] * self._weights[0][row]
        return part.mul_(self._weights[1][column])
