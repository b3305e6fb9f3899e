"""Where a scene's classes come from: rasters on any grid and vector files, read window by window."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from src.class_map import ClassMap, class_values, code, with_zero
from src.errors import UserError
from src.grid import Window
from src.labels import UNCLASSIFIED
from src.raster.georeference import NoWayError, bounds_in, crs_label, has_place, offset_on, same_crs, warped
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

_NO_CLASS = {
    *("background", "fill", "ignore", "ignored", "masked", "missing", "na", "nan", "nil", "noclass", "nodata"),
    *("nolabel", "none", "nonclassified", "notclassified", "notlabeled", "notlabelled", "null", "outside"),
    *("unclassed", "undefined", "unknown", "unspecified", "void"),
}
"""What files call a 0 that is no class, without case and all that is no letter."""
_NOT_YET = ("unclassified", "unlabeled", "unlabelled")
"""How such a name may begin: ``Unclassified pixels``."""
_MANY = 0.01
"""Share of 0 above which it may well be a class, where a file declares another value as nodata."""
_COUNTING = threading.Lock()


class NoLabelError(UserError):
    """Labels have no class on a scene."""


class LabelReader(Protocol):
    """Reads windows of a scene's labels; for one thread."""

    def read(self, window: Window) -> Values:
        """Return class values, H × W, on the image's grid; 0 where there is no class."""


class LabelSource(Protocol):
    """Labels of one scene, not open yet; for any number of threads."""

    @property
    def note(self) -> str | None:
        """What is done to bring the labels onto the image's grid, in one line; None for nothing."""

    @property
    def doubt(self) -> str | None:
        """Why 0 looks like a class in what was read of the labels so far, in one clause; None where it does not."""

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
        zero: What the raster calls 0; None for nothing.
        counted: Pixels that were read, ``zero`` and of a ``class``, where 0 may be a class too.
    """

    info: RasterInfo
    image: RasterInfo
    class_map: ClassMap | None
    zero: str | None = None
    counted: Counter[str] = field(default_factory=Counter, compare=False, repr=False)

    @property
    def doubt(self) -> str | None:
        """Say by what name, or beside which nodata value, the raster has a 0 that looks like a class."""
        zeros = self.counted["zero"]
        if zeros and self._calls_zero_a_class:
            return f"{self.info.path} calls 0 {self.zero!r}"
        if zeros > _MANY * self.counted.total():
            return f"{self.info.path} declares {self.info.nodata[0]:g} as nodata and has pixels of 0 beside it"
        return None

    @property
    def _calls_zero_a_class(self) -> bool | None:
        """Tell by the name of 0 whether it is a class; None where it has no name."""
        letters = "".join(filter(str.isalpha, self.zero or "")).casefold()
        return not (letters in _NO_CLASS or letters.startswith(_NOT_YET)) if letters else None

    @property
    def _may_have_zero(self) -> bool:
        """Tell whether 0 may be a class: by its name, else where another value is none; a class map settles it."""
        if self.class_map is not None:
            return False
        said = self._calls_zero_a_class
        return self.info.nodata[0] not in (None, UNCLASSIFIED) if said is None else said

    @property
    def note(self) -> str | None:
        """Say how the labels' grid differs from the image's."""
        offset = self._offset
        if offset is None:
            grid = f"{crs_label(self.info.crs)}, pixels of {abs(self.info.transform[0]):g}"
            return f"{self.info.path} ({grid}) is warped onto the grid of {self.image.path} by nearest neighbour."
        pixels = [abs(raster.transform[0]) for raster in (self.info, self.image)]
        if not has_place(self.info) and (has_place(self.image) or pixels[0] != pixels[1]):
            return f"{self.info.path} has no georeference; its pixels are taken to be those of {self.image.path}."
        if offset != (0, 0) or _size(self.info) != _size(self.image):
            return f"{self.info.path} has another extent than {self.image.path}; it is 0 (unclassified) elsewhere."
        return None

    @property
    def _offset(self) -> tuple[int, int] | None:
        """Row and column of the image's upper left pixel in the label raster; None if it has to be warped."""
        if not has_place(self.info) and _size(self.info) == _size(self.image):
            return (0, 0)
        return offset_on(self.info, self.image)

    @contextmanager
    def open(self) -> Iterator[LabelReader]:
        """Open the label raster for one thread."""
        offset, counted = self._offset, Counter[str]() if self._may_have_zero else None
        with open_raster(self.info.path) as dataset:
            if offset is not None:
                yield _RasterReader(dataset, offset, self.info, self.class_map, counted)
            else:
                with warped(dataset, self.image) as laid_over:
                    yield _RasterReader(laid_over, (0, 0), self.info, self.class_map, counted)
        with _COUNTING:
            self.counted.update(counted or {})


@dataclass(frozen=True)
class _RasterReader:
    dataset: Any
    offset: tuple[int, int]
    info: RasterInfo
    class_map: ClassMap | None
    counted: Counter[str] | None

    def read(self, window: Window) -> Values:
        moved = window._replace(row=window.row + self.offset[0], column=window.column + self.offset[1])
        with reading(self.info.path):
            raw = read_window(self.dataset, moved, fill=0, bands=[0])
            valid = read_valid(self.dataset, moved, raw, None)
        values = class_values(raw[0], self.info.nodata[0], self.class_map, self.info.path)
        values = np.where(valid, values, np.uint8(UNCLASSIFIED))  # a class map may name the 0 that fills the outside
        if self.counted is not None:
            zeros = np.count_nonzero(valid & (raw[0] == UNCLASSIFIED))
            self.counted.update({"zero": int(zeros), "class": int(np.count_nonzero(values))})
        return values


@dataclass(frozen=True)
class VectorLabels:
    """Polygons, burnt window by window."""

    burner: Burner
    note: str | None = None
    doubt: str | None = None

    @contextmanager
    def open(self) -> Iterator[LabelReader]:
        """Yield the polygons, which threads share."""
        yield self.burner


@dataclass(frozen=True)
class NoLabels:
    """What a scene has that lies beside the labels of several scenes.

    Attributes:
        label: These labels.
        image: The scene.
        error: What is wrong if they lie on no other scene either.
    """

    label: str
    image: str
    error: NoLabelError
    doubt: str | None = None

    @property
    def note(self) -> str:
        """Say so."""
        return f"{self.label} has nothing on {self.image}."

    @contextmanager
    def open(self) -> Iterator[LabelReader]:
        """Yield a reader of 0 only."""
        yield self

    def read(self, window: Window) -> Values:
        """Return zeros."""
        return np.full((window.height, window.width), UNCLASSIFIED, np.uint8)


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
        One source per image, and the class names and colours that the files bring. An image beside a file that is for
        several has :class:`NoLabels`, if another image has labels; see :func:`scenes_with_labels`.

    Raises:
        UserError: A file cannot be read, does not overlap its image, or any of them, has several bands or no CRS to
            place it by; the class map names a text class that no file has.
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
        try:
            if path in vectors:
                sources.append(_vector_source(path, image, class_map, texts, label_field, label_layer))
                continue
            source, found = _raster_source(path, image, class_map)
        except NoLabelError as error:
            if labels.count(path) == 1:
                raise
            sources.append(NoLabels(path, image.path, error))
            continue
        called += found.names.items()
        names = {value: name for value, name in found.names.items() if value != UNCLASSIFIED}
        if numbered and not names:
            raise _unnamed(path)
        sources.append(source)
        hints = hints.merged(ClassHints(names, found.colors))
    beside = [source.error for source in sources if isinstance(source, NoLabels)]
    if beside and len(beside) == len(sources):
        raise beside[0]
    _say_lines(labels, sources)
    if class_map is not None:
        hints = ClassHints(class_map.names(called), class_map.colors(hints.colors))
    return sources, hints


def scenes_with_labels(sources: Sequence[LabelSource]) -> list[int]:
    """Return the numbers of the scenes that have labels; say which others there are, as they are left out."""
    beside = [source.image for source in sources if isinstance(source, NoLabels)]
    if beside:
        log.warning("CAUTION: %s; they are left out.", without_label(beside, len(sources)))
    return [number for number, source in enumerate(sources) if not isinstance(source, NoLabels)]


def without_label(images: Sequence[str], total: int) -> str:
    """Say of how many scenes, and of which first ones, there is no label."""
    more = " …" if len(images) > 3 else ""
    return f"{len(images)} of {total} scenes have no label ({', '.join(images[:3])}{more})"


def zero_doubt(sources: Iterable[LabelSource]) -> str | None:
    """Say in a clause why 0 looks like a class in labels that were read; None where it does not."""
    said = list(dict.fromkeys(source.doubt for source in sources if source.doubt))
    more = f" (and {len(said) - 1} more like it)" if len(said) > 1 else ""
    return f"{said[0]}{more}" if said else None


def zero_hint(sources: Iterable[LabelSource], values: Sequence[int], key: str = "class_map") -> str | None:
    """Say what to do where 0 looks like a class, without a full stop; None where it does not.

    Args:
        sources: Labels that were read.
        values: Their class values.
        key: What the configuration calls the class map.
    """
    doubt = zero_doubt(sources)
    return doubt and (
        f"{doubt}, but 0 is unclassified and never learnt. If it is a class, give it a value of its own: "
        f"{key}='{with_zero(values)}'"
    )


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
    _say_same_but_for_case(texts)
    if len(texts) > 255:
        raise UserError(f"{', '.join(found)}: {len(texts)} text classes; 255 fit. Merge some with class_map.")
    return {text: value for value, text in enumerate(texts, start=1)}


def _say_lines(labels: Sequence[str], sources: Sequence[LabelSource]) -> None:
    """Say which vector files have lines: roads and outlines hold no pixels."""
    drawn = (path for path, source in zip(labels, sources, strict=True) if _has_lines(source))
    for path in dict.fromkeys(drawn):
        log.warning(
            "CAUTION: %s has lines, and each is drawn one pixel wide; labels are polygons or points. Take lines out, "
            "or give them a width (buffer them in QGIS).",
            path,
        )


def _has_lines(source: LabelSource) -> bool:
    return isinstance(source, VectorLabels) and source.burner.has_lines


def _say_same_but_for_case(texts: Iterable[str]) -> None:
    """Say which text classes may be meant as one."""
    alike: dict[str, list[str]] = {}
    for text in texts:
        alike.setdefault(text.casefold(), []).append(text)
    if several := [group for group in alike.values() if len(group) > 1]:
        first, more = several[0], f" (and {len(several) - 1} more such groups)" if len(several) > 1 else ""
        log.warning(
            "CAUTION: the text classes %s%s differ in case only and are classes of their own; if they are one, correct "
            "the labels, or merge them: class_map='[{value: 1, merge: [%s]}, …]'.",
            " and ".join(first),
            more,
            ", ".join(first),
        )


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
    return RasterLabels(info, image, class_map, hints.names.get(UNCLASSIFIED)), hints


def _check_overlap(label: RasterInfo, image: RasterInfo) -> None:
    sizes = [f"{i.width} × {i.height}" for i in (label, image)]
    if not has_place(label):
        if _size(label) == _size(image):
            return
        if not _of_one_plan(label, image):
            raise UserError(
                f"{label.path} ({sizes[0]} px) has no georeference that says where it lies in {image.path} "
                f"({sizes[1]} px); expected labels of the image's size, pixel by pixel. Give those, or declare where "
                "both lie (gdal_edit.py -a_srs -a_ullr)."
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
        raise NoLabelError(
            f"{label.path} and {image.path} do not overlap ({_extent(ours)} against {_extent(its)} in "
            f"{crs_label(crs)}); give the labels of this image."
        )
    bounds_in(label, image.crs)  # raises the error that says why there is neither


def _size(raster: RasterInfo) -> tuple[int, int]:
    return raster.width, raster.height


def _of_one_plan(label: RasterInfo, image: RasterInfo) -> bool:
    """Tell whether two rasters lie on one grid of a plan: with no place on earth, but in units and not in pixels."""
    planned = all(abs(raster.transform[0]) != 1 for raster in (label, image))
    return planned and same_crs(label.crs, image.crs) and offset_on(label, image) is not None


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
        raise NoLabelError(
            f"{path} and {image.path} do not overlap: no geometry with a class lies within {extent} in "
            f"{crs_label(image.crs)}; give the labels of this image."
        )
    if features.classes.dtype.kind in "iuf":
        values = class_values(features.classes, None, class_map, path, "or choose another field with label_field=…")
    else:
        values = np.array([texts[text] for text in features.classes], np.uint8)
    order = _burning_order(features.classes, class_map)
    return VectorLabels(Burner(features.geometries[order], values[order], image.transform))


def _burning_order(classes: npt.NDArray[Any], class_map: ClassMap | None) -> npt.NDArray[np.intp]:
    """Say which geometries to burn in which order, given the class of each; those that no rule names are left out."""
    if class_map is None:
        return np.arange(len(classes))
    ranks = class_map.order()
    rank = np.array([ranks.get(code(_plain(entry)), -1) for entry in classes.tolist()])
    order = np.arange(len(rank)) if class_map.in_file_order else np.argsort(rank, kind="stable")
    return order[rank[order] >= 0]


def _extent(bounds: Bounds) -> str:
    return f"{bounds[0]:.7g}…{bounds[2]:.7g}, {bounds[1]:.7g}…{bounds[3]:.7g}"
