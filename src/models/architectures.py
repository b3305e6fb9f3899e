"""Architectures by name."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

ARCHITECTURES = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "segformer": smp.Segformer,
}


def build(architecture: str, encoder: str, bands: int, classes: int, **options: Any) -> nn.Module:
    """Build a network with random weights: B × bands × H × W → logits B × classes × H × W."""
    network: nn.Module = ARCHITECTURES[architecture](
        encoder_name=encoder, encoder_weights=None, in_channels=bands, classes=classes, **options
    )
    return network
