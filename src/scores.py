"""From label images to confusion matrices, from the matrices to every score. Nothing else computes scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from src.calibration import Calibration, CalibrationCounter
from src.labels import IGNORE, ClassTable

METRICS = ("iou", "f1", "precision", "recall")
"""The scores that every class has, by the attribute's name."""


def confusion_matrices(target: torch.Tensor, prediction: torch.Tensor, classes: int) -> torch.Tensor:
    """Count the pixels of each image of a batch by true and predicted class.

    Args:
        target: True class indices, B × any shape, any integer dtype; IGNORE is not counted.
        prediction: Predicted indices of the same shape; IGNORE (nothing predicted) is not counted either.
        classes: Number of classes n.

    Returns:
        B × n × n int64 on the input's device: rows are true, columns predicted classes.
    """
    images, cells = len(target), classes * classes
    target, prediction = target.reshape(images, -1).long(), prediction.reshape(images, -1).long()
    first = torch.arange(images, device=target.device)[:, None] * cells
    # One extra cell takes what is ignored: no boolean indexing, hence no synchronisation on a GPU.
    counted = (target != IGNORE) & (prediction != IGNORE)
    cell = torch.where(counted, first + target * classes + prediction, images * cells)
    counts = torch.bincount(cell.reshape(-1), minlength=images * cells + 1)
    return counts[:-1].reshape(images, classes, classes)


def counting_device(device: torch.device) -> torch.device:
    """Return where to count what is on a device: there, but for Apple's MPS, which lacks types that it needs."""
    return torch.device("cpu") if device.type == "mps" else device


def confusion_matrix(target: torch.Tensor, prediction: torch.Tensor, classes: int) -> torch.Tensor:
    """Count all pixels by true and predicted class: n × n int64; see :func:`confusion_matrices`."""
    return confusion_matrices(target.reshape(1, -1), prediction.reshape(1, -1), classes)[0]


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
    def row_shares(self) -> npt.NDArray[np.float64]:
        """The matrix as shares of each class's pixels in the truth, n × n; NaN where it has none."""
        return _ratio(self.matrix, np.broadcast_to(self.support[:, None], self.matrix.shape))

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


@dataclass(frozen=True)
class ChipMeans:
    """Scores per class as the mean over chips of each chip's own score, which is how SpecDeepMap's tester scores.

    A chip counts for a class that occurs in its truth or in its prediction; where a score has no meaning there
    (the precision of a class that is never predicted) it counts 0. Means are over the classes that occur at all.

    Attributes:
        chips: Number of chips that count, per class.
        iou: Mean IoU per class, NaN for one that occurs in no chip; so are the others.
        f1: Mean F1.
        precision: Mean precision.
        recall: Mean recall.
    """

    chips: npt.NDArray[np.int64]
    iou: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur; 0.0 when there is none."""
        return self.mean(self.iou)

    def mean(self, per_class: npt.NDArray[np.float64]) -> float:
        """Average a per-class score over the classes that occur."""
        return float(per_class[self.chips > 0].mean()) if self.chips.any() else 0.0


@dataclass(frozen=True)
class Evaluation:
    """All scores of a prediction against a ground truth.

    Attributes:
        classes: The class table.
        pooled: Over all labelled pixels, each counted once.
        chip_means: As the mean over chips; None where there are no chips (a whole scene).
        calibration: Of the same pixels as ``pooled``; None where no confidences were given.
        batch_mean_iou: Mean over batches of each batch's mean IoU, weighted by its chips, which is how SpecDeepMap's
            trainer scores: it depends on which chips share a batch. None where there are no chips.
        shared: How many of the labelled pixels several chips show.
    """

    classes: ClassTable
    pooled: Scores
    chip_means: ChipMeans | None = None
    calibration: Calibration | None = None
    batch_mean_iou: float | None = None
    shared: int = 0


class ScoreCounter:
    """Adds up an :class:`Evaluation` batch by batch; what it holds does not grow with the pixels."""

    def __init__(self, classes: ClassTable, per_chip: bool = False, batch_size: int | None = None) -> None:
        """Start without a pixel.

        Args:
            classes: The class table.
            per_chip: Whether the images of the batches are chips, to be scored one by one too.
            batch_size: Consecutive chips that count as a batch, however they are added; None for those added together.
        """
        self.classes = classes
        self._matrix: npt.NDArray[np.int64] = np.zeros((len(classes), len(classes)), np.int64)
        self._calibration: CalibrationCounter | None = None
        self._per_chip = per_chip
        self._chips: npt.NDArray[np.int64] = np.zeros(len(classes), np.int64)
        self._chip_sums: npt.NDArray[np.float64] = np.zeros((len(METRICS), len(classes)))
        self._batch_size = batch_size
        self._batch, self._batch_images = np.zeros_like(self._matrix), 0
        self._batch_sum, self._images = 0.0, 0

    def add(
        self,
        target: torch.Tensor,
        prediction: torch.Tensor,
        confidence: torch.Tensor | None = None,
        own: torch.Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            target: True class indices, B × H × W, any integer dtype; IGNORE is not counted.
            prediction: Predicted indices of the same shape; IGNORE (nothing predicted) is not counted either.
            confidence: Probabilities of the predicted classes, same shape, for the calibration.
            own: True for pixels that count over all pixels and in the calibration, same shape; None for all. Chips and
                batches are scored whole.
        """
        here = counting_device(target.device)
        target, prediction = target.to(here), prediction.to(here)
        confidence = None if confidence is None else confidence.to(here)
        matrices = confusion_matrices(target, prediction, len(self.classes)).cpu().numpy()
        if own is None:
            self._matrix += matrices.sum(0)
        else:
            target = torch.where(own.to(here), target, IGNORE)
            self._matrix += confusion_matrix(target, prediction, len(self.classes)).cpu().numpy()
        if self._per_chip:
            for matrix in matrices:
                self._add_chip(matrix)
            if self._batch_size is None:
                self._close_batch()
        if confidence is not None:
            self._calibration = self._calibration or CalibrationCounter()
            self._calibration.add(target, prediction, confidence)

    def _add_chip(self, matrix: npt.NDArray[np.int64]) -> None:
        scores = Scores(matrix)
        occurs = np.isfinite(scores.iou)
        self._chips += occurs
        self._chip_sums += np.stack([np.nan_to_num(getattr(scores, metric)) for metric in METRICS])
        self._batch += matrix
        self._batch_images += 1
        if self._batch_images == self._batch_size:
            self._close_batch()

    def _close_batch(self) -> None:
        self._batch_sum, self._images = self._with_batch()
        self._batch, self._batch_images = np.zeros_like(self._matrix), 0

    def _with_batch(self) -> tuple[float, int]:
        """Return the sum of mean IoUs over chips, and the chips, with those of the batch that is not closed yet.

        A batch's mean is over the classes in its truth or its prediction; one without any does not count.
        """
        iou = Scores(self._batch).iou
        if not np.isfinite(iou).any():
            return self._batch_sum, self._images
        return self._batch_sum + self._batch_images * float(np.nanmean(iou)), self._images + self._batch_images

    def result(self) -> Evaluation:
        """Return the scores of what has been added so far, the last batch as it is."""
        batch_sum, images = self._with_batch()
        means = {metric: _ratio(sums, self._chips) for metric, sums in zip(METRICS, self._chip_sums, strict=True)}
        return Evaluation(
            self.classes,
            Scores(self._matrix.copy()),
            ChipMeans(self._chips.copy(), **means) if self._per_chip else None,
            self._calibration.result() if self._calibration else None,
            batch_sum / images if images else None,
        )


def _ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> npt.NDArray[np.float64]:
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    ratio = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=ratio, where=bottom > 0)
    return ratio
