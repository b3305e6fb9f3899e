"""Networks for the benchmarks, and the loops that bound what can be made of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch import nn
from torch.nn import functional as F

from scripts.benchmarks.measuring import Run
from scripts.benchmarks.scenes import BANDS, CLASSES
from scripts.make_scene import SceneFiles
from src.bands import Band, Normalization
from src.labels import IGNORE
from src.models.checkpoint import save_network
from src.models.network import Network, build_network
from src.models.precision import autocast, prefers_bf16
from src.spec import NetworkSpec


def untrained_spec(
    architecture: str, encoder: str = "none", chip: int = 256, options: dict[str, Any] | None = None
) -> NetworkSpec:
    """Describe a network for the scenes of :mod:`scripts.benchmarks.scenes`."""
    bands = tuple(Band(f"band {number + 1}") for number in range(BANDS))
    normalization = Normalization((True,) * BANDS, 1.0, (3000.0,) * BANDS, (2000.0,) * BANDS)
    return NetworkSpec(architecture, encoder, options or {}, bands, normalization, None, CLASSES, (chip, chip))


def save_untrained(path: Path, architecture: str, encoder: str = "none", chip: int = 256) -> Path:
    """Save the checkpoint of a network with random weights; return its path."""
    torch.manual_seed(0)
    spec = untrained_spec(architecture, encoder, chip)
    save_network(path, build_network(spec), spec, {})
    return path


def train_briefly(network: Network, files: SceneFiles, chip: int, steps: int = 12, batch: int = 4) -> None:
    """Teach a network what a scene's classes look like, so that its maps have clear borders."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    with rasterio.open(files.image) as image, rasterio.open(files.label) as label:
        pixels, values = torch.from_numpy(image.read()), CLASSES.encode(label.read(1))
    target = torch.from_numpy(values).long()
    for _ in range(steps):
        corners = rng.integers(0, [target.shape[0] - chip, target.shape[1] - chip], (batch, 2))
        parts = [np.s_[row : row + chip, column : column + chip] for row, column in corners.tolist()]
        chips = torch.stack([pixels[:, *part] for part in parts])
        logits = network(chips, torch.ones(batch, chip, chip, dtype=torch.bool))
        optimizer.zero_grad()
        loss = F.cross_entropy(logits, torch.stack([target[part] for part in parts]), ignore_index=IGNORE)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.eval()


def bare_training(
    architecture: nn.Module,
    image: torch.Tensor,
    target: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    steps: int,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Run:
    """Return the bare loop: forward, loss, backward, optimiser on a batch that is in memory already.

    Args:
        architecture: On its device, in training mode; where it says what each of its branches alone says, each of
            these has a loss too.
        image: Normalised, B × C × H × W.
        target: Class indices, B × H × W.
        optimizer: Of the architecture.
        steps: Per run.
        precision: Context of the forward pass; float32 without one.
    """
    target = target.long()

    def run() -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            with precision():
                answers = torch.split(architecture(image).float(), len(CLASSES), dim=1)
                loss = torch.stack([F.cross_entropy(part, target, ignore_index=IGNORE) for part in answers]).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        synchronize(image.device)
        return float(steps * len(image))

    return run


def bare_forward(architecture: nn.Module, image: torch.Tensor, runs: int) -> Run:
    """Return the bare forward pass of a normalised batch, ``runs`` times; its work is in megapixels."""

    def run() -> float:
        with torch.inference_mode(), autocast(image.device):
            for _ in range(runs):
                architecture(image)
        synchronize(image.device)
        return runs * len(image) * image.shape[-1] * image.shape[-2] / 1e6

    return run


def random_batch(shape: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """Return a normalised batch (windows, height, width), its channels last."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((shape[0], BANDS, *shape[1:]), generator=generator)
    return image.to(device).contiguous(memory_format=torch.channels_last)


def fastest_batch(architecture: nn.Module, device: torch.device) -> torch.Tensor:
    """Return the batch that the bare forward pass gets most pixels per second through, of about four megapixels."""
    sides = (256, 512, 1024) if device.type == "cpu" else (512, 1024, 2048)
    most = 2**20 if device.type == "cpu" else 2**23
    rates: dict[tuple[int, int, int], float] = {}
    for side in sides:
        for count in {1, max(1, most // 4 // side**2), most // side**2}:
            run = bare_forward(architecture, random_batch((count, side, side), device), 1)
            run()
            clock = time.perf_counter()
            rates[count, side, side] = run() / (time.perf_counter() - clock)
    return random_batch(max(rates, key=lambda shape: rates[shape]), device)


def pace(device: torch.device) -> str:
    """Return which load a turn should have: where more is done in a second, what happens once weighs more."""
    return "bfloat16 cpu" if device.type == "cpu" and prefers_bf16(device) else device.type


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
