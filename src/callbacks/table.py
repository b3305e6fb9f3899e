"""All numbers of a training as a CSV with a row per epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from src.atomic import write_text


class EpochTable(Logger):
    """Writes ``metrics.csv`` anew after each epoch; a resumed run goes on in it.

    Args:
        path: The CSV.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)
        self._rows: dict[int, dict[str, Any]] = {}
        if self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                self._rows = {int(float(row["epoch"])): dict(row) for row in csv.DictReader(file)}

    @property
    def name(self) -> str:
        """What Lightning calls it."""
        return "csv"

    @property
    def version(self) -> str:
        """It has no versions."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take an epoch's numbers; what an earlier, interrupted run wrote of this epoch and later ones goes."""
        epoch = step or 0
        self._rows = {number: row for number, row in self._rows.items() if number < epoch}
        self._rows[epoch] = dict(metrics) | {"epoch": epoch}

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Leave them to the run's configuration."""

    @rank_zero_only
    def save(self) -> None:
        """Write the table, whole or not at all."""
        columns = list(dict.fromkeys(key for row in self._rows.values() for key in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self._rows.values())
        write_text(self.path, text.getvalue())
