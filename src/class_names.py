"""What a user calls classes and paints them in, in place of what their data say: in order, or by value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from src.errors import UserError
from src.labels import ClassTable

Named = Mapping[int | str, str] | Sequence[str]
"""Something for each class: in the order of their values, or by value."""


def read_named(key: str, given: Any) -> Named | None:
    """Take names or colours as a configuration has them: a list, a mapping or None; raises UserError for others."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {value: str(entry) for value, entry in given.items()}
    if isinstance(given, list | tuple):
        return tuple(str(entry) for entry in given)
    raise UserError(f"{key}={given} is no list or mapping; write {key}=[forest,water] or {key}={{1: forest}}.")


def by_value(key: str, given: Named | None, values: Sequence[int]) -> dict[int, str]:
    """Return what a user gave for each class value.

    Args:
        key: What the configuration calls it, for errors.
        given: Names or colours; None for none.
        values: The classes' values in ascending order.

    Raises:
        UserError: A list is not as long as that of the classes, or a key is no class value.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if len(given) != len(values):
            raise UserError(
                f"{key} has {len(given)} entries for {len(values)} classes ({', '.join(map(str, values))}); give one "
                f"for each in this order, or by value: {key}={{{values[0]}: …}}."
            )
        return dict(zip(values, given, strict=True))
    try:
        return {int(value): str(entry) for value, entry in given.items()}
    except ValueError as error:
        raise UserError(f"{key} has a key that is no class value ({error}); write {key}={{{values[0]}: …}}.") from error


def names_by_value(given: Named | None, values: Sequence[int]) -> dict[int, str]:
    """Return the name that a user gave each class value, like :func:`by_value`.

    Raises:
        UserError: The same for names; or one is blank, or two are the same.
    """
    names = by_value("class_names", given, values)
    for value in values:
        if value in names and (not names[value].strip() or [names.get(v) for v in values].count(names[value]) > 1):
            raise UserError(
                f"class_names calls class {value} {names[value]!r}, and another the same or nothing at all; expected a "
                "name of its own for each. Classes are merged with class_map."
            )
    return names


def renamed(classes: ClassTable, class_names: Any, class_colors: Any, origin: str) -> ClassTable:
    """Call and paint classes as a user says; whatever is not said stays as it is.

    Args:
        classes: The classes.
        class_names: Names as a configuration has them, see :func:`read_named`.
        class_colors: Colours as #rrggbb, in the same way.
        origin: Where the classes come from, for errors.

    Raises:
        UserError: Names or colours are of no use, or of a value that is none of the classes.
    """
    values = classes.values
    names = names_by_value(read_named("class_names", class_names), values)
    colors = by_value("class_colors", read_named("class_colors", class_colors), values)
    _check_known("class_names", names, values, origin)
    _check_known("class_colors", colors, values, origin)
    return classes.renamed(names, colors)


def _check_known(key: str, given: Collection[int], values: Sequence[int], origin: str) -> None:
    if unknown := sorted(set(given) - set(values)):
        raise UserError(
            f"{key} is given for {', '.join(map(str, unknown))}, but the classes of {origin} are "
            f"{', '.join(map(str, values))}; expected values of these. Leave out the others."
        )
