"""From the classes that labels come with to those that are trained: merged, renamed, dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from src.errors import UserError
from src.labels import UNCLASSIFIED

_BLACK = "#000000"
"""What colour tables show a value in that nobody chose a colour for."""
_PLAIN = re.compile(r"(?!(?:true|false|null|nan|inf)$)[a-z_][a-z0-9_]*", re.IGNORECASE)
"""Text that Hydra takes for itself without quotes."""


def spellings(source: int | str) -> tuple[int | str, ...]:
    """Return a class's number and the same as text: attribute tables hold codes as either. Other text is alone."""
    if isinstance(source, str):
        return (int(source), source) if source.isdecimal() else (source,)
    return (source, str(source))


def code(source: int | str) -> int | str:
    """Return what is the same for all spellings of a class: the number that a text is (1 for 01), else the text."""
    return spellings(source)[0]


@dataclass(frozen=True)
class ClassRule:
    """One class and what becomes it.

    Attributes:
        value: The class's value, 1–255; 0 for what becomes unclassified, also where it overlaps an earlier entry.
        merge: The values (integers) or text classes (strings) of the labels that become this class.
        name: Its name; None for the labels' own, see :meth:`ClassMap.names`.
        color: Its colour as #rrggbb; None for the labels' own, see :meth:`ClassMap.colors`.
    """

    value: int
    merge: tuple[int | str, ...]
    name: str | None = None
    color: str | None = None

    @classmethod
    def from_entry(cls, entry: Any, key: str = "class_map") -> ClassRule:
        """Turn an entry of a configuration into a rule.

        Args:
            entry: A mapping with value, merge (one class or a list), and perhaps name and color.
            key: What the configuration calls the class map, for errors.

        Raises:
            UserError: The entry is no mapping, lacks a key or has another one, or holds something of the wrong kind.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(entry, Mapping) or not {"value", "merge"} <= entry.keys() <= set(known):
            given = dict(entry) if isinstance(entry, Mapping) else entry
            raise UserError(
                f"{key} has the entry {given}; expected the keys {', '.join(known)}, of which value and merge are "
                "needed. Write {value: 1, merge: [2, 3]}."
            )
        value, name, color = entry["value"], entry.get("name"), entry.get("color")
        merge = entry["merge"] if isinstance(entry["merge"], list | tuple) else [entry["merge"]]
        if not _whole(value):
            raise UserError(f"{key} gives the value {value!r}; give a whole number, 1–255, or 0 for unclassified.")
        if not all(_whole(source) or isinstance(source, str) for source in merge):
            raise UserError(f"{key} merges {merge}; list whole numbers or text classes.")
        for what, text in (("name", name), ("color", color)):
            if not (text is None or isinstance(text, str)):
                raise UserError(f"{key} gives the class {value} the {what} {text!r}; expected text. Put it in quotes.")
        return cls(value, tuple(merge), name, color)


@dataclass(frozen=True)
class ClassMap:
    """Rules in the order in which polygons are burnt: where two overlap, the later rule wins.

    What no rule names becomes unclassified.

    Attributes:
        rules: The rules.
        key: What the configuration calls the map, for errors.
        in_file_order: Whether polygons are burnt in their file's order instead, as they are without a class map.
    """

    rules: tuple[ClassRule, ...]
    key: str = "class_map"
    in_file_order: bool = False

    @classmethod
    def from_entries(cls, entries: Any, key: str = "class_map") -> ClassMap:
        """Turn a configuration's list of entries into rules; raises UserError like :meth:`ClassRule.from_entry`."""
        if not isinstance(entries, list | tuple):
            raise UserError(f"{key}={entries} is no list; write {key}=[{{value: 1, merge: [2, 3]}}].")
        return cls(tuple(ClassRule.from_entry(entry, key) for entry in entries), key)

    def __post_init__(self) -> None:
        """Raise UserError for a value outside 0–255 or used twice, an empty rule, or a class named twice."""
        seen: dict[int | str, int] = {}
        values = [rule.value for rule in self.rules]
        for rule in self.rules:
            if not 0 <= rule.value <= 255:
                raise UserError(f"{self.key} gives the value {rule.value}; expected 1–255, or 0 for unclassified.")
            if values.count(rule.value) > 1:
                raise UserError(f"{self.key} has the value {rule.value} twice; name all that it merges in one entry.")
            if not rule.merge:
                raise UserError(f"{self.key}'s entry {rule.value} merges nothing; list values or classes under merge.")
            for source in dict.fromkeys(map(code, rule.merge)):
                if source in seen:
                    raise UserError(f"{self.key} puts {source!r} into {seen[source]} and {rule.value}; choose one.")
                seen[source] = rule.value

    def target(self) -> dict[int | str, int]:
        """Return the class value of every source by its :func:`code`, and by its other spelling where it has two."""
        return {key: rule.value for rule in self.rules for source in rule.merge for key in spellings(source)}

    def order(self) -> dict[int | str, int]:
        """Return the position of every source's rule, like :meth:`target`."""
        rules = enumerate(self.rules)
        return {key: position for position, rule in rules for source in rule.merge for key in spellings(source)}

    def written(self) -> str:
        """Write value and merge of all rules as Hydra takes them on the command line; a shell needs quotes around."""
        entries = ((rule.value, ", ".join(map(_word, rule.merge))) for rule in self.rules)
        return f"[{', '.join(f'{{value: {value}, merge: [{merged}]}}' for value, merged in entries)}]"

    def names(self, called: Sequence[tuple[int | str, str]]) -> dict[int, str]:
        """Return the classes' names by value: those that the rules give, else the labels' own.

        That is what the labels call the class's own value, if the rule merges it, or the only one that it merges. What
        is merged of several has no name of its own: which of them these labels have would decide.

        Args:
            called: The labels' values and text classes with the name of each; files may name one differently.
        """
        target = self.target()
        names: dict[int, str] = {}
        for rule in self.rules:
            merged = [(source, name) for source, name in called if target.get(code(source)) == rule.value]
            its_own = [name for source, name in merged if source == rule.value]
            alone = [name for _, name in merged] if len(set(map(code, rule.merge))) == 1 else []
            name = rule.name if rule.name is not None else _only(its_own) or _only(alone)
            if rule.value and name is not None:
                names[rule.value] = name
        return names

    def colors(self, shown: Mapping[int, str]) -> dict[int, str]:
        """Return the classes' colours by value: those that the rules give, else the labels' own.

        That is the colour of the class's own value, if the rule merges it, else of the first that it merges and that
        has one. Black goes last.

        Args:
            shown: The labels' values with the colour of each.
        """
        colors: dict[int, str] = {}
        for rule in self.rules:
            numbers = [number for number in map(code, rule.merge) if isinstance(number, int)]
            merged = sorted(numbers, key=lambda number: number != rule.value)
            own = sorted((shown[number] for number in merged if number in shown), key=lambda color: color == _BLACK)
            if rule.value and (color := rule.color if rule.color is not None else next(iter(own), None)) is not None:
                colors[rule.value] = color
        return colors


def class_values(
    raw: npt.NDArray[Any],
    nodata: float | None,
    class_map: ClassMap | None,
    origin: str,
    instead: str = "or declare it as the file's nodata value",
) -> npt.NDArray[np.uint8]:
    """Turn the numbers of labels into class values.

    Args:
        raw: Any shape and dtype.
        nodata: A raster's nodata value; what has it, and NaN, becomes 0, whatever the class map says of it and of 0.
        class_map: What to merge; None to keep the values.
        origin: What to call the labels in an error.
        instead: What to do about a number that is no class value, in place of renumbering it.

    Raises:
        UserError: A value is fractional, or negative or over 255 and not named in the class map.
    """
    if raw.dtype == np.uint8 and nodata in (None, UNCLASSIFIED) and class_map is None:
        return raw
    missing = np.zeros(raw.shape, bool) if raw.dtype.kind != "f" else np.isnan(raw)
    if nodata is not None:
        missing |= raw == nodata
    values = np.where(missing, 0, raw)
    if raw.dtype.kind == "f" and (wrong := values[values != np.floor(values)]).size:
        raise UserError(f"{origin} has the value {wrong[0]:g}; labels are whole numbers of 0–255. Round it.")
    if class_map is not None:
        return np.where(missing, np.uint8(UNCLASSIFIED), _mapped(values, class_map))
    if (wrong := values[(values < 0) | (values > 255)]).size:
        raise UserError(
            f"{origin} has the value {wrong[0]:g}; labels are whole numbers of 0–255 (0 = unclassified). Renumber it "
            f"with class_map, {instead}."
        )
    return values.astype(np.uint8)


def _only(names: Sequence[str]) -> str | None:
    """Return the name that all are but for case and blanks; None if there are several or none."""
    return names[0] if len({name.strip().casefold() for name in names}) == 1 else None


def _word(source: int | str) -> str:
    """Write a class as Hydra takes it."""
    if isinstance(source, int) or _PLAIN.fullmatch(source):
        return str(source)
    # To Hydra a backslash is one, but before a quote.
    return '"' + re.sub(r'(\\*)("|$)', lambda end: 2 * end[1] + end[2].replace('"', '\\"'), source) + '"'


def _whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _mapped(values: npt.NDArray[Any], class_map: ClassMap) -> npt.NDArray[np.uint8]:
    targets = {source: value for source, value in class_map.target().items() if isinstance(source, int)}
    if not targets:
        return np.zeros(values.shape, np.uint8)
    sources = np.array(sorted(targets))
    into = np.array([targets[source] for source in sources.tolist()], np.uint8)
    position = np.searchsorted(sources, values).clip(max=len(sources) - 1)
    return np.where(sources[position] == values, into[position], 0).astype(np.uint8)


def rare_values(counts: npt.NDArray[np.int64], min_share: float) -> tuple[int, ...]:
    """List the class values with pixels, but less than a share of the labelled pixels.

    Args:
        counts: Pixels of each value 0–255.
        min_share: Percent of all pixels that are not 0.
    """
    labelled = counts[1:].sum()
    return tuple(int(v) for v in np.flatnonzero(counts) if v != UNCLASSIFIED and 100 * counts[v] < min_share * labelled)


def with_zero(values: Sequence[int]) -> str:
    """Write the class map that keeps class values as they are and makes a class of 0 too."""
    entries = [f"{{value: {value}, merge: [{value}]}}" for value in values if value != UNCLASSIFIED]
    shown = entries if len(entries) <= 5 else [*entries[:2], "…"]
    return f"[{', '.join([*shown, f'{{value: {free_value(values, 255)}, merge: [0]}}'])}]"


def free_value(taken: Iterable[int], fallback: int) -> int:
    """Return the smallest class value that is not taken; ``fallback`` when all 255 are."""
    return min(set(range(1, 256)) - set(taken), default=fallback)
