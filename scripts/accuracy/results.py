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
from scripts.accuracy.networks import ABLATION, DEFAULT, FEW, NARROW, OURS, SHALLOW, SPECDEEPMAP
from scripts.accuracy.scenes import SCENES, TEST, BenchmarkScene
from src.atomic import write_text
from src.scores import Scores

Matrix = npt.NDArray[np.int64]

TITLES = (
    {name: classifier.title for name, classifier in CLASSIFIERS.items()}
    | {"specdeepmap": SPECDEEPMAP.title, "default": DEFAULT.title, "shallow": SHALLOW["shallow"].title}
    | {"ours": OURS.title}
    | {name: recipe.title for name, recipe in (ABLATION | SHALLOW | NARROW | FEW).items()}
)
"""What every run is called, in the order of the tables."""
NARROW_BASE = "narrow-context"
ABLATION_FOLDER = "ablation"
"""Of results on the device that was there, beside those of the CPU."""
FLOAT32_FOLDER = "float32"
"""Of results of CPUs that do not multiply bfloat16: other sums, and so another training."""


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


def scores(matrix: Matrix) -> Scores:
    """Return the scores of true × mapped pixels whose column 0 counts those that are not mapped.

    Not mapped is one more class here, the first, which the truth never has: such pixels are wrong and lower the IoU of
    their class, but no mean has that class. ``predict.py`` and ``eval.py`` leave them out.
    """
    return Scores(np.vstack([np.zeros_like(matrix[:1]), matrix]))


def ious(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return each class's IoU, NaN for one that the truth lacks; see :func:`scores`."""
    found = scores(matrix)
    return np.where(found.support > 0, found.iou, np.nan)[1:]


def mean_iou(matrix: Matrix) -> float:
    """Return the mean IoU over the classes in the truth, pooled over all labelled pixels; see :func:`scores`."""
    return scores(matrix).mean_iou


def overall_accuracy(matrix: Matrix) -> float:
    """Return the share of the labelled pixels that are right; see :func:`scores`."""
    return scores(matrix).overall_accuracy


def write_results(logs: Path, document: Path) -> str:
    """Put the tables into a document and return them.

    Args:
        logs: Folder of the runs' JSON files.
        document: Has ``<!-- begin: what -->`` and ``<!-- end -->`` around each table, for what = test, folds and
            ablation, and float32 for test areas and folds of CPUs without bfloat16.
    """
    kinds: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(logs.rglob("*.json")):
        row, folder = json.loads(path.read_text(encoding="utf-8")), path.relative_to(logs).parts[0]
        kind = folder if folder in (ABLATION_FOLDER, FLOAT32_FOLDER) else ""
        kinds[kind][row["scene"]].append(Result.from_dict(row))
    found, levers, plain = kinds[""], kinds[ABLATION_FOLDER], kinds[FLOAT32_FOLDER]
    inside = "{}, inside the training area"
    tables = {
        "ablation": "\n".join(_lever_table(scene.title, levers[name]) for name, scene in SCENES.items()),
        "test": "\n".join(_test_tables(SCENES[name], found[name]) for name in SCENES if found[name]),
        "folds": "\n".join(_lever_table(inside.format(scene.title), found[name]) for name, scene in SCENES.items()),
        "float32": "\n".join(_float32_tables(inside.format(s.title), s, plain[name]) for name, s in SCENES.items()),
    }
    text = document.read_text(encoding="utf-8")
    for what, table in tables.items():
        begin, end = f"<!-- begin: {what} -->\n", "<!-- end -->"
        before, mark, rest = text.partition(begin)
        if mark and table.strip():  # without a result the document keeps what it has
            text = before + mark + table + end + rest.partition(end)[2]
    write_text(document, text)
    return "\n".join(tables.values())


def _float32_tables(heading: str, scene: BenchmarkScene, results: Sequence[Result]) -> str:
    """Lay out what there is of the test area, then of the folds."""
    return "\n".join(filter(None, (_test_tables(scene, results), _lever_table(heading, results))))


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


def _lever_table(heading: str, results: Sequence[Result]) -> str:
    """Lay out each recipe's score inside the training area, pooled over folds: its spread over seeds, and its lead.

    The base that it is held against is the recipe that the lever changes, on the same folds with the same seeds:
    ``default``, ``shallow``, ``few`` and ``narrow-context`` for levers of such names, else ``ours``. Seeds that were
    run on other folds have a line of their own.
    """
    results, lines = [result for result in results if result.area != TEST], []
    for name, title in TITLES.items():
        kind = name.partition("-")[0]
        base = {
            "default": "default",
            "shallow": "shallow",
            "few": "few",
            "narrow": "ours" if name == NARROW_BASE else NARROW_BASE,
        }.get(kind, "ours")
        by_folds: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for seed in sorted({r.seed for r in results if r.run == name}):
            by_folds[tuple(sorted(r.area for r in _runs(results, name, seed)))].append(seed)
        for folds, seeds in by_folds.items():
            pooled = [m for seed in seeds if (m := _pooled(results, name, seed, folds)) is not None]
            others = [_pooled(results, base, seed, folds) for seed in seeds]
            leads = [mean_iou(m) - mean_iou(o) for m, o in zip(pooled, others, strict=True) if o is not None]
            lead = "" if name in CLASSIFIERS or name == base or not leads else _spread(leads, sign=True)
            each = [[r for seed in seeds for r in _runs(results, name, seed) if r.area == fold] for fold in folds]
            of_folds = ", ".join(
                f"{fold.removeprefix('fold-')}: {np.mean([mean_iou(r.matrix) for r in runs]):.3f}"
                for fold, runs in zip(folds, each, strict=True)
            )
            accuracy = _spread(overall_accuracy(matrix) for matrix in pooled)
            cpu = np.mean([r.cpu for runs in each for r in runs])
            score = _spread(map(mean_iou, pooled))
            lines.append(f"| {title} | {score} | {lead} | {accuracy} | {of_folds} | {len(seeds)} | {cpu:.0f} |")
    if not lines:
        return ""
    head = [
        "| | mean IoU, pooled | beside its base | overall accuracy | fold: mean IoU | seeds | CPU s a fold |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([f"### {heading}\n", *head, *lines, "", ""])


def _runs(results: Sequence[Result], name: str, seed: int) -> list[Result]:
    return [r for r in results if (r.run, r.seed) == (name, seed)]


def _pooled(results: Sequence[Result], name: str, seed: int, folds: Sequence[str]) -> Matrix | None:
    """Add the matrices of some folds; None where one of them is missing."""
    found = [r.matrix for r in _runs(results, name, seed) if r.area in folds]
    return np.sum(found, axis=0) if len(found) == len(folds) else None


def _matrices(runs: Sequence[Result]) -> list[Matrix]:
    return [run.matrix for run in runs]


def _spread(numbers: Iterable[float], sign: bool = False) -> str:
    """Write mean ± standard deviation of at least two numbers."""
    values = list(numbers)
    mean = f"{np.mean(values):{'+' if sign else ''}.3f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.3f}"
