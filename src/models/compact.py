"""Small networks for small chips and many bands; none takes an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from torch import nn

from src.errors import UserError

MANY_BANDS = 64
"""Bands above which ``stem=auto`` makes fewer channels of them: more than any multispectral sensor has."""
AUTO_STEM = 32
"""How many then."""
DILATIONS = "dilations"
"""Name of the option of :class:`PixelResNet` that says how far its blocks look."""


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
        stem: int | str = "auto",
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
        stem = stem_channels(stem, bands)
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

    def train(self, mode: bool = True) -> CompactUNet:
        """Set the mode; a frozen encoder and the stem before it stay in theirs."""
        super().train(mode)
        if self._is_encoder_frozen:
            self.stem.eval()
        return self

    def freeze_encoder(self) -> None:
        """Let the encoder learn nothing, nor the stem: what it feeds a frozen encoder must not change."""
        super().freeze_encoder()
        self.stem.requires_grad_(requires_grad=False).eval()

    def unfreeze_encoder(self) -> None:
        """Undo :meth:`freeze_encoder`."""
        super().unfreeze_encoder()
        self.stem.requires_grad_(requires_grad=True).train(self.training)


def stem_channels(stem: int | str, bands: int) -> int:
    """Return how many channels ``stem`` means for a number of bands; raises UserError if it means none."""
    if stem == "auto":
        return AUTO_STEM if bands > MANY_BANDS else 0
    if isinstance(stem, str) or stem < 0:
        raise UserError(f"model.stem={stem} is no number of channels; give 1 or more, 0 for no stem, or auto.")
    return stem


class PixelResNet(SegmentationModel):  # type: ignore[misc]  # smp has no types
    """A residual network that never leaves full resolution: a classifier of pixels that sees their neighbours.

    For scenes whose objects are few pixels wide (fields, houses and streets at 10 to 30 m) and whose spectra tell more
    than their shapes. A 1 × 1 convolution mixes the bands; each block then looks one dilation further, and adds to
    what the spectrum alone says (He et al., Deep Residual Learning for Image Recognition, 2016). With blocks of
    dilation 1, 2 and 4 a pixel's class depends on the 15 × 15 pixels around it, so windows of a map need few pixels of
    overlap.
    """

    def __init__(
        self, bands: int, classes: int, width: int = 48, dilations: Sequence[int] = (1, 2, 4), dropout: float = 0.2
    ) -> None:
        """Build for B × bands × H × W → logits B × classes × H × W.

        Args:
            bands: Number of input channels.
            classes: Number of classes.
            width: Channels of every layer.
            dilations: One block each: how many pixels apart its 3 × 3 weights are.
            dropout: Share of the channels that is dropped before the last layer in training.

        Raises:
            UserError: A dilation is below 1.
        """
        super().__init__()
        if any(dilation < 1 for dilation in dilations):
            raise UserError(f"model.dilations={list(dilations)} does not fit; give distances of 1 pixel or more.")
        blocks = [Residual(width, dilation) for dilation in dilations]
        self.encoder = nn.Sequential(_pointwise(bands, width), *blocks[:-1])
        self.decoder = nn.Sequential(*blocks[-1:])  # what still learns where the encoder is frozen
        self.dropout = nn.Dropout2d(dropout)
        self.segmentation_head = nn.Conv2d(width, classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits B × classes × H × W."""
        logits: torch.Tensor = self.segmentation_head(self.dropout(self.decoder(self.encoder(image))))
        return logits


class Residual(nn.Module):
    """A 3 × 3 and a 1 × 1 convolution whose result is added to what comes in."""

    def __init__(self, width: int, dilation: int) -> None:
        """Build for B × width × H × W; ``dilation`` is how many pixels apart the 3 × 3 weights are."""
        super().__init__()
        self.dilation = dilation
        self.change = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features of the same shape."""
        return F.relu(features + self.change(features))


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
