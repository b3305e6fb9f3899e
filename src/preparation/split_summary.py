"""What prepare.py says at its end: what became of the windows, and what each part holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from src.balance import Counts
from src.preparation.cutting import Fate
from src.spec import DatasetSpec
from src.splits import Split
from src.tables import PARTS


@dataclass(frozen=True)
class SplitSummary:
    """A data folder in words.

    Attributes:
        windows: What became of the windows.
        classes: Pixels and shares of each class in each part, a table.
        parts: Chips of each part, and how alike their classes are.
        notes: What else is worth knowing: classes that a part or all chips lack, what drops most windows.
    """

    windows: str
    classes: tuple[str, ...]
    parts: str
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """All of it for the terminal."""
        return [self.windows, *self.classes, self.parts, *self.notes]


def summarise(spec: DatasetSpec, fates: Mapping[Fate, int], split: Split, counts: Counts) -> SplitSummary:
    """Summarise a data folder.

    Args:
        spec: What ``dataset.json`` says.
        fates: Windows by what became of them when they were cut.
        split: Of the chips that are left.
        counts: n × k pixels of each class in each of them.
    """
    pixels = np.array([counts[split.parts == part].sum(0) for part in range(len(PARTS))])
    chips = " ".join(f"{name} {int((split.parts == part).sum())}" for part, name in enumerate(PARTS))
    imbalance = f"Imbalance {split.imbalance:.4f} (mean total variation distance; 0 = alike, 1 = apart)."
    cut = [] if split.cut is None else [f"Whole blocks of {split.cut[0]} × {split.cut[1]} px went to one part each."]
    return SplitSummary(
        windows=_chips(fates, split, int(spec.split["buffer"])),
        classes=tuple(_class_lines(spec, pixels)),
        parts=f"Chips: {chips}. {imbalance}",
        notes=(*cut, *_absences(spec, pixels, split, counts)),
    )


def _chips(fates: Mapping[Fate, int], split: Split, buffer: int) -> str:
    dropped = [f"{count} {fate}" for fate, count in fates.items() if fate != "kept"]
    if split.straddling:
        near = ", or lie within its buffer" if buffer else ""
        dropped.append(f"{split.straddling} because they share ground with another part{near}")
    spare = fates.get("kept", 0) - split.straddling - len(split.parts)
    if spare:
        dropped.append(f"{spare} that the shares leave over")
    return f"{len(split.parts)} of {sum(fates.values())} windows are chips; dropped: {', '.join(dropped) or 'none'}."


def _class_lines(spec: DatasetSpec, pixels: Counts) -> list[str]:
    """Lay out pixels and shares of each class in each part as a table."""
    width = max(5, *(len(name) for name in spec.classes.names))
    lines = [f"{'value':>5} {'class':<{width}}" + "".join(f"{name:>22}" for name in PARTS)]
    totals = np.maximum(pixels.sum(1), 1)
    for index, entry in enumerate(spec.classes.classes):
        cells = (f"{pixels[part, index]:>14,} {100 * pixels[part, index] / totals[part]:>5.1f} %" for part in range(3))
        lines.append(f"{entry.value:>5} {entry.name:<{width}}" + "".join(cells))
    return lines


def _absences(spec: DatasetSpec, pixels: Counts, split: Split, counts: Counts) -> list[str]:
    """Name the classes that a part lacks."""
    lines = []
    for index, name in enumerate(spec.classes.names):
        lacking = [PARTS[part] for part in range(3) if (split.parts == part).any() and not pixels[part, index]]
        if lacking:
            chips = int((counts[:, index] > 0).sum())
            lines.append(f"{name} is not in {' and '.join(lacking)}: it is in {chips} of the chips only.")
    return lines
