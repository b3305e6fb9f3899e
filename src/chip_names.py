"""Names of chips: they say which scene a chip is of, where it lies there, and which part's labels alone it has."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from src.grid import Window
from src.tables import PARTS, Part

_CHIP = re.compile(r"(?P<scene>.+)_tile_(?P<x>[0-9]+)_(?P<y>[0-9]+)", re.DOTALL)


def chip_name(scene: str, window: Window, part: Part | None = None) -> str:
    """Return a chip's file name: ``<scene>_tile_<x>_<y>.tif``.

    Args:
        scene: Name of its scene.
        window: Where it lies there.
        part: The part whose labels it has, where its window is a chip of several parts; else None.
    """
    return f"{with_part(scene, part) if part else scene}_tile_{window.column}_{window.row}.tif"


def with_part(scene: str, part: Part) -> str:
    """Return what stands for the scene in the name of a chip whose window is a chip of other parts too."""
    return f"{scene}_{part}"


def place_in_name(chip: str, scenes: Collection[str] = ()) -> tuple[str, int, int]:
    """Return scene, x and y of a chip by its name without suffix; a chip of another name is a scene of its own.

    The inverse of :func:`chip_name` where ``scenes`` are all scenes and none is called as another one and a part of it.
    Without them a part is taken for the end of the scene's name.
    """
    match = _CHIP.fullmatch(chip)
    if not match:
        return chip, 0, 0
    name = match["scene"]
    scene, _, part = name.rpartition("_")
    if name not in scenes and part in PARTS and scene in scenes:
        name = scene
    return name, int(match["x"]), int(match["y"])


def named_places(
    images: Sequence[Path], scenes: Collection[str], size: tuple[int, int]
) -> list[tuple[int, Window] | None]:
    """Tell by their names where chips lie.

    A list that mixes parts of a split raster has several chips of one window, each with labels of its own: these are
    chips of several scenes. So are chips of scenes of one name in two folders.

    Args:
        images: The chips' images.
        scenes: Names of their scenes, as far as they are known.
        size: Width and height of a chip in pixels.

    Returns:
        The scene's number and the window of each chip; None for one whose name tells no place.
    """
    parts: dict[tuple[Path, str], set[str]] = defaultdict(set)
    chips = [(image.parent, place_in_name(image.stem, scenes), place_in_name(image.stem)) for image in images]
    for folder, (scene, *_), (whole, *_) in chips:
        if whole != scene:
            parts[folder, scene].add(whole)
    numbers: dict[tuple[Path, str], int] = {}
    places: list[tuple[int, Window] | None] = []
    for image, (folder, (scene, x, y), (whole, *_)) in zip(images, chips, strict=True):
        name = whole if len(parts[folder, scene]) > 1 else scene
        number = numbers.setdefault((folder, name), len(numbers))
        places.append((number, Window(y, x, size[1], size[0])) if _CHIP.fullmatch(image.stem) else None)
    return places
