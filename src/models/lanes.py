"""Several batches through a network at once on a CPU, each in a lane: threads of its own, a copy that shares weights.

A batch on all cores waits for the slowest of them after each convolution, and whoever reads or writes beside it holds
all up. Batches side by side wait for nothing but their end. Copies, since some networks note things while they answer.
"""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from src.ahead import ahead
from src.memory import available_memory
from src.models.folding import alike, trial_images, with_architecture
from src.models.network import Network
from src.models.precision import autocast
from src.models.threads import computing_with

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MOST = 4
"""Lanes, at most: each takes memory of its own. Where there are more threads, lanes have several."""
SPARE = 2
"""Memory that a lane may take, as a multiple of what is held in float32: convolutions take some for themselves."""


@dataclass(frozen=True)
class Lanes:
    """Networks that answer alike, and how many threads each computes with; one network, all threads, on GPUs.

    Attributes:
        networks: As many as batches are computed at once.
        threads: Of each.
    """

    networks: tuple[Network, ...]
    threads: int

    @property
    def count(self) -> int:
        """How many batches are computed at once."""
        return len(self.networks)

    @contextmanager
    def run(
        self, work: Callable[[Network, _Item], _Result], items: Iterable[_Item]
    ) -> Generator[Generator[_Result, None, None], None, None]:
        """Give the results of ``work(network, item)`` in order; within the context PyTorch has a lane's threads.

        Args:
            work: What is done with an item; what it raises comes out where its result would have.
            items: Taken by whoever takes the results, one more ahead than there are lanes.
        """
        free: SimpleQueue[Network] = SimpleQueue()
        for network in self.networks:
            free.put(network)

        def in_lane(item: _Item) -> _Result:
            torch.set_num_threads(self.threads)  # each thread has a number of its own
            network = free.get()
            try:
                return work(network, item)
            finally:
                free.put(network)

        with computing_with(self.threads):
            if self.count == 1:
                yield (work(self.networks[0], item) for item in items)
            else:
                with closing(ahead(in_lane, items, depth=self.count, threads=self.count)) as results:
                    yield results


class Copies:
    """Makes lanes for a network that only answers any more; its copies are made once."""

    def __init__(self, network: Network, chip_size: tuple[int, int] | None, processes: int = 1) -> None:
        """Remember the network; nothing is copied yet.

        Args:
            network: In eval mode on its device.
            chip_size: Width and height in pixels of an image that it takes, by which copies are compared with it; None
                for a single lane.
            processes: How many share this machine's memory.
        """
        self._networks, self._chip_size, self._processes = [network], chip_size, processes
        copied = chip_size is not None and network.scale.device.type == "cpu" and [*network.parameters()]
        self._possible = MOST if copied else 1

    def lanes(self, pixels: int = 0, threads: int | None = None, most: int = MOST) -> Lanes:
        """Return as many lanes as there are threads and memory for.

        Args:
            pixels: Of a batch; half of the memory that is left must hold one in each lane. 0 if that does not matter.
            threads: Of each lane, whatever memory there is: where sums over another number of them would be other
                sums. None for those that keep most of this process's threads busy.
            most: Lanes, at most.
        """
        total = torch.get_num_threads()
        most = min(most, self._possible, total if threads is None else total // threads)
        if pixels and most > 1 and (trial := self._trial) is not None:
            room = available_memory() / 2 / self._processes
            most = min(most, int(room / (SPARE * trial.pixel_bytes * pixels)))
        if most > 1 and threads is None:
            most = max(range(2, most + 1), key=lambda count: (count * (total // count), count))
        while len(self._networks) < most and self._possible > 1:
            if (another := self._copy()) is None:
                self._possible = most = 1
            else:
                self._networks.append(another)
        count = max(1, most)
        own = threads if threads is not None and self._possible > 1 else total // count
        return Lanes(tuple(self._networks[:count]), own)

    @torch.inference_mode()
    def _copy(self) -> Network | None:
        """Copy the network; None if it has no copy that answers alike."""
        network, architecture = self._networks[0], self._networks[0].architecture
        shared = {id(tensor): tensor for tensor in (*architecture.parameters(), *architecture.buffers())}
        if (trial := self._trial) is None:
            return None
        try:
            another = with_architecture(network, copy.deepcopy(architecture, shared))
            with autocast(trial.image.device):
                same = alike(another(trial.image, trial.valid), network(trial.image, trial.valid))
        except Exception:  # whatever a network provokes whose parts know of each other
            log.debug("A network gets a single lane, since copying it failed", exc_info=True)
            return None
        if not same:
            log.debug("A network gets a single lane, since its copy answers otherwise")
            return None
        return another

    @cached_property
    def _trial(self) -> _Trial | None:
        """Let the network answer once; None if it does not."""
        assert self._chip_size is not None
        for image in trial_images(self._networks[0], self._chip_size):
            try:
                return _try(self._networks[0], image)
            except Exception:  # whatever an architecture made for one size raises
                log.debug("A network takes no image of %s to compare copies by", tuple(image.shape), exc_info=True)
        return None


class _Trial(NamedTuple):
    """An image that a network takes, all of it measured, and the bytes per pixel that are held while it answers."""

    image: torch.Tensor
    valid: torch.Tensor
    pixel_bytes: float


@torch.inference_mode()
def _try(network: Network, image: torch.Tensor) -> _Trial:
    """Let a network answer in float32, and note the most that image, results and probabilities take at a time.

    In bfloat16 it is about half of that; copies of the weights, which do not grow with the image, would hide it.
    """
    valid = torch.ones(image[:, 0].shape, dtype=torch.bool)
    with torch.autocast(image.device.type, enabled=False), _Held() as held:
        network(image, valid).float().softmax(1)
    return _Trial(image, valid, (held.most + image.nbytes) / valid.numel())


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's are not typed
    """Adds up the bytes of all tensors that operations have given and somebody still holds, after each of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._given: list[tuple[weakref.ref[torch.Tensor], int, int]] = []

    def __torch_dispatch__(self, function: Any, _: Any, arguments: Any = (), keywords: Any = None) -> Any:
        """Do what an operation does; see the class."""
        given = function(*arguments, **(keywords or {}))
        for tensor in given if isinstance(given, tuple | list) else (given,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._given.append((weakref.ref(tensor), storage.data_ptr(), storage.nbytes()))
        self._given = [entry for entry in self._given if entry[0]() is not None]
        self.most = max(self.most, sum({place: size for _, place, size in self._given}.values()))
        return given
