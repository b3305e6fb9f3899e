"""The data folder: chips, their lists, their statistics and ``dataset.json``, which describes them.

A folder without ``dataset.json`` is one that SpecDeepMap made: what it would say is derived from the CSVs and
from every chip. The first chip alone says neither which classes there are nor which bands have measurements.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from src.ahead import ahead
from src.bands import Normalization, measured, without_units
from src.chip_names import named_places, place_in_name
from src.errors import UserError
from src.grid import Window
from src.labels import ClassTable
from src.ownership import Ownership
from src.raster.georeference import offset_on, shifted
from src.raster.read import DatasetReader, RasterInfo, info_of, open_chip, read_window
from src.spec import DatasetSpec, SceneSpec
from src.tables import (
    PARTS,
    STATISTICS,
    SUMMARY,
    BandTable,
    Part,
    Sample,
    Summary,
    check_apart,
    class_weights,
    list_name,
    listed_images,
    read_samples,
    read_statistics,
    read_summary,
)

DATASET = "dataset.json"
_OVERLAPPING = "their scores are too good; prepare.py keeps such chips apart"
_DRAWN = (
    "their labels are apart, as split.raster draws them, but the network has seen the ground; expect lower scores on "
    "ground that is new to it"
)
_LOOKERS = 4
"""Threads that look where chips lie: they wait for the disk."""


@dataclass(frozen=True)
class DataFolder:
    """A data folder. Its chips are looked at when they are asked for.

    Attributes:
        path: The folder.
        spec: What ``dataset.json`` says, or what follows from CSVs and chips.
        statistics: Means and standard deviations of the training chips; None where the folder has none.
        summary: Pixels and weight of each class; None where the folder has no summary.
    """

    path: Path
    spec: DatasetSpec
    statistics: BandTable | None
    summary: Summary | None

    def samples(self, part: Part, *, required: bool = True) -> list[Sample]:
        """List the chips of a part in the order of its CSV; unless required, there may be none.

        Raises:
            UserError: The list or one of its chips is missing, leads out of the folder, is trained on although it is
                another part's, or (if required) the list is empty.
        """
        path = self.path / list_name(part)
        found = read_samples(path) if required or path.is_file() else []
        if required and not found:
            raise UserError(f"{path} lists no chip; expected at least one. Run prepare.py with split.{part} above 0.")
        if found and part != "train":
            check_apart(path, self.path / list_name("train"))
        return found

    def ground_caution(self, part: Part) -> str | None:
        """Say how many of a part's chips show ground of training chips; see :func:`ground_caution`."""
        return ground_caution(self.path / list_name(part), self.samples(part), self.spec)

    def sharing_ground(self, part: Part) -> list[Sample]:
        """List a part's chips that show ground of a training chip; see :func:`sharing_ground`."""
        return sharing_ground(self.samples(part), trained_images(self.path), self.spec)

    @cached_property
    def train_counts(self) -> tuple[int, ...]:
        """Training pixels per class index; counted in the chips where the summary does not know every class."""
        return self.counts("train")

    @cached_property
    def refit_counts(self) -> tuple[int, ...]:
        """The same of training and validation chips, all of which a refit trains on."""
        pairs = zip(self.train_counts, self.counts("validation"), strict=True)
        return tuple(train + validation for train, validation in pairs)

    def counts(self, part: Part) -> tuple[int, ...]:
        """A part's pixels per class index; counted in the chips where the summary does not know every class."""
        known = {row.value: row.counts[PARTS.index(part)] for row in self.summary.rows} if self.summary else {}
        if not set(self.spec.classes.values) <= set(known):
            counts = sum((value_counts(s.label) for s in self.samples(part)), np.zeros(256, np.int64))
            known = dict(enumerate(counts.tolist()))
        return tuple(known[value] for value in self.spec.classes.values)

    @cached_property
    def class_weights(self) -> tuple[float, ...]:
        """Weight of each class index for the loss: the summary's, else 1 − share of the training pixels.

        The summary is not followed where it leaves a class without a weight above 0: SpecDeepMap writes 0 for a
        single class, which makes the loss NaN.
        """
        known = {row.value: row.weight for row in self.summary.rows} if self.summary else {}
        weights = [known.get(value, 0.0) for value in self.spec.classes.values]
        return tuple(weights if all(0 < weight < np.inf for weight in weights) else class_weights(self.train_counts))

    def normalization(self) -> Normalization:
        """Return the scaling and standardisation that follow from the training chips' statistics.

        Raises:
            UserError: The folder has no ``Normalize_Bands.csv``.
        """
        if self.statistics is None:
            raise UserError(f"{self.path} has no {STATISTICS}; run prepare.py again, or train with normalize=false.")
        scale = self.spec.scaler if self.spec.scaler is not None else 1.0
        return Normalization.from_statistics(self.statistics.mean, self.statistics.std, self.spec.used, scale)


def read_data_folder(data_dir: str | Path) -> DataFolder:
    """Read a data folder that prepare.py or SpecDeepMap made.

    Raises:
        UserError: It is none, one of its files is damaged, or a newer version made it.
    """
    path = Path(data_dir)
    if not (path / list_name("train")).is_file():
        raise UserError(f"{path} is no data folder: it has no {list_name('train')}. Make one with prepare.py.")
    summary = read_summary(path / SUMMARY) if (path / SUMMARY).is_file() else None
    statistics = read_statistics(path / STATISTICS) if (path / STATISTICS).is_file() else None
    described = (path / DATASET).is_file()
    spec = read_dataset(path / DATASET) if described else derive_dataset(path, statistics, summary)
    if statistics is not None and len(statistics.mean) != len(spec.bands):
        raise UserError(
            f"{path / STATISTICS} lists {len(statistics.mean)} bands, but the chips have {len(spec.bands)}; expected "
            "the statistics of these chips. Run prepare.py again."
        )
    return DataFolder(path, spec, statistics, summary)


def trained_images(folder: Path, *, refit: bool = False) -> list[PurePath]:
    """Name the images of a data folder that are trained on, with ``refit`` those of validation too."""
    parts: tuple[Part, ...] = ("train", "validation") if refit else ("train",)
    lists = [folder / list_name(part) for part in parts]
    return [image for path in lists if path.is_file() for image in listed_images(path)]


def ground_caution(
    path: Path, samples: Sequence[Sample], spec: DatasetSpec | None, *, refit: bool = False
) -> str | None:
    """Say how many of a list's chips show ground of training chips, and why that matters; None for none.

    prepare.py makes such a split only where split.raster asks for it, and then each chip has its own part's labels
    only; SpecDeepMap's chips overlap, labels and all, where the step is smaller than the tile.

    Args:
        path: The list, in a data folder.
        samples: Its chips.
        spec: What the folder's ``dataset.json`` says, None without one.
        refit: Whether the validation chips were trained on too.
    """
    trained = trained_images(path.parent, refit=refit)
    shared = sharing_ground(samples, trained, spec)
    if not shared:
        return None
    named = next((f"{part} " for part in PARTS if path.name == list_name(part)), "")
    known = {image.name for image in trained} & {sample.image.name for sample in samples}
    drawn = spec is not None and spec.split.get("strategy") == "raster" and not known
    return (
        f"{len(shared)} of {len(samples)} {named}chips show ground that training chips show too (first "
        f"{shared[0].image.name}): {_DRAWN if drawn else _OVERLAPPING}"
    )


def sharing_ground(
    samples: Sequence[Sample], trained: Iterable[PurePath], spec: DatasetSpec | None = None
) -> list[Sample]:
    """List the chips that show ground of a training chip, by scene and place as their names tell them.

    Args:
        samples: The chips.
        trained: Images of the training chips, which need not be there.
        spec: What describes all of them; None if nothing does, then they are taken to be as large as the first one.
    """
    scenes = {scene.name for scene in spec.scenes} if spec else set()
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for image in trained:
        scene, x, y = place_in_name(image.stem, scenes)
        places[scene].append((x, y))
    near = {scene: np.array(found) for scene, found in places.items()}
    if not near or not samples:
        return []
    size = spec.chip_size if spec else _chip_size(samples[0])

    def shares(sample: Sample) -> bool:
        scene, *place = place_in_name(sample.image.stem, scenes)
        return scene in near and bool((np.abs(near[scene] - place) < size).all(1).any())

    return [sample for sample in samples if shares(sample)]


def chip_places(samples: Sequence[Sample], spec: DatasetSpec | None = None) -> list[tuple[int, Window] | None]:
    """Find out where chips lie in their scenes, those of them that may overlap.

    A place is known where a chip's name tells it and its grid says the same, with reference to other chips of the
    scene: ``city_tile_3_4`` may well be the fourth tile of the fifth row. Chips of one place in two scenes, as of two
    dates, or in two folders, are chips of two scenes here.

    Args:
        samples: The chips.
        spec: What describes them; where nothing does, all that have a place in their names are looked at.

    Returns:
        The scene's number and the window of each chip; None where nobody knows, or it overlaps none by its name.

    Raises:
        UserError: A chip cannot be read.
    """
    scenes = {scene.name for scene in spec.scenes} if spec else set()
    # Where nothing describes the chips their size is not known: a single pixel of each, then.
    named = named_places([sample.image for sample in samples], scenes, spec.chip_size if spec else (1, 1))
    by_name = Ownership(named)
    if spec is not None and spec.config:  # prepare.py named them
        return [place if by_name.overlapping(chip) else None for chip, place in enumerate(named)]
    chips = [chip for chip, place in enumerate(named) if place and (spec is None or by_name.overlapping(chip))]
    references: dict[int, tuple[RasterInfo, Window]] = {}
    numbers: dict[tuple[int, int, int], int] = {}
    places: list[tuple[int, Window] | None] = [None] * len(samples)
    with closing(ahead(lambda chip: _describe_chip(samples[chip].image), chips, _LOOKERS, _LOOKERS)) as infos:
        for chip, info in zip(chips, infos, strict=True):
            scene, window = named[chip] or (0, info.window)
            reference, origin = references.setdefault(scene, (info, window))
            if (offset := offset_on(reference, info)) is not None:
                row, column = window.row - origin.row, window.column - origin.column
                number = numbers.setdefault((scene, offset[0] - row, offset[1] - column), len(numbers))
                places[chip] = number, Window(window.row, window.column, info.height, info.width)
    return places


def read_dataset(path: Path) -> DatasetSpec:
    """Read ``dataset.json``; raises UserError if it is damaged or a newer version wrote it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); run prepare.py again with overwrite=true."
        ) from error
    return DatasetSpec.from_dict(content, str(path))


def write_dataset(path: Path, spec: DatasetSpec) -> None:
    """Write ``dataset.json``."""
    path.write_text(json.dumps(spec.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def derive_dataset(path: Path, statistics: BandTable | None, summary: Summary | None) -> DatasetSpec:
    """Derive what ``dataset.json`` would say, from all chips that the lists name.

    Args:
        path: The data folder.
        statistics: Its statistics: a band without numbers there is not used. None: the chips are searched.
        summary: Its summary, for the scaler.

    Raises:
        UserError: No chip is listed, one cannot be read, or they differ in bands, data type or nodata.
    """
    samples = [s for part in PARTS if (path / list_name(part)).is_file() for s in read_samples(path / list_name(part))]
    if not samples:
        raise UserError(f"The lists in {path} name no chip; expected at least one. Run prepare.py again.")
    chips = [_describe_chip(sample.image) for sample in samples]
    first = chips[0]
    for chip in chips[1:]:
        _same_kind(first, chip)
    counts = sum((value_counts(sample.label) for sample in samples), np.zeros(256, np.int64))
    measurements = np.isfinite(statistics.mean) if statistics else _measured_bands([s.image for s in samples])
    if len(measurements) != len(first.bands):
        measurements = np.ones(len(first.bands), bool)  # read_data_folder reports it
    return DatasetSpec(
        scenes=_scenes(chips),
        bands=without_units(first.bands),
        used=tuple(bool(m) and not band.bad for m, band in zip(measurements, first.bands, strict=True)),
        nodata=first.nodata[0],
        dtype=first.dtype,
        chip_size=(first.width, first.height),
        chip_step=_step(chips),
        classes=ClassTable.build(np.flatnonzero(counts).tolist()),
        split={"strategy": "unknown"},
        scaler=summary.scaler if summary else None,
        seed=0,
    )


def read_label(label: Path) -> npt.NDArray[np.uint8]:
    """Read a label chip's class values, H × W.

    Raises:
        UserError: It cannot be read, or has a value that is not a whole number of 0–255.
    """
    with open_chip(label) as dataset:
        return label_values(dataset)


def label_values(dataset: DatasetReader) -> npt.NDArray[np.uint8]:
    """Return the class values of an open label chip, as :func:`read_label` does."""
    values = read_window(dataset, Window(0, 0, dataset.height, dataset.width), 0, [0])[0]
    if values.dtype != np.uint8 and not _are_bytes(values):
        raise UserError(
            f"{dataset.name} has values that are no classes; expected whole numbers of 0–255 (0 = unclassified)."
        )
    return np.asarray(values, np.uint8)


def _are_bytes(values: npt.NDArray[Any]) -> bool:
    return values.dtype.kind != "c" and bool(np.all((values >= 0) & (values <= 255) & (values == np.floor(values))))


def value_counts(label: Path) -> npt.NDArray[np.int64]:
    """Count each of the values 0–255 in a label chip; raises UserError like :func:`read_label`."""
    return np.bincount(read_label(label).ravel(), minlength=256)


def _describe_chip(image: Path) -> RasterInfo:
    with open_chip(image) as dataset:
        return info_of(dataset)


def _chip_size(sample: Sample) -> tuple[int, int]:
    info = _describe_chip(sample.image)
    return info.width, info.height


def _same_kind(first: RasterInfo, chip: RasterInfo) -> None:
    for what, expected, found in (
        ("bands", len(first.bands), len(chip.bands)),
        ("data type", first.dtype, chip.dtype),
        ("nodata", str(first.nodata), str(chip.nodata)),
        ("size", (first.width, first.height), (chip.width, chip.height)),
    ):
        if expected != found:
            raise UserError(f"{chip.path} has {what} {found}, but {first.path} has {expected}; chips must agree.")


def _measured_bands(images: Iterable[Path]) -> npt.NDArray[np.bool_]:
    """Tell which bands have at least one measurement in the chips; stops when all have."""
    found = np.zeros(0, bool)
    for image in images:
        with open_chip(image) as dataset:
            info = info_of(dataset)
            valid = measured(read_window(dataset, info.window, 0), info.nodata)
        found = np.logical_or(found if found.size else False, valid.any(axis=(1, 2)))
        if found.all():
            break
    return found


def _scenes(chips: Sequence[RasterInfo]) -> tuple[SceneSpec, ...]:
    """Reconstruct the scenes from the chips' names and grids; their size is what the chips cover."""
    scenes: dict[str, SceneSpec] = {}
    for chip in chips:
        name, x, y = place_in_name(chip.name)
        seen = scenes.get(name)
        origin: Any = seen.transform if seen else shifted(chip.transform, Window(-y, -x, 0, 0))
        width, height = max(x + chip.width, seen.width if seen else 0), max(y + chip.height, seen.height if seen else 0)
        scenes[name] = SceneSpec(name, name, width, height, chip.crs, origin)
    return tuple(scenes.values())


def _step(chips: Sequence[RasterInfo]) -> tuple[int, int]:
    """Return the smallest distance of chips in x and y; the size where there is only one row or column."""
    places = [place_in_name(chip.name) for chip in chips]
    steps = []
    for axis, size in ((1, chips[0].width), (2, chips[0].height)):
        distances = np.diff(np.unique([place[axis] for place in places]))
        steps.append(int(distances.min()) if distances.size else size)
    return steps[0], steps[1]
