"""A segmentation network that takes a file's own numbers, and the checkpoint that it comes from."""

from __future__ import annotations

import torch
from torch import nn

from src.bands import Normalization
from src.models import architectures
from src.spec import NetworkSpec


class Network(nn.Module):
    """An architecture with its normalisation inside: the same numbers in training, evaluation and mapping.

    The normalisation's arrays are buffers, so they follow the module to its device and into the state dict.
    """

    scale: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    used: torch.Tensor

    def __init__(self, architecture: nn.Module, normalization: Normalization) -> None:
        """Wrap ``architecture`` (normalised B × C × H × W → logits B × n × H × W)."""
        super().__init__()
        self.architecture = architecture
        shape = (1, len(normalization), 1, 1)
        self.register_buffer("scale", torch.tensor(normalization.scale, dtype=torch.float32))
        self.register_buffer("mean", torch.tensor(normalization.mean, dtype=torch.float32).reshape(shape))
        self.register_buffer("std", torch.tensor(normalization.std, dtype=torch.float32).reshape(shape))
        self.register_buffer("used", torch.tensor(normalization.used).reshape(shape))

    def normalize(self, image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Turn file numbers into network input, float32.

        Args:
            image: B × C × H × W, any dtype, in the file's own numbers.
            valid: B × H × W or B × 1 × H × W, False for pixels without a measurement: they become 0.
        """
        valid = valid if valid.ndim == 4 else valid[:, None]
        normalized = (image.float() / self.scale - self.mean) / self.std
        return torch.where(self.used & valid, normalized, 0.0)

    def forward(self, image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Return logits B × n × H × W for an image in the file's own numbers; see :meth:`normalize`."""
        logits: torch.Tensor = self.architecture(self.normalize(image, valid))
        return logits


def build_network(spec: NetworkSpec) -> Network:
    """Build the network of a spec with random weights; downloads nothing."""
    architecture = architectures.build(
        spec.architecture, spec.encoder, len(spec.bands), len(spec.classes), spec.chip_size, **spec.options
    )
    return Network(architecture, spec.normalization)
