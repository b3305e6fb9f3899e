"""Two small networks for small chips and many bands; neither takes an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from torch import nn

from src.errors import UserError

MANY_BANDS = 64
"""Bands above which ``stem=auto`` makes fewer channels of them: more than any multispectral sensor has."""
AUTO_STEM = 32
"""How many then."""


class JustoUNetSimple(SegmentationModel):  # type: ignore[misc]  # smp has no types
    """2D-Justo-UNet-Simple: four convolutions, made to run on board of a small satellite.

    Justo et al., Sea-Land-Cloud Segmentation in Satellite Hyperspectral Imagery by Deep Learning (2023). Logits
    come out, without the paper's softmax, which belongs to the loss. Upsampling goes to the size of the level
    above, so that any height and width works; for multiples of 4 that is the paper's factor of 2.
    """

    def __init__(self, bands: int, classes: int) -> None:
        """Build for B × bands × H × W → logits B × classes × H × W."""
        super().__init__()
        self.encoder = nn.ModuleList([_convolution(bands, 6), _convolution(6, 12)])
        self.decoder = _convolution(12, 6)
        self.segmentation_head = nn.Sequential(nn.Conv2d(6, classes, 3, padding=1), nn.BatchNorm2d(classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits B × classes × H × W."""
        half = F.max_pool2d(self.encoder[0](image), 2, ceil_mode=True)
        quarter = F.max_pool2d(self.encoder[1](half), 2, ceil_mode=True)
        x = self.decoder(F.interpolate(quarter, size=half.shape[-2:], mode="nearest"))
        logits: torch.Tensor = self.segmentation_head(F.interpolate(x, size=image.shape[-2:], mode="nearest"))
        return logits


class CompactUNet(SegmentationModel):  # type: ignore[misc]  # smp has no types
    """A U-Net of half a million parameters whose first level keeps the full resolution.

    For chips of 16 to 64 px, where ImageNet's encoders lose single pixels: they halve twice before their first block.
    The shape is that of Ronneberger et al., U-Net (2015), with two 3 × 3 convolutions per level. Batch norm, since
    its statistics are fixed after training: norms over the window (group, instance, layer) would make a pixel's
    class depend on where the windows of a map are cut.
    """

    def __init__(
        self,
        bands: int,
        classes: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        dropout: float = 0.1,
        stem: int | Literal["auto"] = 0,
    ) -> None:
        """Build for B × bands × H × W → logits B × classes × H × W.

        Args:
            bands: Number of input channels.
            classes: Number of classes.
            widths: Filters per level; each level has half the resolution of the one before.
            dropout: Share of the deepest level's channels that is dropped in training.
            stem: Channels that a 1 × 1 convolution makes of the bands first, since hundreds of bands that are much
                alike say little more than a few dozen mixtures of them. 0 for none; ``auto`` for AUTO_STEM where
                there are more than MANY_BANDS bands, else none.

        Raises:
            UserError: ``stem`` is no number of channels.
        """
        super().__init__()
        if stem == "auto":
            stem = AUTO_STEM if bands > MANY_BANDS else 0
        if isinstance(stem, str) or stem < 0:
            raise UserError(f"model.stem={stem} is no number of channels; give 1 or more, 0 for no stem, or auto.")
        self.stem = _pointwise(bands, stem) if stem else nn.Identity()
        self.encoder = nn.ModuleList([_level(i, o) for i, o in pairwise((stem or bands, *widths))])
        self.dropout = nn.Dropout2d(dropout)
        self.decoder = nn.ModuleList([_level(deep + wide, wide) for wide, deep in reversed(list(pairwise(widths)))])
        self.segmentation_head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits B × classes × H × W."""
        levels: list[torch.Tensor] = []
        x = self.stem(image)
        for level in self.encoder:
            x = level(F.max_pool2d(x, 2, ceil_mode=True) if levels else x)
            levels.append(x)
        x = self.dropout(levels.pop())
        for level in self.decoder:
            skip = levels.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = level(torch.cat([x, skip], dim=1))
        logits: torch.Tensor = self.segmentation_head(x)
        return logits


def _pointwise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _level(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
