"""Losses over labelled pixels, and the class weights that go into them.

Every loss takes logits B × n × H × W and class indices B × H × W and returns one number, its mean over the
labelled pixels (or classes). Without a labelled pixel it is 0, with a gradient of 0: never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from src.errors import UserError
from src.labels import IGNORE

WEIGHTINGS = ("inverse_frequency", "inverse_sqrt", "effective_number")
"""Ways of computing class weights from pixel counts."""
_SURE = 1e-7
"""What 1 − p counts as in the focal loss, at least: with 0, and a gamma below 1, its gradient would be infinite."""


def class_weights(counts: Sequence[int], weighting: str) -> tuple[float, ...]:
    """Compute class weights from the training pixels of each class.

    ``inverse_frequency`` weighs by 1 / count, ``inverse_sqrt`` by 1 / √count, ``effective_number`` by
    (1 − β) / (1 − β^count) with β = 1 − 1 / N for N labelled pixels (Cui et al. 2019).

    Args:
        counts: Pixels per class.
        weighting: One of WEIGHTINGS.

    Returns:
        Weights whose mean over the labelled pixels is 1; 0 for a class without a pixel.

    Raises:
        UserError: There is no such weighting.
    """
    if weighting not in WEIGHTINGS:
        raise UserError(
            f"class_weights={weighting} is not known; choose true, false, {', '.join(WEIGHTINGS)}, or a list."
        )
    pixels = np.asarray(counts, float)
    total, present = pixels.sum(), pixels > 0
    if not total:
        return (1.0,) * len(pixels)
    safe = np.where(present, pixels, 1.0)
    raw: npt.NDArray[np.float64] = {
        "inverse_frequency": 1 / safe,
        "inverse_sqrt": 1 / np.sqrt(safe),
        "effective_number": 1 / -np.expm1(safe * np.log1p(-1 / (total + 1))),
    }[weighting]
    raw = np.where(present, raw, 0.0)
    return tuple(float(w) for w in raw * total / (raw * pixels).sum())


class CrossEntropy(nn.Module):
    """Weighted cross-entropy, optionally with smoothed labels or focused on hard pixels.

    Args:
        weight: One weight per class, None for 1 each.
        label_smoothing: Share of the probability that is spread over all classes, 0–1. A pixel counts by its own
            class's weight, whatever the others' are.
        gamma: Focus of the focal loss (Lin et al. 2017): pixels count with (1 − p)^gamma. 0 for none.
    """

    weight: torch.Tensor | None
    shares: torch.Tensor

    def __init__(self, weight: Sequence[float] | None = None, label_smoothing: float = 0.0, gamma: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss.label_smoothing={label_smoothing} is a share; give 0 up to below 1.")
        if not 0 <= gamma < math.inf:
            raise UserError(f"loss.gamma={gamma} is no focus; give 0 for none, or a number above it, such as 2.")
        self.register_buffer("weight", _as_tensor(weight), persistent=False)
        self.register_buffer("shares", _shares(weight), persistent=False)
        self.label_smoothing, self.gamma = label_smoothing, gamma

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean over labelled pixels."""
        target = target.long()
        smoothed = self.weight is not None and self.label_smoothing > 0
        each = F.cross_entropy(
            logits.float(),
            target,
            None if smoothed else self.weight,
            ignore_index=IGNORE,
            reduction="none" if smoothed or self.gamma else "sum",
            label_smoothing=self.label_smoothing,
        )
        if smoothed:
            # PyTorch would weigh each other class's part by that one's weight: the rarest would be mapped everywhere.
            each = each * self.shares[target]
        if self.gamma:
            likely = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="none").neg().exp()
            # Never 0, where powers below 1 have no slope; for powers from 1 on it is as good as that.
            each = (1 - likely).clamp(min=_SURE) ** self.gamma * each
        return each.sum() / self.shares[target].sum().clamp(min=1e-6)


class Dice(nn.Module):
    """One minus the soft Dice coefficient, mean over the classes present in the batch.

    Args:
        weight: One weight per class in that mean, None for 1 each.
        smooth: Added to numerator and denominator, in pixels.
    """

    weight: torch.Tensor | None

    def __init__(self, weight: Sequence[float] | None = None, smooth: float = 1.0) -> None:
        super().__init__()
        if not 0 <= smooth < math.inf:
            raise UserError(f"loss.smooth={smooth} is no number of pixels; give 0 or more.")
        self.register_buffer("weight", _as_tensor(weight), persistent=False)
        self.smooth = smooth

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean over the classes present."""
        target = target.long()
        labelled = (target != IGNORE)[:, None]
        probability = logits.float().softmax(1) * labelled
        truth = torch.zeros_like(probability).scatter_(1, target[:, None] * labelled, 1.0) * labelled
        hit, support = (probability * truth).sum((0, 2, 3)), truth.sum((0, 2, 3))
        dice = (2 * hit + self.smooth) / (probability.sum((0, 2, 3)) + support + self.smooth)
        share = (support > 0).float() * (1.0 if self.weight is None else self.weight)
        return ((1 - dice) * share).sum() / share.sum().clamp(min=1e-6)


class CrossEntropyDice(nn.Module):
    """Cross-entropy and Dice together: the one learns fast, the other cares for small classes.

    Args:
        weight: One weight per class for the cross-entropy, None for 1 each.
        label_smoothing: As in :class:`CrossEntropy`.
        dice: Share of the Dice loss in the sum, 0–1.
    """

    def __init__(self, weight: Sequence[float] | None = None, label_smoothing: float = 0.0, dice: float = 0.5) -> None:
        super().__init__()
        if not 0 <= dice <= 1:
            raise UserError(f"loss.dice={dice} is a share; give 0–1.")
        self.cross_entropy, self.dice_loss, self.share = CrossEntropy(weight, label_smoothing), Dice(), dice

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of both."""
        pixels: torch.Tensor = self.cross_entropy(logits, target)
        overlap: torch.Tensor = self.dice_loss(logits, target)
        return (1 - self.share) * pixels + self.share * overlap


def _shares(weight: Sequence[float] | None) -> torch.Tensor:
    """What a pixel of each class index counts in a mean, up to IGNORE, which counts nothing."""
    given = _as_tensor(weight)
    shares = torch.ones(IGNORE + 1) if given is None else F.pad(given, (0, IGNORE + 1 - len(given)))
    shares[IGNORE] = 0
    return shares


def _as_tensor(weight: Sequence[float] | None) -> torch.Tensor | None:
    return None if weight is None else torch.tensor(list(weight), dtype=torch.float32)
