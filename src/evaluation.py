"""A trained network against labelled chips: read ahead, run in batches, add up, and forget each chip."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from src.ahead import ahead
from src.bands import Band, BandStatistics, match_bands
from src.chips import LabelledChip, read_labelled
from src.cores import cores
from src.datafolder import chip_places, read_data_folder
from src.datamodules.batches import room
from src.errors import UserError
from src.labels import IGNORE, ClassTable, LandClass
from src.models.architectures import accepted_sizes
from src.models.checkpoint import load_network
from src.models.folding import fold_batch_norms
from src.models.lanes import Copies
from src.models.network import Network
from src.models.precision import autocast, choose_device, place
from src.ownership import Ownership
from src.radiometry import unlike_training
from src.raster.write import write_geotiff
from src.scores import Evaluation, ScoreCounter
from src.spec import DatasetSpec, NetworkSpec
from src.tables import Part, Sample

READERS = 2
"""Threads that read chips while the network computes: one decodes while the other waits for the disk."""
GPU_READERS = 8
"""The same where a GPU computes, at most: the cores have nothing else to do."""

SAMPLE = 5
"""Chips by which is judged whether their numbers are on the scale of training."""
LEAST = 4
"""Batches for each lane, at least, where there are so many chips: the last ones of them compute alone."""

Export = Callable[[LabelledChip, npt.NDArray[np.uint8]], None]
"""Takes a chip and its predicted class values, H × W, 0 where there is no measurement."""


def evaluate(
    network: Network,
    spec: NetworkSpec,
    samples: Sequence[Sample],
    *,
    device: torch.device,
    data: DatasetSpec | None = None,
    batch_size: int = 16,
    export: Export | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Score a network on labelled chips; memory holds a few batches, however many chips there are.

    Pixels count that have a class and a measurement. Over all pixels, one that several chips of a scene show counts
    once, in the chip whose centre is nearest; scores of chips and batches are of whole chips. Chips need not be of one
    size.

    Args:
        network: A trained network; it is moved to the device.
        spec: What it expects.
        samples: The chips.
        device: Where to compute.
        data: What the chips' data folder says of them; None where nothing does.
        batch_size: Chips that go through the network at once, on a CPU shared by its threads, and that are a batch of
            the mean over batches.
        export: Called with every chip's prediction, in order.
        advance: Called with the number of chips after each batch.

    Raises:
        UserError: A chip cannot be read, or its bands, size or label values do not fit; the device's memory does
            not take a batch; no pixel counts.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} is no number of chips; expected 1 or more.")
    network = fold_batch_norms(place(network, device).eval(), spec.chip_size)
    counter = ScoreCounter(spec.classes, per_chip=True, batch_size=batch_size)
    ownership, first, shared = Ownership(chip_places(samples, data)), 0, 0
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    readers = READERS if device.type == "cpu" else min(GPU_READERS, cores())
    chips = read_ahead(samples, spec, max(2 * readers, batch_size), readers)
    lanes = Copies(network, spec.chip_size).lanes(most=batch_size)
    together = max(1, min(batch_size, len(samples) // LEAST) // lanes.count) if lanes.count > 1 else batch_size
    stacks = ahead(lambda batch: _stacked(batch, device.type == "cuda"), batches(chips, together), depth=1)

    def classified(network: Network, stack: Stack) -> tuple[Stack, torch.Tensor, torch.Tensor]:
        if stack.size not in sizes:
            sizes[stack.size] = padded_size(network, spec, stack.size)
        return stack, *classify(network, stack, sizes[stack.size], device)

    with closing(chips), closing(stacks), lanes.run(classified, stacks) as results:
        for stack, prediction, confidence in results:
            owned = ownership.of_batch(range(first, first + len(stack.chips)), stack.size)
            own = torch.from_numpy(owned.own) if owned else None
            counter.add(stack.target.to(device, non_blocking=True), prediction, confidence, own)
            shared += int((owned.own & owned.several & (stack.target.numpy() != IGNORE)).sum()) if owned else 0
            first += len(stack.chips)
            if export is not None:
                for chip, values in zip(stack.chips, spec.classes.decode(prediction.cpu().numpy()), strict=True):
                    export(chip, values)
            advance(len(stack.chips))
    evaluation = replace(counter.result(), shared=shared)
    if not evaluation.pooled.matrix.any():
        raise UserError(
            f"None of the {len(samples)} chips has a pixel with both a class and a measurement; expected labels of "
            f"the classes {', '.join(map(str, spec.classes.values))}. Give other chips, or another split."
        )
    return evaluation


def evaluate_folder(
    checkpoint: str | Path,
    data_dir: str | Path,
    split: Part = "test",
    *,
    batch_size: int = 16,
    accelerator: str = "auto",
) -> Evaluation:
    """Score a checkpoint on a part of a data folder: eval.py without its files.

    Args:
        checkpoint: A ``.ckpt``, a run's folder (its best checkpoint) or an exported ``.onnx``.
        data_dir: The data folder.
        split: ``train``, ``validation`` or ``test``.
        batch_size: Chips that go through the network at once, on a CPU shared by its threads, and that are a batch of
            the mean over batches.
        accelerator: ``auto``, ``cpu`` or ``gpu``.

    Raises:
        UserError: The checkpoint or the folder cannot be read, or one does not fit the other.
    """
    network, spec = load_network(checkpoint)
    data = read_data_folder(data_dir)
    check_fit(spec, data.spec.bands, data.spec.classes, str(data_dir))
    device, samples = choose_device(accelerator), data.samples(split)
    return evaluate(network, spec, samples, device=device, data=data.spec, batch_size=batch_size)


class Stack(NamedTuple):
    """Chips of one size, one after the other in memory.

    Attributes:
        chips: The chips.
        image: B × C × H × W.
        valid: B × H × W.
        target: B × H × W.
    """

    chips: Sequence[LabelledChip]
    image: torch.Tensor
    valid: torch.Tensor
    target: torch.Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.chips[0].info.width, self.chips[0].info.height


@torch.inference_mode()
def classify(
    network: Network, stack: Stack, size: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run chips of one size through a network.

    Args:
        network: In eval mode on the device.
        stack: The chips.
        size: Width and height to pad them to, below and right, with pixels that are no measurements.
        device: Where to compute.

    Returns:
        Predicted class indices, B × H × W uint8, IGNORE where there is no measurement, and their probabilities,
        B × H × W float32, both on the device.

    Raises:
        UserError: The device's memory does not take as many chips.
    """
    _, image, valid, _ = stack
    height, width = valid.shape[1:]
    missing = (0, size[0] - width, 0, size[1] - height)
    try:
        with autocast(device):
            padded = (F.pad(image, missing), F.pad(valid, missing)) if any(missing) else (image, valid)
            logits = network(*(part.to(device, non_blocking=True) for part in padded))
        confidence, prediction = logits[..., :height, :width].float().softmax(1).max(1)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{len(stack.chips)} chips at once are too many for the memory of {device}; expected a batch that fits. "
            f"Lower batch_size to {max(1, len(stack.chips) // 2)}."
        ) from error
    return torch.where(valid.to(device, non_blocking=True), prediction.to(torch.uint8), IGNORE), confidence


def padded_size(network: Network, spec: NetworkSpec, size: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest width and height that the network takes and that hold ``size``.

    Raises:
        UserError: There is none.
    """
    if size == spec.chip_size:
        return size
    larger = {tuple(-(-side // multiple) * multiple for side in size) for multiple in (1, 2, 4, 8, 14, 16, 32, 64)}
    both = max(size[0], spec.chip_size[0]), max(size[1], spec.chip_size[1])
    candidates = sorted({(width, height) for width, height in larger} | {both}, key=lambda s: (s[0] * s[1], s))
    fitting = accepted_sizes(network.architecture, len(spec.bands), candidates)
    if not fitting:
        raise UserError(
            f"The network takes no chips of {size[0]} × {size[1]} px, nor slightly larger ones; it was trained on "
            f"{spec.chip_size[0]} × {spec.chip_size[1]} px. Cut the chips to that size."
        )
    return fitting[0]


def read_chip(sample: Sample, spec: NetworkSpec) -> LabelledChip:
    """Read a chip as a network takes it; raises UserError like :func:`src.chips.read_labelled`."""
    return read_labelled(
        sample,
        spec.bands,
        spec.normalization.used,
        spec.nodata,
        spec.classes,
        spec.nodata_is_data,
        nodata_given=spec.nodata_given,
    )


def chips_unlike_training(spec: NetworkSpec, samples: Sequence[Sample], data: DatasetSpec | None = None) -> str | None:
    """Say what about chips is unlike those of training, by a few of them; None for nothing unusual.

    Args:
        spec: The network.
        samples: The chips.
        data: What describes them, units included; None if nothing does.

    Raises:
        UserError: One of them cannot be read, or does not fit.
    """
    found, few = BandStatistics(len(spec.bands)), min(len(samples), SAMPLE)
    chips = [read_chip(samples[(2 * number + 1) * len(samples) // (2 * few)], spec) for number in range(few)]
    for chip in chips:
        found.update(chip.image, chip.valid)
    bands = [data.bands[band] for band in match_bands(spec.bands, data.bands, "the data folder")] if data else None
    return unlike_training(spec, [chip.info for chip in chips], found, bands)


def read_ahead(
    samples: Iterable[Sample], spec: NetworkSpec, depth: int, readers: int = READERS
) -> Generator[LabelledChip, None, None]:
    """Yield chips in order while threads read the next ``depth`` ones."""
    return ahead(lambda sample: read_chip(sample, spec), samples, depth, readers)


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
    the network never saw, nor call one value by another name than the checkpoint or the data that it was trained on.

    Args:
        spec: What the network expects.
        bands: The data set's bands.
        classes: The data set's classes.
        origin: What to call the data set.

    Raises:
        UserError: Bands or classes differ; the message says how.
    """
    match_bands(spec.bands, bands, origin)
    known = {entry.value: entry for entry in spec.classes.classes}
    new = [f"{entry.value} {entry.name}" for entry in classes.classes if entry.value not in known]
    renamed = [
        f"{entry.value} is {entry.name} there and {known[entry.value].name} here"
        for entry in classes.classes
        if entry.value in known and _really_differ(entry, known[entry.value])
    ]
    if new or renamed:
        differences = [f"{'; '.join(new)} {'is' if len(new) == 1 else 'are'} unknown to it"] if new else []
        raise UserError(
            f"The classes of {origin} are not those of the checkpoint: {'; '.join(differences + renamed)}. The "
            f"checkpoint knows {', '.join(f'{value} {ours.name}' for value, ours in known.items())}. Give it data with "
            "these classes, or train one on these data."
        )


def chip_exporter(folder: Path, samples: Sequence[Sample], classes: ClassTable, mask_unclassified: bool) -> Export:
    """Return what writes each prediction as a coloured GeoTIFF on its chip's grid.

    Args:
        folder: Where to; chips keep their paths below the folder that all of them share. They end in ``.tif``, after
            their own suffix where two differ in nothing else.
        samples: All chips that will come.
        classes: The class table.
        mask_unclassified: Whether a prediction is 0 where the label is 0.
    """
    images = {sample.image.resolve() for sample in samples}
    root = Path(os.path.commonpath([image.parent for image in images]))
    alike = Counter(image.with_suffix(".tif") for image in images)

    def export(chip: LabelledChip, values: npt.NDArray[np.uint8]) -> None:
        image = Path(chip.info.path).resolve()
        name = image.with_suffix(".tif")
        if alike[name] > 1:
            name = image.with_name(f"{image.name}.tif")
        path = folder / name.relative_to(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = np.where(chip.values == 0, 0, values).astype(np.uint8) if mask_unclassified else values
        grid = chip.info
        write_geotiff(
            path, shown, crs=grid.crs, transform=grid.transform, nodata=0, classes=classes, compress="deflate"
        )

    return export


def _stacked(chips: Sequence[LabelledChip], pinned: bool) -> Stack:
    """Put chips one after the other, in memory that a GPU can read by itself if ``pinned``.

    float64 becomes float32, since no sensor has its digits and no network takes them.
    """

    def put(arrays: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
        dtype = np.dtype(np.float32) if arrays[0].dtype == np.float64 else arrays[0].dtype
        stack = room((len(arrays), *arrays[0].shape), dtype, pinned)
        with np.errstate(over="ignore"):  # −1.8e308 is infinite in float32, and no measurement
            np.stack(arrays, out=stack.numpy(), casting="same_kind")
        return stack

    parts = zip(*((chip.image, chip.valid, chip.target) for chip in chips), strict=True)
    return Stack(chips, *map(put, parts))


def _really_differ(entry: LandClass, ours: LandClass) -> bool:
    """Tell whether two names of a class value contradict each other; a name that was made up does not.

    Args:
        entry: The data's class.
        ours: The network's, which its training data may call otherwise than it does.
    """
    made_up = {f"class_{entry.value}", str(entry.value), ""}
    name, own, once = (text.strip().casefold() for text in (entry.name, ours.name, ours.data_name or ""))
    return name not in {own, once} and not {name, own} & made_up
