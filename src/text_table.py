"""Tables as people read them on a terminal, and as programs read them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from src.atomic import write_text
from src.foreign_text import cell


def lay_out(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write rows as lines of text, each column as wide as its widest cell."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]


def write_csv(path: str | Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows as a CSV, whole or not at all; no cell is a formula to a spreadsheet."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *([cell(text) for text in row] for row in rows)])
    write_text(path, text.getvalue())
