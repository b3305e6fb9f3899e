"""What goes into a data folder: chips are cut, split, measured, listed and drawn."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.balance import Counts
from src.bands import BandStatistics
from src.class_map import with_zero
from src.datafolder import DATASET, write_dataset
from src.errors import UserError
from src.grid import Window, chip_windows
from src.ground import Places, no_place_caution
from src.label_sources import ClassHints, zero_hint
from src.labels import UNCLASSIFIED, ClassTable
from src.preparation.class_choice import class_table, known_values, left_out, merge_rare
from src.preparation.cutting import Chip, ChipFormat, Fate, Scene, cut_scene, measured_bands
from src.preparation.overview import MOST_SCENES, Overview, Thumbnail
from src.preparation.scene_files import bad_bands, common_nodata, unlike_scenes
from src.preparation.settings import Preparation
from src.preparation.split_summary import SplitSummary, summarise
from src.progress import progress
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
FILES = {
    "images": "the chips’ images, GeoTIFFs",
    "labels": "their class values, 0 = unclassified",
    **{list_name(part): f"the {part} chips: image, mask" for part in PARTS},
    SUMMARY: "pixels and shares of each class in the parts, and its weight",
    STATISTICS: "mean and standard deviation of each band over the training chips",
    OVERVIEW: "where the chips of each part lie, and which classes they hold",
    DATASET: "scenes, bands, classes, split and settings",
}
"""Everything that a data folder has, and what each is."""
REVISION = 3
"""What ``dataset.json`` says of how it was made; one more whenever the same command may make other chips, classes or
another split than before, so that nobody takes a folder of before for what it would make now."""


@dataclass(frozen=True)
class _Looked:
    """What came of looking at all windows.

    Attributes:
        chips: What was written, scene by scene and row by row.
        counts: The class values in each chip that have pixels, and how many.
        fates: Windows by what became of them.
        total: Pixels of each class value 0–255 in all windows, chips or not.
        lacking: Windows that each band's want of any measurement drops.
    """

    chips: list[Chip]
    counts: list[tuple[npt.NDArray[np.uint8], Counts]]
    fates: Counter[Fate]
    total: Counts
    lacking: npt.NDArray[np.int64]


def fill(
    settings: Preparation, scenes: Sequence[Scene], hints: ClassHints, folder: Path, config: dict[str, Any]
) -> tuple[DatasetSpec, SplitSummary]:
    """Fill an empty folder with a data folder's contents.

    Args:
        settings: What to make.
        scenes: Images and labels.
        hints: Names and colours that the labels bring.
        folder: An empty folder.
        config: What ``dataset.json`` is to say of the settings.

    Returns:
        What ``dataset.json`` says, and a summary.

    Raises:
        UserError: No chip is left, or fewer than there are parts.
    """
    chip_format = choose_format(settings, scenes)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    thumbnails = [Thumbnail(scene.info) for scene in scenes[:MOST_SCENES]]
    looked = _cut(scenes, chip_format, folder, thumbnails)
    chips = looked.chips
    if len(chips) < (1 if settings.split_raster is not None else sum(share > 0 for share in settings.shares)):
        raise UserError(_too_few(looked, settings, _zero(scenes, looked)))
    hints, lookup, values, counts = _classify(settings, hints, looked, folder)
    measured = [(chip.scene, chip.statistics) for chip in chips]
    for unlike in unlike_scenes([scene.info for scene in scenes], chip_format.used, measured):
        log.warning("CAUTION: %s", unlike)
    split = (_split if settings.split_raster is None else _split_as_drawn)(settings, scenes, chips, counts[:, 1:])
    chips, counts, split = _keep_assigned(chips, counts, split, folder)
    background, counts = bool(counts[:, 0].any()), counts[:, 1:]
    there = counts.any(0)
    values, counts = values[1:][there], counts[:, there]
    classes = class_table(values.tolist(), hints, settings.class_names, settings.class_colors)
    if caution := _one_class(classes) or _zero(scenes, looked):
        log.warning("CAUTION: %s.", caution)
    spec = _describe(settings, scenes, chip_format, classes, split, config)
    _write_tables(folder, chips, counts, spec, split, background=background)
    at, more = [(chip.scene, chip.window) for chip in chips], len(scenes) - len(thumbnails)
    Overview(thumbnails, at, split.parts, counts, classes, split.imbalance, more).draw(folder / OVERVIEW)
    write_dataset(folder / DATASET, spec)
    wanted = [rule.value for rule in settings.class_map or ()]
    dropped = f"Most windows are dropped: {words}." if (words := _lacking(looked)) else None
    summary = summarise(spec, looked.fates, split, counts)
    notes = (*filter(None, [dropped]), *left_out(looked.total, classes, hints, lookup, wanted))
    return spec, replace(summary, notes=(*summary.notes, *notes))


def _one_class(classes: ClassTable) -> str | None:
    """Say that there is one class only; None where there are several."""
    if len(classes) > 1:
        return None
    return (
        f"the labels have one class ({classes.names[0]}); 0 is unclassified and never learnt, so train.py has nothing "
        f"to tell apart. Give the background a value of its own: class_map='{with_zero(classes.values)}'"
    )


def _zero(scenes: Sequence[Scene], looked: _Looked) -> str | None:
    """Say what to do where 0 looks like a class; None where it does not."""
    return zero_hint((scene.labels for scene in scenes), np.flatnonzero(looked.total).tolist())


def _split(settings: Preparation, scenes: Sequence[Scene], chips: Sequence[Chip], counts: Counts) -> Split:
    counts = counts[:, counts.any(0)]
    if not counts.size:
        hint = zero_hint((scene.labels for scene in scenes), [])
        raise UserError(
            "The labels have no class within the scenes: every pixel is 0 (unclassified). Check label=…."
            f"{f' {hint}.' if hint else ''}"
        )
    infos = [scene.info for scene in scenes]
    if (caution := no_place_caution(infos)) is not None:
        log.warning("CAUTION: %s.", caution)
    at = [(chip.scene, chip.window) for chip in chips]
    places = Places.of(at, infos, settings.chip_size, settings.chip_step, settings.buffer)
    shares, strategy = settings.shares, settings.strategy
    return split_chips(counts, places, shares, strategy, settings.seed, settings.buffer, settings.block)


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
    settings: Preparation, hints: ClassHints, looked: _Looked, folder: Path
) -> tuple[ClassHints, npt.NDArray[np.uint8], npt.NDArray[np.uint8], Counts]:
    """Merge rare classes, in the label chips too.

    Returns:
        Hints; what became of each value 0–255; the values of the chips, 0 first; the pixels of each of them, per chip.
    """
    total = np.zeros(256, np.int64)
    for found, pixels in looked.counts:
        total[found] += pixels
    known = known_values(settings.class_map, settings.class_names, settings.class_colors)
    lookup, hints = merge_rare(total, settings.min_class_share, hints, known)
    values = np.union1d(lookup[total > 0], np.full(1, UNCLASSIFIED, np.uint8))
    counts = np.zeros((len(looked.chips), len(values)), np.int64)
    for chip, row, (found, pixels) in zip(looked.chips, counts, looked.counts, strict=True):
        np.add.at(row, np.searchsorted(values, lookup[found]), pixels)
        if (lookup[found] != found).any():
            recode(folder / "labels" / chip.name, lookup)
    return hints, lookup, values, counts


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


def _cut(scenes: Sequence[Scene], chip_format: ChipFormat, folder: Path, thumbnails: Sequence[Thumbnail]) -> _Looked:
    sizes = [(scene.info.height, scene.info.width) for scene in scenes]
    total = sum(sum(1 for _ in chip_windows(*size, chip_format.size, chip_format.step)) for size in sizes)
    looked = _Looked([], [], Counter(), np.zeros(256, np.int64), np.zeros(len(chip_format.used), np.int64))
    with progress("Cutting", total, "chips") as advance:
        for index, scene in enumerate(scenes):
            before, picture = None, thumbnails[index].add if index < len(thumbnails) else None
            for look in cut_scene(index, scene, chip_format, folder, picture):
                looked.fates[look.fate] += 1
                looked.lacking[list(look.lacking)] += 1
                if look.window != before:  # else it is the same one for another part
                    advance(1)
                    looked.total[:] += look.labels
                if look.chip is not None:
                    looked.chips.append(look.chip)
                    found = np.flatnonzero(look.counts)
                    looked.counts.append((found.astype(np.uint8), look.counts[found]))
                before = look.window
    return _in_order(looked)


def _in_order(looked: _Looked) -> _Looked:
    """Sort chips by scene, row, column and part: the split depends on it, and the order of cutting on the cores."""

    def place(number: int) -> tuple[int, Window, int]:
        chip = looked.chips[number]
        return chip.scene, chip.window, chip.part or 0

    order = sorted(range(len(looked.chips)), key=place)
    return replace(looked, chips=[looked.chips[n] for n in order], counts=[looked.counts[n] for n in order])


def _too_few(looked: _Looked, settings: Preparation, zero: str | None) -> str:
    kept, fates = len(looked.chips), looked.fates
    dropped = ", ".join(f"{count} {fate}" for fate, count in fates.items() if fate != "kept" and count)
    parts = sum(share > 0 for share in settings.shares)
    remedy = _lacking(looked) or (
        f"{f'{zero}; else ' if zero else ''}lower chip.min_coverage ({settings.min_coverage:g}), chip.size "
        f"({settings.chip_size[0]} × {settings.chip_size[1]}) or chip.step ({settings.chip_step[0]} × "
        f"{settings.chip_step[1]}), or label more"
    )
    return (
        f"{kept or 'No'} chip{'s are' if kept != 1 else ' is'} left for {parts} parts (dropped: {dropped or 'none'}, "
        f"of {sum(fates.values())}); {remedy}."
    )


def _lacking(looked: _Looked) -> str | None:
    """Name the bands that drop most of the windows without measurement, if these are most of all; else None."""
    most, without, windows = int(looked.lacking.max()), looked.fates["without measurement"], sum(looked.fates.values())
    if 2 * most <= without or 2 * without <= windows:
        return None
    bands = np.flatnonzero(2 * looked.lacking > most) + 1
    what, them = ("band", "it") if len(bands) == 1 else ("bands", "them")
    return (
        f"{what} {_numbers(bands)} {'has' if len(bands) == 1 else 'have'} no measurement in {most} of {windows}, where "
        f"others have; leave {them} out with gdal_translate -b …, or mark {them} bad (bbl in an ENVI header)"
    )


def _statistics(chips: Sequence[Chip], parts: Parts, bands: int, scaler: float | None) -> BandTable:
    """Merge the training chips' statistics; raises UserError for numbers that are no measurements."""
    total = BandStatistics(bands)
    for chip, part in zip(chips, parts, strict=True):
        if part == 0:
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
        revision=REVISION,
    )


def _write_tables(
    folder: Path, chips: Sequence[Chip], counts: Counts, spec: DatasetSpec, split: Split, *, background: bool
) -> None:
    for index, part in enumerate(PARTS):
        names = [chip.name for chip, assigned in zip(chips, split.parts, strict=True) if assigned == index]
        write_samples(folder / list_name(part), [(f"images/{name}", f"labels/{name}") for name in names])
    train, validation, test = (counts[split.parts == index].sum(0) for index in range(len(PARTS)))
    pixels = zip(train.tolist(), validation.tolist(), test.tolist(), strict=True)
    rows = tuple(map(ClassRow, spec.classes.values, pixels, class_weights(train.tolist())))
    write_summary(folder / SUMMARY, Summary(rows, spec.scaler, background))
    write_statistics(folder / STATISTICS, _statistics(chips, split.parts, len(spec.bands), spec.scaler), spec.scaler)
