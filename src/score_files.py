"""Scores as files, each number labelled as what it is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from src import figures
from src.atomic import whole_file, write_text
from src.errors import UserError
from src.foreign_text import cell
from src.labels import ClassTable
from src.score_lines import MEAN_OVER_CHIPS, TITLES, overall_scores
from src.scores import METRICS, ChipMeans, Evaluation, Scores

ALL_PIXELS = "all pixels"
"""Pooled: one confusion matrix of all labelled pixels."""
MEANINGS = {
    "iou.csv": "IoU per class and mean over all pixels, in SpecDeepMap’s two columns",
    "iou_mean_over_chips.csv": "the same as the mean over chips, SpecDeepMap’s way of counting",
    "scores.csv": "all scores as a table",
    "scores.json": "all scores, the confusion matrix and the confidence for programs",
    "confusion.csv": "confusion matrix in pixels",
    "confusion_normalized.csv": "confusion matrix in shares of the label’s pixels",
    "confusion.png": "confusion matrix as a picture",
    "reliability.png": "confidence against hit rate as a picture",
    "predictions": "a map of every chip as GeoTIFF",
}
"""What the files of an evaluation are, by name."""


def write_iou_csv(path: str | Path, classes: ClassTable, iou: npt.NDArray[np.float64], mean: float) -> None:
    """Write SpecDeepMap's two columns: ``Class`` (the class value) and ``IoU``, the last row ``Mean IoU``.

    A class that neither the truth nor the prediction has is left empty.
    """
    rows = [*zip([str(value) for value in classes.values], iou, strict=True), ("Mean IoU", mean)]
    _write_csv(path, pd.DataFrame(rows, columns=["Class", "IoU"]))


def score_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return every score, a row per class and a last one ``Mean``, for all pixels and, if there are, for chips.

    The columns: ``Aggregation`` (all pixels; mean over chips), ``Class`` (its value), ``Name``, ``IoU``, ``F1``,
    ``Precision``, ``Recall``, ``Support`` (labelled pixels), ``Chips`` (in which the class occurs) and, in the row
    ``Mean`` of all pixels, ``Overall accuracy``, ``Cohen's kappa`` and ``Expected calibration error``.
    """
    pooled, chips = evaluation.pooled, evaluation.chip_means
    parts = [_rows(ALL_PIXELS, evaluation, pooled)]
    if chips is not None:
        parts.append(_rows(MEAN_OVER_CHIPS, evaluation, chips))
    table = pd.concat(parts, ignore_index=True)
    mean = (table["Aggregation"] == ALL_PIXELS) & (table["Class"] == "Mean")
    for title, value in overall_scores(evaluation).items():
        table[title] = np.where(mean, value, np.nan)
    return table


def write_scores_csv(path: str | Path, evaluation: Evaluation) -> None:
    """Write :func:`score_table`."""
    _write_csv(path, score_table(evaluation))


def write_scores_json(path: str | Path, evaluation: Evaluation, context: Mapping[str, Any]) -> None:
    """Write every score, the confusion matrix and the calibration bins; what has no meaning is ``null``.

    Args:
        path: Where to.
        evaluation: The scores.
        context: What was scored against what: plain things, written first.
    """
    calibration, chips = evaluation.calibration, evaluation.chip_means
    content: dict[str, Any] = {
        **context,
        "classes": evaluation.classes.to_dicts(),
        "all_pixels": {
            **_score_dict(evaluation.pooled),
            "support": evaluation.pooled.support,
            "overall_accuracy": evaluation.pooled.overall_accuracy,
            "kappa": evaluation.pooled.kappa,
            "expected_calibration_error": calibration.expected_error if calibration else None,
        },
        "mean_over_chips": {**_score_dict(chips), "chips": chips.chips} if chips else None,
        "mean_over_batches": {"mean": {"iou": evaluation.batch_mean_iou}} if chips else None,
        "confusion_matrix": {"rows": "truth", "columns": "prediction", "counts": evaluation.pooled.matrix},
        "calibration": None
        if calibration is None
        else {
            "pixels": calibration.pixels,
            "mean_confidence": calibration.mean_confidence,
            "accuracy": calibration.accuracy,
        },
    }
    write_text(path, json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_confusion_csv(path: str | Path, classes: ClassTable, matrix: npt.NDArray[Any]) -> None:
    """Write a confusion matrix with named rows (truth) and columns (prediction), counts or shares."""
    titles = list(classes.titles)
    table = pd.DataFrame(matrix, index=pd.Index(titles, name="truth \\ prediction"), columns=titles)
    _write_csv(path, table.reset_index())


def write_score_files(
    folder: str | Path, evaluation: Evaluation, context: Mapping[str, Any], prefix: str = ""
) -> list[Path]:
    """Write all scores as files and pictures into a folder and return their paths.

    Args:
        folder: Made if it is not there.
        evaluation: The scores.
        context: What was scored against what; see :func:`write_scores_json`.
        prefix: Put before every file's name, where one folder takes the scores of several scenes.
    """
    folder, classes, pooled = Path(folder), evaluation.classes, evaluation.pooled
    paths = {name: folder / f"{prefix}{name}" for name in ("iou.csv", "scores.csv", "scores.json", "confusion.csv")}
    write_iou_csv(paths["iou.csv"], classes, pooled.iou, pooled.mean_iou)
    write_scores_csv(paths["scores.csv"], evaluation)
    write_scores_json(paths["scores.json"], evaluation, context)
    write_confusion_csv(paths["confusion.csv"], classes, pooled.matrix)
    if evaluation.chip_means is not None:
        paths["chips"] = folder / f"{prefix}iou_mean_over_chips.csv"
        write_iou_csv(paths["chips"], classes, evaluation.chip_means.iou, evaluation.chip_means.mean_iou)
    paths["shares"] = folder / f"{prefix}confusion_normalized.csv"
    write_confusion_csv(paths["shares"], classes, pooled.row_shares)
    paths["picture"] = folder / f"{prefix}confusion.png"
    figures.draw_confusion(paths["picture"], list(classes.titles), pooled.matrix, pooled.row_shares)
    if evaluation.calibration is not None:
        paths["reliability"] = folder / f"{prefix}reliability.png"
        figures.draw_reliability(paths["reliability"], evaluation.calibration)
    return list(paths.values())


def score_prefix(output: Path) -> str:
    """Say what the names of a map's scores begin with: nothing for ``map.tif``, else the map's name."""
    return "" if output.stem == "map" else f"{output.stem}_"


def remove_map_scores(output: Path) -> None:
    """Remove the scores of a map that is about to be replaced: the new one's they are not.

    Args:
        output: The class map; ``scores.json`` beside it says which map the scores there are of.
    """
    scores = {name: output.with_name(score_prefix(output) + name) for name in MEANINGS if Path(name).suffix}
    if _scored_map(scores["scores.json"]) == output.name:
        for path in [*(path for name, path in scores.items() if name != "scores.json"), scores["scores.json"]]:
            path.unlink(missing_ok=True)  # the one that tells, last


def check_same_kind(folder: Path, prefix: str, *, of_map: bool) -> None:
    """Refuse to mix the scores of a map with those of an evaluation of chips, whose files have the same names.

    Args:
        folder: Where scores are to be written.
        prefix: What their names begin with.
        of_map: Whether they are a map's.

    Raises:
        UserError: Those that are there are of the other kind.
    """
    scored = _scored_map(folder / f"{prefix}scores.json")
    if scored is not None and bool(scored) != of_map:
        there, here = ("a map", "output_dir") if scored else ("an evaluation of chips", "output")
        raise UserError(
            f"{folder} has the scores of {there}, whose files have the names of these; expected a folder of their own. "
            f"Give another {here}."
        )


def read_scores(path: Path) -> dict[str, Any]:
    """Read what :func:`write_scores_json` has written; empty where there is no such file, or it is no such thing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _scored_map(scores: Path) -> str | None:
    """Return the name of the map that scores are of, empty for an evaluation's, None where there are none of ours."""
    content = read_scores(scores)
    if "map" in content:
        return Path(str(content["map"])).name
    return "" if "checkpoint" in content else None


def _rows(aggregation: str, evaluation: Evaluation, scores: Scores | ChipMeans) -> pd.DataFrame:
    classes, support, chips = evaluation.classes, evaluation.pooled.support, evaluation.chip_means
    rows: dict[str, list[Any]] = {
        "Aggregation": [aggregation] * (len(classes) + 1),
        "Class": [*map(str, classes.values), "Mean"],
        "Name": [*map(cell, classes.names), ""],
    }
    for metric in METRICS:
        per_class = getattr(scores, metric)
        rows[TITLES[metric]] = [*per_class, scores.mean(per_class)]
    rows["Support"] = [*support, support.sum()]
    if chips is not None:
        rows["Chips"] = [*chips.chips.astype(object), ""]
    return pd.DataFrame(rows)


def _score_dict(scores: Scores | ChipMeans) -> dict[str, Any]:
    per_class = {metric: getattr(scores, metric) for metric in METRICS}
    return {**per_class, "mean": {metric: scores.mean(values) for metric, values in per_class.items()}}


def _plain(value: Any) -> Any:
    """Turn arrays into lists and NaN into None, through all levels."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(path: str | Path, table: pd.DataFrame) -> None:
    with whole_file(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6f", lineterminator="\n", encoding="utf-8")
