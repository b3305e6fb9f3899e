"""A trained network against labelled chips: read ahead, run in batches, add up, and forget each chip."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from src.bands import Band, match_bands
from src.datafolder import read_label
from src.errors import UserError
from src.labels import IGNORE, ClassTable
from src.models.network import Network
from src.models.precision import autocast, place
from src.raster import RasterInfo, info_of, open_raster, read_valid, read_window, write_geotiff
from src.scores import Evaluation, ScoreCounter
from src.spec import NetworkSpec
from src.tables import Sample

READERS = 2
"""Threads that read chips while the network computes: one decodes while the other waits for the disk."""


@dataclass(frozen=True)
class LabelledChip:
    """One chip in memory.

    Attributes:
        info: Of the image file.
        image: C × H × W, the network's bands in its order, in the file's own numbers.
        valid: H × W, True where the pixel is a measurement.
        values: H × W class values, 0 = unclassified.
    """

    info: RasterInfo
    image: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    values: npt.NDArray[np.uint8]


Export = Callable[[LabelledChip, npt.NDArray[np.uint8]], None]
"""Takes a chip and its predicted class values, H × W, 0 where there is no measurement."""


def evaluate(
    network: Network,
    spec: NetworkSpec,
    samples: Sequence[Sample],
    *,
    device: torch.device,
    batch_size: int = 16,
    export: Export | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Score a network on labelled chips; memory holds a few batches, however many chips there are.

    Pixels count that have a class and a measurement. Chips need not be of one size.

    Args:
        network: A trained network; it is moved to the device.
        spec: What it expects.
        samples: The chips.
        device: Where to compute.
        batch_size: Chips that go through the network together.
        export: Called with every chip's prediction, in order.
        advance: Called with the number of chips after each batch.

    Raises:
        UserError: A chip cannot be read, or its bands, size or label values do not fit; the device's memory does
            not take a batch; no pixel counts.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} is no number of chips; expected 1 or more.")
    place(network, device).eval()
    counter = ScoreCounter(spec.classes, per_chip=True)
    for chips in batches(read_ahead(samples, spec, batch_size), batch_size):
        target = spec.classes.encode(np.stack([chip.values for chip in chips]))
        target[~np.stack([chip.valid for chip in chips])] = IGNORE
        prediction, confidence = classify(network, chips, device)
        counter.add(torch.from_numpy(target).to(device), prediction, confidence)
        if export is not None:
            for chip, values in zip(chips, spec.classes.decode(prediction.cpu().numpy()), strict=True):
                export(chip, values)
        advance(len(chips))
    evaluation = counter.result()
    if not evaluation.pooled.matrix.any():
        raise UserError(
            f"None of the {len(samples)} chips has a pixel with both a class and a measurement; expected labels of "
            f"the classes {', '.join(map(str, spec.classes.values))}. Give other chips, or another split."
        )
    return evaluation


@torch.inference_mode()
def classify(
    network: Network, chips: Sequence[LabelledChip], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run chips of one size through a network.

    Returns:
        Predicted class indices, B × H × W uint8, IGNORE where there is no measurement, and their probabilities,
        B × H × W float32, both on the device.

    Raises:
        UserError: The device's memory does not take as many chips.
    """
    valid = torch.from_numpy(np.stack([chip.valid for chip in chips]))
    try:
        valid = valid.to(device)
        with autocast(device):
            logits = network(_stacked([chip.image for chip in chips]).to(device), valid)
        confidence, prediction = logits.float().softmax(1).max(1)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{len(chips)} chips at once are too many for the memory of {device}; expected a batch that fits. "
            f"Lower batch_size to {max(1, len(chips) // 2)}."
        ) from error
    return torch.where(valid, prediction.to(torch.uint8), IGNORE), confidence


def read_chip(sample: Sample, spec: NetworkSpec) -> LabelledChip:
    """Read a chip as a network takes it.

    Raises:
        UserError: A file cannot be read, image and label differ in size, bands are missing, or a label value is no
            class of the network.
    """
    with open_raster(sample.image) as dataset:
        info = info_of(dataset)
        chosen = match_bands(spec.bands, info.bands, str(sample.image))
        nodata = [spec.nodata if info.nodata[band] is None else info.nodata[band] for band in chosen]
        image = read_window(dataset, info.window, 0, chosen)
        if spec.nodata_is_data:
            valid = np.ones(image.shape[1:], bool)
        else:
            valid = read_valid(dataset, info.window, image, nodata, spec.normalization.used)
    values = read_label(sample.label)
    if values.shape != valid.shape:
        raise UserError(
            f"{sample.label} is {_size(values.shape)} pixels, its image {_size(valid.shape)}; expected the same size. "
            "Run prepare.py again."
        )
    if unknown := spec.classes.unknown(values):
        raise UserError(
            f"{sample.label} has the class value {unknown[0]}; the checkpoint knows the classes "
            f"{', '.join(map(str, spec.classes.values))}. Give chips with these classes, or a checkpoint of theirs."
        )
    return LabelledChip(info, image, valid, values)


def read_ahead(samples: Iterable[Sample], spec: NetworkSpec, depth: int) -> Iterator[LabelledChip]:
    """Yield chips in order while threads read the next ``depth`` ones."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="chips") as pool:
        pending: deque[Future[LabelledChip]] = deque()
        try:
            for sample in samples:
                pending.append(pool.submit(read_chip, sample, spec))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def batches(chips: Iterable[LabelledChip], size: int) -> Iterator[list[LabelledChip]]:
    """Put consecutive chips of one size and data type together, at most ``size`` of them."""
    batch: list[LabelledChip] = []
    for chip in chips:
        same = not batch or (chip.image.shape, chip.image.dtype) == (batch[0].image.shape, batch[0].image.dtype)
        if batch and (len(batch) == size or not same):
            yield batch
            batch = []
        batch.append(chip)
    if batch:
        yield batch


def check_fit(spec: NetworkSpec, bands: Sequence[Band], classes: ClassTable, origin: str) -> None:
    """Refuse a checkpoint that does not fit a data set.

    A data set may lack classes that the network knows: its chips are of another place. It may not have classes that
    the network never saw, nor call one value by another name.

    Args:
        spec: What the network expects.
        bands: The data set's bands.
        classes: The data set's classes.
        origin: What to call the data set.

    Raises:
        UserError: Bands or classes differ; the message says how.
    """
    match_bands(spec.bands, bands, origin)
    known = dict(zip(spec.classes.values, spec.classes.names, strict=True))
    new = [f"{entry.value} {entry.name}" for entry in classes.classes if entry.value not in known]
    renamed = [
        f"{entry.value} is {entry.name} there and {known[entry.value]} here"
        for entry in classes.classes
        if entry.value in known and _really_differ(entry.value, entry.name, known[entry.value])
    ]
    if new or renamed:
        differences = [f"{'; '.join(new)} {'is' if len(new) == 1 else 'are'} unknown to it"] if new else []
        raise UserError(
            f"The classes of {origin} are not those of the checkpoint: {'; '.join(differences + renamed)}. The "
            f"checkpoint knows {', '.join(f'{value} {name}' for value, name in known.items())}. Give it data with "
            "these classes, or train one on these data."
        )


def chip_exporter(folder: Path, samples: Sequence[Sample], classes: ClassTable, mask_unclassified: bool) -> Export:
    """Return what writes each prediction as a coloured GeoTIFF on its chip's grid.

    Args:
        folder: Where to; chips keep their paths below the folder that all of them share.
        samples: All chips that will come.
        classes: The class table.
        mask_unclassified: Whether a prediction is 0 where the label is 0.
    """
    parents = [sample.image.resolve().parent for sample in samples]
    root = Path(os.path.commonpath(parents))

    def export(chip: LabelledChip, values: npt.NDArray[np.uint8]) -> None:
        path = folder / Path(chip.info.path).resolve().relative_to(root).with_suffix(".tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = np.where(chip.values == 0, 0, values).astype(np.uint8) if mask_unclassified else values
        grid = chip.info
        write_geotiff(
            path, shown, crs=grid.crs, transform=grid.transform, nodata=0, classes=classes, compress="deflate"
        )

    return export


def _stacked(images: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
    """Stack images; float64 becomes float32, since no sensor has its digits and no network takes them."""
    stack = np.stack(images)
    return torch.from_numpy(stack.astype(np.float32) if stack.dtype == np.float64 else stack)


def _really_differ(value: int, name: str, other: str) -> bool:
    """Tell whether two names of a class value contradict each other; a name that was made up does not."""
    made_up = {f"class_{value}", str(value), ""}
    names = {name.strip().casefold(), other.strip().casefold()}
    return len(names) == 2 and not names & made_up


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} × {shape[0]}"
