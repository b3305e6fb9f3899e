"""Which chips share ground: pairs of chips that overlap or lie nearer to each other than a buffer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from src.grid import Window
from src.raster.georeference import (
    NoWayError,
    apply_transform,
    full_turn,
    has_place,
    same_crs,
    transform_points,
)
from src.raster.read import RasterInfo

Ints = npt.NDArray[np.int64]

_INSET = 1e-3
"""Pixels by which footprints are made smaller: scenes that touch do not overlap, whatever rounding says."""
_EDGE_POINTS = 5
"""Points per edge of a footprint that is transformed into another CRS, where straight lines bend."""


@dataclass(frozen=True)
class Places:
    """Where chips lie.

    Attributes:
        scene: Index of each chip's scene.
        row: First row of each chip in its scene.
        column: First column.
        size: Width and height of all chips in pixels.
        step: Distance of neighbouring chips in x and y, pixels; rows and columns are multiples of it.
        across: m × 2 chips of different scenes that share ground.
    """

    scene: Ints
    row: Ints
    column: Ints
    size: tuple[int, int]
    step: tuple[int, int]
    across: Ints

    @classmethod
    def of(
        cls,
        chips: Sequence[tuple[int, Window]],
        scenes: Sequence[RasterInfo],
        size: tuple[int, int],
        step: tuple[int, int],
        buffer: int = 0,
    ) -> Places:
        """Describe chips given as scene index and window; see :func:`across_scenes` for the buffer."""
        return cls(
            np.array([scene for scene, _ in chips], np.int64),
            np.array([window.row for _, window in chips], np.int64),
            np.array([window.column for _, window in chips], np.int64),
            size,
            step,
            across_scenes(chips, scenes, buffer),
        )

    def pairs(self, buffer: int = 0) -> Iterator[Ints]:
        """Yield all pairs of chips that share ground or have less than ``buffer`` pixels between them, as m × 2."""
        if len(self.across):
            yield self.across
        for scene in np.unique(self.scene):
            yield from self._pairs_within(np.flatnonzero(self.scene == scene), buffer)

    def _pairs_within(self, chips: Ints, buffer: int) -> Iterator[Ints]:
        rows, columns = self.row[chips] // self.step[1], self.column[chips] // self.step[0]
        grid = np.full((rows.max() + 1, columns.max() + 1), -1)
        grid[rows, columns] = chips
        reach_x, reach_y = ((s + buffer - 1) // d for s, d in zip(self.size, self.step, strict=True))
        offsets = [(dy, dx) for dy in range(reach_y + 1) for dx in range(-reach_x, reach_x + 1) if (dy, dx) > (0, 0)]
        # Near ones first: they join most of what is joined, which makes the far ones quick to look at.
        for dy, dx in sorted(offsets, key=lambda offset: offset[0] ** 2 + offset[1] ** 2):
            height, width = grid.shape[0] - dy, grid.shape[1] - abs(dx)
            if height > 0 and width > 0:
                left, right = max(0, -dx), max(0, dx)
                first = grid[:height, left : left + width]
                second = grid[dy:, right : right + width]
                both = (first >= 0) & (second >= 0)
                yield np.stack([first[both], second[both]], axis=1)


def components(count: int, pairs: Iterable[Ints]) -> Ints:
    """Number what pairs join: two of ``count`` things have the same number if a chain of pairs leads over."""
    parent = np.arange(count)

    def root(thing: int) -> int:
        while parent[thing] != thing:
            parent[thing] = parent[parent[thing]]
            thing = int(parent[thing])
        return thing

    for batch in pairs:
        parent = parent[parent]
        for first, second in batch[parent[batch[:, 0]] != parent[batch[:, 1]]].tolist():
            a, b = root(first), root(second)
            parent[max(a, b)] = min(a, b)
    while (parent[parent] != parent).any():
        parent = parent[parent]
    return np.unique(parent, return_inverse=True)[1]


def across_scenes(chips: Sequence[tuple[int, Window]], scenes: Sequence[RasterInfo], buffer: int = 0) -> Ints:
    """Find chips of different scenes that share ground or lie nearer to each other than a buffer.

    Scenes without a CRS that have coordinates are taken to have them in one system, and are compared with each other
    only. Scenes without a place (:func:`~src.raster.georeference.has_place`) are taken to lie apart from all others,
    and so are two between whose CRSs there is no way.

    Args:
        chips: Scene index and window of each chip.
        scenes: The scenes.
        buffer: In pixels.

    Returns:
        m × 2 indices of chips.
    """
    left = [i for i, info in enumerate(scenes) if has_place(info)]
    pairs = [np.zeros((0, 2), np.int64)]
    while left:
        reference = scenes[left[0]]
        outlines: dict[int, shapely.Polygon] = {}
        for i in (i for i in left if (scenes[i].crs is None) == (reference.crs is None)):
            with suppress(NoWayError):  # to the reference's CRS; such scenes are compared with each other
                outlines[i] = _footprint(scenes[i], scenes[i].window, reference, buffer)
        pairs.append(_meeting(chips, scenes, outlines, reference, buffer))
        left = [i for i in left if i not in outlines]
    return np.concatenate(pairs)


def no_place_caution(scenes: Sequence[RasterInfo]) -> str | None:
    """Say of which scenes nobody knows whether they show the same ground; None for less than two."""
    lost = [info.path for info in scenes if not has_place(info)]
    if len(lost) < 2:
        return None
    more = f" (and {len(lost) - 2} more)" if len(lost) > 2 else ""
    return (
        f"{lost[0]} and {lost[1]}{more} do not say where they lie, so ground that they share cannot be seen: trained "
        "on in one and scored in the other, it makes scores too good. Declare their place (gdal_edit.py -a_srs "
        "-a_ullr) unless they are different places"
    )


def _meeting(
    chips: Sequence[tuple[int, Window]],
    scenes: Sequence[RasterInfo],
    outlines: Mapping[int, shapely.Polygon],
    reference: RasterInfo,
    buffer: int,
) -> Ints:
    """Find chips like :func:`across_scenes`, in the scenes that have an outline in the reference's CRS."""
    numbers, shapes = np.array(list(outlines)), np.array(list(outlines.values()), dtype=object)
    one, other = _touching(shapes, reference.crs)
    meeting = set(numbers[one[one != other]].tolist())  # few, so that most chips need no outline
    members = [index for index, (scene, _) in enumerate(chips) if scene in meeting]
    if not members:
        return np.zeros((0, 2), np.int64)
    prints = np.array([_footprint(scenes[chips[i][0]], chips[i][1], reference, buffer) for i in members], dtype=object)
    pairs = np.array(members)[_touching(prints, reference.crs).T]
    scene = np.array([scene for scene, _ in chips])
    return np.asarray(pairs[(pairs[:, 0] < pairs[:, 1]) & (scene[pairs[:, 0]] != scene[pairs[:, 1]])])


def _touching(shapes: npt.NDArray[Any], crs: str | None) -> Ints:
    """Return which shapes touch which, 2 × m: in a geographic CRS also those that do so once around the earth."""
    tree, turn = shapely.STRtree(shapes), full_turn(crs)
    shifts = [0.0] if turn is None else [0.0, -turn, turn]
    moved = (shapely.transform(shapes, partial(np.add, (shift, 0.0))) for shift in shifts)
    found = np.concatenate([tree.query(there, predicate="intersects") for there in moved], axis=1)
    return found if turn is None else np.unique(found, axis=1)  # what reaches around the earth touches twice


def _footprint(info: RasterInfo, window: Window, reference: RasterInfo, buffer: int) -> shapely.Polygon:
    """Return the ground of a window within its scene, in the reference's CRS, wider by half the buffer."""
    inside = window.intersection(info.window)
    margin = buffer / 2 - _INSET
    top, bottom = inside.row - margin, inside.row_stop + margin
    left, right = inside.column - margin, inside.column_stop + margin
    same = same_crs(info.crs, reference.crs)
    along = np.linspace(0, 1, 2 if same else _EDGE_POINTS)[:-1]
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)
    ring = np.concatenate(
        [a + along[:, None] * (b - a) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    )
    points = apply_transform(info.transform, ring)
    if not same and info.crs is not None and reference.crs is not None:
        points = transform_points(points, info.crs, reference.crs)
    if (turn := full_turn(reference.crs)) is not None:
        if not same:  # point by point: what crosses the 180th meridian is in two pieces
            points[:, 0] = np.unwrap(points[:, 0], period=turn)
        points[:, 0] -= turn * np.round(points[:, 0].mean() / turn)
    return shapely.Polygon(points)
