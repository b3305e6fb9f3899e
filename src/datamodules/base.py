"""What every source of training data has in common: its description, and how batches get to the network."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.utils.data import DataLoader

from src.bands import Band, Normalization
from src.cores import cores
from src.datamodules.batches import Chip, EpochBatches, EpochPlan, collate, native, plan_epoch, sampling_shares
from src.datamodules.cache import Cached, ChipSource, OnDevice, on_gpu_if_it_fits, read_all
from src.errors import UserError
from src.labels import IGNORE, ClassTable
from src.memory import available_memory

log = logging.getLogger(__name__)

Stage = Literal["train", "validation"]
STAGES: tuple[Stage, ...] = get_args(Stage)

MIN_STEPS = 4
"""Steps that an epoch has, about, at least."""
CACHE_SHARE = 0.5
"""Share of the free memory that decoded chips may take."""


@dataclass(frozen=True)
class DataDescription:
    """What a network has to know of its data before it sees any.

    Attributes:
        origin: Where the data are, for messages.
        bands: The bands of every image.
        used: Whether each band is used.
        scale: Divisor of the file's numbers.
        normalization: Scaling and standardisation by the training data's statistics, None where there are none.
        nodata: Nodata value of the images, None without one.
        dtype: Data type of the images, a NumPy name.
        chip_size: Width and height of the samples in pixels.
        classes: The class table.
        counts: Training pixels of each class.
        weights: Weight of each class as the data themselves suggest it.
        nodata_given: Whether the user gave the nodata value, in place of what the images' files declare.
        sides: Sides of the smallest and of the largest pixels on the ground in metres, None where that is not known.
    """

    origin: str
    bands: tuple[Band, ...]
    used: tuple[bool, ...]
    scale: float
    normalization: Normalization | None
    nodata: float | None
    dtype: str
    chip_size: tuple[int, int]
    classes: ClassTable
    counts: tuple[int, ...]
    weights: tuple[float, ...]
    nodata_given: bool = False
    sides: tuple[float, float] | None = None


class ResumableLoader(DataLoader[Chip]):
    """Training batches that go on in the middle of an epoch; Lightning keeps its state in checkpoints."""

    _taken = _first = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # an iterator is all that is asked of it
        """Begin an epoch, or go on where :meth:`load_state_dict` says; nothing is read before the first batch is."""
        assert isinstance(self.batch_sampler, EpochBatches)
        self.batch_sampler.first = self._taken = self._first
        self._first = 0
        for batch in super().__iter__():
            self._taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been taken, 0 after all of them."""
        return {"batches": self._taken % max(1, len(self))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out, next time, the batches that were taken."""
        self._first = state["batches"]


class SegmentationData(L.LightningDataModule, ABC):
    """A source of training and validation chips.

    Args:
        batch_size: Chips per batch and process.
        seed: Seed of the order in which training takes its samples.
        workers: Processes that read ahead; ``auto`` chooses from the cores.
        cache: Keep decoded chips in memory when they fit into half of what is free, once for each process.
        check: Read every chip once before training starts (the cache does so anyway): a broken one is found now
            and not in the middle of an epoch.
        min_steps: Steps per epoch, about, at least, of as many batches as the trainer accumulates: of few chips batches
            are smaller, and then each is taken more often (:func:`plan_epoch`); 0 for batches of ``batch_size`` and
            each chip once.
    """

    fresh = False
    """Whether training draws its samples anew in every epoch."""
    counted = False
    """Whether somebody said how many samples an epoch has."""
    oversample: float = 0.0
    """How much more often chips with rare classes are drawn, see :func:`sampling_shares`."""

    def __init__(
        self,
        batch_size: int,
        seed: int,
        workers: int | Literal["auto"],
        cache: bool,
        check: bool,
        min_steps: int = MIN_STEPS,
    ) -> None:
        super().__init__()
        if min_steps < 0:
            raise UserError(f"datamodule.min_steps={min_steps} does not fit; give 0 or more steps per epoch.")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} is no size; give 1 or more.")
        if workers != "auto" and not str(workers).isdecimal():
            raise UserError(f"datamodule.workers={workers} is no number of processes; give 0 or more, or auto.")
        self.batch_size, self.seed, self.workers, self.cache, self.check = batch_size, seed, workers, cache, check
        self.min_steps = min_steps
        self._sources: dict[Stage, ChipSource] = {}
        self._counts: list[npt.NDArray[np.int64]] = []
        self._threads = 1

    @abstractmethod
    def describe(self) -> DataDescription:
        """Return the description; raises UserError if the data cannot be used."""

    @abstractmethod
    def source(self, stage: Stage) -> ChipSource:
        """Return the chips of a stage; raises UserError naming the chip that cannot be used."""

    def setup(self, stage: str | None = None, processes: int | None = None) -> None:
        """Open both parts, into memory if asked for and possible.

        Args:
            stage: Lightning's.
            processes: Training processes that share this machine's memory, each with chips of its own; None for what
                the trainer or whoever started them says.
        """
        del stage
        if self._sources:
            return
        sources = {stage: self.source(stage) for stage in STAGES}
        here = processes or self._processes_here()
        self._threads = reading_threads(here)
        if self.cache and self._fits(list(sources.values()), here):
            self._sources = {stage: Cached(self._checked(source, stage)) for stage, source in sources.items()}
            return
        sources = {stage: self.reread(source) for stage, source in sources.items()}
        if self.check or self.oversample:
            for stage, source in sources.items():
                deque(self._checked(source, stage), maxlen=0)
        self._sources = dict(sources)

    def reread(self, source: ChipSource) -> ChipSource:
        """Return a stage's chips as they are best read epoch by epoch."""
        return source

    def _checked(self, source: ChipSource, stage: Stage) -> Iterator[Chip]:
        """Read every chip of a stage; raises UserError at the end if none has a labelled pixel."""
        labelled, classes = False, len(self.describe().classes)
        for chip in read_all(source, stage, self._threads):
            labelled = labelled or bool((chip.target != IGNORE).any())
            if stage == "train" and self.oversample:
                self._counts.append(np.bincount(chip.target.ravel(), minlength=256)[:classes])
            yield chip
        if not labelled:
            raise UserError(
                f"No {stage} chip of {self.describe().origin} has a labelled pixel where its image has measurements; "
                "there is nothing to learn or to score. Check the labels and run prepare.py again."
            )

    def check_processes(self, processes: int) -> None:
        """Raise UserError if a process would have no chip, and the others would wait for it; after :meth:`setup`."""
        for stage, source in self._sources.items():
            if len(source) < processes:
                raise UserError(
                    f"{processes} processes cannot share {len(source)} {stage} chip{'s' * (len(source) != 1)} of "
                    f"{self.describe().origin}; expected at least one for each. Set devices={len(source)} or lower."
                )

    def summary(self) -> str:
        """Say in one line what is trained on; only after :meth:`setup`."""
        data = self.describe()
        train, validation = (len(source) for source in self._sources.values())
        width, height = data.chip_size
        return (
            f"{data.origin}: {train} training and {validation} validation chips of {width} × {height} px, "
            f"{len(data.bands)} bands, {len(data.classes)} classes ({', '.join(data.classes.names)})"
        )

    def plan(self, processes: int = 1, accumulation: int = 1) -> EpochPlan:
        """Return how each of the processes takes its training chips; after :meth:`setup`.

        Args:
            processes: How many train together.
            accumulation: Batches of each step (``trainer.accumulate_grad_batches``).
        """
        size, batches = self.describe().chip_size, self.min_steps * accumulation
        together = plan_epoch(len(self._sources["train"]), self.batch_size * processes, batches, size)
        return EpochPlan(math.ceil(together.batch_size / processes), 1 if self.counted else together.passes)

    def few_chips(self, processes: int = 1, accumulation: int = 1) -> str | None:
        """Say in one line what is done for an epoch of few chips, None where nothing is; as for :meth:`plan`."""
        plan = self.plan(processes, accumulation)
        if plan == EpochPlan(self.batch_size):
            return None
        count = len(self._sources["train"])
        batches = math.ceil(count * plan.passes // processes / plan.batch_size)
        each = f"{accumulation} batches of {plan.batch_size}" if accumulation > 1 else f"{plan.batch_size}"
        times = f", each chip {plan.passes} times" if plan.passes > 1 else ""
        return (
            f"few chips: an epoch has {math.ceil(batches / accumulation)} steps of {each} chips at most{times} "
            f"(datamodule.min_steps={self.min_steps}; 0 takes batch_size={self.batch_size} as it is)"
        )

    def spectra(self, chips: int = 300, pixels: int = 500_000) -> Iterator[torch.Tensor]:
        """Yield measured pixels of the training chips, each bands × n in the file's own numbers; after :meth:`setup`.

        Args:
            chips: How many chips to look at, evenly spaced, at most.
            pixels: How many pixels of all of them together, about.
        """
        source = self._sources["train"]
        chosen = np.unique(np.linspace(0, len(source) - 1, min(chips, len(source))).astype(int)).tolist()
        for index in chosen:
            chip = source[index]
            places = np.flatnonzero(chip.valid)
            places = places[:: max(1, len(places) * len(chosen) // pixels)]
            yield torch.from_numpy(native(chip.image.reshape(len(chip.image), -1)[:, places]))

    def train_dataloader(self) -> DataLoader[Chip]:
        """Batches in an order of each epoch's own."""
        return self._loader("train", self.seed)

    def val_dataloader(self) -> DataLoader[Chip]:
        """Batches in the order of the list."""
        return self._loader("validation", None)

    def _processes_here(self) -> int:
        """Return how many training processes share this machine, as far as that is known."""
        return self.trainer.num_devices if self.trainer else processes_started(os.environ)

    def _fits(self, sources: Sequence[ChipSource], processes: int) -> bool:
        needed = sum(len(source) for source in sources) * sources[0][0].nbytes
        free = available_memory()
        if needed * processes <= CACHE_SHARE * free:
            return True
        each = f" in each of {processes} processes" if processes > 1 else ""
        log.info(
            "Chips take %.1f GB%s, %.1f GB are free: they are read again in every epoch.",
            needed / 1e9,
            each,
            free / 1e9,
        )
        return False

    def _loader(self, stage: Stage, seed: int | None) -> DataLoader[Chip]:
        source: ChipSource | OnDevice = self._sources[stage]
        trainer = self.trainer
        processes, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        here = trainer.num_devices if trainer else 1  # processes on this machine
        sharing = processes_that_share(here, getattr(trainer.strategy, "cluster_environment", None)) if trainer else 1
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        workers = 0 if isinstance(source, Cached) else choose_workers(self.workers, sharing, on_gpu)
        if trainer is not None and on_gpu and isinstance(source, Cached):
            source = on_gpu_if_it_fits(source, trainer.strategy.root_device)
        there = isinstance(source, OnDevice)
        if here > 1:
            torch.set_num_threads(computing_threads(sharing))
        fresh = self.fresh and stage == "train"
        accumulation = trainer.accumulate_grad_batches if trainer else 1
        plan = self.plan(processes, accumulation) if stage == "train" else EpochPlan(self.batch_size)
        shares = sampling_shares(np.array(self._counts), self.oversample) if stage == "train" and self._counts else None
        return (ResumableLoader if stage == "train" else DataLoader)(
            source,  # type: ignore[arg-type]  # a sequence of chips is a data set, whatever its class
            batch_sampler=EpochBatches(
                len(source), plan.batch_size, seed, rank, processes, fresh, shares, passes=plan.passes
            ),
            collate_fn=_as_it_is if there else collate,
            num_workers=workers,
            multiprocessing_context=worker_context(type(source).__module__) if workers else None,
            persistent_workers=bool(workers),
            pin_memory=on_gpu and not there,
        )


def _as_it_is(batch: Any) -> Any:
    return batch


def processes_started(environment: Mapping[str, str]) -> int:
    """Return how many processes torchrun or SLURM started on this machine for one training, 1 without them.

    Args:
        environment: Variables of this process.
    """
    told = environment.get("LOCAL_WORLD_SIZE") or environment.get("SLURM_NTASKS_PER_NODE", "")
    return max(1, int(told)) if told.isdecimal() else 1


def processes_that_share(processes: int, environment: ClusterEnvironment | None) -> int:
    """Return among how many processes the cores that this one may use have yet to be divided.

    Only Lightning leaves that to them. torchrun sets OMP_NUM_THREADS for each process, and SLURM binds it to as many
    cores as --cpus-per-task says, if the cluster does bind.

    Args:
        processes: Training processes on this machine.
        environment: Lightning's name for who started them.
    """
    slurm = isinstance(environment, SLURMEnvironment)
    if isinstance(environment, TorchElasticEnvironment) or (slurm and _bound_by_slurm(processes)):
        return 1
    return processes


def _bound_by_slurm(processes: int) -> bool:
    """Tell whether this process is bound to fewer cores than SLURM promises all of them together."""
    told = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return told.isdecimal() and cores() < processes * int(told)


def choose_workers(wanted: int | Literal["auto"], processes: int, on_gpu: bool) -> int:
    """Choose how many processes read ahead.

    On a GPU the cores have nothing else to do: all but one, eight at most. On the CPU they compute: one in four
    reads, and on fewer than four cores the computing process reads by itself.

    Args:
        wanted: A number, or ``auto``.
        processes: Training processes that share the cores.
        on_gpu: Whether they compute on GPUs.
    """
    if wanted != "auto":
        return wanted
    share = cores() // max(1, processes)
    return max(1, min(8, share - 1)) if on_gpu else min(4, share // 4)


def computing_threads(processes: int) -> int:
    """Choose with how many threads each of the processes that share this machine's cores computes on the CPU.

    Those that read ahead do not count: they mostly sleep, and sums over another number of threads differ in the last
    digit, so that a training would depend on how its chips are read, and with that on how much memory is free.

    Args:
        processes: Training processes that share the cores.
    """
    return max(1, cores() // max(1, processes))


def reading_threads(processes: int) -> int:
    """Choose with how many threads each of the processes on this machine reads chips into memory.

    Args:
        processes: Training processes on this machine.
    """
    return cores() if _bound_by_slurm(processes) else computing_threads(processes)


def worker_context(source_module: str) -> Any:
    """Return how workers start: never by forking a process that has threads and open files.

    Args:
        source_module: Module of what they read.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([source_module])  # imported once for all of them
    return context
