"""The ground truth of a map: rasters on any grid and vector files, in the classes that the network knows."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from src.class_map import ClassMap, ClassRule, code, spellings
from src.errors import UserError
from src.grid import Window
from src.label_sources import LabelSource, NoLabelError, are_values, label_sources, zero_doubt
from src.labels import IGNORE, ClassTable, LandClass
from src.mapping.styles import polygon_style, raster_style
from src.raster.read import RasterInfo
from src.vector import choose_class_field, is_vector, read_classes

log = logging.getLogger(__name__)

BLOCK_PIXELS = 4_000_000
"""Pixels of labels that are read at a time."""


@dataclass(frozen=True)
class LabelOptions:
    """How labels are read, as in preparation.

    Attributes:
        class_map: What to merge; None to take values as they are, and text classes by the classes' names.
        field: Attribute of vector files with the class.
        layer: Layer of vector files.
    """

    class_map: ClassMap | None = None
    field: str | None = None
    layer: str | None = None


@dataclass(frozen=True)
class UnknownClass:
    """A class that labels have and the network does not know, so that no pixel of it can be mapped right.

    Attributes:
        value: Its value; None for a text class.
        name: What the labels call it; empty for a value without a name.
        pixels: How many pixels of the map have it.
    """

    value: int | None
    name: str
    pixels: int

    @property
    def title(self) -> str:
        """Value and name, as far as there are both."""
        return " ".join(str(part) for part in (self.value, self.name) if part not in (None, ""))


@dataclass(frozen=True)
class GroundTruth:
    """The labels of one scene, not open yet; a :class:`~src.label_sources.LabelSource`.

    Attributes:
        source: Reads them.
        names: What the labels call their values.
        texts: Text classes that the network does not know, by the values that their pixels are read with.
    """

    source: LabelSource
    names: Mapping[int, str]
    texts: Mapping[int, str]

    @property
    def note(self) -> str | None:
        """What is done to bring the labels onto the image's grid, in one line; None for nothing."""
        return self.source.note

    @property
    def doubt(self) -> str | None:
        """Why 0 looks like a class in what was read of the labels so far; None where it does not."""
        return self.source.doubt

    def open(self) -> Any:
        """Open for one thread: a context manager that yields a :class:`~src.label_sources.LabelReader`."""
        return self.source.open()

    def unknown(self, pixels: Mapping[int, int]) -> list[UnknownClass]:
        """Say which classes those are that have no class of the network's, given the pixels of each value."""
        return [
            UnknownClass(None, self.texts[value], count)
            if value in self.texts
            else UnknownClass(value, self.names.get(value, ""), count)
            for value, count in pixels.items()
        ]


def ground_truth(path: str, image: RasterInfo, classes: ClassTable, options: LabelOptions) -> GroundTruth:
    """Prepare the labels of a scene.

    Raises:
        UserError: The file cannot be read, does not overlap the image, or none of its text classes has the name of
            one of the network's; they call a value by the name of another of the network's classes.
    """
    class_map, texts = options.class_map, dict[int, str]()
    if class_map is None and is_vector(path):
        class_map, others = _by_name(path, classes, options)
        if class_map is not None and others:
            log.info("Label    has %s, which the checkpoint does not know; they do not count.", ", ".join(others))
            rules = _unknown_rules(others, class_map, classes)
            class_map = replace(class_map, rules=(*rules, *class_map.rules))
            texts = {rule.value: str(rule.name) for rule in rules}
    sources, hints = label_sources([path], [image], class_map, options.field, options.layer)
    if class_map is None:
        _compare_names(path, hints.names, classes)
    return GroundTruth(sources[0], hints.names, texts)


def ground_truth_style(path: str, classes: ClassTable, options: LabelOptions) -> str:
    """Return the QML that shows a label file in the colours of the classes that its values or texts become."""
    class_map = options.class_map
    if not is_vector(path):
        return raster_style(classes, class_map.target() if class_map else None)
    class_map = class_map or _by_name(path, classes, options)[0]
    _, field = choose_class_field(path, options.field, options.layer)
    return polygon_style(classes, field, class_map.target() if class_map else None)


def check_ground_truth(source: GroundTruth, path: str, image: RasterInfo, classes: ClassTable) -> None:
    """Read all labels of a scene once, in far less time than mapping it takes: what is wrong is known before.

    Raises:
        NoLabelError: They have none of the network's classes.
        UserError: They cannot be read, or hold what is no class.
    """
    rows, found = max(1, BLOCK_PIXELS // image.width), False
    with source.open() as labels:
        for first in range(0, image.height, rows):
            window = Window(first, 0, min(rows, image.height - first), image.width)
            found |= bool((classes.encode(labels.read(window)) != IGNORE).any())
    if (doubt := zero_doubt([source])) is not None:
        log.warning(
            "CAUTION: %s, but 0 is unclassified and never scored. If it is a class, say with class_map which value "
            "becomes which, as for prepare.py.",
            doubt,
        )
    if not found:
        raise NoLabelError(
            f"No pixel of {path} within {image.path} has a class of the checkpoint; expected the values "
            f"{', '.join(map(str, classes.values))}. Give the labels of this image, or say with class_map which value "
            "becomes which."
        )


def read_otherwise(path: str, classes: ClassTable, options: LabelOptions, class_map: ClassMap) -> bool:
    """Tell whether a class map may make other classes of labels than they are read as without one.

    It may if it makes another one of a class that they have, or burns their polygons in its own order. Labels of
    other classes than those that it names are not its matter.

    Args:
        path: The labels.
        classes: The network's classes.
        options: How the labels are read, without a class map.
        class_map: The class map.

    Raises:
        UserError: They cannot be read.
    """
    target, vector = class_map.target(), is_vector(path)
    if vector:
        entries = read_classes(path, options.field, options.layer).tolist()
        there = {code(entry) for entry in entries if isinstance(entry, str)}
        there |= {int(entry) for entry in entries if not isinstance(entry, str) and math.isfinite(entry)}
    else:
        there = {source for source in target if not isinstance(source, str)}
    now = {source: _value_called(source, classes) if isinstance(source, str) else source for source in there}
    named, values = there & target.keys(), {*classes.values}
    if any(target[source] != now[source] for source in named if {target[source], now[source]} & values):
        return True
    return vector and len(named) > 1 and not any(now[source] in values for source in there - named)


def _compare_names(path: str, names: Mapping[int, str], classes: ClassTable) -> None:
    """Say which values labels call otherwise than the network, as where it was trained on merged classes.

    Raises:
        UserError: They call a value by the name of another of its classes: most likely it is that class's.
    """
    known = {entry.value: entry for entry in classes.classes}
    for value, its in sorted(names.items()):
        own, name = known.get(value), _folded(its)
        if own is not None and name in _words(own):
            continue
        other = next((entry for entry in classes.classes if name in _words(entry) - _made_up(entry)), None)
        # Of a value that the network does not know no pixel is scored: the name is enough on the value that it knows.
        if other is not None and (own is not None or _folded(names.get(other.value, "")) not in _words(other)):
            raise UserError(
                f"{path} calls {value} {its!r}, but to the checkpoint that is {other.title}"
                f"{f', and {value} is {own.name}' if own else ''}; expected one meaning of each value. Say which value "
                f"becomes which, class_map='[{{value: {other.value}, merge: [{value}]}}, …]', or give labels with the "
                "checkpoint's values."
            )
        if own is not None:
            log.info("Label    calls %d %r, the checkpoint %r; they count as the same.", value, its, own.name)


def _folded(name: str) -> str:
    return name.strip().casefold()


def _words(entry: LandClass) -> set[str]:
    """Return what a class is called, by the network and by the data that it was trained on."""
    return {_folded(entry.name), _folded(entry.data_name or entry.name)}


def _made_up(entry: LandClass) -> set[str]:
    """Return what a class is called whose labels have no name for it."""
    return {f"class_{entry.value}", str(entry.value), ""}


def _by_name(path: str, classes: ClassTable, options: LabelOptions) -> tuple[ClassMap | None, list[str]]:
    """Match text classes with the names of the classes, and return those without a match.

    None and nothing for numbers that can be class values, also where they are written as text.
    """
    texts = [str(entry) for entry in read_classes(path, options.field, options.layer) if isinstance(entry, str)]
    if not texts:
        return None, []
    values = {text: _value_called(text, classes) for text in texts}
    rules = [
        ClassRule(entry.value, same)
        for entry in classes.classes
        if (same := tuple(text for text in texts if values[text] == entry.value))
    ]
    if not rules and are_values(texts):
        return None, []
    if not rules:
        raise UserError(
            f"{path} has the classes {', '.join(texts)}; the checkpoint knows {', '.join(classes.names)}. Say with "
            "class_map which become which, as for prepare.py."
        )
    class_map = ClassMap(tuple(rules), in_file_order=True)
    return class_map, [text for text in texts if text not in class_map.target()]


def _value_called(text: str, classes: ClassTable) -> int | None:
    """Return the value of the class with a name, else of the only one that differs from it in case only; or None.

    The names that the training data have go first: a network whose classes were renamed still knows their polygons.
    """
    data = {entry.value: (entry.data_name or entry.name).strip() for entry in classes.classes}
    own = {entry.value: entry.name.strip() for entry in classes.classes}
    for names in (data, own):
        exact = [value for value, name in names.items() if name == text.strip()]
        alike = [value for value, name in names.items() if _folded(name) == _folded(text)]
        if found := exact or alike:
            return found[0] if len(found) == 1 else None
    return None


def _unknown_rules(others: list[str], class_map: ClassMap, classes: ClassTable) -> list[ClassRule]:
    """Give text classes without a match values that no class has, so that their pixels are counted.

    Where there are more than such values, the last value stands for all that are left; where there is none, they
    become unclassified.
    """
    matched = {spellings(source)[0] for rule in class_map.rules for source in rule.merge}
    texts = [text for key, text in {spellings(text)[0]: text for text in others}.items() if key not in matched]
    free = [value for value in range(1, 256) if value not in classes.values]
    alone = len(texts) if len(texts) <= len(free) else max(len(free) - 1, 0)
    ones, rest = texts[:alone], texts[alone:]
    rules = [ClassRule(value, (text,), text) for value, text in zip(free, ones, strict=False)]
    if rest:
        rules.append(ClassRule(free[-1] if free else 0, tuple(rest), f"{rest[0]} and {len(rest) - 1} more"))
    return rules
