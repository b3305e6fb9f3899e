"""Augmentation of whole batches on their device: image, label and mask always move together.

Geometry that moves pixels without making any up (flips, quarter turns, crops) is one gather for the batch;
rotation by any angle and zoom are one resampling. Every sample draws its own numbers. They come from a seed
per step, so that a resumed run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from src.bands import Normalization
from src.errors import UserError
from src.labels import IGNORE

_NEAREST = 0.25
"""Share of a bilinear mean that the nearest of the four pixels has at least."""
_BY_LEVELS = ("gain", "brightness", "noise", "band_dropout")
"""Changes that go by the bands' means and standard deviations."""


class Pixels(NamedTuple):
    """What moves together.

    Attributes:
        image: B × C × H × W, as the network gets it.
        target: B × H × W class indices, IGNORE for pixels without a class.
        valid: B × H × W, False for pixels without a measurement: their image is 0.
    """

    image: torch.Tensor
    target: torch.Tensor
    valid: torch.Tensor


class Levels(NamedTuple):
    """What the training chips' bands are like in the numbers that the network gets; 1 × C × 1 × 1 each.

    Attributes:
        used: False for bands that are 0 everywhere.
        mean: Mean of each band; 0 where the data's own statistics standardise.
        std: Standard deviation of each band; 1 there.
    """

    used: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, normalization: Normalization, statistics: Normalization) -> Levels:
        """Return those of a network.

        Args:
            normalization: What it does to the file's numbers.
            statistics: The normalisation by the training chips' own statistics.
        """
        ratio = statistics.scale / normalization.scale  # exactly 1 where both are the same: mean 0, deviation 1
        mean = (np.array(statistics.mean) * ratio - normalization.mean) / normalization.std
        std = np.array(statistics.std) * ratio / normalization.std
        used, mean, std = (each[None, :, None, None] for each in (np.array(normalization.used), mean, std))
        return cls(torch.from_numpy(used), torch.from_numpy(mean).float(), torch.from_numpy(std).float())

    @classmethod
    def standardised(cls, bands: int) -> Levels:
        """Return those of bands that are all used and standardised by the data's own statistics."""
        return cls.of(Normalization.identity(bands), Normalization.identity(bands))


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training batches; everything is off at 0, False or None.

    Attributes:
        flips: Mirror left–right and top–bottom, each with probability one half.
        rotate90: Turn by a multiple of 90° (by 180° where chips are not square).
        rotation: Turn half of the samples by up to this many degrees; the new corners are unclassified.
        zoom: Scale half of the samples by a factor of up to 1 + zoom, or down to its inverse.
        crop: Side of the random window in pixels that is kept, None for the whole chip.
        cutmix: Probability of pasting a rectangle of another sample into one (Yun et al. 2019).
        gain: Standard deviation of a factor per sample and band around 1, by which pixels differ from the band's mean.
        brightness: Standard deviation of a shift per sample and band, in the band's standard deviations.
        noise: Standard deviation of noise per pixel, in the band's standard deviations.
        band_dropout: Probability with which each band of a sample is replaced by the band's mean. Means and deviations
            of this and the three before are the training chips', whatever normalisation the network has.
    """

    flips: bool = False
    rotate90: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    crop: int | None = None
    cutmix: float = 0.0
    gain: float = 0.0
    brightness: float = 0.0
    noise: float = 0.0
    band_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raise UserError for a number that means nothing."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and value < 0:
                raise UserError(f"augmentation.{entry.name}={value} is negative; 0 switches it off.")
            if value is not None and not math.isfinite(value):
                raise UserError(f"augmentation.{entry.name}={value} is no number to draw by; 0 switches it off.")
        if self.cutmix > 1:
            raise UserError(f"augmentation.cutmix={self.cutmix} is a probability; give 0–1.")
        if self.band_dropout >= 1:
            raise UserError(f"augmentation.band_dropout={self.band_dropout} leaves no band; give 0 up to below 1.")
        if self.rotation > 180:
            raise UserError(f"augmentation.rotation={self.rotation} is more than half a turn; give 0–180 degrees.")
        if self.crop == 0:
            raise UserError("augmentation.crop=0 leaves no pixel; give a side in pixels, or null for whole chips.")

    @property
    def changes(self) -> bool:
        """Whether anything is switched on."""
        return any(bool(getattr(self, entry.name)) for entry in fields(self))

    def levels(self, normalization: Normalization, statistics: Normalization | None) -> Levels:
        """Return what the changes of a network's bands are measured by.

        Args:
            normalization: What the network does to the file's numbers.
            statistics: The normalisation by the training chips' own statistics; None where these are not known.

        Raises:
            UserError: They are not known, and a change needs them.
        """
        if statistics is None:
            asked = [f"augmentation.{name}={value}" for name in _BY_LEVELS if (value := getattr(self, name))]
            if asked:
                raise UserError(
                    f"{', '.join(asked)} go{'es' * (len(asked) == 1)} by the bands' means and deviations, which these "
                    "data do not say (no Normalize_Bands.csv); run prepare.py again, or train with "
                    "augmentation=flips_and_rotations."
                )
        return Levels.of(normalization, statistics or normalization)

    def __call__(self, pixels: Pixels, seed: int, levels: Levels | None = None) -> Pixels:
        """Change a batch.

        Args:
            pixels: The batch, on any device.
            seed: Of all random numbers; the same seed gives the same change.
            levels: Of its bands; None where all are used and standardised by the data's own statistics.

        Returns:
            The changed batch; height and width are ``crop`` where it is set and smaller than the chip.
        """
        # Autocast would take bfloat16 for where pixels come from: off by a pixel and more in chips of 256 px.
        with torch.autocast(pixels.image.device.type, enabled=False):
            return self._changed(pixels, seed, levels or Levels.standardised(pixels.image.shape[1]))

    def _changed(self, pixels: Pixels, seed: int, levels: Levels) -> Pixels:
        draw = torch.Generator().manual_seed(seed)
        if self.rotation or self.zoom:
            pixels = self._resample(pixels, draw)
        if self.flips or self.rotate90 or self.crop:
            pixels = self._rearrange(pixels, draw)
        if self.cutmix:
            pixels = self._cutmix(pixels, draw)
        if self.gain or self.brightness or self.noise:
            pixels = self._jitter(pixels, draw, seed, levels)
        if self.band_dropout:
            pixels = self._drop_bands(pixels, draw, levels)
        return pixels

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size that chips of ``size`` (width, height) have afterwards."""
        return (min(size[0], self.crop), min(size[1], self.crop)) if self.crop else size

    def _resample(self, pixels: Pixels, draw: torch.Generator) -> Pixels:
        count, _, height, width = pixels.image.shape
        chosen = (torch.rand(count, generator=draw) < 0.5).float()
        angle = (torch.rand(count, generator=draw) * 2 - 1) * math.radians(self.rotation) * chosen
        scale = ((torch.rand(count, generator=draw) * 2 - 1) * math.log1p(self.zoom) * chosen).exp()
        cosine, sine, zero = angle.cos() * scale, angle.sin() * scale, torch.zeros(count)
        # The grid is in shares of the half side: on oblong chips a turn has to be corrected for their shape.
        aspect = height / width
        rows = [torch.stack([cosine, -sine * aspect, zero], 1), torch.stack([sine / aspect, cosine, zero], 1)]
        affine = torch.stack(rows, 1).to(pixels.image.device)
        grid = F.affine_grid(affine, [count, 1, height, width], align_corners=False)
        # Beside a gap or the edge the mean is over the neighbours that were measured: the others' 0 is no number.
        weighted = torch.cat([pixels.image.float(), pixels.valid[:, None].float()], 1)
        sampled = F.grid_sample(weighted, grid, padding_mode="zeros", align_corners=False)
        image = sampled[:, :-1] / sampled[:, -1:].clamp(min=_NEAREST)
        # Shifted by IGNORE + 1 so that the corners' zeros mean "unclassified" and "not measured".
        codes = torch.stack([pixels.target.float() - IGNORE, pixels.valid.float()], 1)
        codes = F.grid_sample(codes, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        target, valid = (codes[:, 0].round() + IGNORE).to(pixels.target.dtype), codes[:, 1] > 0.5
        return Pixels(torch.where(valid[:, None], image, 0.0), target, valid)

    def _rearrange(self, pixels: Pixels, draw: torch.Generator) -> Pixels:
        count, _, height, width = pixels.image.shape
        turns, mirror_rows, mirror_columns = _turns(count, self.flips, self.rotate90, height == width, draw)
        out_width, out_height = self.output_size((width, height))
        top = (torch.rand(count, generator=draw) * (height - out_height + 1)).long()
        left = (torch.rand(count, generator=draw) * (width - out_width + 1)).long()
        places = _Places(turns % 2 == 1, mirror_rows, mirror_columns, top, left, (out_height, out_width))
        # On a CPU, moving whole samples one by one takes half the time of a gather for the batch.
        whole = pixels.image.device.type == "cpu" and (out_width, out_height) == (width, height)
        return _moved(pixels, places) if whole else _gathered(pixels, places)

    def _cutmix(self, pixels: Pixels, draw: torch.Generator) -> Pixels:
        count, _, height, width = pixels.image.shape
        if count < 2:
            return pixels
        chosen = torch.rand(count, generator=draw) < self.cutmix
        side = torch.rand(count, generator=draw).sqrt() * chosen
        row = torch.rand(count, generator=draw) * (1 - side) * height
        column = torch.rand(count, generator=draw) * (1 - side) * width
        device = pixels.image.device
        inside_rows = _between(torch.arange(height), row, row + side * height).to(device)
        inside_columns = _between(torch.arange(width), column, column + side * width).to(device)
        paste = inside_rows[:, :, None] & inside_columns[:, None, :]
        return Pixels(
            torch.where(paste[:, None], pixels.image.roll(1, 0), pixels.image),
            torch.where(paste, pixels.target.roll(1, 0), pixels.target),
            torch.where(paste, pixels.valid.roll(1, 0), pixels.valid),
        )

    def _jitter(self, pixels: Pixels, draw: torch.Generator, seed: int, levels: Levels) -> Pixels:
        image = pixels.image
        shape = (*image.shape[:2], 1, 1)
        gain = 1 + self.gain * torch.randn(shape, generator=draw)
        shift = self.brightness * torch.randn(shape, generator=draw) * levels.std + levels.mean * (1 - gain)
        changed = image * gain.to(image.device) + shift.to(image.device)
        if self.noise:
            on_device = torch.Generator(image.device).manual_seed(seed)
            noise = torch.empty_like(image).normal_(generator=on_device)
            changed = changed + (self.noise * levels.std).to(image.device) * noise
        return pixels._replace(image=torch.where(_measured(pixels, levels), changed, image))

    def _drop_bands(self, pixels: Pixels, draw: torch.Generator, levels: Levels) -> Pixels:
        device = pixels.image.device
        dropped = (torch.rand(pixels.image.shape[:2], generator=draw) < self.band_dropout)[:, :, None, None].to(device)
        flat = torch.where(dropped & _measured(pixels, levels), levels.mean.to(device), pixels.image)
        return pixels._replace(image=flat)


def _measured(pixels: Pixels, levels: Levels) -> torch.Tensor:
    """Tell which numbers of an image are measurements: B × C × H × W; the others are 0 and stay so."""
    return pixels.valid[:, None] & levels.used.to(pixels.image.device)


def _turns(
    count: int, flips: bool, rotate90: bool, square: bool, draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw quarter turns; return them and whether rows and columns are mirrored after a transposition.

    A quarter turn is a transposition and one mirroring, a half turn two mirrorings.
    """
    turns = torch.randint(0, 4, (count,), generator=draw) if rotate90 else torch.zeros(count, dtype=torch.long)
    turns = turns if square else turns // 2 * 2
    both = torch.rand((2, count), generator=draw) < (0.5 if flips else 0.0)
    rows = ((turns == 1) | (turns == 2)) ^ both[0]
    columns = ((turns == 2) | (turns == 3)) ^ both[1]
    return turns, rows, columns


class _Places(NamedTuple):
    """Where the pixels of each sample go: first transposed, then mirrored, then cut out; B each but the size."""

    turned: torch.Tensor
    mirror_rows: torch.Tensor
    mirror_columns: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor
    size: tuple[int, int]


def _gathered(pixels: Pixels, places: _Places) -> Pixels:
    """Move all samples at once, on any device."""
    device, (height, width), count = pixels.image.device, places.size, len(places.turned)
    i = torch.arange(height).expand(count, -1)
    j = torch.arange(width).expand(count, -1)
    i = torch.where(places.mirror_rows[:, None], height - 1 - i, i)[:, :, None].to(device)
    j = torch.where(places.mirror_columns[:, None], width - 1 - j, j)[:, None, :].to(device)
    turned = places.turned[:, None, None].to(device)
    row = torch.where(turned, j, i) + places.top[:, None, None].to(device)
    column = torch.where(turned, i, j) + places.left[:, None, None].to(device)
    sample = torch.arange(count, device=device)[:, None, None]
    # Indices around the channels' slice put the channels last, which is the layout that convolutions want.
    image = pixels.image[sample, :, row, column].permute(0, 3, 1, 2)
    return Pixels(image, pixels.target[sample, row, column], pixels.valid[sample, row, column])


def _moved(pixels: Pixels, places: _Places) -> Pixels:
    """Move whole samples one by one; channels come out last, as they do of a gather."""
    image = torch.empty_like(pixels.image, memory_format=torch.channels_last)
    moved = Pixels(image, torch.empty_like(pixels.target), torch.empty_like(pixels.valid))
    for sample, (turned, *mirrored) in enumerate(torch.stack(places[:3], 1).tolist()):
        axes = [axis for axis, mirror in zip((-2, -1), mirrored, strict=True) if mirror]
        for before, after in zip(pixels, moved, strict=True):
            view = before[sample].transpose(-2, -1) if turned else before[sample]
            after[sample].copy_(view.flip(axes) if axes else view)
    return moved


def _between(positions: torch.Tensor, start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
    """Tell for each sample which positions lie in its interval: B × len(positions)."""
    return (positions[None] >= start[:, None]) & (positions[None] < stop[:, None])
