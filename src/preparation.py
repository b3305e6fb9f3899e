"""From scenes and labels to a data folder: the whole of prepare.py without its command line."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.bands import BandStatistics
from src.class_map import ClassMap, ClassRule, free_value, rare_values
from src.cutting import Chip, ChipFormat, Fate, Scene, bands_with_measurements, cut_scene
from src.datafolder import DATASET, read_dataset, write_dataset
from src.errors import UserError
from src.grid import chip_windows
from src.label_sources import ClassHints, label_sources
from src.labels import UNCLASSIFIED, ClassTable
from src.progress import progress
from src.raster import recode
from src.scene_files import common_nodata, describe_all, pair, resolve, scene_nodata
from src.spec import DatasetSpec, software_versions
from src.splits import Counts, Parts, Split, Strategy, split_chips
from src.staging import clear_leftover, is_interrupted, staged
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

Named = Mapping[int | str, str] | Sequence[str]
"""Something for each class: in the order of their values, or by value."""


@dataclass(frozen=True)
class Preparation:
    """Everything that decides what a data folder holds.

    Attributes:
        image: Path of a scene, list of paths, or glob.
        label: Raster or vector file for each scene in the same order, or one for all.
        chip_size: Width and height of a chip in pixels.
        chip_step: Distance of neighbouring chips in x and y, pixels.
        min_coverage: Percent of a chip that has a class and a measurement, at least.
        compress: GDAL's name of the chips' compression, ``none`` for none.
        shares: Percent of the chips for training, validation and test.
        strategy: How chips are assigned to them.
        buffer: Pixels between chips of different parts, for the strategy ``blocks``.
        block: Side of a block in pixels; None to choose it.
        seed: Of everything random.
        scaler: Divisor of the statistics; None for none.
        nodata: Nodata value of all bands; None for what the files declare.
        class_map: What classes are merged; None to keep them.
        min_class_share: Percent of the labelled pixels below which a class goes into ``other``.
        class_names: Names; None for the labels' own.
        class_colors: Colours as #rrggbb; None for the labels' own.
        label_field: Attribute of vector labels that holds the class.
        label_layer: Layer of vector labels.
    """

    image: str | tuple[str, ...]
    label: str | tuple[str, ...]
    chip_size: tuple[int, int] = (256, 256)
    chip_step: tuple[int, int] = (256, 256)
    min_coverage: float = 50.0
    compress: str = "none"
    shares: tuple[float, float, float] = (80.0, 10.0, 10.0)
    strategy: Strategy = "balanced"
    buffer: int = 0
    block: int | None = None
    seed: int = 42
    scaler: float | None = None
    nodata: float | None = None
    class_map: tuple[ClassRule, ...] | None = None
    min_class_share: float = 0.0
    class_names: Named | None = None
    class_colors: Named | None = None
    label_field: str | None = None
    label_layer: str | None = None

    def __post_init__(self) -> None:
        """Raise UserError for numbers out of their range."""
        for key, numbers in (("chip.size", self.chip_size), ("chip.step", self.chip_step)):
            if min(numbers) <= 0:
                raise UserError(f"{key} is {list(numbers)}; expected pixels above 0. Give for example {key}=256.")
        for key, percent in (("chip.min_coverage", self.min_coverage), ("min_class_share", self.min_class_share)):
            if not 0 <= percent <= 100:
                raise UserError(f"{key} is {percent:g}; it is a percentage, expected 0 to 100.")
        if min(self.shares) < 0 or sum(self.shares) > 100 + 1e-9 or sum(self.shares) <= 0:
            given = ", ".join(f"split.{part}={share:g}" for part, share in zip(PARTS, self.shares, strict=True))
            raise UserError(f"{given}: expected percentages of 0 or more whose sum is above 0 and at most 100.")
        if self.buffer < 0 or (self.buffer and self.strategy != "blocks"):
            raise UserError(f"split.buffer={self.buffer} needs split.strategy=blocks and is 0 or more pixels.")
        if self.block is not None and self.block <= 0:
            raise UserError(f"split.block is {self.block}; expected pixels above 0, or null to have it chosen.")
        if self.scaler is not None and not self.scaler > 0:
            raise UserError(f"scaler is {self.scaler:g}; pixels are divided by it, so give a number above 0, or null.")


def prepare(settings: Preparation, data_dir: str | Path, *, overwrite: bool = False) -> DatasetSpec:
    """Cut scenes into a data folder, split it and measure it.

    Args:
        settings: What to make.
        data_dir: The folder; appears whole or not at all.
        overwrite: Replace a data folder that other settings made.

    Returns:
        What ``dataset.json`` says, also where the folder was there already.

    Raises:
        UserError: See the messages: inputs that cannot be read or do not fit, settings that leave no chip.
    """
    folder = Path(data_dir)
    images, labels = resolve(settings.image, "image"), resolve(settings.label, "label")
    labels = pair(images, labels)
    config = {**_plain(asdict(settings)), "files": [_fingerprint(path) for path in dict.fromkeys([*images, *labels])]}
    existing = _existing(folder, config, overwrite=overwrite)
    if existing is not None:
        return existing
    class_map = ClassMap(settings.class_map) if settings.class_map is not None else None
    infos = describe_all(images)
    sources, hints = label_sources(labels, infos, class_map, settings.label_field, settings.label_layer)
    for source in sources:
        if source.note:
            log.info("%s", source.note)
    scenes = [
        Scene(info, source, scene_nodata(info, settings.nodata)) for info, source in zip(infos, sources, strict=True)
    ]
    with staged(folder, DATASET) as staging:
        spec = _make(settings, scenes, hints, staging, config)
    log.info("%s", folder / DATASET)
    return spec


def _existing(folder: Path, config: dict[str, Any], *, overwrite: bool) -> DatasetSpec | None:
    """Return the spec of a folder that needs nothing done; None where there is something to do."""
    if (folder / DATASET).is_file():
        clear_leftover(folder)
        spec = read_dataset(folder / DATASET)
        if spec.config == config:
            log.info("%s is there already, made with the same settings from the same files: nothing to do.", folder)
            return spec
        if not overwrite:
            raise UserError(
                f"{folder} was made with other settings or files ({_difference(spec.config, config)}); give another "
                "data_dir, or overwrite=true to replace it."
            )
        return None
    if folder.is_dir() and not is_interrupted(folder) and (found := sorted(entry.name for entry in folder.iterdir())):
        raise UserError(
            f"{folder} holds something that prepare.py did not make ({found[0]}); give another data_dir or empty it."
        )
    return None


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [key for key in new if old.get(key) != new[key]]
    if keys == ["files"] or not keys:
        changed = [entry["path"] for entry in new["files"] if entry not in old.get("files", [])]
        return f"changed: {', '.join(changed) or 'versions'}"
    shown = [f"{key}: {old.get(key)} → {new[key]}" for key in keys if key != "files"]
    return "; ".join(shown)


def _fingerprint(path: str) -> dict[str, Any]:
    """Tell a file's state, so that a changed scene is not taken for a prepared one."""
    try:
        status = Path(path).stat()
    except OSError:
        return {"path": path}
    return {"path": path, "bytes": status.st_size, "modified": status.st_mtime_ns}


def _plain(value: Any) -> Any:
    """Return what JSON gives back for a value, so that both compare."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def _make(
    settings: Preparation, scenes: Sequence[Scene], hints: ClassHints, folder: Path, config: dict[str, Any]
) -> DatasetSpec:
    """Fill an empty folder with everything but its place."""
    chip_format = _chip_format(settings, scenes)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    looked_at = list(_cut(scenes, chip_format, folder))
    chips = [chip for chip in looked_at if chip.fate == "kept"]
    fates = Counter(chip.fate for chip in looked_at)
    if len(chips) < sum(share > 0 for share in settings.shares):
        raise UserError(_too_few(len(chips), fates, settings))
    counts = np.array([chip.counts for chip in chips])
    if not counts[:, 1:].any():
        raise UserError("The labels have no class within the scenes: every pixel is 0 (unclassified). Check label=….")
    hints, counts = _merge_rare(settings, hints, counts, chips, folder)
    classes = _class_table(settings, hints, counts.sum(0))
    by_class = counts[:, list(classes.values)]
    split = split_chips(by_class, settings.shares, settings.seed)
    _drop([chip for chip, part in zip(chips, split.parts, strict=True) if part < 0], folder)
    statistics = _statistics(chips, split.parts, len(chip_format.used), settings.scaler)
    spec = _describe(settings, scenes, chip_format, classes, split, config)
    _write_tables(folder, chips, counts, classes, split, statistics, settings.scaler)
    write_dataset(folder / DATASET, spec)
    return spec


def _chip_format(settings: Preparation, scenes: Sequence[Scene]) -> ChipFormat:
    """Decide what chips look like, and name the bands that are not used."""
    bands = scenes[0].info.bands
    measured = bands_with_measurements(scenes, settings.chip_size)
    bad = [any(scene.info.bands[band].bad for scene in scenes) for band in range(len(bands))]
    for what, unused in (("without any measurement", np.logical_not(measured)), ("marked bad", np.array(bad))):
        if unused.any():
            names = ", ".join(f"{index + 1} ({bands[index].name})" for index in np.flatnonzero(unused))
            log.info("Bands %s are not used: %s.", what, names)
    used = tuple(m and not b for m, b in zip(measured, bad, strict=True))
    if not any(used):
        raise UserError(f"No band of {scenes[0].info.path} has a measurement; check nodata=… and the file.")
    return ChipFormat(
        size=settings.chip_size,
        step=settings.chip_step,
        min_coverage=settings.min_coverage,
        nodata=common_nodata([scene.nodata for scene in scenes]),
        used=used,
        compress=settings.compress,
    )


def _cut(scenes: Sequence[Scene], chip_format: ChipFormat, folder: Path) -> Iterator[Chip]:
    sizes = [(scene.info.height, scene.info.width) for scene in scenes]
    total = sum(sum(1 for _ in chip_windows(*size, chip_format.size, chip_format.step)) for size in sizes)
    with progress("Cutting", total, "chips") as advance:
        for index, scene in enumerate(scenes):
            for chip in cut_scene(index, scene, chip_format, folder):
                advance(1)
                yield chip


def _too_few(kept: int, fates: Counter[Fate], settings: Preparation) -> str:
    dropped = ", ".join(f"{count} {fate}" for fate, count in fates.items() if fate != "kept" and count)
    parts = sum(share > 0 for share in settings.shares)
    return (
        f"{kept or 'No'} chip{'s are' if kept != 1 else ' is'} left for {parts} parts (dropped: {dropped or 'none'}, "
        f"of {sum(fates.values())}); lower chip.min_coverage ({settings.min_coverage:g}) or chip.size "
        f"({settings.chip_size[0]} × {settings.chip_size[1]}), or label more."
    )


def _merge_rare(
    settings: Preparation, hints: ClassHints, counts: Counts, chips: Sequence[Chip], folder: Path
) -> tuple[ClassHints, Counts]:
    """Put classes below the share into one called ``other``, in the label chips too."""
    total = counts.sum(0)
    rare = rare_values(total, settings.min_class_share)
    if not rare:
        return hints, counts
    labelled = int(total[1:].sum())
    other = free_value(np.flatnonzero(total).tolist(), rare[0])
    named = ", ".join(f"{hints.names.get(v, f'class_{v}')} ({100 * total[v] / labelled:.2g} %)" for v in rare)
    log.info("Below min_class_share=%g %%, now class %d (other): %s.", settings.min_class_share, other, named)
    lookup = np.arange(256, dtype=np.uint8)
    lookup[list(rare)] = other
    for chip in chips:
        if chip.counts[list(rare)].any():
            recode(folder / "labels" / chip.name, lookup)
    merged = counts.copy()
    merged[:, list(rare)] = 0
    merged[:, other] += counts[:, list(rare)].sum(1)
    names = {value: name for value, name in hints.names.items() if value not in rare} | {other: "other"}
    return ClassHints(names, {v: c for v, c in hints.colors.items() if v != other}), merged


def _class_table(settings: Preparation, hints: ClassHints, total: Counts) -> ClassTable:
    values = [int(value) for value in np.flatnonzero(total) if value != UNCLASSIFIED]
    names = hints.names | _by_value("class_names", settings.class_names, values)
    return ClassTable.build(values, names, hints.colors | _by_value("class_colors", settings.class_colors, values))


def _by_value(key: str, given: Named | None, values: Sequence[int]) -> dict[int, str]:
    """Return what a user gave for each class value."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if len(given) != len(values):
            raise UserError(
                f"{key} has {len(given)} entries for {len(values)} classes ({', '.join(map(str, values))}); give one "
                f"for each in this order, or by value: {key}={{{values[0]}: …}}."
            )
        return dict(zip(values, given, strict=True))
    try:
        return {int(value): str(entry) for value, entry in given.items()}
    except ValueError as error:
        raise UserError(f"{key} has a key that is no class value ({error}); write {key}={{{values[0]}: …}}.") from error


def _drop(chips: Sequence[Chip], folder: Path) -> None:
    for chip in chips:
        (folder / "images" / chip.name).unlink()
        (folder / "labels" / chip.name).unlink()


def _statistics(chips: Sequence[Chip], parts: Parts, bands: int, scaler: float | None) -> BandTable:
    """Merge the training chips' statistics."""
    total = BandStatistics(bands)
    for chip, part in zip(chips, parts, strict=True):
        if part == 0 and chip.statistics is not None:
            total.merge(chip.statistics)
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
            "strategy": settings.strategy,
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


def _write_tables(
    folder: Path,
    chips: Sequence[Chip],
    counts: Counts,
    classes: ClassTable,
    split: Split,
    statistics: BandTable,
    scaler: float | None,
) -> None:
    for index, part in enumerate(PARTS):
        names = [chip.name for chip, assigned in zip(chips, split.parts, strict=True) if assigned == index]
        write_samples(folder / list_name(part), [(f"images/{name}", f"labels/{name}") for name in names])
    per_part = np.array([counts[split.parts == index].sum(0) for index in range(len(PARTS))])
    weights = class_weights(per_part[0, list(classes.values)].tolist())
    rows = tuple(
        ClassRow(value, (int(per_part[0, value]), int(per_part[1, value]), int(per_part[2, value])), weight)
        for value, weight in zip(classes.values, weights, strict=True)
    )
    write_summary(folder / SUMMARY, Summary(rows, scaler, bool(per_part[:, UNCLASSIFIED].any())))
    write_statistics(folder / STATISTICS, statistics, scaler)
