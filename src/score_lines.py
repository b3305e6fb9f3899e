"""Scores as lines for a terminal, each number labelled as what it is."""

from __future__ import annotations

import math

import numpy as np

from src.scores import METRICS, ChipMeans, Evaluation, Scores

MEAN_OVER_CHIPS = "mean over chips"
"""Each chip scored by itself, then averaged, as SpecDeepMap's tester does."""
TITLES = {"iou": "IoU", "f1": "F1", "precision": "Precision", "recall": "Recall"}
"""What people read for each of METRICS."""


def format_scores(evaluation: Evaluation) -> list[str]:
    """Lay the scores out as lines for a terminal: a row per class, the means, the overall figures."""
    pooled, chips = evaluation.pooled, evaluation.chip_means
    titles = [*evaluation.classes.titles, "mean"]
    columns = [_column(TITLES[metric], pooled, metric) for metric in METRICS]
    columns.append(_right(["pixels", *(f"{count:,}" for count in [*pooled.support, pooled.support.sum()])]))
    heading = "over all pixels".center(sum(map(len, next(zip(*columns, strict=True)))) + 2 * len(columns) - 2, "─")
    if chips is not None:
        columns.append(_right([MEAN_OVER_CHIPS, *_column(TITLES["iou"], chips, "iou")])[1:])
        heading += f"  {MEAN_OVER_CHIPS}"
    width = max(len("class"), *map(len, titles))
    rows = ["  ".join([title.ljust(width), *cells]) for title, *cells in zip(["class", *titles], *columns, strict=True)]
    rule = "─" * len(rows[0])
    overall = ", ".join(f"{title} {_number(value)}" for title, value in overall_scores(evaluation).items())
    lines = [" " * (width + 2) + heading, rows[0], rule, *rows[1:-1], rule, rows[-1], f"Over all pixels: {overall}"]
    return lines if chips is None else [*lines, *_three_means(pooled, chips, evaluation.batch_mean_iou)]


def _three_means(pooled: Scores, chips: ChipMeans, batches: float | None) -> list[str]:
    """Say which mean IoU is to be compared with which of SpecDeepMap's."""
    return [
        f"Mean IoU over all pixels, as maps are scored: {_number(pooled.mean_iou)}",
        f"         as the mean over chips, as SpecDeepMap's tester scores: {_number(chips.mean_iou)}",
        f"         as the mean over batches, as its trainer scores: {_number(np.nan if batches is None else batches)}",
    ]


def overall_scores(evaluation: Evaluation) -> dict[str, float]:
    """Return the figures over all pixels that are of no class, by what people read for each."""
    overall = {
        "Overall accuracy": evaluation.pooled.overall_accuracy,
        "Cohen's kappa": evaluation.pooled.kappa,
    }
    if evaluation.calibration is not None:
        overall["Expected calibration error"] = evaluation.calibration.expected_error
    return overall


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _column(title: str, scores: Scores | ChipMeans, metric: str) -> list[str]:
    per_class = getattr(scores, metric)
    return _right([title, *map(_number, per_class), _number(scores.mean(per_class))])


def _right(cells: list[str]) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]
