"""Training data straight from scenes: random windows from some blocks, the rest for validation, no chips needed."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from src.balance import Counts
from src.bands import BandStatistics, Normalization, measured
from src.blocks import NONE, Units, assign_units
from src.class_map import ClassMap
from src.cores import cores
from src.datamodules.base import MIN_STEPS, DataDescription, SegmentationData, Stage
from src.datamodules.batches import Chip
from src.errors import UserError
from src.grid import Window, chip_windows
from src.ground import Ints, across_scenes, components, no_place_caution
from src.input_files import find_files
from src.label_sources import ClassHints, label_sources, scenes_with_labels, zero_hint
from src.labels import IGNORE, UNCLASSIFIED, ClassTable
from src.pixel_size import sides_on_ground
from src.preparation.class_choice import check_one_name
from src.preparation.cutting import Scene, measured_bands
from src.preparation.scene_files import (
    bad_bands,
    common_nodata,
    describe_all,
    pair,
    replaced_nodata,
    scene_nodata,
    unlike_scenes,
)
from src.progress import progress
from src.raster.read import open_raster, read_valid, read_window
from src.splits import Parts, imbalance, part_sizes, random_parts
from src.tables import class_weights

log = logging.getLogger(__name__)

_TRIES = 10
"""Windows that are drawn at most until one has a label."""
_SPLITS = 500
"""Random assignments of blocks of which the most balanced is taken."""
_LARGE = 1 / 3
"""Share of the blocks above which a group that hangs together does not go to one part as a whole."""
_FEW = 700
"""Blocks of scenes that are shifted against each other up to which their classes are balanced, in seconds."""


@dataclass(frozen=True)
class Block:
    """A part of a scene that belongs to training or validation as a whole; ``counts`` are pixels of values 0–255."""

    scene: int
    window: Window
    counts: npt.NDArray[np.int64]
    statistics: BandStatistics

    @property
    def labelled(self) -> int:
        """Pixels with a class."""
        return int(self.counts[1:].sum())


@dataclass(frozen=True)
class Survey:
    """What a first pass over all scenes finds out."""

    scenes: tuple[Scene, ...]
    used: tuple[bool, ...]
    classes: ClassTable
    train: tuple[Block, ...]
    validation: tuple[Block, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Training pixels of each class."""
        total = sum((block.counts for block in self.train), np.zeros(256, np.int64))
        return tuple(int(total[value]) for value in self.classes.values)


class SceneWindows:
    """Reads windows of scenes; every access opens, reads and closes its files."""

    def __init__(self, survey: Survey) -> None:
        self.scenes, self.used, self.classes = survey.scenes, survey.used, survey.classes

    def labels(self, scene: int, window: Window) -> npt.NDArray[np.uint8]:
        """Read class values, H × W."""
        with self.scenes[scene].labels.open() as reader:
            values: npt.NDArray[np.uint8] = reader.read(window)
        return values

    def chip(self, scene: int, window: Window, values: npt.NDArray[np.uint8]) -> Chip:
        """Read a window's image and join it with its class values."""
        source = self.scenes[scene]
        with open_raster(source.info.path) as dataset:
            image = read_window(dataset, window, 0)
            valid = read_valid(dataset, window, image, source.nodata, self.used)
        target = np.where(valid, self.classes.encode(values), np.uint8(IGNORE))
        return Chip(f"{source.info.name} at x {window.column}, y {window.row}", image, valid, target)


class RandomWindows(Dataset[Chip]):
    """Windows drawn anew in every epoch: blocks by their labelled pixels, places evenly within the block.

    Args:
        survey: Scenes and training blocks.
        size: Side of a window in pixels.
        count: Windows per epoch.
        seed: Of the drawing; sample and epoch are added to it.
    """

    def __init__(self, survey: Survey, size: int, count: int, seed: int) -> None:
        self.reader, self.blocks = SceneWindows(survey), survey.train
        self.size, self.count, self.seed = size, count, seed
        labelled = np.array([block.labelled for block in self.blocks], float)
        self.shares = labelled / labelled.sum()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Chip:
        """Read the window that belongs to sample number ``index``, counted through all epochs."""
        rng = np.random.default_rng([self.seed, index])
        block = self.blocks[rng.choice(len(self.blocks), p=self.shares)]
        for _ in range(_TRIES):
            window = self._place(block.window, rng)
            values = self.reader.labels(block.scene, window)
            if values.any():
                break
        return self.reader.chip(block.scene, window, values)

    def _place(self, block: Window, rng: np.random.Generator) -> Window:
        row = block.row + int(rng.integers(max(0, block.height - self.size) + 1))
        column = block.column + int(rng.integers(max(0, block.width - self.size) + 1))
        return Window(row, column, self.size, self.size)


class FixedWindows(Dataset[Chip]):
    """The windows that cover the validation blocks; every labelled pixel of theirs counts once.

    Args:
        survey: Scenes and validation blocks.
        size: Side of a window in pixels.
    """

    def __init__(self, survey: Survey, size: int) -> None:
        self.reader = SceneWindows(survey)
        places = [(block, window) for block in survey.validation for window in _cover(block.window, size)]
        self.places = [(block, window) for block, window in places if self._values(block, window).any()]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Chip:
        block, window = self.places[index]
        return self.reader.chip(block.scene, window, self._values(block, window))

    def _values(self, block: Block, window: Window) -> npt.NDArray[np.uint8]:
        """Read the labels; what lies outside the block belongs to another one and is unclassified here."""
        inside = window.intersection(block.window)
        own = np.zeros((window.height, window.width), np.uint8)
        own[: inside.height, : inside.width] = self.reader.labels(block.scene, inside)
        return own


class SceneData(SegmentationData):
    """Random windows of scenes.

    A scene is divided into blocks; some of them are for validation, the others for training. A window for training
    lies within one training block, so no pixel of it is ever validated, and no ground either: blocks of several scenes
    that show the same go to one part, or are left out (see :func:`divide`).

    Args:
        image: Scene, list of scenes, or glob.
        label: Label raster or vector file for each scene in the same order, or one for all.
        size: Side of a window in pixels.
        windows: Windows per epoch; None for as many as would cover the training blocks.
        block: Side of a block in pixels; None for twice the window's.
        validation: Percent of the blocks that are for validation.
        scaler: Divides the images' numbers; None for nothing.
        nodata: Nodata value of all bands; None for what the files declare.
        class_map: What classes are merged, as in prepare.py: value, merge, name, color; None to keep them.
        label_field: Attribute of vector labels that holds the class.
        label_layer: Layer of vector labels.
        batch_size: Windows per batch and process.
        seed: Of blocks, windows and their order.
        workers: Processes that read ahead; ``auto`` chooses from the cores.
        min_steps: Steps per epoch, about, at least, as for a data folder; 0 for batches of ``batch_size``.
    """

    fresh = True

    def __init__(
        self,
        image: str | Sequence[str],
        label: str | Sequence[str],
        *,
        size: int = 256,
        windows: int | None = None,
        block: int | None = None,
        validation: float = 20.0,
        scaler: float | None = None,
        nodata: float | None = None,
        class_map: Sequence[Mapping[str, Any]] | None = None,
        label_field: str | None = None,
        label_layer: str | None = None,
        batch_size: int = 16,
        seed: int = 42,
        workers: int | Literal["auto"] = "auto",
        min_steps: int = MIN_STEPS,
    ) -> None:
        super().__init__(batch_size, seed, workers, cache=False, check=False, min_steps=min_steps)
        self.counted = windows is not None
        if size < 1 or (windows is not None and windows < 1) or (block is not None and block < size):
            raise UserError(
                f"datamodule.size={size}, windows={windows}, block={block}: expected pixels and windows of 1 or more, "
                "and blocks not smaller than windows."
            )
        if not 0 < validation < 100:
            raise UserError(
                f"datamodule.validation={validation:g} is a percentage; give more than 0 and less than 100."
            )
        if scaler is not None and not 0 < scaler < math.inf:
            raise UserError(f"datamodule.scaler={scaler:g} cannot divide numbers; give one above 0, or null for none.")
        self.image, self.label = find_files(image, "datamodule.image"), find_files(label, "datamodule.label")
        self.size, self.windows, self.block = size, windows, block or 2 * size
        self.share, self.scaler, self.nodata = validation, scaler, nodata
        self.class_map, self.label_field, self.label_layer = class_map, label_field, label_layer

    @cached_property
    def survey(self) -> Survey:
        """Read all scenes once: what is in each block, and which blocks validate."""
        infos = describe_all(self.image)
        rules = None if self.class_map is None else ClassMap.from_entries(self.class_map, "datamodule.class_map")
        labels = pair(self.image, self.label, "datamodule.label")
        sources, hints = label_sources(labels, infos, rules, self.label_field, self.label_layer)
        check_one_name(hints, None)
        kept = scenes_with_labels(sources)
        infos = [infos[number] for number in kept]
        scenes = tuple(
            Scene(infos[place], sources[number], scene_nodata(infos[place], self.nodata))
            for place, number in enumerate(kept)
        )
        if replaced := replaced_nodata(infos, self.nodata):
            log.warning("CAUTION: %s.", replaced)
        bad = bad_bands(infos)
        used = tuple((measured_bands(scenes, (self.size, self.size)).all(axis=0) & ~bad).tolist())
        blocks = [block for block in self._look(scenes, used) if block.labelled]
        if len(blocks) < 2:
            raise UserError(
                f"{', '.join(self.image)}: {len(blocks)} of the blocks of {self.block} × {self.block} px have labels; "
                "expected at least one for training and one for validation. Lower datamodule.block and size."
            )
        counts = np.array([block.counts for block in blocks])
        hint = zero_hint(sources, np.flatnonzero(counts.sum(0)).tolist(), "datamodule.class_map")
        for caution in filter(None, (no_place_caution(infos), hint)):
            log.warning("CAUTION: %s.", caution)
        for caution in unlike_scenes(infos, used, ((block.scene, block.statistics) for block in blocks)):
            log.warning("CAUTION: %s", caution)
        meeting = across_scenes([(block.scene, block.window) for block in blocks], infos)
        parts = divide(counts, meeting, self.share, self.seed)
        train, validation = (tuple(b for b, p in zip(blocks, parts, strict=True) if p == part) for part in (0, 1))
        if not train:
            raise UserError(
                f"{', '.join(self.image)}: the scenes share so much ground that no block of {self.block} × "
                f"{self.block} px is left to train on beside those that validate; expected some. Lower "
                "datamodule.validation or block, or cut chips with prepare.py."
            )
        if left_out := int((parts == NONE).sum()):
            log.info("%d of %d blocks are in no part: they share ground with validation blocks.", left_out, len(blocks))
        return Survey(scenes, used, _classes(counts.sum(0), hints), train, validation)

    def _look(self, scenes: Sequence[Scene], used: tuple[bool, ...]) -> list[Block]:
        places = [(n, w) for n, s in enumerate(scenes) for w in _blocks(s.info.window, self.block)]

        def look(place: tuple[int, Window]) -> Block:
            number, window = place
            scene = scenes[number]
            with open_raster(scene.info.path) as dataset, scene.labels.open() as labels:
                image = read_window(dataset, window, 0)
                valid = read_valid(dataset, window, image, scene.nodata, used)
                values = np.where(valid, labels.read(window), np.uint8(UNCLASSIFIED))
            statistics = BandStatistics(len(image))
            statistics.update(image, valid & measured(image, scene.nodata))
            return Block(number, window, np.bincount(values.ravel(), minlength=256), statistics)

        with ThreadPoolExecutor(cores()) as pool, progress("Looking at", len(places), "blocks") as advance:
            blocks = []
            for block in pool.map(look, places):
                advance(1)
                blocks.append(block)
        return blocks

    def describe(self) -> DataDescription:
        """Return what the scenes say of themselves."""
        survey = self.survey
        info = survey.scenes[0].info
        scale = self.scaler if self.scaler is not None else 1.0
        statistics = BandStatistics(len(info.bands))
        for block in survey.train:
            statistics.merge(block.statistics)
        mean, std = statistics.mean / scale, statistics.std / scale
        return DataDescription(
            origin=f"{len(survey.scenes)} scene{'s' * (len(survey.scenes) > 1)}",
            bands=info.bands,
            used=survey.used,
            scale=scale,
            normalization=Normalization.from_statistics(mean.tolist(), std.tolist(), survey.used, scale),
            nodata=common_nodata([scene.nodata for scene in survey.scenes]),
            dtype=info.dtype,
            chip_size=(self.size, self.size),
            classes=survey.classes,
            counts=survey.counts,
            weights=tuple(class_weights(survey.counts)),
            nodata_given=self.nodata is not None,
            sides=sides_on_ground(scene.info for scene in survey.scenes),
        )

    def source(self, stage: Stage) -> RandomWindows | FixedWindows:
        """Return random windows of the training blocks, or those that cover the validation blocks."""
        if stage == "validation":
            return FixedWindows(self.survey, self.size)
        area = sum(block.window.pixels for block in self.survey.train)
        return RandomWindows(self.survey, self.size, self.windows or math.ceil(area / self.size**2), self.seed)


def divide(counts: Counts, meeting: Ints, share: float, seed: int) -> Parts:
    """Divide blocks into training and validation so that no ground is in both, and both have the same classes.

    Blocks of several scenes that hang together go to one part. Where too many of them do, as in scenes that are shifted
    against each other, blocks are assigned one by one, and those for training that meet one for validation left out.

    Args:
        counts: n × 256 pixels of each class value in each block.
        meeting: m × 2 blocks that share ground.
        share: Percent of the blocks that are for validation.
        seed: Of the drawing.

    Returns:
        Part of each block: 0 training, 1 validation, −1 none.
    """
    shares, classes = (100 - share, share, 0.0), counts[:, 1:]
    group = components(len(counts), [meeting])
    groups = int(group.max()) + 1
    if np.bincount(group).max() > max(1.0, _LARGE * len(counts)):
        units = Units.build(np.arange(len(counts)), classes[:, classes.any(0)], [meeting])
        parts, _ = assign_units(units, shares, seed, balance=len(counts) <= _FEW)
        for one, other in (meeting.T, meeting.T[::-1]):
            parts[one[(parts[one] == 0) & (parts[other] == 1)]] = NONE
        return parts
    by_group = np.zeros((groups, classes.shape[1]), np.int64)
    np.add.at(by_group, group, classes)
    sizes = part_sizes(groups, shares)

    def unlike(drawn: Parts) -> float:
        return imbalance(by_group, drawn) + abs(float((drawn[group] == 1).mean()) - share / 100)

    return min((random_parts(by_group, sizes, seed + n) for n in range(_SPLITS)), key=unlike)[group]


def _blocks(scene: Window, side: int) -> list[Window]:
    """Divide a scene into blocks of nearly equal size, none smaller than ``side`` unless the scene is."""
    rows = np.linspace(0, scene.height, max(1, scene.height // side) + 1).astype(int).tolist()
    columns = np.linspace(0, scene.width, max(1, scene.width // side) + 1).astype(int).tolist()
    return [
        Window(top, left, bottom - top, right - left)
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]


def _cover(block: Window, size: int) -> list[Window]:
    """Return the windows that cover a block from its upper left corner on; the last ones reach over its edge."""
    return [
        window._replace(row=window.row + block.row, column=window.column + block.column)
        for window in chip_windows(block.height, block.width, (size, size), (size, size))
    ]


def _classes(counts: npt.NDArray[np.int64], hints: ClassHints) -> ClassTable:
    values = [int(value) for value in np.flatnonzero(counts) if value != UNCLASSIFIED]
    return ClassTable.build(values, hints.names, hints.colors)
