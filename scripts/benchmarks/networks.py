"""Networks with random weights for the benchmarks: speed and memory do not depend on what they have learned."""

from __future__ import annotations

from pathlib import Path

import torch

from scripts.benchmarks.scenes import BANDS, CLASSES
from src.bands import Band, Normalization
from src.models.checkpoint import save_network
from src.models.network import build_network
from src.spec import NetworkSpec


def untrained_spec(architecture: str, encoder: str = "none", chip: int = 256) -> NetworkSpec:
    """Describe a network for the scenes of :mod:`scripts.benchmarks.scenes`."""
    bands = tuple(Band(f"band {number + 1}") for number in range(BANDS))
    normalization = Normalization((True,) * BANDS, 1.0, (3000.0,) * BANDS, (2000.0,) * BANDS)
    return NetworkSpec(architecture, encoder, {}, bands, normalization, None, CLASSES, (chip, chip))


def save_untrained(path: Path, architecture: str, encoder: str = "none", chip: int = 256) -> Path:
    """Save the checkpoint of a network with random weights; return its path."""
    torch.manual_seed(0)
    spec = untrained_spec(architecture, encoder, chip)
    save_network(path, build_network(spec), spec, {})
    return path
