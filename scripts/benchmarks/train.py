"""Training from chips on disk, with augmentation and scores, against the bare loop on a batch in memory."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from scripts.benchmarks.measuring import Clock, Options, Run, Turn, take_turn
from scripts.benchmarks.networks import bare_training, pace, random_batch, synchronize
from scripts.benchmarks.rows import Row, compared
from scripts.benchmarks.scenes import repeated_scene
from src.augmentation import Augmentation
from src.datamodules.chips import ChipData
from src.models.losses import CrossEntropy
from src.models.optimization import Optimization
from src.models.precision import autocast, choose_device, prefers_bf16, training_layout
from src.models.segmenter import Segmenter
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.training import NetworkChoice, choose_trainer_options, make_network

CHIP = 224


@dataclass(frozen=True)
class Load:
    """How much a turn does: enough that what happens once in an epoch is no large part of it.

    Attributes:
        batch: Chips in a batch.
        steps: Batches in a turn of ours.
        others: Batches in a turn of the loops that it is held against, which do nothing but the same each time.
        chips: Chips of the scene down and across, of which 80 % are for training: a batch more than is used.
    """

    batch: int
    steps: int
    others: int
    chips: tuple[int, int]


LOADS = {"cpu": Load(4, 8, 4, (6, 8)), "bfloat16 cpu": Load(4, 16, 4, (9, 10)), "cuda": Load(32, 20, 20, (29, 30))}
OTHER_LOAD = Load(8, 10, 10, (11, 12))
GOAL = 0.95


@dataclass(frozen=True)
class Trained:
    """What is trained.

    Attributes:
        choice: The network.
        frozen: Whether its encoder is.
        name: What to call it; None for its architecture and encoder.
    """

    choice: NetworkChoice
    frozen: bool = False
    name: str | None = None

    @property
    def title(self) -> str:
        """What the rows call it."""
        name = self.name or f"{self.choice.architecture}/{self.choice.encoder}"
        return f"{name}, encoder frozen" if self.frozen else name


UNET = NetworkChoice("unet", "resnet18", options={})
NETWORKS = (
    Trained(UNET),
    Trained(UNET, frozen=True),
    Trained(NetworkChoice("segformer", "tu-convnext_tiny", options={})),
)


class Interleaved(L.Callback):
    """Measures the batches of each epoch, and lets other runs take their turns between epochs."""

    def __init__(self, others: dict[str, Run], device: torch.device, options: Options) -> None:
        self._others, self._device, self._options = others, device, options
        self._began = time.perf_counter()
        self.turns: dict[str, list[Turn]] = {"ours": [], **{name: [] for name in others}}

    def on_train_epoch_start(self, *_: Any) -> None:
        """Begin our turn."""
        self._clock = Clock()

    def on_train_batch_end(self, *given: Any) -> None:
        """End our turn with the last batch."""
        load = load_of(self._device)
        if given[-1] == load.steps - 1:
            synchronize(self._device)
            self.turns["ours"].append(self._clock.stop(load.steps * load.batch))

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Let the others take their turns, and end when there were enough."""
        for name, run in self._others.items():
            self.turns[name].append(take_turn(run))
        trainer.should_stop = self._options.enough(len(self.turns["ours"]) - 1, self._began)


def measure(options: Options, networks: Sequence[Trained] = NETWORKS) -> list[Row]:
    """Compare ours, the bare loop, and what people run today."""
    device = choose_device()
    down, across = load_of(device).chips
    files = repeated_scene(options.folder, down * CHIP, across * CHIP)
    folder = options.folder / "chips"
    prepare(Preparation(str(files.image), str(files.label), (CHIP, CHIP), (CHIP, CHIP)), folder)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    runs = [(network, cache) for network in networks for cache in (False, True)]
    if device.type == "cpu":  # where chips in memory save the same milliseconds whatever the network
        runs = [(network, cache) for network, cache in runs if not cache or network is NETWORKS[0]]
    return [row for network, cache in runs for row in _rows(network, folder, cache, device, options)]


def measure_default(options: Options) -> list[Row]:
    """Do the same with the network that ``train.py`` takes without further keys, each branch with a loss of its own."""
    return measure(options, [Trained(NetworkChoice(), name="the default")])


def _rows(network: Trained, folder: Path, cache: bool, device: torch.device, options: Options) -> list[Row]:
    load = load_of(device)
    data = ChipData(folder, load.batch, cache=cache, min_steps=0)
    segmenter = _segmenter(data, network)
    meanwhile = Interleaved({"bare": _bare(segmenter, device), "others": _as_today(segmenter, device)}, device, options)
    trainer = L.Trainer(
        **choose_trainer_options("auto", "auto" if device.type == "cpu" else 1, "auto"),
        max_epochs=options.rounds + 1,
        limit_train_batches=load.steps,
        limit_val_batches=0,
        callbacks=[meanwhile],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=True,
    )
    trainer.fit(segmenter, datamodule=data)
    counted = {name: turns[1:] for name, turns in meanwhile.turns.items()}
    step = f"train {network.title}" + ", chips in memory" * cache
    wanted = 4.0 if device.type == "cuda" else 2.0 if prefers_bf16(device) else None
    return [
        compared(step, (counted["ours"], counted["bare"]), "bare loop, batch in memory", unit="chips/s", goal=GOAL),
        compared(
            step,
            (counted["ours"], counted["others"]),
            "float32, channels first, eager",
            unit="chips/s",
            goal=wanted,
            against="others",
        ),
    ]


def load_of(device: torch.device) -> Load:
    """Return how much a turn does on a device."""
    return LOADS.get(pace(device), OTHER_LOAD)


def _segmenter(data: ChipData, trained: Trained) -> Segmenter:
    torch.manual_seed(0)
    described = data.describe()
    network, spec = make_network(described, trained.choice)
    if trained.frozen:
        network.architecture.freeze_encoder()  # type: ignore[operator]  # one of smp's
    augmentation = Augmentation(flips=True, rotate90=True)
    return Segmenter(network, spec, CrossEntropy(described.weights), Optimization(), augmentation)


def _bare(segmenter: Segmenter, device: torch.device) -> Run:
    precision = str(choose_trainer_options("auto", "auto" if device.type == "cpu" else 1, "auto")["precision"])
    layout = training_layout(device, precision)
    architecture = copy.deepcopy(segmenter.network.architecture).to(device).to(memory_format=layout)
    optimizer = torch.optim.AdamW(architecture.parameters(), lr=0.001, fused=True)
    load = load_of(device)
    image = random_batch((load.batch, CHIP, CHIP), device).contiguous(memory_format=layout)
    return bare_training(architecture, image, _target(device), optimizer, load.others, partial(autocast, device))


def _as_today(segmenter: Segmenter, device: torch.device) -> Run:
    """Return the loop as most people write it: float32, channels first, nothing fused."""
    network = copy.deepcopy(segmenter.network.architecture)
    architecture = network.to(device).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(architecture.parameters(), lr=0.001)
    load = load_of(device)
    image = random_batch((load.batch, CHIP, CHIP), device).contiguous()
    return bare_training(architecture, image, _target(device), optimizer, load.others)


def _target(device: torch.device) -> torch.Tensor:
    shape = load_of(device).batch, CHIP, CHIP
    return torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(0)).to(device)
