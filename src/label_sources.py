"""Where a scene's classes come from: rasters on any grid and vector files, read window by window."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from src.class_map import ClassMap, class_values, code
from src.errors import UserError
from src.grid import Window
from src.labels import UNCLASSIFIED
from src.raster.georeference import NoWayError, bounds_in, crs_label, offset_on, warped
from src.raster.read import (
    RasterInfo,
    category_names,
    info_of,
    open_raster,
    read_valid,
    read_window,
    reading,
    value_colors,
)
from src.vector import Burner, is_vector, read_classes, read_features

log = logging.getLogger(__name__)

Values = npt.NDArray[np.uint8]
Bounds = tuple[float, float, float, float]


class LabelReader(Protocol):
    """Reads windows of a scene's labels; for one thread."""

    def read(self, window: Window) -> Values:
        """Return class values, H × W, on the image's grid; 0 where there is no class."""


class LabelSource(Protocol):
    """Labels of one scene, not open yet; for any number of threads."""

    @property
    def note(self) -> str | None:
        """What is done to bring the labels onto the image's grid, in one line; None for nothing."""

    def open(self) -> Any:
        """Open for one thread: a context manager that yields a :class:`LabelReader`."""


@dataclass(frozen=True)
class ClassHints:
    """Names and colours that label files bring, by class value.

    Attributes:
        names: Names.
        colors: Colours as #rrggbb.
        contradictions: Two names for each value that different files call differently.
    """

    names: dict[int, str] = field(default_factory=dict)
    colors: dict[int, str] = field(default_factory=dict)
    contradictions: dict[int, tuple[str, str]] = field(default_factory=dict)

    def merged(self, other: ClassHints) -> ClassHints:
        """Join two; the other one's entries go first."""
        differing = {
            value: (name, other.names[value])
            for value, name in self.names.items()
            if name.strip().casefold() != other.names.get(value, name).strip().casefold()
        }
        return ClassHints(
            {**self.names, **other.names},
            {**self.colors, **other.colors},
            {**self.contradictions, **other.contradictions, **differing},
        )


@dataclass(frozen=True)
class RasterLabels:
    """A label raster, read directly where it lies on the image's pixel grid, else warped onto it.

    Attributes:
        info: The label raster.
        image: The image.
        class_map: What to merge.
    """

    info: RasterInfo
    image: RasterInfo
    class_map: ClassMap | None

    @property
    def note(self) -> str | None:
        """Say how the labels' grid differs from the image's."""
        offset = self._offset
        if offset is None:
            grid = f"{crs_label(self.info.crs)}, pixels of {abs(self.info.transform[0]):g}"
            return f"{self.info.path} ({grid}) is warped onto the grid of {self.image.path} by nearest neighbour."
        if _georeferenced(self.image) and not _georeferenced(self.info):
            return f"{self.info.path} has no georeference; its pixels are taken to be those of {self.image.path}."
        same_extent = (self.info.width, self.info.height) == (self.image.width, self.image.height)
        if offset != (0, 0) or not same_extent:
            return f"{self.info.path} has another extent than {self.image.path}; it is 0 (unclassified) elsewhere."
        return None

    @property
    def _offset(self) -> tuple[int, int] | None:
        """Row and column of the image's upper left pixel in the label raster; None if it has to be warped."""
        if _georeferenced(self.image) and not _georeferenced(self.info):
            return (0, 0)
        return offset_on(self.info, self.image)

    @contextmanager
    def open(self) -> Iterator[LabelReader]:
        """Open the label raster for one thread."""
        offset = self._offset
        with open_raster(self.info.path) as dataset:
            if offset is not None:
                yield _RasterReader(dataset, offset, self.info, self.class_map)
            else:
                with warped(dataset, self.image) as laid_over:
                    yield _RasterReader(laid_over, (0, 0), self.info, self.class_map)


@dataclass(frozen=True)
class _RasterReader:
    dataset: Any
    offset: tuple[int, int]
    info: RasterInfo
    class_map: ClassMap | None

    def read(self, window: Window) -> Values:
        moved = window._replace(row=window.row + self.offset[0], column=window.column + self.offset[1])
        with reading(self.info.path):
            raw = read_window(self.dataset, moved, fill=0, bands=[0])
            valid = read_valid(self.dataset, moved, raw, None)
        values = class_values(raw[0], self.info.nodata[0], self.class_map, self.info.path)
        return np.where(valid, values, np.uint8(UNCLASSIFIED))  # a class map may name the 0 that fills the outside


@dataclass(frozen=True)
class VectorLabels:
    """Polygons, burnt window by window."""

    burner: Burner
    note: str | None = None

    @contextmanager
    def open(self) -> Iterator[LabelReader]:
        """Yield the polygons, which threads share."""
        yield self.burner


def label_sources(
    labels: Sequence[str],
    images: Sequence[RasterInfo],
    class_map: ClassMap | None,
    label_field: str | None,
    label_layer: str | None,
) -> tuple[list[LabelSource], ClassHints]:
    """Prepare the labels of every scene.

    Args:
        labels: A raster or vector file per image.
        images: The images, in the same order.
        class_map: What to merge; None to keep the classes as they are.
        label_field: Attribute of vector files that holds the class.
        label_layer: Their layer.

    Returns:
        One source per image, and the class names and colours that the files bring.

    Raises:
        UserError: A file cannot be read, does not overlap its image, has several bands or no CRS to place it by;
            the class map names a text class that no file has.
    """
    vectors = [path for path in dict.fromkeys(labels) if is_vector(path)]
    listed = {path: read_classes(path, label_field, label_layer).tolist() for path in vectors}
    if class_map is not None:
        _check_known(class_map, listed, only=set(labels) == set(vectors))
    texts = _text_classes(listed, class_map)
    numbered = class_map is None and not are_values(texts)
    for path, entries in listed.items():
        if numbered and not all(isinstance(entry, str) for entry in entries):
            raise _unnamed(path)
    sources: list[LabelSource] = []
    hints = ClassHints(
        {value: text for text, value in texts.items() if numbered or text != str(value)} if class_map is None else {}
    )
    called: list[tuple[int | str, str]] = [] if are_values(texts) else [(text, text) for text in texts]
    for path, image in zip(labels, images, strict=True):
        if path in vectors:
            sources.append(_vector_source(path, image, class_map, texts, label_field, label_layer))
        else:
            source, found = _raster_source(path, image, class_map)
            called += found.names.items()
            if numbered and not found.names:
                raise _unnamed(path)
            sources.append(source)
            hints = hints.merged(found)
    if class_map is not None:
        hints = ClassHints(class_map.names(called), class_map.colors(hints.colors))
    return sources, hints


def _unnamed(path: str) -> UserError:
    return UserError(
        f"{path} has numbers without names, and other labels have text classes, which would get numbers of their own; "
        "expected to know which are the same. Say it: class_map=[{value: 1, merge: [1, forest]}, …]."
    )


def _text_classes(found: Mapping[str, Sequence[float | str]], class_map: ClassMap | None) -> dict[str, int]:
    """Return the value of every text class of the vector files.

    It is the class map's; else the number that the text is, if all are numbers that can be class values; else 1, 2, 3…
    by alphabet.
    """
    texts = sorted({entry for entries in found.values() for entry in entries if isinstance(entry, str)})
    if class_map is not None:
        target = class_map.target()
        return {text: target.get(code(text), 0) for text in texts}
    if are_values(texts):
        return {text: int(text) for text in texts}
    if len(texts) > 255:
        raise UserError(f"{', '.join(found)}: {len(texts)} text classes; 255 fit. Merge some with class_map.")
    return {text: value for value, text in enumerate(texts, start=1)}


def are_values(texts: Iterable[str]) -> bool:
    """Tell whether all texts are numbers that can be class values."""
    return all(text.isdecimal() and int(text) <= 255 for text in texts)


def _check_known(class_map: ClassMap, found: Mapping[str, Sequence[float | str]], *, only: bool) -> None:
    """Raise UserError for a rule that merges no class of the vector files; say which further classes none has.

    Infinity is no class either.

    Args:
        class_map: The rules.
        found: The classes of each vector file.
        only: Whether there are no rasters, whose values nobody knows before they are read.
    """
    for path, entries in found.items():
        if infinite := [entry for entry in entries if not isinstance(entry, str) and math.isinf(entry)]:
            raise UserError(
                f"{path} has the class {infinite[0]}; classes are whole numbers or text. Correct it, or choose another "
                "field with label_field=…."
            )
    known = {code(_plain(entry)) for entries in found.values() for entry in entries}
    for rule in class_map.rules:
        missing = [source for source in rule.merge if code(source) not in known]
        unknown = [source for source in missing if only or isinstance(code(source), str)]
        if not unknown:
            continue
        listed = ", ".join(map(str, unknown))
        if rule.value and len(unknown) == len(rule.merge):
            texts = ", ".join(str(_plain(entry)) for entries in found.values() for entry in entries) or "no text class"
            raise UserError(
                f"{class_map.key} merges {listed}, which no label has; there is: {texts}. Correct that entry or take "
                "it out."
            )
        log.info("%s merges %s into %d, which no label has.", class_map.key, listed, rule.value)


def _plain(entry: float | str) -> int | str:
    """Return a class of a vector file as a class map has it; numbers that are not whole are refused later."""
    return entry if isinstance(entry, str) else int(entry)


def _raster_source(path: str, image: RasterInfo, class_map: ClassMap | None) -> tuple[RasterLabels, ClassHints]:
    with open_raster(path) as dataset:
        info = info_of(dataset)
        hints = ClassHints(category_names(dataset), value_colors(dataset))
    if len(info.bands) != 1:
        raise UserError(
            f"{path} has {len(info.bands)} bands; a label raster has one. Are image and label swapped? Else cut it "
            "out: gdal_translate -b."
        )
    _check_overlap(info, image)
    return RasterLabels(info, image, class_map), hints


def _check_overlap(label: RasterInfo, image: RasterInfo) -> None:
    if not _georeferenced(label) and (label.width, label.height) == (image.width, image.height):
        return
    sizes = [f"{i.width} × {i.height}" for i in (label, image)]
    if not _georeferenced(label) and image.crs is None:
        raise UserError(
            f"{label.path} ({sizes[0]} px) has no georeference that says where it lies in {image.path} ({sizes[1]} "
            "px); expected labels of the image's size, pixel by pixel. Give those, or declare where both lie "
            "(gdal_edit.py -a_srs -a_ullr)."
        )
    if (label.crs is None) != (image.crs is None) or (label.crs is None and offset_on(label, image) is None):
        without = label.path if label.crs is None else image.path
        raise UserError(
            f"{without} has no CRS, so {label.path} ({sizes[0]} px) cannot be laid onto {image.path} ({sizes[1]} px); "
            "declare it (gdal_edit.py -a_srs), warp what has control points only (gdalwarp), or give labels of the "
            "image's size without any georeference."
        )
    found: dict[str | None, tuple[Bounds, Bounds]] = {}
    for crs in dict.fromkeys((image.crs, label.crs)):  # of all the earth in one, hardly a place is right in the other
        with suppress(NoWayError):
            found[crs] = bounds_in(label, crs), bounds_in(image, crs)
    if any(_share(*extents) for extents in found.values()):
        return
    for crs, (ours, its) in found.items():
        raise UserError(
            f"{label.path} and {image.path} do not overlap ({_extent(ours)} against {_extent(its)} in "
            f"{crs_label(crs)}); give the labels of this image."
        )
    bounds_in(label, image.crs)  # raises the error that says why there is neither


def _share(a: Bounds, b: Bounds) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _vector_source(
    path: str,
    image: RasterInfo,
    class_map: ClassMap | None,
    texts: dict[str, int],
    label_field: str | None,
    label_layer: str | None,
) -> VectorLabels:
    features = read_features(path, image, label_field, label_layer)
    if not len(features.geometries):
        extent = _extent(bounds_in(image, image.crs))
        raise UserError(
            f"{path} and {image.path} do not overlap: no geometry with a class lies within {extent} in "
            f"{crs_label(image.crs)}; give the labels of this image."
        )
    order = np.arange(len(features.classes))
    if features.classes.dtype.kind in "iuf":
        values = class_values(features.classes, None, class_map, path)
    else:
        values = np.array([texts[text] for text in features.classes], np.uint8)
    if class_map is not None:
        ranks = class_map.order()
        rank = np.array([ranks.get(code(_plain(entry)), -1) for entry in features.classes.tolist()])
        order = np.argsort(rank, kind="stable")
        order = order[rank[order] >= 0]
    return VectorLabels(Burner(features.geometries[order], values[order], image.transform))


def _georeferenced(info: RasterInfo) -> bool:
    return info.crs is not None or info.transform != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _extent(bounds: Bounds) -> str:
    return f"{bounds[0]:.7g}…{bounds[2]:.7g}, {bounds[1]:.7g}…{bounds[3]:.7g}"
