"""Does a network that is 80 % sure hit in 80 % of the cases? Counts per bin of confidence, nothing per pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from src.labels import IGNORE

BINS = 15
"""Bins of equal width between 0 and 1, as in Guo et al., On Calibration of Modern Neural Networks (2017)."""


@dataclass(frozen=True)
class Calibration:
    """Labelled pixels by the confidence of their prediction (its class's probability); arrays have BINS entries.

    Attributes:
        pixels: Number of pixels in each bin.
        confidence: Sum of their confidences.
        hits: How many of them are right.
    """

    pixels: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    hits: npt.NDArray[np.int64]

    @property
    def mean_confidence(self) -> npt.NDArray[np.float64]:
        """Mean confidence per bin, NaN in an empty one."""
        return self._per_pixel(self.confidence)

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """Share of right predictions per bin, NaN in an empty one."""
        return self._per_pixel(self.hits)

    @property
    def expected_error(self) -> float:
        """Expected calibration error: |accuracy − mean confidence|, weighted by the bins' pixels; NaN without any."""
        total = int(self.pixels.sum())
        return float(np.abs(self.hits - self.confidence).sum()) / total if total else float("nan")

    def _per_pixel(self, sums: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        means = np.full(len(self.pixels), np.nan)
        np.divide(sums, self.pixels, out=means, where=self.pixels > 0)
        return means


class CalibrationCounter:
    """Adds up a :class:`Calibration` batch by batch."""

    def __init__(self) -> None:
        """Start without a pixel."""
        self._sums = torch.zeros((3, BINS), dtype=torch.float64)

    def add(self, target: torch.Tensor, prediction: torch.Tensor, confidence: torch.Tensor) -> None:
        """Add pixels.

        Args:
            target: True class indices of any shape and integer dtype; IGNORE is not counted.
            prediction: Predicted indices of the same shape; IGNORE is not counted either.
            confidence: Probabilities 0–1 of the predicted classes, same shape.
        """
        target, prediction = target.reshape(-1), prediction.reshape(-1)
        sure = confidence.reshape(-1).float()
        edges = torch.linspace(0, 1, BINS + 1, device=sure.device)[1:-1]
        counted = (target != IGNORE) & (prediction != IGNORE)
        # One extra bin takes what is ignored: no boolean indexing, hence no synchronisation on a GPU.
        cell = torch.where(counted, torch.bucketize(sure, edges, right=True), BINS)
        hits = (target.long() == prediction.long()).double()
        sums = [torch.bincount(cell, weights, BINS + 1)[:BINS] for weights in (None, sure.double(), hits)]
        self._sums += torch.stack([part.double() for part in sums]).cpu()

    def result(self) -> Calibration:
        """Return what has been counted so far."""
        pixels, confidence, hits = self._sums.numpy()
        return Calibration(pixels.astype(np.int64), confidence.copy(), hits.astype(np.int64))
