"""From scenes and labels to a data folder: the whole of prepare.py without its command line."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from src.class_map import ClassMap, ClassRule
from src.datafolder import DATASET, read_dataset
from src.errors import UserError
from src.fingerprints import fingerprints
from src.input_files import find_files
from src.label_sources import label_sources, scenes_with_labels
from src.preparation.assembly import FILES, OVERVIEW, REVISION, fill
from src.preparation.class_choice import check_one_name
from src.preparation.cutting import Scene
from src.preparation.scene_files import check_part_names, describe_all, pair, replaced_nodata, scene_nodata
from src.preparation.settings import Preparation
from src.preparation.split_summary import SplitSummary
from src.preparation.staging import clear_leftover, is_interrupted, publish, staged
from src.spec import DatasetSpec
from src.tables import PARTS, list_name, listed_files

log = logging.getLogger(__name__)

_KEYS = {
    "chip_size": "chip.size",
    "chip_step": "chip.step",
    "min_coverage": "chip.min_coverage",
    "compress": "chip.compress",
    "shares": "split.train, validation, test",
    "strategy": "split.strategy",
    "buffer": "split.buffer",
    "block": "split.block",
    "split_raster": "split.raster",
    "split_values": "split.values",
}
"""What the command line calls the settings whose names it groups."""


@dataclass(frozen=True)
class Prepared:
    """What came of a preparation: what ``dataset.json`` says, and the summary; None where there was nothing to do."""

    spec: DatasetSpec
    summary: SplitSummary | None


def prepare(settings: Preparation, data_dir: str | Path, *, overwrite: bool = False) -> DatasetSpec:
    """Cut scenes into a data folder, split it and measure it; return what ``dataset.json`` says.

    As :func:`prepare_folder`, which also tells what became of the windows.
    """
    return prepare_folder(settings, data_dir, overwrite=overwrite).spec


def prepare_folder(settings: Preparation, data_dir: str | Path, *, overwrite: bool = False) -> Prepared:
    """Cut scenes into a data folder, split it and measure it.

    Args:
        settings: What to make.
        data_dir: The folder; appears whole or not at all.
        overwrite: Replace a data folder that other settings or an earlier version made.

    Returns:
        What the folder is, also where it was there already.

    Raises:
        UserError: See the messages: inputs that cannot be read or do not fit, settings that leave no chip.
    """
    if not str(data_dir).strip():
        raise UserError("data_dir is an empty path; give the folder to make.")
    folder = Path(data_dir)
    images = find_files(settings.image, "image")
    labels = pair(images, find_files(settings.label, "label"), "label")
    raster = settings.split_raster
    drawn = [] if raster is None else pair(images, find_files(raster, "split.raster"), "split.raster")
    config = {**_plain(asdict(settings)), "files": fingerprints([*images, *labels, *drawn])}
    if (folder / DATASET).is_file():
        clear_leftover(folder)
    if (existing := _existing(folder, config, overwrite=overwrite)) is not None:
        return Prepared(existing, None)
    class_map = ClassMap(settings.class_map) if settings.class_map is not None else None
    infos = describe_all(images)
    if drawn:
        check_part_names(infos)
    sources, hints = label_sources(labels, infos, class_map, settings.label_field, settings.label_layer)
    kept = scenes_with_labels(sources)
    infos, sources, drawn = [infos[n] for n in kept], [sources[n] for n in kept], [drawn[n] for n in kept if drawn]
    check_one_name(hints, settings.class_names)
    parts = label_sources(drawn, infos, _part_map(settings), None, None)[0] if drawn else [None] * len(infos)
    words = [f"split.raster: {part.note} What it leaves out is in no part." for part in parts if part and part.note]
    for note in (*(source.note for source in sources if source.note), *words):
        log.info("%s", note)
    if replaced := replaced_nodata(infos, settings.nodata):
        log.warning("CAUTION: %s.", replaced)
    for info in infos:
        if info.masked:
            log.info("%s has a mask or an alpha band: what it leaves out is unclassified.", info.path)
        for number in info.alpha:  # which GDAL takes the fourth of four 8-bit bands for, unless it is told otherwise
            told = f"gdal_edit.py -colorinterp_{number} undefined {info.path}"
            log.info("Its band %d is the alpha band and no measurement; if it is one (near infrared): %s", number, told)
    scenes = [
        Scene(info, source, scene_nodata(info, settings.nodata), part)
        for info, source, part in zip(infos, sources, parts, strict=True)
    ]
    with staged(folder, DATASET) as staging:
        # Another run may have made the folder since it was looked at.
        if (existing := _existing(folder, config, overwrite=overwrite)) is not None:
            return Prepared(existing, None)
        spec, summary = fill(settings, scenes, hints, staging, config)
        publish(staging, DATASET)
    for line in [*summary.lines, *(str(folder / name) for name in sorted(FILES))]:
        log.info("%s", line)
    return Prepared(spec, summary)


def _part_map(settings: Preparation) -> ClassMap:
    """Return what turns a split raster's values into those of :attr:`Scene.parts`: 0 may be a part, nodata is none."""
    numbered = enumerate(settings.split_values, start=1)
    return ClassMap(tuple(ClassRule(n, (value,)) for n, value in numbered if value is not None), "split.values")


def _existing(folder: Path, config: dict[str, Any], *, overwrite: bool) -> DatasetSpec | None:
    """Return the spec of a folder that needs nothing done; None where there is something to do."""
    if (folder / DATASET).is_file():
        try:
            spec = read_dataset(folder / DATASET)
        except UserError:
            if overwrite:
                return None
            raise
        made_with = _plain(spec.config)
        if made_with == config:
            return None if overwrite and _lacking(folder) is not None else _as_it_is(folder, spec, overwrite=overwrite)
        if not overwrite:
            raise UserError(
                f"{folder} was made with other settings or files ({_difference(made_with, config)}); give another "
                "data_dir, or overwrite=true to replace it."
            )
        return None
    if folder.is_dir() and not is_interrupted(folder) and (found := sorted(entry.name for entry in folder.iterdir())):
        raise UserError(
            f"{folder} holds something that prepare.py did not make ({found[0]}); give another data_dir or empty it."
        )
    return None


def _as_it_is(folder: Path, spec: DatasetSpec, *, overwrite: bool) -> DatasetSpec | None:
    """Say that a folder of the same settings needs nothing; None for an earlier version's to be replaced.

    Raises:
        UserError: It has lost something, but its lists may be somebody's work, and its split that of a checkpoint.
    """
    older = spec.revision < REVISION
    if older and overwrite:
        return None
    if (file := _lacking(folder)) is not None:
        raise UserError(
            f"{folder} lacks {file}, which {DATASET} there speaks of; put it back, or make the folder anew with "
            "overwrite=true."
        )
    log.info("%s is there already, made with the same settings from the same files: nothing to do.", folder)
    if older:
        log.warning(
            "CAUTION: %s was made by an earlier version, whose chips, classes or split may differ from what this one "
            "makes; overwrite=true makes it anew.",
            folder,
        )
    return spec


def _lacking(folder: Path) -> str | None:
    """Name what a data folder is to have and has not, of what is read again, or a list that cannot be read; or None.

    Each of its folders is listed once: asking for every chip takes long where there are many.
    """
    there: dict[PurePath, set[str]] = {}
    lists = map(listed_files, (folder / list_name(part) for part in PARTS))
    files = (PurePath(name) for name in FILES if name != OVERVIEW)
    try:
        for file in chain(files, chain.from_iterable(lists)):
            if file.parent not in there:
                there[file.parent] = _names(folder / file.parent)
            if file.name not in there[file.parent]:
                return file.as_posix()
    except UserError as error:
        return f"a readable list ({error})"
    return None


def _names(folder: Path) -> set[str]:
    with suppress(OSError, ValueError):  # it is no folder, or no path at all
        return {entry.name for entry in folder.iterdir()}
    return set()


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [key for key in new if old.get(key) != new[key]]
    if keys == ["files"]:
        return _changes(old.get("files", []), new["files"])
    if not keys:
        return "changed: versions"
    shown = [f"{_KEYS.get(key, key)}: {old.get(key)} → {new[key]}" for key in keys if key != "files"]
    return "; ".join(shown)


def _changes(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> str:
    """Say in what two lists of files and their states differ, some of the files by name."""
    before, now = ({entry["path"]: entry for entry in entries} for entries in (old, new))
    found = {
        "changed": [path for path in now if path in before and now[path] != before[path]],
        "gone": [path for path in before if path not in now],
        "new": [path for path in now if path not in before],
    }
    said = [f"{what}: {_shortened(paths)}" for what, paths in found.items() if paths]
    return "; ".join(said) or "changed: the order of the files"


def _shortened(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def _plain(value: Any) -> Any:
    """Return what JSON gives back for a value, so that both compare; it knows no NaN, which equals nothing."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value
