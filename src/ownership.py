"""Which chip counts a pixel that several chips of a scene show: the one whose centre is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from src.grid import Window

Bools = npt.NDArray[np.bool_]

_INSET = 0.25
"""Pixels by which windows are made smaller to be compared: chips side by side share nothing."""


class Owned(NamedTuple):
    """Pixels of a chip, H × W, or of a batch, B × H × W.

    Attributes:
        own: Those that count here; each pixel of a scene does in just one of the chips that show it.
        several: Those that other chips show too.
    """

    own: Bools
    several: Bools


class Ownership:
    """Tells for each of many chips which of its pixels count in it, by a look at those that overlap it."""

    def __init__(self, places: Sequence[tuple[int, Window] | None]) -> None:
        """Sort the chips by scene and place.

        Args:
            places: Scene's number and window of each chip; None for one that shares no pixel with any other.
        """
        self._places = places
        members: dict[int, list[int]] = {}
        for chip, place in enumerate(places):
            if place is not None:
                members.setdefault(place[0], []).append(chip)
        self._scenes = {scene: _Scene(chips, places) for scene, chips in members.items() if len(chips) > 1}

    def overlapping(self, chip: int) -> list[int]:
        """List the other chips that share a pixel with a chip."""
        place = self._places[chip]
        scene = self._scenes.get(place[0]) if place else None
        return [other for other in scene.meeting(chip) if other != chip] if scene else []

    def of(self, chip: int) -> Owned | None:
        """Return what counts in a chip, None for all of it; of equally near chips the first one counts a pixel."""
        place, others = self._places[chip], self.overlapping(chip)
        if place is None or not others:
            return None
        window = place[1]
        owned = Owned(np.ones((window.height, window.width), bool), np.zeros((window.height, window.width), bool))
        for other in others:
            theirs = self._places[other]
            assert theirs is not None
            shared = window.intersection(theirs[1])
            top, left = shared.row - window.row, shared.column - window.column
            here = np.s_[top : top + shared.height, left : left + shared.width]
            down = _farther(top, shared.height, window.height, theirs[1].row - window.row, theirs[1].height)
            across = _farther(left, shared.width, window.width, theirs[1].column - window.column, theirs[1].width)
            nearer = np.less if other < chip else np.less_equal
            owned.own[here] &= nearer(down[:, None], -across)
            owned.several[here] = True
        return owned

    def of_batch(self, chips: Sequence[int], size: tuple[int, int]) -> Owned | None:
        """Return what counts in chips of one width and height, B × H × W; None for all of them."""
        found = [self.of(chip) for chip in chips]
        if not any(found):
            return None
        whole = Owned(np.ones(size[::-1], bool), np.zeros(size[::-1], bool))
        own, several = zip(*(owned or whole for owned in found), strict=True)
        return Owned(np.stack(own), np.stack(several))


class _Scene:
    """Chips of one scene, to be found by where they lie."""

    def __init__(self, chips: Sequence[int], places: Sequence[tuple[int, Window] | None]) -> None:
        self._chips = np.array(chips)
        windows = np.array([place[1] for chip in chips if (place := places[chip])], float)
        top, left, height, width = windows.T
        self._ground = shapely.box(left + _INSET, top + _INSET, left + width - _INSET, top + height - _INSET)
        self._tree = shapely.STRtree(self._ground)

    def meeting(self, chip: int) -> list[int]:
        """List the chips that share a pixel with one of them, that one too."""
        number = int(np.searchsorted(self._chips, chip))
        found: list[int] = self._chips[self._tree.query(self._ground[number])].tolist()
        return found


def _farther(first: int, count: int, side: int, their_start: int, their_side: int) -> npt.NDArray[np.int64]:
    """Tell along one axis how much farther pixels are from a chip's centre than from another's, both squared.

    In quarters of a square pixel, which are whole numbers, so that equal distances are equal; those of both axes add up
    to the whole.
    """
    pixel = 2 * np.arange(first, first + count) + 1
    return np.asarray((pixel - side) ** 2 - (pixel - 2 * their_start - their_side) ** 2)
