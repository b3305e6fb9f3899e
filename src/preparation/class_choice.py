"""Which classes a data folder has, what they are called, and how they are painted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from src.balance import Counts
from src.class_map import ClassRule, free_value, rare_values
from src.class_names import Named, by_value, names_by_value
from src.errors import UserError
from src.foreign_text import steers
from src.label_sources import ClassHints
from src.labels import UNCLASSIFIED, ClassTable

log = logging.getLogger(__name__)


def known_values(class_map: Sequence[ClassRule] | None, *given: Named | None) -> set[int]:
    """List the values that a class map makes and that names or colours by value are given for."""
    keyed = [value for named in given if isinstance(named, Mapping) for value in named if str(value).isdecimal()]
    return {rule.value for rule in class_map or ()} | {int(value) for value in keyed}


def merge_rare(
    total: Counts, min_share: float, hints: ClassHints, known: Iterable[int] = ()
) -> tuple[npt.NDArray[np.uint8], ClassHints]:
    """Put classes with few pixels into one called ``other``, and say which.

    Its value is one that means nothing else, be it without a pixel here: another class's would give it a wrong name.

    Args:
        total: Pixels of each value 0–255.
        min_share: Percent of the labelled pixels that a class has at least.
        hints: Names and colours of the labels.
        known: Values that mean something else beside those with pixels and names; see :func:`known_values`.

    Returns:
        What becomes of each value 0–255, and names and colours that know ``other``.
    """
    lookup = np.arange(256, dtype=np.uint8)
    rare = rare_values(total, min_share)
    if not rare:
        return lookup, hints
    taken = {*np.flatnonzero(total).tolist(), *hints.names, *known}
    # A value with a colour only is free if need be: colour tables often have all 256.
    other = free_value(taken | hints.colors.keys(), free_value(taken, rare[0]))
    lookup[list(rare)] = other
    labelled = int(total[1:].sum())
    named = ", ".join(f"{hints.names.get(v, f'class_{v}')} ({100 * total[v] / labelled:.2g} %)" for v in rare)
    log.info("Below min_class_share=%g %%, hence in class %d (other): %s.", min_share, other, named)
    names = {value: name for value, name in hints.names.items() if value not in rare} | {other: "other"}
    colors = {value: color for value, color in hints.colors.items() if value not in rare and value != other}
    return lookup, ClassHints(names, colors)


def check_one_name(hints: ClassHints, class_names: Named | None) -> None:
    """Raise UserError for a value that label files call differently, unless the user names it."""
    settled = [str(value) for value in class_names] if isinstance(class_names, Mapping) else None
    for value, (one, other) in sorted(hints.contradictions.items()):
        if class_names is None or (settled is not None and str(value) not in settled):
            raise UserError(
                f"The labels call class {value} both {one!r} and {other!r}; expected one meaning of a value in all of "
                f"them. Say which is which with class_map, or if both are the same: class_names={{{value}: {one}}}."
            )


def class_table(
    values: Sequence[int], hints: ClassHints, class_names: Named | None, class_colors: Named | None
) -> ClassTable:
    """Name and colour classes: as the user says, else as the labels do, else ``class_3`` and a palette.

    What the labels call a class that the user calls otherwise is kept: by that their polygons score a map.

    Raises:
        UserError: A list of names or colours is not as long as that of the classes, or a key is no class value.
    """
    names = hints.names | names_by_value(class_names, values)
    table = ClassTable.build(values, names, hints.colors | by_value("class_colors", class_colors, values))
    said = {value: name for value, name in hints.names.items() if name != names[value] and not steers(name)}
    return ClassTable(tuple(replace(entry, data_name=said.get(entry.value)) for entry in table.classes))


def left_out(
    seen: Counts, classes: ClassTable, hints: ClassHints, lookup: npt.NDArray[np.uint8], wanted: Iterable[int]
) -> list[str]:
    """Say which classes are in no chip.

    Args:
        seen: Pixels of each value 0–255 in all windows, chips or not.
        classes: The classes of the chips.
        hints: Names of the labels and of the class map.
        lookup: What became of each value 0–255.
        wanted: The values of the class map.
    """

    def listed(values: Iterable[int]) -> str:
        return ", ".join(f"{hints.names.get(value, f'class_{value}')} ({value})" for value in values)

    lost = [v for v in np.flatnonzero(seen).tolist() if v != UNCLASSIFIED and lookup[v] not in classes.values]
    lines = [f"In no chip, only in what was dropped: {listed(lost)}."] if lost else []
    nowhere = [value for value in sorted(wanted) if value != UNCLASSIFIED and not seen[value]]
    return [*lines, f"Without a pixel in the labels: {listed(nowhere)}."] if nowhere else lines
