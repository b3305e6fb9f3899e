"""The ground truth of a map: rasters on any grid and vector files, in the classes that the network knows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from src.class_map import ClassMap, ClassRule, spellings
from src.errors import UserError
from src.grid import Window
from src.label_sources import LabelSource, NoLabelError, are_values, label_sources, zero_doubt
from src.labels import IGNORE, ClassTable
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
            one of the network's.
    """
    class_map, texts = options.class_map, dict[int, str]()
    if class_map is None and is_vector(path):
        class_map, others = _by_name(path, classes, options)
        if class_map is not None and others:
            log.info("Label    has %s, which the checkpoint does not know; they do not count.", ", ".join(others))
            rules = _unknown_rules(others, class_map, classes)
            class_map, texts = ClassMap((*rules, *class_map.rules)), {rule.value: str(rule.name) for rule in rules}
    sources, hints = label_sources([path], [image], class_map, options.field, options.layer)
    for entry in classes.classes if class_map is None else ():
        its = hints.names.get(entry.value, entry.name)
        if its.strip().casefold() != entry.name.strip().casefold():
            log.info("Label    calls %d %r, the checkpoint %r; they count as the same.", entry.value, its, entry.name)
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
    class_map = ClassMap(tuple(rules))
    return class_map, [text for text in texts if text not in class_map.target()]


def _value_called(text: str, classes: ClassTable) -> int | None:
    """Return the value of the class with a name, else of the only one that differs from it in case only; or None."""
    names = {entry.value: entry.name.strip() for entry in classes.classes}
    exact = [value for value, name in names.items() if name == text.strip()]
    alike = [value for value, name in names.items() if name.casefold() == text.strip().casefold()]
    found = exact or alike
    return found[0] if len(found) == 1 else None


def _unknown_rules(others: list[str], class_map: ClassMap, classes: ClassTable) -> list[ClassRule]:
    """Give text classes without a match values that no class has, so that their pixels are counted.

    Where there are more than such values, the last value stands for all that are left.
    """
    matched = {spellings(source)[0] for rule in class_map.rules for source in rule.merge}
    texts = [text for key, text in {spellings(text)[0]: text for text in others}.items() if key not in matched]
    free = [value for value in range(1, 256) if value not in classes.values]
    ones, rest = (texts, []) if len(texts) <= len(free) else (texts[: len(free) - 1], texts[len(free) - 1 :])
    rules = [ClassRule(value, (text,), text) for value, text in zip(free, ones, strict=False)]
    if rest and free:
        rules.append(ClassRule(free[-1], tuple(rest), f"{rest[0]} and {len(rest) - 1} more"))
    return rules
