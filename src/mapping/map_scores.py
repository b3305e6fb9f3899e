"""A finished map read once more, block by block: how much each class covers, and how right it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from src.errors import UserError
from src.grid import Window
from src.labels import UNCLASSIFIED, ClassTable
from src.mapping.areas import AreaCounter, ClassArea
from src.mapping.ground_truth import LabelOptions, ground_truth
from src.raster.read import RasterInfo, block_cache, describe, info_of, open_raster, read_window
from src.scores import Evaluation, ScoreCounter

BLOCK_PIXELS = 4_000_000
"""Pixels of a map that are read at a time."""
CACHE_MEGABYTES = 64
"""Decoded blocks that GDAL keeps meanwhile: no block is needed twice."""
SCORE_PIXELS = 500_000
"""Pixels that are scored at a time: counting takes some eight numbers of 64 bits for each."""
SAMPLE_SIDE = 1200
"""Pixels of the longer side of what is kept to be looked at."""

Values = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MapSurvey:
    """What a map says.

    Attributes:
        areas: How much each class covers.
        scores: Against the ground truth; None without one, or where no pixel has a class in both.
        unknown: Pixels of the map by the value of the ground truth, where that is no class of the map. They do not
            count.
        sample: Class values of the map and of the ground truth in every n-th pixel of every n-th row, H × W, to be
            looked at side by side; None without scores.
    """

    areas: list[ClassArea]
    scores: Evaluation | None
    unknown: dict[int, int]
    sample: tuple[Values, Values] | None = None


def row_blocks(path: Path, tile: int = 512) -> Iterator[tuple[RasterInfo, Window, npt.NDArray[np.uint8]]]:
    """Yield a class map from top to bottom in whole rows of tiles, H × W class values each."""
    with open_raster(path) as dataset:
        info = info_of(dataset)
        rows = max(tile, BLOCK_PIXELS // info.width // tile * tile)
        for first in range(0, info.height, rows):
            window = Window(first, 0, min(rows, info.height - first), info.width)
            yield info, window, read_window(dataset, window, 0)[0]


def survey(
    path: Path, classes: ClassTable, label: Any | None = None, advance: Callable[[int], None] = lambda _: None
) -> MapSurvey:
    """Read a map once and count.

    The map is scored as it is: it has a class where the label has none, and that counts neither way.

    Args:
        path: A class map.
        classes: Its classes.
        label: Reads windows of the ground truth on the map's grid (:class:`~src.label_sources.LabelReader`).
        advance: Called with 0 and then with the number of pixels after each block.

    Raises:
        UserError: A file cannot be read.
    """
    counter, areas, sampled = ScoreCounter(classes), None, list[tuple[Values, Values]]()
    unknown: Counter[int] = Counter()
    advance(0)
    with block_cache(CACHE_MEGABYTES):
        for info, window, values in row_blocks(path):
            areas = areas or AreaCounter(info, classes)
            areas.add(window.row, values)
            if label is not None:
                truth = label.read(window)
                unknown.update(_unknown(classes, truth, values))
                step = -(-max(info.width, info.height) // SAMPLE_SIDE)
                chosen = slice(-window.row % step, None, step), slice(None, None, step)
                sampled.append((values[chosen].copy(), classes.decode(classes.encode(truth[chosen]))))
                _score(counter, classes, truth, values)
            advance(window.pixels)
    assert areas is not None
    scores = counter.result()
    if not scores.pooled.matrix.any():
        return MapSurvey(areas.result(), None, dict(sorted(unknown.items())))
    mapped, truths = (np.concatenate(parts) for parts in zip(*sampled, strict=True))
    return MapSurvey(areas.result(), scores, dict(sorted(unknown.items())), (mapped, truths))


def _unknown(classes: ClassTable, truth: Values, values: Values) -> dict[int, int]:
    """Count the pixels that have a class in the map, by those values of the ground truth that are no class of it."""
    if not classes.unknown(truth):
        return {}
    mapped = truth[values != UNCLASSIFIED]
    counts = np.bincount(mapped, minlength=256)
    return {value: int(counts[value]) for value in classes.unknown(mapped)}


def _score(
    counter: ScoreCounter, classes: ClassTable, truth: npt.NDArray[np.uint8], values: npt.NDArray[np.uint8]
) -> None:
    rows = max(1, SCORE_PIXELS // truth.shape[1])
    for first in range(0, truth.shape[0], rows):
        part = slice(first, first + rows)
        target, prediction = (torch.from_numpy(classes.encode(x[part]))[None] for x in (truth, values))
        counter.add(target, prediction)


def score_map(
    path: str | Path, label: str | Path, classes: ClassTable, options: LabelOptions | None = None
) -> MapSurvey:
    """Measure a class map, and score it against a ground truth.

    Args:
        path: The map.
        label: Raster of class values on any grid, or polygons.
        classes: The map's classes: ``mapper.spec.classes``.
        options: How labels are read; values as they are, and text classes by the classes' names, if None.

    Raises:
        UserError: A file cannot be read, or no pixel of the ground truth has a class of the map.
    """
    source = ground_truth(str(label), describe(path), classes, options or LabelOptions())
    with source.open() as labels:
        found = survey(Path(path), classes, labels)
    if found.scores is None:
        raise UserError(
            f"No pixel of {path} has a class in {label}; expected labels with the values "
            f"{', '.join(map(str, classes.values))} where the map has a class. Give the labels of this map."
        )
    return found
