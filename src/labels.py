"""The class table: raster value, index, name and colour of every class, and the one place that translates.

In rasters a class is a *value* of 1–255, with gaps as they come, and 0 means unclassified. Networks and
confusion matrices know *indices* 0…n−1 in the order of the values; what is not a class is ``IGNORE``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from src.errors import UserError
from src.foreign_text import steers
from src.palette import palette_color

UNCLASSIFIED = 0
"""The raster value of pixels without a class."""
IGNORE = 255
"""The index of pixels without a class. No class can have it: 255 values have the indices 0–254."""

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class LandClass:
    """One class.

    Attributes:
        value: Its value in rasters, 1–255.
        name: Its name.
        color: Its colour as ``#rrggbb``.
        data_name: What the data call it, where a user calls it otherwise; None where it is the same.
    """

    value: int
    name: str
    color: str
    data_name: str | None = None

    def __post_init__(self) -> None:
        """Raise UserError for a value outside 1–255, an unprintable name or a colour that is not ``#rrggbb``."""
        if steers(self.name):
            raise UserError(
                f"Class {self.value} has the name {self.name!r}; control characters and turns of the writing direction "
                "deceive who reads them. Give another one, for example with class_names."
            )
        if not 1 <= self.value <= 255:
            raise UserError(
                f"Class {self.name!r} has the value {self.value}; class values are 1–255 and 0 means unclassified. "
                "Renumber it, for example with class_map."
            )
        if not _COLOR.fullmatch(self.color):
            raise UserError(
                f"Class {self.name!r} has the colour {self.color!r}; colours are written #rrggbb, for example #2ca02c."
            )

    @property
    def title(self) -> str:
        """Value and name, ``3 forest``; the value alone where the name says no more."""
        says_more = self.name not in {"", str(self.value), f"class_{self.value}"}
        return f"{self.value} {self.name}" if says_more else str(self.value)

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue as 0–255."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


@dataclass(frozen=True)
class ClassTable:
    """All classes of a data set, by ascending value; position = class index."""

    classes: tuple[LandClass, ...]

    def __post_init__(self) -> None:
        """Raise UserError when there is no class, or values repeat or are not ascending."""
        values = self.values
        if not values:
            raise UserError("There is no class: every label pixel is 0 (unclassified). Give labels with values 1–255.")
        if list(values) != sorted(set(values)):
            raise UserError(f"Class values {list(values)} repeat or are out of order; each value names one class.")

    @classmethod
    def build(
        cls,
        values: Iterable[int],
        names: Mapping[int, str] | None = None,
        colors: Mapping[int, str] | None = None,
    ) -> ClassTable:
        """Make a table of the given values (0 is left out), with ``class_3`` and palette colours as defaults."""
        names, colors = names or {}, colors or {}
        return cls(
            tuple(
                LandClass(value, names.get(value, f"class_{value}"), colors.get(value, palette_color(position)))
                for position, value in enumerate(sorted({int(v) for v in values} - {UNCLASSIFIED}))
            )
        )

    @classmethod
    def from_dicts(cls, rows: Iterable[Mapping[str, Any]]) -> ClassTable:
        """Inverse of :meth:`to_dicts`."""
        return cls(
            tuple(
                LandClass(
                    int(row["value"]),
                    str(row["name"]),
                    str(row["color"]),
                    None if row.get("data_name") is None else str(row["data_name"]),
                )
                for row in rows
            )
        )

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain dicts for JSON and checkpoints: value, name, color, and data_name where it is another one."""
        return [{key: part for key, part in asdict(entry).items() if part is not None} for entry in self.classes]

    def renamed(self, names: Mapping[int, str], colors: Mapping[int, str]) -> ClassTable:
        """Return the table with other names and colours, by class value; others stay, and the data's names are kept."""
        return ClassTable(
            tuple(
                LandClass(
                    entry.value,
                    name := names.get(entry.value, entry.name),
                    colors.get(entry.value, entry.color),
                    (entry.data_name or entry.name) if name != entry.name else entry.data_name,
                )
                for entry in self.classes
            )
        )

    def __len__(self) -> int:
        """Count the classes."""
        return len(self.classes)

    @property
    def values(self) -> tuple[int, ...]:
        """Class values in the order of the indices."""
        return tuple(entry.value for entry in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of the indices."""
        return tuple(entry.name for entry in self.classes)

    @property
    def titles(self) -> tuple[str, ...]:
        """What tables and diagrams call the classes, in the order of the indices; see :attr:`LandClass.title`."""
        return tuple(entry.title for entry in self.classes)

    @property
    def distinct_names(self) -> tuple[str, ...]:
        """What sentences and columns call the classes: the name, with the value behind it where another has it too."""
        names = self.names
        return tuple(
            f"{entry.name} ({entry.value})" if names.count(entry.name) > 1 else entry.name for entry in self.classes
        )

    @property
    def colors(self) -> tuple[str, ...]:
        """Class colours (#rrggbb) in the order of the indices."""
        return tuple(entry.color for entry in self.classes)

    def encode(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Turn class values 0–255 of any shape into indices; 0 and values without a class become IGNORE."""
        lookup = np.full(256, IGNORE, np.uint8)
        lookup[list(self.values)] = np.arange(len(self), dtype=np.uint8)
        return lookup[values.astype(np.uint8, copy=False)]

    def decode(self, indices: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Turn indices of any shape into class values; IGNORE becomes 0."""
        lookup = np.zeros(256, np.uint8)
        lookup[: len(self)] = self.values
        return lookup[indices.astype(np.uint8, copy=False)]

    def unknown(self, values: npt.NDArray[Any]) -> tuple[int, ...]:
        """List the values that occur but are neither a class nor 0."""
        expected = np.zeros(256, bool)
        expected[[UNCLASSIFIED, *self.values]] = True
        if values.dtype == np.uint8 and expected[values].all():  # far faster than sorting them
            return ()
        return tuple(sorted({int(v) for v in np.unique(values)} - set(self.values) - {UNCLASSIFIED}))
