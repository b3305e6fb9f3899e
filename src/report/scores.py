"""What a page says about scores: training, evaluation and maps with a ground truth say it in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from src.calibration import Calibration
from src.figures import reliability_figure
from src.report.blocks import Bar, Bars, Charts, Headline, Matrix, Number, Text
from src.report.charts import chart
from src.report.page import Section
from src.report.wording import decimal, grouped, percent
from src.scores import ChipMeans, Evaluation, Scores


def score_sentences(evaluation: Evaluation) -> tuple[str, ...]:
    """Say what the scores mean, in plain sentences."""
    scores, names = evaluation.pooled, evaluation.classes.distinct_names
    present = np.flatnonzero(scores.support)
    if not len(present):
        return ("There is no labelled pixel to score against.",)
    averaged = f", averaged over the {len(present)} classes that the labels have" if len(present) > 1 else ""
    hits, mean = percent(scores.overall_accuracy), decimal(scores.mean_iou)
    sentences = [
        f"Of the {grouped(scores.support.sum())} labelled pixels, {hits} are mapped as the class that their label "
        f"names. The mean IoU is {mean} (1 is perfect): of the pixels that map or labels give to a class, both give it "
        f"{percent(scores.mean_iou)}{averaged}."
    ]
    order = present[np.argsort(scores.iou[present])]
    if len(order) > 1:
        best, weakest = int(order[-1]), int(order[0])
        sentences.append(
            f"Mapped best is {names[best]} (IoU {decimal(scores.iou[best])}), "
            f"weakest {names[weakest]} ({decimal(scores.iou[weakest])}). {_largest_confusion(scores, names)}".strip()
        )
    return tuple(sentences)


def _largest_confusion(scores: Scores, names: Sequence[str]) -> str:
    """Name the two classes that most pixels are confused between, if any."""
    off = scores.matrix * (1 - np.eye(len(names), dtype=np.int64))
    truth, mapped = divmod(int(off.argmax()), len(names))
    if not off[truth, mapped]:
        return ""
    share = percent(off[truth, mapped] / scores.support[truth])
    return f"Most often {names[truth]} is taken for {names[mapped]}: {share} of its pixels."


def score_sections(evaluation: Evaluation, name: str = "scores") -> tuple[Section, ...]:
    """Sections about scores: the figures, the classes, the confusions, and the confidence if a pixel is labelled.

    Args:
        evaluation: The scores.
        name: Word that nothing else on the page is called, where there are several evaluations.
    """
    sections = [
        Section("Scores", (Headline(_numbers(evaluation)),)),
        Section("Class by class", (_class_bars(evaluation),)),
        Section("What is taken for what", (_confusions(evaluation),)),
    ]
    if evaluation.calibration is not None and evaluation.pooled.support.any():
        sections.append(_confidence(evaluation, evaluation.calibration, name))
    return tuple(sections)


def _numbers(evaluation: Evaluation) -> tuple[Number, ...]:
    scores, chips, calibration = evaluation.pooled, evaluation.chip_means, evaluation.calibration
    numbers = [
        Number(
            decimal(_mean(scores, scores.iou)), "Mean IoU", "over all pixels, each class counts the same; 1 is perfect"
        ),
        Number(percent(scores.overall_accuracy, 1), "Overall accuracy", "share of the labelled pixels that are right"),
        Number(decimal(_mean(scores, scores.f1)), "Mean F1", "balance of precision and recall, each class the same"),
        Number(decimal(scores.kappa), "Cohen’s kappa", "agreement beyond chance; 0 is chance, 1 is perfect"),
    ]
    if calibration is not None:
        points = percent(calibration.expected_error, 1)
        numbers.append(Number(points, "Calibration error", "how far stated confidence is off the real hit rate"))
    if chips is not None:
        meaning = "each chip scored by itself, then averaged: SpecDeepMap’s way of counting"
        numbers.append(Number(decimal(_mean(chips, chips.iou)), "Mean IoU over chips", meaning))
    return tuple(numbers)


def _mean(scores: Scores | ChipMeans, per_class: npt.NDArray[np.float64]) -> float:
    """Average a per-class score; NaN where no class has any."""
    return scores.mean(per_class) if np.isfinite(scores.iou).any() else float("nan")


def _class_bars(evaluation: Evaluation) -> Bars:
    scores, chips, classes = evaluation.pooled, evaluation.chip_means, evaluation.classes
    over_chips = ("IoU over chips",) if chips else ()
    rows = [
        Bar(
            name,
            float(scores.iou[i]),
            (
                decimal(scores.iou[i]),
                *(decimal(values[i]) for values in (scores.f1, scores.precision, scores.recall)),
                *((decimal(chips.iou[i]),) if chips else ()),
                grouped(scores.support[i]),
            ),
            color,
        )
        for i, (name, color) in enumerate(zip(classes.distinct_names, classes.colors, strict=True))
    ]
    means = [decimal(_mean(scores, values)) for values in (scores.iou, scores.f1, scores.precision, scores.recall)]
    chip_mean = (decimal(_mean(chips, chips.iou)),) if chips else ()
    total = (*means, *chip_mean, grouped(scores.support.sum()))
    rows.append(Bar("Mean", _mean(scores, scores.iou), total, summary=True))
    absent = len(classes) - int(np.count_nonzero(scores.support))
    labelled = "" if not absent else " Mean: over the classes that the labels have."
    return Bars(
        "Over all pixels. IoU: of the pixels that map or labels give to the class, the share that both do. Precision: "
        "share of the class in the map that is right (user’s accuracy). Recall: share of the class in the labels that "
        f"is found (producer’s accuracy). F1: balance of both. Pixels: labelled ones.{labelled}",
        ("Class", "IoU", "F1", "Precision", "Recall", *over_chips, "Pixels"),
        tuple(rows),
    )


def _confusions(evaluation: Evaluation) -> Matrix:
    named = Matrix("", evaluation.classes.distinct_names, evaluation.classes.colors, evaluation.pooled.matrix)
    cells = "percent of the row’s pixels" if named.dense else "share of the row’s pixels, and their number"
    caption = f"A row is what the labels say, a column what the map says: {cells}. The diagonal is right."
    return replace(named, caption=caption)


def _confidence(evaluation: Evaluation, calibration: Calibration, name: str) -> Section:
    error = calibration.expected_error
    hits = evaluation.pooled.overall_accuracy
    stated = float(calibration.confidence.sum() / max(1, calibration.pixels.sum()))
    lean = "surer than it should be" if stated > hits else "less sure than it could be"
    text = (
        f"The network states a mean confidence of {percent(stated)} and is right in {percent(hits)} of the labelled "
        f"pixels: on the whole it is {lean}. Stated confidence and hit rate differ by {100 * error:.1f} percentage "
        "points on average (expected calibration error). Points on the dashed line would mean that a confidence can be "
        "taken at its word."
    )
    alt = f"Reliability: hit rate against stated confidence; expected calibration error {decimal(error)}"
    drawing = chart(reliability_figure(calibration), name, alt, "Hit rate by stated confidence")
    return Section("How far its confidence can be trusted", (Text((text,)), Charts((drawing,))))
