"""Chips that stay in memory: in the computer's, or in that of the device that computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from src.datamodules.batches import Batch, Chip, native, torch_type
from src.labels import IGNORE
from src.progress import progress

GPU_CACHE_SHARE = 0.25
"""Share of a GPU's free memory that they may take: networks need the rest."""


class ChipSource(Protocol):
    """A sequence of chips of one size."""

    def __len__(self) -> int:
        """Count the chips."""

    def __getitem__(self, index: int) -> Chip:
        """Read one chip."""


class Cached(Dataset[Chip]):
    """Chips in memory."""

    def __init__(self, chips: Iterable[Chip]) -> None:
        self.chips = list(chips)

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: int) -> Chip:
        return self.chips[index]


class OnDevice(Dataset[Chip]):
    """Chips in the memory of the device that computes: a batch is put together there, and nothing travels."""

    def __init__(self, chips: Sequence[Chip], device: torch.device) -> None:
        """Copy chips of one size and data type."""
        self._names = [chip.name for chip in chips]
        self._labelled = [int(np.count_nonzero(chip.target != IGNORE)) for chip in chips]
        parts = (lambda chip: _opaque(native(chip.image))), (lambda chip: chip.valid), (lambda chip: chip.target)
        self._parts = [_copied(chips, part, device) for part in parts]
        self._dtype = torch_type(native(chips[0].image).dtype)

    def __len__(self) -> int:
        return len(self._names)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a batch, as :func:`~src.datamodules.batches.collate` does of chips elsewhere; PyTorch asks for it."""
        image, valid, target = (part[torch.tensor(indices).to(part.device)] for part in self._parts)
        labelled = sum(self._labelled[index] for index in indices)
        return Batch(image.view(self._dtype), valid, target, labelled, [self._names[index] for index in indices])


def _copied(chips: Sequence[Chip], part: Callable[[Chip], npt.NDArray[Any]], device: torch.device) -> torch.Tensor:
    """Return a part of all chips on a device, where it is never there twice."""
    first = torch.from_numpy(part(chips[0]))
    whole = torch.empty((len(chips), *first.shape), dtype=first.dtype, device=device)
    for place, chip in zip(whole, chips, strict=True):
        place.copy_(torch.from_numpy(part(chip)))
    return whole


def _opaque(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the same bytes as a type that PyTorch moves about everywhere: it does so with few unsigned ones."""
    return image.view(f"i{image.dtype.itemsize}") if image.dtype.kind == "u" and image.dtype.itemsize > 1 else image


def read_all(source: ChipSource, stage: str, threads: int) -> Iterator[Chip]:
    """Read every chip, with a number of threads and a progress bar; in order."""
    count = len(source)
    with ThreadPoolExecutor(threads) as pool, progress(f"Reading {stage} chips", count, "chips") as advance:
        for chip in pool.map(source.__getitem__, range(count)):
            advance(1)
            yield chip


def on_gpu_if_it_fits(chips: Cached, device: torch.device) -> Cached | OnDevice:
    """Return chips in a GPU's memory where that has room for them beside a network, else the chips as they are."""
    kinds = {(chip.image.shape, chip.image.dtype) for chip in chips.chips}
    needed, free = sum(chip.nbytes for chip in chips.chips), torch.cuda.mem_get_info(device)[0]
    return OnDevice(chips.chips, device) if len(kinds) == 1 and needed <= GPU_CACHE_SHARE * free else chips
