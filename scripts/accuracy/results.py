"""The tables of docs/results.md, out of the runs' JSON files: between two marks, so that the text around stays."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scripts.accuracy.classical import CLASSIFIERS
from scripts.accuracy.networks import ABLATION, DEFAULT, OURS, SPECDEEPMAP
from scripts.accuracy.scenes import SCENES, TEST, BenchmarkScene
from src.atomic import write_text

Matrix = npt.NDArray[np.int64]

TITLES = (
    {name: classifier.title for name, classifier in CLASSIFIERS.items()}
    | {"specdeepmap": SPECDEEPMAP.title, "default": DEFAULT.title, "ours": OURS.title}
    | {name: recipe.title for name, recipe in ABLATION.items()}
)
"""What every run is called, in the order of the tables."""
ABLATION_FOLDER = "ablation"
"""Of results on the device that was there, beside those of the CPU."""


@dataclass(frozen=True)
class Result:
    """One run's score on one area."""

    run: str
    area: str
    seed: int
    matrix: Matrix
    cpu: float
    wall: float

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Result:
        """Take what the benchmark wrote."""
        matrix = np.array(row["matrix"], np.int64)
        return cls(row["run"], row["area"], row["seed"], matrix, row["cpu_seconds"], row["wall_seconds"])


def ious(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return each class's IoU from true × mapped pixels (column 0: not mapped); NaN for one that the truth lacks."""
    hit, truth, mapped = np.diagonal(matrix, 1), matrix.sum(1), matrix.sum(0)[1:]
    return np.where(truth > 0, hit / np.maximum(truth + mapped - hit, 1), np.nan)


def mean_iou(matrix: Matrix) -> float:
    """Return the mean IoU over the classes in the truth, pooled over all labelled pixels."""
    return float(np.nanmean(ious(matrix)))


def overall_accuracy(matrix: Matrix) -> float:
    """Return the share of the labelled pixels that are right."""
    return float(np.trace(matrix[:, 1:]) / matrix.sum())


def write_results(logs: Path, document: Path) -> str:
    """Put the tables into a document and return them.

    Args:
        logs: Folder of the runs' JSON files.
        document: Has ``<!-- begin: what -->`` and ``<!-- end -->`` around each table, for what = test, folds and
            ablation.
    """
    found: dict[str, list[Result]] = defaultdict(list)
    levers: dict[str, list[Result]] = defaultdict(list)
    for path in sorted(logs.rglob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        apart = path.relative_to(logs).parts[0] == ABLATION_FOLDER
        (levers if apart else found)[row["scene"]].append(Result.from_dict(row))
    tables = {
        "ablation": "\n".join(_ablation_table(SCENES[name], levers[name]) for name in SCENES if levers[name]),
        "test": "\n".join(_test_tables(SCENES[name], found[name]) for name in SCENES if found[name]),
        "folds": "\n".join(_fold_table(SCENES[name], found[name]) for name in SCENES if found[name]),
    }
    text = document.read_text(encoding="utf-8")
    for what, table in tables.items():
        begin, end = f"<!-- begin: {what} -->\n", "<!-- end -->"
        before, mark, rest = text.partition(begin)
        if mark and table.strip():  # without a result the document keeps what it has
            text = before + mark + table + end + rest.partition(end)[2]
    write_text(document, text)
    return "\n".join(tables.values())


def _test_tables(scene: BenchmarkScene, results: Sequence[Result]) -> str:
    """Lay out scores and times on the test area, then IoU by class."""
    groups = [(name, [r for r in results if r.run == name and r.area == TEST]) for name in TITLES]
    groups = [(name, runs) for name, runs in groups if runs]
    if not groups:
        return ""
    lines = [
        f"### {scene.title}\n",
        "| | mean IoU | overall accuracy | seeds | CPU s | wall s |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in groups:
        cells = (_spread(map(mean_iou, _matrices(runs))), _spread(map(overall_accuracy, _matrices(runs))))
        times = f"{np.mean([r.cpu for r in runs]):.0f} | {np.mean([r.wall for r in runs]):.0f}"
        lines.append(f"| {TITLES[name]} | {cells[0]} | {cells[1]} | {len(runs)} | {times} |")
    lines += ["", "IoU of each class, mean over the seeds:", ""]
    lines += [
        "| class | pixels | " + " | ".join(TITLES[name] for name, _ in groups) + " |",
        "|---" * (2 + len(groups)) + "|",
    ]
    per_run = [np.mean([ious(matrix) for matrix in _matrices(runs)], axis=0) for _, runs in groups]
    for index, (label, pixels) in enumerate(zip(scene.classes, groups[0][1][0].matrix.sum(1).tolist(), strict=True)):
        row = " | ".join("–" if np.isnan(scores[index]) else f"{scores[index]:.2f}" for scores in per_run)
        lines.append(f"| {label} | {pixels:,} | {row} |")
    return "\n".join([*lines, "", ""])


def _fold_table(scene: BenchmarkScene, results: Sequence[Result]) -> str:
    """Lay out each recipe's score inside the training area: pooled over the folds that it has, and each fold's."""
    lines = []
    for name, title in TITLES.items():
        runs = [r for r in results if r.run == name and r.area != TEST]
        by_seed = {seed: [r for r in runs if r.seed == seed] for seed in sorted({r.seed for r in runs})}
        for seed, of_seed in by_seed.items():
            folds = sorted(of_seed, key=lambda result: result.area)
            pooled = np.sum(_matrices(folds), axis=0)
            each = ", ".join(f"{r.area.removeprefix('fold-')}: {mean_iou(r.matrix):.3f}" for r in folds)
            cpu = np.mean([r.cpu for r in folds])
            lines.append(
                f"| {title} | {mean_iou(pooled):.3f} | {overall_accuracy(pooled):.3f} | {each} | {seed} | {cpu:.0f} |"
            )
    if not lines:
        return ""
    head = [
        "| | mean IoU, pooled | overall accuracy | fold: mean IoU | seed | CPU s a fold |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([f"### {scene.title}, inside the training area\n", *head, *lines, "", ""])


def _ablation_table(scene: BenchmarkScene, results: Sequence[Result]) -> str:
    """Lay out each lever's score on the same folds, its spread over seeds, and by how much it differs from its base.

    The base is the recipe that the lever changes: ``default`` for levers of that name, else ``ours``.
    """
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    folds = sorted({result.area for result in results})
    for name in TITLES:
        for seed in sorted({result.seed for result in results}):
            runs = [result for result in results if (result.run, result.seed) == (name, seed)]
            if sorted(run.area for run in runs) == folds:  # a pool of fewer folds is another figure
                scores[name][seed] = mean_iou(np.sum(_matrices(runs), axis=0))
    lines = []
    for name, of_seed in scores.items():
        base = scores.get("default" if name.startswith("default") else "ours", {})
        both = [of_seed[seed] - base[seed] for seed in of_seed if seed in base]
        difference = "" if name in {"default", "ours"} or not both else _spread(both, sign=True)
        each = ", ".join(f"{score:.3f}" for score in of_seed.values())
        lines.append(f"| {TITLES[name]} | {_spread(of_seed.values())} | {difference} | {each} |")
    head = [
        "| | mean IoU, pooled | beside its base, seed by seed | each seed |",
        "|---|---|---|---|",
    ]
    named = ", ".join(folds)
    return "\n".join([f"### {scene.title}: {named}\n", *head, *lines, "", ""])


def _matrices(runs: Sequence[Result]) -> list[Matrix]:
    return [run.matrix for run in runs]


def _spread(numbers: Iterable[float], sign: bool = False) -> str:
    """Write mean ± standard deviation of at least two numbers."""
    values = list(numbers)
    mean = f"{np.mean(values):{'+' if sign else ''}.3f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.3f}"
