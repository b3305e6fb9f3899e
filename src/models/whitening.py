"""Whitening: bands that are much alike become components that have nothing to do with each other.

Neighbouring bands of a sensor say nearly the same: nine tenths of what differs between pixels is brightness, and what
tells one crop from another is in directions of the spectrum along which pixels hardly vary. Gradient descent learns
from such directions last. Principal components, each divided by its own standard deviation, let it see all of them at
once (LeCun et al., Efficient BackProp, 1998, section 4.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F

COMPONENTS = 64
"""Components that are kept at most."""
FLOOR = 1e-2
"""Variance, as a share of the first component's, below which a component is no longer stretched to the others' size:
what is noise in one scene may be anything in the next."""
ATTRIBUTE = "whitening"
"""Name of the module in an architecture, and so of its tensors in a checkpoint."""


class Whitening(nn.Module):
    """Principal components of normalised bands, scaled to about the same variance; not learnt but computed."""

    weight: torch.Tensor

    def __init__(self, bands: int, components: int) -> None:
        """Prepare for B × bands × H × W → B × components × H × W; all 0 until :meth:`fit`."""
        super().__init__()
        self.register_buffer("weight", torch.zeros(components, bands, 1, 1))

    @property
    def fitted(self) -> bool:
        """Whether it has seen data, or comes from a checkpoint that has."""
        return bool(self.weight.any())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the components, float32: bfloat16 has too few digits for small differences of large numbers."""
        # Shapes alone (the meta device) know no autocast.
        plain = nullcontext() if image.is_meta else torch.autocast(image.device.type, enabled=False)
        with plain:
            return F.conv2d(image.float(), self.weight)

    def fit(self, spectra: Iterable[torch.Tensor]) -> None:
        """Compute the components.

        Args:
            spectra: Normalised pixels, each bands × n. Their mean is close to 0 and is not taken off: 0, which stands
                for no measurement, stays 0.
        """
        count, bands = 0, self.weight.shape[1]
        total, product = torch.zeros(bands, dtype=torch.float64), torch.zeros(bands, bands, dtype=torch.float64)
        for pixels in spectra:
            numbers = pixels.double().cpu()
            count += numbers.shape[1]
            total += numbers.sum(1)
            product += numbers @ numbers.T
        mean = total / max(count, 1)
        variance, directions = torch.linalg.eigh(product / max(count, 1) - torch.outer(mean, mean))
        variance, directions = variance.flip(0)[: len(self.weight)], directions.flip(1)[:, : len(self.weight)]
        largest = float(variance[0].clamp_min(1e-12))
        # An eigenvector's sign is arbitrary: the largest entry is positive on every machine.
        strongest = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
        scaled = directions * strongest / (variance.clamp_min(0) + FLOOR * largest).sqrt()
        scaled[:, variance <= 1e-9 * largest] = 0
        self.weight.copy_(scaled.T.reshape(self.weight.shape))


def whiten(architecture: nn.Module, bands: int, components: int) -> nn.Module:
    """Put a whitening in front of an architecture that takes as many channels as there are components."""
    setattr(architecture, ATTRIBUTE, Whitening(bands, components))
    architecture.register_forward_pre_hook(_whitened)
    return architecture


def whitening_of(architecture: nn.Module) -> Whitening | None:
    """Return an architecture's whitening, None where it has none."""
    found = getattr(architecture, ATTRIBUTE, None)
    return found if isinstance(found, Whitening) else None


def _whitened(architecture: nn.Module, images: tuple[torch.Tensor, ...]) -> torch.Tensor:
    module: Whitening = getattr(architecture, ATTRIBUTE)
    components: torch.Tensor = module(*images)
    return components
