"""Training data from torchgeo: its data sets, samplers and data modules by name, without chips.

Only classes that yield ``image`` and ``mask`` fit. torchgeo's own augmentation and normalisation are left out: ours
follow, and the normalisation becomes part of the checkpoint.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.utils.data import Dataset

from src.bands import Band, BandStatistics, Normalization, measured
from src.cores import cores
from src.datamodules.base import MIN_STEPS, DataDescription, SegmentationData, Stage
from src.datamodules.batches import Chip
from src.datamodules.map_windows import MapWindows, cells_of
from src.errors import UserError
from src.grid import chip_windows
from src.labels import IGNORE, ClassTable
from src.progress import progress
from src.tables import class_weights

log = logging.getLogger(__name__)

SURVEYED = 200
"""Training samples that statistics and class counts are taken from, at most."""


@dataclass(frozen=True)
class MaskCodes:
    """How the values of torchgeo's masks become classes.

    Attributes:
        names: Name of each mask value, from 0 on.
        unclassified: Mask value that is no class, None if all are. Unless it is 0, class values (in maps) are one
            higher than mask values, since 0 is no class there.
    """

    names: tuple[str, ...]
    unclassified: int | None = 0

    @cached_property
    def classes(self) -> ClassTable:
        """The class table."""
        named = {n + self._shift: name for n, name in enumerate(self.names) if n != self.unclassified}
        return ClassTable.build(named, named)

    def encode(self, mask: npt.NDArray[Any], origin: str) -> npt.NDArray[np.uint8]:
        """Turn a mask into class indices; raises UserError (naming ``origin``) for a value without a name."""
        known = mask != self.unclassified if self.unclassified is not None else np.ones(mask.shape, bool)
        if int(mask.max(initial=0, where=known)) >= len(self.names):
            raise UserError(
                f"{origin} has the mask value {mask.max(where=known, initial=0)}, but datamodule.classes names "
                f"{len(self.names)} values from 0 on; name every value."
            )
        return self.classes.encode(np.where(known, mask + self._shift, 0))

    @property
    def _shift(self) -> int:
        return 0 if self.unclassified == 0 else 1


@dataclass
class TorchGeoChips(Dataset[Chip]):
    """Samples of a torchgeo data set.

    Attributes:
        name: What to call the data set.
        dataset: It yields dicts with ``image`` and ``mask``, and where only some pixels count ``there`` and ``own``, as
            :class:`~src.datamodules.map_windows.MapWindows` does.
        sampler: Yields its queries, or lists of them; None where the data set is indexed by numbers.
        codes: How masks become classes.
        size: Width and height of every sample; None leaves them as they are.
        nodata: Nodata value of the images.
        seed: Of the sampler; the epoch is added to it.
    """

    name: str
    dataset: Any
    sampler: Iterable[Any] | None
    codes: MaskCodes
    size: tuple[int, int] | None = None
    nodata: float | None = None
    seed: int = 0
    _drawn: tuple[int, list[Any]] = field(default=(-1, []), repr=False)

    def __len__(self) -> int:
        return len(self.dataset) if self.sampler is None else self._count

    @cached_property
    def _count(self) -> int:
        # Once: it is asked for with every sample, and drawing for the answer would throw away the epoch's own queries.
        return len(self._queries(0))

    def __getitem__(self, index: int) -> Chip:
        """Read sample number ``index``, counted through all epochs where there is a sampler."""
        epoch, position = (0, index) if self.sampler is None else divmod(index, len(self))
        sample = self.dataset[position if self.sampler is None else self._queries(epoch)[position]]
        image, mask = self._arrays(sample, position)
        there, own = sample.get("there", True), sample.get("own", True)
        valid = measured(image, self.nodata).all(axis=0) & there
        origin = f"{self.name}, sample {position}"
        target = self.codes.encode(np.where(there, mask, 0), origin)
        target[~(valid & own)] = IGNORE
        return Chip(origin, image, np.asarray(valid), target)

    def _queries(self, epoch: int) -> list[Any]:
        """Draw an epoch's queries: the same in every process, whatever was drawn before."""
        if self._drawn[0] != epoch:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed + epoch)
                drawn = list(self.sampler or ())
            flat = [query for entry in drawn for query in (entry if isinstance(entry, list) else [entry])]
            self._drawn = (epoch, flat)
        return self._drawn[1]

    def _arrays(self, sample: Mapping[str, Any], position: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        if "image" not in sample or "mask" not in sample:
            raise UserError(
                f"{self.name} yields {', '.join(sorted(map(str, sample)))}; expected image and mask, a data set for "
                "semantic segmentation. For images alone give datamodule.labels too."
            )
        image = np.asarray(sample["image"], np.float32)
        mask = np.asarray(sample["mask"]).squeeze()
        if image.ndim != 3 or mask.shape != image.shape[1:]:
            raise UserError(
                f"{self.name}, sample {position}: image {image.shape} and mask {mask.shape}; expected C × H × W and "
                "H × W."
            )
        if self.size is not None and (found := (image.shape[2], image.shape[1])) != self.size:
            raise UserError(
                f"{self.name}, sample {position} is {found[0]} × {found[1]} px, others are {self.size[0]} × "
                f"{self.size[1]}; batches need one size. Choose a data set, or options, with one."
            )
        return image, mask


class Crops:
    """Windows of images that are too large to go through a network whole; a query is (sample, row, column).

    torchgeo's data modules cut them on the device, a random one in training, and score the middle of each image only.
    Here validation covers all of it. What lies outside of an image is NaN: not measured.

    Args:
        dataset: Indexed by numbers; images may differ in size.
        size: Side of a window in pixels.
    """

    def __init__(self, dataset: Any, size: int) -> None:
        self.dataset, self.size = dataset, size

        def shape(index: int) -> tuple[int, int]:
            height, width = dataset[index]["image"].shape[-2:]
            return height, width

        count = len(dataset)
        self.shapes: list[tuple[int, int]] = []
        with ThreadPoolExecutor(cores()) as pool, progress("Measuring", count, "images") as advance:
            for found in pool.map(shape, range(count)):
                self.shapes.append(found)
                advance(1)

    def __getitem__(self, query: tuple[int, int, int]) -> dict[str, Any]:
        """Read an image and cut a window out of it and its mask."""
        index, row, column = query
        sample = self.dataset[index]
        return {
            "image": self._cut(torch.as_tensor(sample["image"]).float(), row, column, math.nan),
            "mask": self._cut(torch.as_tensor(sample["mask"]), row, column, 0),
        }

    def _cut(self, pixels: torch.Tensor, row: int, column: int, outside: float) -> torch.Tensor:
        part = pixels[..., row : row + self.size, column : column + self.size]
        missing = (0, self.size - part.shape[-1], 0, self.size - part.shape[-2])
        return torch.nn.functional.pad(part, missing, value=outside)

    def covering(self) -> list[tuple[int, int, int]]:
        """List windows that have every pixel once."""
        side = (self.size, self.size)
        return [
            (index, window.row, window.column)
            for index, (height, width) in enumerate(self.shapes)
            for window in chip_windows(height, width, side, side)
        ]


@dataclass(frozen=True)
class RandomCrops:
    """Queries of random windows, images one after the other in an order of each epoch's own; draws from torch."""

    crops: Crops
    count: int

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        size, images = self.crops.size, len(self.crops.shapes)
        rounds = -(-self.count // images)
        order = torch.cat([torch.randperm(images) for _ in range(rounds)])[: self.count].tolist()
        for index, place in zip(order, torch.rand(self.count, 2, dtype=torch.float64).tolist(), strict=True):
            row, column = (
                int(share * (max(0, side - size) + 1))
                for share, side in zip(place, self.crops.shapes[index], strict=True)
            )
            yield index, row, column


class TorchGeoData(SegmentationData):
    """A data set or data module of torchgeo.

    Args:
        name: Class in ``torchgeo.datamodules`` or ``torchgeo.datasets``.
        root: Its folder, list of folders or of files.
        labels: For a data set of images alone: name and root of the one that holds the masks (and options).
        classes: Name of each mask value from 0 on; None takes the data set's own.
        unclassified: Mask value that is no class, None if all are classes.
        bands: Bands to take, by the data set's names; or names for the bands of one that has none.
        nodata: Nodata value of the images.
        size: Side in pixels of the windows that are drawn from data sets on the map, and from images that their data
            module crops.
        windows: Windows per epoch of such; None for as many as would cover them.
        validation: Percent of the area of a data set on the map that validates; others bring their split.
        sampler: Class in ``torchgeo.samplers`` that draws the training windows.
        options: Further arguments of the class.
        batch_size: Samples per batch and process.
        seed: Of windows, split and order.
        workers: Processes that read ahead; ``auto`` chooses from the cores.
        cache: Keep samples of a fixed data set in memory when they fit.
        min_steps: Steps per epoch, about, at least, as for a data folder; 0 for batches of ``batch_size``.
    """

    def __init__(
        self,
        name: str,
        root: str | Sequence[str],
        *,
        labels: Mapping[str, Any] | None = None,
        classes: Sequence[str] | None = None,
        unclassified: int | None = 0,
        bands: Sequence[str] | None = None,
        nodata: float | None = None,
        size: int = 256,
        windows: int | None = None,
        validation: float = 20.0,
        sampler: str = "RandomGeoSampler",
        options: Mapping[str, Any] | None = None,
        batch_size: int = 16,
        seed: int = 42,
        workers: int | Literal["auto"] = "auto",
        cache: bool = True,
        min_steps: int = MIN_STEPS,
    ) -> None:
        super().__init__(batch_size, seed, workers, cache, check=False, min_steps=min_steps)
        self.counted = windows is not None
        self.title, self.root, self.labels = name, root, labels
        self.names, self.unclassified, self.band_names, self.nodata = classes, unclassified, bands, nodata
        self.size, self.windows, self.share, self.sampler = size, windows, validation, sampler
        self.options = dict(options or {})
        parts = self._apart(self._parts())
        sampled = any(sampler is not None for _, sampler in parts.values())
        self.fresh, self.cache = sampled, cache and not sampled
        codes = MaskCodes(self._class_names(parts["train"][0]), unclassified)
        self._chips = {
            stage: TorchGeoChips(name, dataset, sampler, codes, (size, size) if sampler else None, nodata, seed)
            for stage, (dataset, sampler) in parts.items()
        }

    def source(self, stage: Stage) -> TorchGeoChips:
        """Return the samples of a part."""
        return self._chips[stage]

    def describe(self) -> DataDescription:
        """Return what a look at training samples says."""
        return self._description

    @cached_property
    def _description(self) -> DataDescription:
        chips = self._chips["train"]
        if not len(chips) or not len(self._chips["validation"]):
            raise UserError(
                f"{self.title} has {len(chips)} training and {len(self._chips['validation'])} validation samples; "
                "expected at least one of each. Lower datamodule.size, or give a larger data set."
            )
        first = chips[0]
        count, height, width = first.image.shape
        for part in self._chips.values():
            part.size = (width, height)
        statistics, pixels = BandStatistics(count), np.zeros(256, np.int64)
        looked_at = np.unique(np.linspace(0, len(chips) - 1, min(SURVEYED, len(chips))).astype(int)).tolist()
        for index in looked_at:
            chip = chips[index]
            statistics.update(chip.image, chip.valid)
            pixels += np.bincount(chip.target.ravel(), minlength=256)
        classes = chips.codes.classes
        counts = self._counted(pixels[: len(classes)], classes, len(looked_at))
        return DataDescription(
            origin=self.title,
            bands=self._bands(chips.dataset, count),
            used=(True,) * count,
            scale=1.0,
            normalization=Normalization.from_statistics(statistics.mean.tolist(), statistics.std.tolist()),
            nodata=self.nodata,
            dtype="float32",
            chip_size=(width, height),
            classes=classes,
            counts=counts,
            weights=tuple(class_weights(counts)),
            nodata_given=self.nodata is not None,
        )

    def _counted(self, pixels: npt.NDArray[np.int64], classes: ClassTable, samples: int) -> tuple[int, ...]:
        """Return the pixels of each class, for a class that was not seen as many as the rarest of the others has.

        Somewhere else it may have some. Rules that weigh by 1 / pixels would take it out of the loss for 0 of them, and
        give it more than all the others together for 1.

        Raises:
            UserError: No class was seen.
        """
        seen = pixels > 0
        if not seen.any():
            raise UserError(
                f"None of the {samples} training samples of {self.title} that were looked at has a pixel with a class; "
                "expected some, on ground that does not validate. Check datamodule.labels, classes and unclassified."
            )
        rarest = int(pixels[seen].min())
        if not seen.all():
            log.info(
                "%s: no pixel of %s in the %d training samples that were looked at; rules for class_weights take the "
                "%d of the rarest other class in their place",
                self.title,
                ", ".join(name for name, found in zip(classes.names, seen, strict=True) if not found),
                samples,
                rarest,
            )
        return tuple(int(count) for count in np.where(seen, pixels, rarest))

    def _parts(self) -> dict[Stage, tuple[Any, Any]]:
        """Return data set and sampler of both parts."""
        from torchgeo import datamodules, datasets  # noqa: PLC0415 (takes seconds)

        if hasattr(datamodules, self.title):
            return self._of_module(getattr(datamodules, self.title))
        found = _named(datasets, self.title, "datamodule.name", also=datamodules)
        if issubclass(found, datasets.GeoDataset):
            return self._of_map(found, datasets)
        train, validation = (self._split(found, names) for names in (("train",), ("val", "validation", "test")))
        return {"train": (train, None), "validation": (validation, None)}

    def _of_module(self, cls: type) -> dict[Stage, tuple[Any, Any]]:
        known = _parameters(cls)
        keys = {key: value for key, value in (("patch_size", self.size), ("length", self.windows)) if key in known}
        module = _make(cls, batch_size=self.batch_size, num_workers=0, **keys, **self.options)
        # Modules hand further keywords to their data set, whose folder is called root or paths.
        module.kwargs.setdefault(_root_key(module.dataset_class), self.root)
        _call(f"{self.title} with {module.kwargs}: setup", module.setup, "fit")
        parts: dict[Stage, tuple[Any, Any]] = {}
        pairs: tuple[tuple[Stage, str], ...] = (("train", "train"), ("validation", "val"))
        for stage, short in pairs:
            dataset = getattr(module, f"{short}_dataset", None) or module.dataset
            samplers = (f"{short}_batch_sampler", f"{short}_sampler", "batch_sampler", "sampler")
            sampler = next((s for n in samplers if (s := getattr(module, n, None)) is not None), None)
            cropped = "patch_size" in known and sampler is None
            parts[stage] = self._crop(dataset, stage) if cropped else (dataset, sampler)
        return parts

    def _crop(self, dataset: Any, stage: Stage) -> tuple[Any, Any]:
        crops = Crops(dataset, self.size)
        cover = crops.covering()
        return crops, RandomCrops(crops, self.windows or len(cover)) if stage == "train" else cover

    def _of_map(self, cls: type, datasets: ModuleType) -> dict[Stage, tuple[Any, Any]]:
        from torchgeo import samplers  # noqa: PLC0415 (takes seconds)

        dataset = _make(cls, **self._root(cls), **self._chosen_bands(cls), **self.options)
        if self.labels is not None:
            given = dict(self.labels)
            named = _named(datasets, str(given.pop("name", "RasterDataset")), "datamodule.labels.name")
            masks = _make(named, **{_root_key(named): given.pop("root", None)}, **given)
            # Of this one, and not by a class of ours, which no process that reads ahead would find.
            masks.is_image = False
            dataset &= masks
        train, validation = (copy.copy(dataset) for _ in range(2))
        train.index, validation.index = self._divided(dataset)
        draws = _named(samplers, self.sampler, "datamodule.sampler")
        length = {"length": self.windows} if "length" in _parameters(draws) else {}
        return {
            "train": (dataset, _make(draws, train, size=self.size, **length)),
            "validation": (dataset, samplers.GridGeoSampler(validation, size=self.size, stride=self.size)),
        }

    def _divided(self, dataset: Any) -> tuple[Any, Any]:
        """Divide the index of a data set on the map into those of both parts, by cells of whole pixels.

        Files of the same extent, of other dates, have their cells in the same parts.
        """
        if not 0 < self.share < 100:
            raise UserError(
                f"datamodule.validation={self.share:g} is a percentage; give more than 0 and less than 100."
            )
        found = [
            (number, cell)
            for number, extent in enumerate(dataset.index.geometry)
            for cell in cells_of(extent, dataset.res)
        ]
        places = {bounds: place for place, bounds in enumerate(dict.fromkeys(cell.bounds for _, cell in found))}
        count = max(1, int(self.share / 100 * len(places)))
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(self.seed)).tolist()
        validating = set(order[len(places) - count :])

        def part(validates: bool) -> Any:
            chosen = [(number, cell) for number, cell in found if (places[cell.bounds] in validating) == validates]
            rows = dataset.index.iloc[[number for number, _ in chosen]]
            return rows.set_geometry([cell for _, cell in chosen], crs=dataset.index.crs)

        return part(validates=False), part(validates=True)

    def _apart(self, parts: dict[Stage, tuple[Any, Any]]) -> dict[Stage, tuple[Any, Any]]:
        """Let windows on the map be trained on, and scored, on the ground of their own part only."""
        from torchgeo.samplers import GridGeoSampler  # noqa: PLC0415 (takes seconds)

        (train, draws), (validation, grid) = parts["train"], parts["validation"]
        if not isinstance(grid, GridGeoSampler):
            return parts
        extents = [dataset.index.geometry for dataset in ([train] if train is validation else [train, validation])]
        files, cells = pd.concat(extents), grid.index.geometry
        scored = MapWindows(validation, files, cells, self.size)
        return {
            "train": (MapWindows(train, files, cells, self.size), draws),
            "validation": (scored, scored.covering()),
        }

    def _split(self, cls: type, names: Sequence[str]) -> Any:
        """Make a part of a data set that has a split of its own, under the first name that it knows."""
        if "split" not in _parameters(cls):
            raise UserError(f"{self.title} has no split into training and validation; give its data module's name.")
        known = getattr(cls, "splits", getattr(cls, "metadata", None)) or names
        split = next((name for name in names if name in known), names[0])
        return _make(cls, split=split, **self._root(cls), **self._chosen_bands(cls), **self.options)

    def _root(self, cls: type) -> dict[str, Any]:
        return {_root_key(cls): self.root}

    def _chosen_bands(self, cls: type) -> dict[str, Any]:
        chooses = self.band_names and getattr(cls, "all_bands", ()) and "bands" in _parameters(cls)
        return {"bands": list(self.band_names or ())} if chooses else {}

    def _bands(self, dataset: Any, count: int) -> tuple[Band, ...]:
        own = next((n for n in _attributes(dataset, "bands", "all_bands") if len(n) == count), None)
        names = self.band_names or own or [f"band {number}" for number in range(1, count + 1)]
        if len(names) != count:
            raise UserError(
                f"datamodule.bands names {len(names)} bands, but {self.title} yields {count}; name them all."
            )
        return tuple(Band(str(name)) for name in names)

    def _class_names(self, dataset: Any) -> tuple[str, ...]:
        found = (n for n in _attributes(dataset, "classes", "all_classes") if not isinstance(n, int))
        own = self.names or next(found, None)
        if own is None:
            raise UserError(
                f"{self.title} does not name its classes; give datamodule.classes=[…], from mask value 0 on."
            )
        return tuple(str(name) for name in own)


def _named(module: ModuleType, name: str, key: str, also: ModuleType | None = None) -> Any:
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        known = [n for m in (module, also) if m for n, value in vars(m).items() if inspect.isclass(value)]
        near = ", ".join(difflib.get_close_matches(name, known, 3, 0.0))
        raise UserError(f"{key}={name} is not in torchgeo; the nearest names are {near}.")
    return found


def _attributes(dataset: Any, *names: str) -> list[Any]:
    """Return what a data set, or those that it is made of, have under one of these names, unless it is empty."""
    inner = getattr(dataset, "dataset", None)
    parts = [*([] if inner is None else [inner]), *getattr(dataset, "datasets", ())]
    own = [value for name in names if (value := getattr(dataset, name, None))]
    return own + [value for part in parts for value in _attributes(part, *names)]


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """Return what a class is made from, also one marked as deprecated, whose own signature says nothing."""
    return inspect.signature(cls.__init__).parameters  # type: ignore[misc]


def _root_key(cls: type) -> str:
    """Return what a data set calls its folder."""
    return "paths" if "paths" in _parameters(cls) else "root"


def _make(cls: Any, *arguments: Any, **keywords: Any) -> Any:
    return _call(cls.__name__, cls, *arguments, **keywords)


def _call(what: str, function: Any, *arguments: Any, **keywords: Any) -> Any:
    try:
        return function(*arguments, **keywords)
    except Exception as error:  # torchgeo raises whatever its data sets provoke
        reason = " ".join(str(error).split()) or type(error).__name__
        given = ", ".join(f"{key}={value}" for key, value in keywords.items())
        raise UserError(
            f"torchgeo's {what}({given}) does not work: {reason}. Check datamodule.root and datamodule.options."
        ) from error
