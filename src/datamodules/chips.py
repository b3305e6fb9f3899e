"""Training data from a data folder, made by prepare.py or by SpecDeepMap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from src.bands import measured
from src.datafolder import DataFolder, read_data_folder
from src.datamodules.base import DataDescription, SegmentationData
from src.datamodules.batches import Chip
from src.errors import UserError
from src.grid import Window
from src.labels import IGNORE
from src.raster import open_raster, read_window
from src.spec import DatasetSpec
from src.tables import Sample


def read_chip(sample: Sample, spec: DatasetSpec) -> Chip:
    """Read a chip as the network takes it.

    Args:
        sample: Paths of image and label.
        spec: Of the data folder: bands that count for the mask, nodata, classes.

    Raises:
        UserError: A file is missing, broken or of another size, or a label value is no class.
    """
    with open_raster(sample.image) as dataset:
        window = Window(0, 0, dataset.height, dataset.width)
        image = read_window(dataset, window, 0)
        masked = dataset.dataset_mask() > 0 if spec.nodata is None and image.dtype.kind != "f" else None
        nodata = dataset.nodatavals if spec.nodata is None else spec.nodata
    with open_raster(sample.label) as dataset:
        values = read_window(dataset, Window(0, 0, dataset.height, dataset.width), 0, [0])[0]
    if (found := (len(image), window.width, window.height)) != (expected := (len(spec.bands), *spec.chip_size)):
        raise UserError(
            f"{sample.image} has {found[0]} bands of {found[1]} × {found[2]} pixels, the data folder's chips have "
            f"{expected[0]} of {expected[1]} × {expected[2]}; chips of one folder must agree. Run prepare.py again."
        )
    if values.shape != image.shape[1:]:
        raise UserError(
            f"{sample.label} is {values.shape[1]} × {values.shape[0]} pixels, its image {window.width} × "
            f"{window.height}; expected the same size. Run prepare.py again."
        )
    if unknown := spec.classes.unknown(values):
        raise UserError(
            f"{sample.label} has the value {unknown[0]}, which is no class; the class table has "
            f"{', '.join(map(str, spec.classes.values))}. Run prepare.py again with labels that have only these."
        )
    used = np.array(spec.used)
    valid = measured(image, nodata)[used].all(axis=0)
    if masked is not None:
        valid &= masked
    target = np.where(valid, spec.classes.encode(values), np.uint8(IGNORE))
    return Chip(sample.image.name, image, valid, target)


class ChipDataset(Dataset[Chip]):
    """Chips of a data folder; each access opens, reads and closes its files."""

    def __init__(self, samples: Sequence[Sample], spec: DatasetSpec) -> None:
        self.samples, self.spec = list(samples), spec

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Chip:
        return read_chip(self.samples[index], self.spec)


class ChipData(SegmentationData):
    """The chips of a data folder.

    Args:
        data_dir: The data folder.
        batch_size: Chips per batch and process.
        seed: Seed of the order in which training takes its samples.
        workers: Processes that read ahead; ``auto`` chooses from the cores.
        cache: Keep decoded chips in memory when they fit into half of what is free.
    """

    def __init__(
        self,
        data_dir: str | Path,
        batch_size: int = 16,
        seed: int = 42,
        workers: int | Literal["auto"] = "auto",
        cache: bool = True,
    ) -> None:
        super().__init__(batch_size, seed, workers, cache)
        self.folder: DataFolder = read_data_folder(data_dir)

    def describe(self) -> DataDescription:
        """Return what the data folder says of itself."""
        spec = self.folder.spec
        return DataDescription(
            origin=str(self.folder.path),
            bands=spec.bands,
            used=spec.used,
            scale=spec.scaler if spec.scaler is not None else 1.0,
            normalization=self.folder.normalization() if self.folder.statistics else None,
            nodata=spec.nodata,
            chip_size=spec.chip_size,
            classes=spec.classes,
            counts=self.folder.train_counts,
            weights=self.folder.class_weights,
        )

    def source(self, stage: Literal["train", "validation"]) -> Dataset[Chip]:
        """Return a part's chips."""
        return ChipDataset(self.folder.samples(stage), self.folder.spec)
