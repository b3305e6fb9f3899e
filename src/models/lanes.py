"""Several batches through a network at once on a CPU, each in a lane: a thread, and a copy that shares the weights.

A batch on all cores waits for the slowest of them after each convolution, and whoever reads or writes beside it holds
all up. Batches side by side wait for nothing but their end. Copies, since some networks note things while they answer.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

import psutil
import torch
from torch import nn

from src.ahead import ahead
from src.models.folding import alike, trial_images, with_architecture
from src.models.network import Network
from src.models.precision import autocast

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MOST = 4
"""Lanes, at most: each takes memory of its own. Where there are more threads, lanes have several."""
SPARE = 4
"""Memory that a lane may take, as a multiple of what the parts of its network hold at once."""


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
        if self.count == 1:
            with closing(work(self.networks[0], item) for item in items) as results:
                yield results
            return
        free: SimpleQueue[Network] = SimpleQueue()
        for network in self.networks:
            free.put(network)

        def in_lane(item: _Item) -> _Result:
            torch.set_num_threads(self.threads)  # is a matter of each thread, and new ones do not always ask
            network = free.get()
            try:
                return work(network, item)
            finally:
                free.put(network)

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with closing(ahead(in_lane, items, depth=self.count, threads=self.count)) as results:
                yield results
        finally:
            torch.set_num_threads(before)


class Copies:
    """Makes lanes for a network that only answers any more; its copies are made once."""

    def __init__(self, network: Network, chip_size: tuple[int, int] | None) -> None:
        """Remember the network; nothing is copied yet.

        Args:
            network: In eval mode on its device.
            chip_size: Width and height in pixels of an image that it takes, by which copies are compared with it; None
                for a single lane.
        """
        self._networks, self._chip_size = [network], chip_size
        self._alone = chip_size is None or network.scale.device.type != "cpu" or not [*network.parameters()]

    def lanes(self, pixels: int) -> Lanes:
        """Return as many lanes as there are threads and memory for.

        Args:
            pixels: Of a batch.
        """
        threads = torch.get_num_threads()
        each = math.ceil(threads / MOST)
        count = 1 if self._alone else threads // each
        if count > 1 and (trial := self._trial) is not None:
            memory = psutil.virtual_memory().available / 2
            count = max(1, min(count, int(memory / (SPARE * trial.pixel_bytes * pixels))))
            while len(self._networks) < count and (another := self._copy(trial)) is not None:
                self._networks.append(another)
        self._alone = self._alone or len(self._networks) < count
        count = min(count, len(self._networks))
        return Lanes(tuple(self._networks[:count]), each if count > 1 else threads)

    @torch.inference_mode()
    def _copy(self, trial: _Trial) -> Network | None:
        """Copy the network; None if the copy does not answer alike."""
        network, architecture = self._networks[0], self._networks[0].architecture
        shared = {id(tensor): tensor for tensor in (*architecture.parameters(), *architecture.buffers())}
        try:
            copied = copy.deepcopy(architecture, shared)
            with autocast(trial.image.device):
                same = alike(copied(trial.image), trial.answer)
        except Exception:  # noqa: BLE001  whatever a network provokes whose parts know of each other
            return None
        return with_architecture(network, copied) if same else None

    @cached_property
    def _trial(self) -> _Trial | None:
        """Let the network answer once; None if it does not."""
        assert self._chip_size is not None
        for image in trial_images(self._networks[0], self._chip_size):
            with suppress(Exception):  # whatever an architecture made for one size raises
                return _try(self._networks[0].architecture, image)
        return None


class _Trial(NamedTuple):
    """An image, a network's answer to it, and the bytes per pixel that the answer took at a time."""

    image: torch.Tensor
    answer: torch.Tensor
    pixel_bytes: float


@torch.inference_mode()
def _try(architecture: nn.Module, image: torch.Tensor) -> _Trial:
    """Let a network answer and add up what its parts have given and somebody still holds, after each of them."""
    held: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}  # by where they lie: some parts give what they got
    most = 0

    def note(_: nn.Module, __: object, output: object) -> None:
        nonlocal most
        if isinstance(output, torch.Tensor):
            held[output.data_ptr()] = weakref.ref(output), output.numel() * output.element_size()
        most = max(most, sum(size for tensor, size in held.values() if tensor() is not None))

    leaves = [module for module in architecture.modules() if not [*module.children()]]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with autocast(image.device):
            answer = architecture(image)
    finally:
        for hook in hooks:
            hook.remove()
    return _Trial(image, answer, most / image[0, 0].numel())
