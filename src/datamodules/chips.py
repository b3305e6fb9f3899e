"""Training data from a data folder, made by prepare.py or by SpecDeepMap."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch.utils.data import Dataset

from src.chips import LabelledChip, PlainChip, read_labelled
from src.class_names import Named, renamed
from src.datafolder import DataFolder, read_data_folder
from src.datamodules.base import MIN_STEPS, DataDescription, SegmentationData, Stage
from src.datamodules.batches import Chip
from src.datamodules.cache import ChipSource
from src.errors import UserError
from src.first_process import is_first
from src.pixel_size import sides_on_ground
from src.spec import DatasetSpec
from src.tables import Sample, class_weights

log = logging.getLogger(__name__)

_ENOUGH = 5
"""Validation chips from which on an epoch can be told from another."""


class ChipDataset(Dataset[Chip]):
    """Chips of a data folder; each access reads its files anew.

    Args:
        samples: Their files.
        spec: Of the data folder: bands that count for the mask, nodata, classes.
        again: Whether they are read epoch by epoch: then the second time without GDAL, where that can be.
    """

    def __init__(self, samples: Sequence[Sample], spec: DatasetSpec, *, again: bool = False) -> None:
        self.samples, self.spec, self.again = list(samples), spec, again
        self._plain: dict[int, PlainChip] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Chip:
        """Read a chip.

        Raises:
            UserError: A file is missing, broken or of another size, or a label value is no class.
        """
        sample, known = self.samples[index], self._plain.get(index)
        chip = known.read() if known else None
        if chip is None:
            chip = self._opened(sample)
            if chip.plain:
                self._plain[index] = chip.plain
        return Chip(sample.image.name, chip.image, chip.valid, chip.target)

    def _opened(self, sample: Sample) -> LabelledChip:
        spec = self.spec
        chip = read_labelled(
            sample, spec.bands, spec.used, spec.nodata, spec.classes, by="the data folder", again=self.again
        )
        if (found := (chip.info.width, chip.info.height)) != spec.chip_size:
            raise UserError(
                f"{sample.image} has {found[0]} × {found[1]} pixels, the data folder's chips have "
                f"{spec.chip_size[0]} × {spec.chip_size[1]}; chips of one folder must agree. Run prepare.py again."
            )
        return chip


class ChipData(SegmentationData):
    """The chips of a data folder.

    Args:
        data_dir: The data folder.
        batch_size: Chips per batch and process.
        seed: Seed of the order in which training takes its samples.
        workers: Processes that read ahead; ``auto`` chooses from the cores.
        cache: Keep decoded chips in memory when they fit into half of what is free.
        check: Read every chip once before training starts.
        refit: Train on the validation chips too: for the last training, once everything is chosen.
        oversample: How much more often chips with rare classes are drawn: with the rarest class's share of the pixels
            to the power of minus this. 0 takes every chip as often as the others.
        min_steps: Steps per epoch, about, at least: of few chips batches are smaller, and then each is taken more
            often; 0 for batches of ``batch_size`` and each chip once.
        class_names: Names in place of the data folder's, in the order of the values or by value; None for none.
        class_colors: Colours as #rrggbb, in the same way.
    """

    def __init__(
        self,
        data_dir: str | Path | None,
        batch_size: int = 16,
        seed: int = 42,
        workers: int | Literal["auto"] = "auto",
        cache: bool = True,
        check: bool = True,
        *,
        refit: bool = False,
        oversample: float = 0.0,
        min_steps: int = MIN_STEPS,
        class_names: Named | None = None,
        class_colors: Named | None = None,
    ) -> None:
        super().__init__(batch_size, seed, workers, cache, check, min_steps)
        if not 0 <= oversample <= 1:
            raise UserError(f"datamodule.oversample={oversample:g} does not fit; give 0 (every chip once) up to 1.")
        self.refit, self.oversample = refit, oversample
        if data_dir is None:
            raise UserError(
                "data_dir is not given; expected a data folder that prepare.py made. Add data_dir=… to the command "
                "(the demo's is data/demo/chips)."
            )
        folder = read_data_folder(data_dir)
        classes = renamed(folder.spec.classes, class_names, class_colors, str(data_dir))
        self.folder: DataFolder = replace(folder, spec=replace(folder.spec, classes=classes))

    def describe(self) -> DataDescription:
        """Return what the data folder says of itself; raises UserError if it has no training chips to tell it by.

        A refit's counts are of all chips that it trains on, and its classes' weights follow from them, unless somebody
        has given the folder other weights.
        """
        self.folder.samples("train")
        spec, weights = self.folder.spec, self.folder.class_weights
        counts = self.folder.refit_counts if self.refit else self.folder.train_counts
        if weights == tuple(class_weights(self.folder.train_counts)):
            weights = tuple(class_weights(counts))
        return DataDescription(
            origin=str(self.folder.path),
            bands=spec.bands,
            used=spec.used,
            scale=spec.scaler if spec.scaler is not None else 1.0,
            normalization=self.folder.normalization() if self.folder.statistics else None,
            nodata=spec.nodata,
            dtype=spec.dtype,
            chip_size=spec.chip_size,
            classes=spec.classes,
            counts=counts,
            weights=weights,
            nodata_given=spec.nodata_given,
            sides=sides_on_ground(spec.scenes),
        )

    def source(self, stage: Stage) -> ChipDataset:
        """Return a part's chips, a refit's training with validation's.

        A training's first process says so where validation proves little.
        """
        samples = list(self.folder.samples(stage))
        if self.refit and stage == "train":
            samples += self.folder.samples("validation")
        if stage == "validation" and not self.refit and is_first():
            self._say_what_validation_lacks(len(samples))
        return ChipDataset(samples, self.folder.spec)

    def _say_what_validation_lacks(self, count: int) -> None:
        if words := self.folder.ground_caution("validation"):
            log.warning("CAUTION: %s", words)
        if count < _ENOUGH:
            log.warning(
                "CAUTION: %d validation chip%s choose%s the best epoch and when to end, which is a matter of luck; cut "
                "smaller or overlapping chips (chip.size, chip.step), or add refit=true: all chips train, and the last "
                "epoch is kept",
                count,
                *(("", "s") if count == 1 else ("s", "")),
            )

    def reread(self, source: ChipSource) -> ChipSource:
        """Return chips that note where their numbers lie."""
        return ChipDataset(source.samples, source.spec, again=True) if isinstance(source, ChipDataset) else source
