"""Samples, batches, and the order in which an epoch takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

from src.labels import IGNORE

_COARSEST = 32
"""What most encoders divide the resolution by."""
_VALUES = 16
"""Values of a channel that a batch's mean and deviation should be taken from, at least."""


class Chip(NamedTuple):
    """One sample in memory.

    Attributes:
        name: What to call it in an error, usually the image's file name.
        image: C × H × W in the file's own numbers and data type.
        valid: H × W, True where every used band has a measurement.
        target: H × W class indices, IGNORE for pixels without a class or without a measurement.
    """

    name: str
    image: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    target: npt.NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return self.image.nbytes + self.valid.nbytes + self.target.nbytes


class Batch(NamedTuple):
    """Samples that go through the network together; tensors as in :class:`Chip` with a first dimension B.

    Attributes:
        image: B × C × H × W in the file's own numbers.
        valid: B × H × W.
        target: B × H × W.
        labelled: Pixels with a class, counted where the batch was put together: asking a GPU would stop it.
        names: The samples' names.
    """

    image: torch.Tensor
    valid: torch.Tensor
    target: torch.Tensor
    labelled: int
    names: list[str]


def collate(chips: Sequence[Chip]) -> Batch:
    """Stack samples of one size."""
    target = np.stack([chip.target for chip in chips])
    return Batch(
        image=torch.from_numpy(np.stack([native(chip.image) for chip in chips])),
        valid=torch.from_numpy(np.stack([chip.valid for chip in chips])),
        target=torch.from_numpy(target),
        labelled=int(np.count_nonzero(target != IGNORE)),
        names=[chip.name for chip in chips],
    )


def native(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return numbers that the network can take: float64 loses digits that no sensor has."""
    with np.errstate(over="ignore"):  # −1.8e308 is infinite in float32, and no measurement
        return image.astype(np.float32) if image.dtype == np.float64 else image


def torch_type(dtype: np.dtype[Any]) -> torch.dtype:
    """Return PyTorch's name of a NumPy type."""
    found: torch.dtype = getattr(torch, dtype.name)
    return found


def room(shape: tuple[int, ...], dtype: np.dtype[Any], pinned: bool) -> torch.Tensor:
    """Return memory for numbers that are about to be read.

    Args:
        shape: Of the tensor.
        dtype: Of its numbers.
        pinned: Whether a GPU is to fetch it by itself. PyTorch gives such memory out again once the GPU has read it, so
            that hardly any is ever made.

    Raises:
        MemoryError: There is not as much.
    """
    if pinned:
        return torch.empty(shape, dtype=torch_type(dtype), pin_memory=True)
    return torch.from_numpy(np.empty(shape, dtype))


def sampling_shares(counts: npt.NDArray[np.int64], power: float) -> npt.NDArray[np.float64]:
    """Return how often to draw each chip so that rare classes are seen more often.

    A chip counts as the rarest of its classes does: with that class's share of all pixels to the power of ``-power``.

    Args:
        counts: n × k pixels of each class in each chip.
        power: 0 draws all chips alike, 1 those of a class with half the pixels twice as often.

    Returns:
        n shares whose sum is 1; a chip without a labelled pixel is drawn like one of the most frequent class.
    """
    total = counts.sum(0)
    share = np.maximum(total, 1) / max(int(total.sum()), 1)
    worth = np.where(counts > 0, share**-power, share.max() ** -power).max(1)
    return np.asarray(worth / worth.sum())


def drawn(shares: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw as many samples as there are, sample i about n × shares[i] times: systematic, so no luck leaves one out."""
    count = len(shares)
    marks = (np.arange(count) + rng.random()) / count
    chosen = np.searchsorted(np.cumsum(shares), marks, side="right").clip(max=count - 1)
    return np.asarray(rng.permutation(chosen), np.int64)


@dataclass(frozen=True)
class EpochPlan:
    """How an epoch takes its samples.

    Attributes:
        batch_size: Samples per batch at most.
        passes: How often it takes each.
    """

    batch_size: int
    passes: int = 1


def plan_epoch(count: int, batch_size: int, least: int, size: tuple[int, int]) -> EpochPlan:
    """Choose batches so that an epoch of few samples has enough: smaller ones first, then samples more often.

    A network learns by steps, and batch normalisation averages over them: with one step an epoch, fifty epochs teach
    little, and the averages that validation uses are those of networks long gone.

    Args:
        count: Samples in all.
        batch_size: Samples per batch at most.
        least: Batches per epoch, about, at least; 0 for as many as there are of ``batch_size``.
        size: Width and height of the samples in pixels. A batch gets no smaller than leaves _VALUES values of each
            channel at a 32nd of the resolution, where encoders normalise last.
    """
    if math.ceil(count / batch_size) >= least:
        return EpochPlan(batch_size)
    deepest = math.prod(max(1, side // _COARSEST) for side in size)
    smallest = max(2, math.ceil(_VALUES / deepest))
    smaller = min(batch_size, max(smallest, count // least))
    return EpochPlan(smaller, max(1, least * smaller // count))


class EpochBatches(Sampler[list[int]]):
    """Index lists of one epoch's batches: all samples as often as each other, divided as evenly as can be.

    The order follows from seed and epoch alone, so a resumed run goes on as an uninterrupted one: with ``first`` set
    to the number of batches that it has had, in the middle of an epoch. With several
    processes each takes every n-th sample, never one that another has in the same pass. Where they do not divide
    evenly, training leaves out the last few of the shuffled samples (others in every epoch), because processes have to
    make as many steps; validation leaves out none.

    Args:
        count: Samples in all.
        batch_size: Samples per batch at most. 17 samples in batches of 16 become 9 + 8, since batch
            normalisation learns nothing from a batch of one.
        seed: Seed of the shuffling; None keeps the order and every sample.
        fresh: Number samples through all epochs (epoch × count + index) for sources that draw them anew.
        shares: How often each sample is drawn, in proportion; None takes each of them once.
        passes: How often an epoch goes through all samples, each time in another order.
        rank: Number of this process.
        processes: How many there are.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int | None,
        rank: int = 0,
        processes: int = 1,
        fresh: bool = False,
        shares: npt.NDArray[np.float64] | None = None,
        *,
        passes: int = 1,
    ) -> None:
        self.shares, self.passes = shares, passes
        self.count, self.batch_size, self.seed, self.fresh = count, batch_size, seed, fresh
        self.rank, self.processes, self.epoch, self.first = rank, processes, 0, 0

    @property
    def sampler(self) -> EpochBatches:
        """Itself: Lightning announces the epoch to a batch sampler's ``sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is to be drawn."""
        self.epoch = epoch

    def own(self) -> list[int]:
        """Return this process's samples of the epoch, in order."""
        if self.seed is None:
            return list(range(self.rank, self.count, self.processes))
        rng = np.random.default_rng([self.seed, self.epoch])
        order = np.concatenate([self._order(rng) + number * self.count * self.fresh for number in range(self.passes)])
        even = len(order) // self.processes * self.processes
        return [int(index) for index in order[: even or len(order)][self.rank :: self.processes]]

    def _order(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        return rng.permutation(self.count) if self.shares is None else drawn(self.shares, rng)

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * self.count * self.passes if self.fresh else 0
        own = [first + index for index in self.own()]
        parts = np.array_split(np.arange(len(own)), len(self)) if own else []
        for part in parts[self.first :]:
            yield [own[int(i)] for i in part]

    def __len__(self) -> int:
        return math.ceil(len(self.own()) / self.batch_size)
