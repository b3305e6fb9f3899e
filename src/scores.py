"""From two label images to a confusion matrix, from the matrix to every score. Nothing else computes scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from src.labels import IGNORE


def confusion_matrix(target: torch.Tensor, prediction: torch.Tensor, classes: int) -> torch.Tensor:
    """Count pixels by true and predicted class.

    Args:
        target: True class indices of any shape and integer dtype; IGNORE is not counted.
        prediction: Predicted indices of the same shape; IGNORE (nothing predicted) is not counted either.
        classes: Number of classes n.

    Returns:
        n × n int64 on the input's device: rows are true, columns predicted classes.
    """
    target, prediction = target.reshape(-1).long(), prediction.reshape(-1).long()
    # One extra cell takes what is ignored: no boolean indexing, hence no synchronisation on a GPU.
    counted = (target != IGNORE) & (prediction != IGNORE)
    cell = torch.where(counted, target * classes + prediction, classes * classes)
    return torch.bincount(cell, minlength=classes * classes + 1)[:-1].reshape(classes, classes)


def intersection_over_union(matrix: torch.Tensor) -> torch.Tensor:
    """Return each class's IoU, n float64; NaN for a class neither in the truth nor in the prediction."""
    matrix = matrix.double()
    hit = matrix.diagonal()
    return hit / (matrix.sum(0) + matrix.sum(1) - hit)


def mean_iou(matrix: torch.Tensor) -> float:
    """Mean IoU over the classes present in the truth (support > 0); 0.0 when there is none."""
    present = matrix.sum(1) > 0
    return float(intersection_over_union(matrix)[present].mean()) if bool(present.any()) else 0.0


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion matrix; arrays have one entry per class, NaN where a score has no meaning.

    Means are over the classes present in the truth: a class that the ground truth lacks says nothing about the
    map's quality except through the pixels that it takes from others, which their scores already count.
    """

    matrix: npt.NDArray[np.int64]

    @property
    def support(self) -> npt.NDArray[np.int64]:
        """Pixels of each class in the truth."""
        return np.asarray(self.matrix.sum(1))

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union."""
        return intersection_over_union(torch.from_numpy(self.matrix)).numpy()

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """Share of the pixels mapped as a class that are of it (user's accuracy)."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(0))

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """Share of a class's pixels that are mapped as such (producer's accuracy)."""
        return _ratio(np.diag(self.matrix), self.support)

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * np.diag(self.matrix), self.matrix.sum(0) + self.support)

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes present in the truth."""
        return mean_iou(torch.from_numpy(self.matrix))

    @property
    def overall_accuracy(self) -> float:
        """Share of all pixels that are right; NaN without pixels."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))

    @property
    def kappa(self) -> float:
        """Cohen's kappa; NaN where agreement by chance is certain."""
        total = float(self.matrix.sum())
        chance = float((self.matrix.sum(0) * self.support.astype(float)).sum()) / total**2 if total else np.nan
        return (self.overall_accuracy - chance) / (1 - chance) if chance < 1 else np.nan

    def mean(self, per_class: npt.NDArray[np.float64]) -> float:
        """Average a per-class score over the classes present in the truth; a score without meaning counts 0."""
        present = self.support > 0
        return float(np.nan_to_num(per_class[present]).mean()) if present.any() else 0.0


def _ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> npt.NDArray[np.float64]:
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    ratio = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=ratio, where=bottom > 0)
    return ratio
