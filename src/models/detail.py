"""What encoders lose: the pixel itself, and its neighbours, at full resolution.

The U-Net of Ronneberger et al. (2015) joins features of the image's own resolution before its last layer. Networks
around an encoder that was made for photographs do not: ResNets halve twice before their first block, and what is
finer comes back from there by interpolation. Spectra of single pixels, which tell most of what there is to know in a
satellite's image, never reach the last layer. This branch brings them there.
"""

from __future__ import annotations

import torch
from torch import nn

from src.models.compact import PixelResNet

DETAIL = "detail"
"""Name of the option (channels, 0 for none), of the module in an architecture and so of its tensors in a checkpoint."""
DILATIONS = (1,)
"""One residual block: 3 × 3 pixels."""


def add_detail(architecture: nn.Module, bands: int, classes: int, width: int) -> nn.Module:
    """Let an architecture add the logits of a small network at full resolution to its own.

    Args:
        architecture: B × bands × H × W → logits B × classes × H × W.
        bands: Number of input channels.
        classes: Number of classes.
        width: Channels of the small network.

    Returns:
        The same architecture.
    """
    setattr(architecture, DETAIL, PixelResNet(bands, classes, width, DILATIONS, dropout=0.0))
    architecture.register_forward_hook(_with_detail)
    return architecture


def _with_detail(architecture: nn.Module, images: tuple[torch.Tensor, ...], logits: torch.Tensor) -> torch.Tensor:
    branch: PixelResNet = getattr(architecture, DETAIL)
    summed: torch.Tensor = logits + branch(*images)
    return summed
