"""What goes into a data folder: chips are cut, split, measured, listed and drawn."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.balance import Counts
from src.bands import BandStatistics
from src.datafolder import DATASET, write_dataset
from src.errors import UserError
from src.grid import chip_windows
from src.ground import Places
from src.label_sources import ClassHints
from src.labels import UNCLASSIFIED, ClassTable
from src.pixel_size import other_size, sides_on_ground
from src.preparation.class_choice import class_table, left_out, merge_rare
from src.preparation.cutting import Chip, ChipFormat, Fate, Scene, cut_scene, measured_bands
from src.preparation.overview import Overview, Thumbnail
from src.preparation.scene_files import bad_bands, common_nodata
from src.preparation.settings import Preparation
from src.preparation.split_summary import summary_lines
from src.progress import progress
from src.radiometry import other_units
from src.raster.write import recode
from src.spec import DatasetSpec, software_versions
from src.splits import Parts, Split, imbalance, split_chips
from src.tables import (
    PARTS,
    STATISTICS,
    SUMMARY,
    BandTable,
    ClassRow,
    Summary,
    class_weights,
    list_name,
    write_samples,
    write_statistics,
    write_summary,
)

log = logging.getLogger(__name__)

_BEYOND = 1e25
"""Standard deviation that only a nodata value like −3.4e38 brings about, be it in one pixel of thousand millions."""
OVERVIEW = "overview.png"
FILES = ("images", "labels", *map(list_name, PARTS), SUMMARY, STATISTICS, OVERVIEW, DATASET)
"""Everything that a data folder has."""


def fill(
    settings: Preparation, scenes: Sequence[Scene], hints: ClassHints, folder: Path, config: dict[str, Any]
) -> tuple[DatasetSpec, list[str]]:
    """Fill an empty folder with a data folder's contents.

    Args:
        settings: What to make.
        scenes: Images and labels.
        hints: Names and colours that the labels bring.
        folder: An empty folder.
        config: What ``dataset.json`` is to say of the settings.

    Returns:
        What ``dataset.json`` says, and a summary in lines.

    Raises:
        UserError: No chip is left, or fewer than there are parts.
    """
    chip_format = choose_format(settings, scenes)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    thumbnails = [Thumbnail(scene.info) for scene in scenes]
    seen = list(_cut(scenes, chip_format, folder, thumbnails))
    chips = [chip for chip in seen if chip.fate == "kept"]
    fates = Counter(chip.fate for chip in seen)
    if len(chips) < (1 if settings.split_raster is not None else sum(share > 0 for share in settings.shares)):
        raise UserError(_too_few(len(chips), fates, settings))
    hints, counts, lookup = _classify(settings, hints, chips, folder)
    _compare_scenes(scenes, chips, len(chip_format.used))
    split = (_split if settings.split_raster is None else _split_as_drawn)(settings, scenes, chips, counts)
    chips, counts, split = _keep_assigned(chips, counts, split, folder)
    classes = class_table(_present(counts), hints, settings.class_names, settings.class_colors)
    spec = _describe(settings, scenes, chip_format, classes, split, config)
    _write_tables(folder, chips, counts, spec, split)
    by_class, at = counts[:, list(classes.values)], [(chip.scene, chip.window) for chip in chips]
    Overview(thumbnails, at, split.parts, by_class, classes, split.imbalance).draw(folder / OVERVIEW)
    write_dataset(folder / DATASET, spec)
    total, wanted = np.sum([chip.counts for chip in seen], 0), [rule.value for rule in settings.class_map or ()]
    lines = [*summary_lines(spec, fates, split, by_class), *left_out(total, classes, hints, lookup, wanted)]
    return spec, lines


def _compare_scenes(scenes: Sequence[Scene], chips: Sequence[Chip], bands: int) -> None:
    """Say which scenes are in another unit, or of other pixels, than the rest: one network cannot learn from both."""
    by_scene: dict[int, BandStatistics] = {}
    for chip in chips:
        if chip.statistics:
            by_scene.setdefault(chip.scene, BandStatistics(bands)).merge(chip.statistics)
    units = other_units({scenes[index].info.path: found for index, found in by_scene.items()})
    first, size = scenes[0].info.path, sides_on_ground([scenes[0].info])
    words = (other_size(sides_on_ground([scene.info]), size, first) for scene in scenes)
    sizes = {scene.info.path: said for scene, said in zip(scenes, words, strict=True) if said}
    for others in (units, sizes):
        if others:
            path, said = next(iter(others.items()))
            more = f" (and {len(others) - 1} more like it)" if len(others) > 1 else ""
            log.warning("CAUTION: %s%s: %s", path, more, said)


def _present(counts: Counts) -> list[int]:
    """List the class values that have pixels; ``counts`` is n × 256."""
    return [int(value) for value in np.flatnonzero(counts.any(0)) if value != UNCLASSIFIED]


def _split(settings: Preparation, scenes: Sequence[Scene], chips: Sequence[Chip], counts: Counts) -> Split:
    values = _present(counts)
    if not values:
        raise UserError("The labels have no class within the scenes: every pixel is 0 (unclassified). Check label=….")
    places = Places.of(
        [(chip.scene, chip.window) for chip in chips],
        [scene.info for scene in scenes],
        settings.chip_size,
        settings.chip_step,
        settings.buffer,
    )
    shares, strategy = settings.shares, settings.strategy
    return split_chips(counts[:, values], places, shares, strategy, settings.seed, settings.buffer, settings.block)


def _split_as_drawn(settings: Preparation, scenes: Sequence[Scene], chips: Sequence[Chip], counts: Counts) -> Split:
    """Take every chip's part from the split raster, and validation from training's chips where it has none."""
    parts = np.array([chip.part for chip in chips], np.int64)
    for number, value in enumerate(settings.split_values):
        if value is not None and not (parts == number).any():
            raise UserError(
                f"split.raster leaves no chip for {PARTS[number]}, which is to have the value {value}: no labelled "
                "pixel of it is in a chip. Check split.values=[train,validation,test] and chip.min_coverage."
            )
    training = np.flatnonzero(parts == 0)
    if settings.split_values[1] is not None or not settings.shares[1]:
        return Split(parts, imbalance(counts, parts), 0)
    train, validation, _ = settings.shares
    within = replace(
        settings, shares=(100 * train / (train + validation), 100 * validation / (train + validation), 0.0)
    )
    divided = _split(within, scenes, [chips[index] for index in training.tolist()], counts[training])
    parts[training] = divided.parts
    return Split(parts, imbalance(counts, parts), divided.straddling, divided.cut)


def _classify(
    settings: Preparation, hints: ClassHints, chips: Sequence[Chip], folder: Path
) -> tuple[ClassHints, Counts, npt.NDArray[np.uint8]]:
    """Merge rare classes, in the label chips too; return hints, pixels of each value in each chip, what became what."""
    counts = np.array([chip.counts for chip in chips])
    lookup, hints = merge_rare(counts.sum(0), settings.min_class_share, hints)
    moved = np.flatnonzero(lookup != np.arange(256))
    for index in np.flatnonzero(counts[:, moved].any(1)).tolist():
        recode(folder / "labels" / chips[index].name, lookup)
    for value in moved.tolist():
        counts[:, lookup[value]] += counts[:, value]
        counts[:, value] = 0
    return hints, counts, lookup


def _keep_assigned(
    chips: Sequence[Chip], counts: Counts, split: Split, folder: Path
) -> tuple[list[Chip], Counts, Split]:
    """Remove the files of chips that are in no part."""
    assigned = split.parts >= 0
    for index in np.flatnonzero(~assigned).tolist():
        (folder / "images" / chips[index].name).unlink()
        (folder / "labels" / chips[index].name).unlink()
    kept = [chips[index] for index in np.flatnonzero(assigned).tolist()]
    return kept, counts[assigned], replace(split, parts=split.parts[assigned])


def choose_format(settings: Preparation, scenes: Sequence[Scene]) -> ChipFormat:
    """Decide what chips look like, and name the bands that are not used."""
    by_scene = measured_bands(scenes, settings.chip_size)
    if empty := [scene.info.path for scene, there in zip(scenes, by_scene, strict=True) if not there.any()]:
        raise UserError(f"No band of {', '.join(empty)} has a measurement; check nodata=… and the file.")
    measured = by_scene.all(0)
    bad = bad_bands([scene.info for scene in scenes])
    for what, unused in (("without any measurement", ~measured), ("marked bad", bad & measured)):
        if unused.any():
            log.info("Bands %s are not used: %s.", what, _numbers(np.flatnonzero(unused) + 1))
    used = tuple((measured & ~bad).tolist())
    if not any(used):
        raise UserError(
            "No band is left: those that have a measurement in every scene are marked bad. Check nodata=… and the "
            f"metadata of {scenes[0].info.path}."
        )
    return ChipFormat(
        size=settings.chip_size,
        step=settings.chip_step,
        min_coverage=settings.min_coverage,
        nodata=common_nodata([scene.nodata for scene in scenes]),
        used=used,
        compress=settings.compress,
    )


def _numbers(numbers: npt.NDArray[np.int64]) -> str:
    """Write ascending numbers in few words: 1, 130–135."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _cut(
    scenes: Sequence[Scene], chip_format: ChipFormat, folder: Path, thumbnails: Sequence[Thumbnail]
) -> Iterator[Chip]:
    sizes = [(scene.info.height, scene.info.width) for scene in scenes]
    total = sum(sum(1 for _ in chip_windows(*size, chip_format.size, chip_format.step)) for size in sizes)
    with progress("Cutting", total, "chips") as advance:
        for index, scene in enumerate(scenes):
            before = None
            for chip in cut_scene(index, scene, chip_format, folder, thumbnails[index].add):
                advance(int(chip.window != before))
                before = chip.window
                yield chip


def _too_few(kept: int, fates: Counter[Fate], settings: Preparation) -> str:
    dropped = ", ".join(f"{count} {fate}" for fate, count in fates.items() if fate != "kept" and count)
    parts = sum(share > 0 for share in settings.shares)
    return (
        f"{kept or 'No'} chip{'s are' if kept != 1 else ' is'} left for {parts} parts (dropped: {dropped or 'none'}, "
        f"of {sum(fates.values())}); lower chip.min_coverage ({settings.min_coverage:g}), chip.size "
        f"({settings.chip_size[0]} × {settings.chip_size[1]}) or chip.step ({settings.chip_step[0]} × "
        f"{settings.chip_step[1]}), or label more."
    )


def _statistics(chips: Sequence[Chip], parts: Parts, bands: int, scaler: float | None) -> BandTable:
    """Merge the training chips' statistics; raises UserError for numbers that are no measurements."""
    total = BandStatistics(bands)
    for chip, part in zip(chips, parts, strict=True):
        if part == 0 and chip.statistics is not None:
            total.merge(chip.statistics)
    if (beyond := np.flatnonzero((total.count > 0) & ~(total.std <= _BEYOND))).size:
        raise UserError(
            f"Band {_numbers(beyond + 1)} has numbers beyond 1e30, which nothing measures; expected a nodata value "
            "that the file declares. Give it: nodata=… (gdalinfo -mm shows the numbers of a file)."
        )
    scale = scaler if scaler is not None else 1.0
    return BandTable(tuple((total.mean / scale).tolist()), tuple((total.std / scale).tolist()))


def _describe(
    settings: Preparation,
    scenes: Sequence[Scene],
    chip_format: ChipFormat,
    classes: ClassTable,
    split: Split,
    config: dict[str, Any],
) -> DatasetSpec:
    first = scenes[0].info
    return DatasetSpec(
        scenes=tuple(scene.info.scene() for scene in scenes),
        bands=first.bands,
        used=chip_format.used,
        nodata=chip_format.nodata,
        dtype=first.dtype,
        chip_size=chip_format.size,
        chip_step=chip_format.step,
        classes=classes,
        split={
            "strategy": settings.strategy if settings.split_raster is None else "raster",
            "shares": dict(zip(PARTS, settings.shares, strict=True)),
            "buffer": settings.buffer,
            "chips": {part: int((split.parts == index).sum()) for index, part in enumerate(PARTS)},
            "imbalance": split.imbalance,
            "straddling": split.straddling,
        },
        scaler=settings.scaler,
        seed=settings.seed,
        versions=software_versions(),
        config=config,
    )


def _write_tables(folder: Path, chips: Sequence[Chip], counts: Counts, spec: DatasetSpec, split: Split) -> None:
    for index, part in enumerate(PARTS):
        names = [chip.name for chip, assigned in zip(chips, split.parts, strict=True) if assigned == index]
        write_samples(folder / list_name(part), [(f"images/{name}", f"labels/{name}") for name in names])
    train, validation, test = (counts[split.parts == index].sum(0) for index in range(len(PARTS)))
    values = spec.classes.values
    rows = tuple(
        ClassRow(value, (int(train[value]), int(validation[value]), int(test[value])), weight)
        for value, weight in zip(values, class_weights(train[list(values)].tolist()), strict=True)
    )
    write_summary(folder / SUMMARY, Summary(rows, spec.scaler, bool(counts[:, UNCLASSIFIED].any())))
    write_statistics(folder / STATISTICS, _statistics(chips, split.parts, len(spec.bands), spec.scaler), spec.scaler)
