"""Measure how accurate the recorded experiments and the baselines are on real scenes, and write docs/results.md.

    python scripts/benchmark.py --source scenes       the test areas: three seeds of everything
    … --folds                                           areas inside the training areas: what is chosen is chosen there
    … --ablation                                        the same with three seeds, on a GPU where there is one
    … --scene havel --run ours --seed 42
    … --data                                            the scenes only, where the recorded experiments look for them

Each run leaves a JSON file under docs/results, with its confusion matrix, and is not repeated while that is there: a
benchmark can be stopped and goes on, here or elsewhere. `--source` names the folder with the scenes, laid out as
scripts/accuracy/scenes.py reads it.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds only what lies beside it

from scripts.accuracy.classical import CLASSIFIERS, classify
from scripts.accuracy.networks import (
    ABLATION,
    DEFAULT,
    FEW,
    NARROW,
    OURS,
    SHALLOW,
    SPECDEEPMAP,
    Recipe,
    Took,
    train_and_map,
)
from scripts.accuracy.results import ABLATION_FOLDER, FLOAT32_FOLDER, mean_iou, write_results
from scripts.accuracy.scenes import SCENES, TEST, Area, BenchmarkScene, lay_out
from src.atomic import write_text
from src.models.precision import prefers_bf16
from src.spec import git_revision

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/results"
DATA = ROOT / "data/benchmark"
RECIPES = {"ours": OURS, "default": DEFAULT, "specdeepmap": SPECDEEPMAP}
NAMES = (*CLASSIFIERS, *RECIPES, *ABLATION)
SEEDS = (42, 43, 44)
FOLDS = sorted({fold for scene in SCENES.values() for fold in scene.folds})


@dataclass(frozen=True)
class Run:
    """One training and its score."""

    scene: BenchmarkScene
    area: str
    name: str
    seed: int
    accelerator: str = "cpu"

    @property
    def path(self) -> Path:
        """Where its result lies; those of GPUs, and of networks in another precision, are kept apart."""
        folder = RESULTS
        if self.accelerator != "cpu":
            folder /= ABLATION_FOLDER
        elif self.name not in CLASSIFIERS and not prefers_bf16(torch.device("cpu")):
            folder /= FLOAT32_FOLDER
        return folder / self.scene.experiment / self.area / f"{self.name}-{self.seed}.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the runs that are asked for and have no result yet, then write all results down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", type=Path, help="folder of the scenes (needed for all but --write)")
    parser.add_argument("--scene", action="append", choices=SCENES, help="only this one (may be given again)")
    parser.add_argument(
        "--run", action="append", choices=(*NAMES, *SHALLOW, *NARROW, *FEW), help="only this one (may be given again)"
    )
    parser.add_argument("--seed", action="append", type=int, help=f"instead of {', '.join(map(str, SEEDS))}")
    parser.add_argument("--folds", action="store_true", help="areas to choose by; all levers, the first seed")
    parser.add_argument("--ablation", action="store_true", help="--folds with all seeds and the device that is there")
    parser.add_argument("--fold", action="append", choices=FOLDS, help="only this one of them (may be given again)")
    parser.add_argument("--write", action="store_true", help="run nothing, only write down what there is")
    parser.add_argument("--data", action="store_true", help="run nothing, only put the scenes into data/benchmark")
    given = parser.parse_args(arguments)
    if given.source is None and not given.write:
        parser.error("--source is missing; give the folder that holds the scenes' folders.")
    if given.data:
        for name in given.scene or SCENES:
            for path in lay_out(SCENES[name], given.source, DATA):
                print(path)
        return
    given.folds = given.folds or given.ablation
    if not given.write:
        for run in planned(given):
            if not run.path.is_file():
                measure(run, given.source)
    print(write_results(RESULTS, ROOT / "docs/results.md"))


def planned(given: argparse.Namespace) -> list[Run]:
    """List the runs, seed by seed, so that one of everything is there early."""
    seeds = given.seed or (SEEDS[:1] if given.folds and not given.ablation else SEEDS)
    accelerator = "auto" if given.ablation else "cpu"
    names = given.run or (NAMES if given.folds else (*CLASSIFIERS, *RECIPES))
    scenes = [SCENES[name] for name in given.scene or SCENES]
    return [
        Run(scene, area, name, seed, accelerator)
        for seed in seeds
        for scene in scenes
        for name in names
        for area in (_folds(scene, given.fold) if given.folds else (TEST,))
    ]


def _folds(scene: BenchmarkScene, wanted: Sequence[str] | None) -> list[str]:
    return [fold for fold in scene.folds if fold in (wanted or scene.folds)]


def measure(run: Run, source: Path) -> None:
    """Do a run and write its result down."""
    area = run.scene.area(source, run.area)
    found, took = _classified(run, area) if run.name in CLASSIFIERS else _trained(run, area)
    matrix = confusion(area.held_label, found, len(run.scene.classes))
    row: dict[str, Any] = {
        "scene": run.scene.experiment,
        "area": run.area,
        "run": run.name,
        "seed": run.seed,
        "matrix": matrix.tolist(),
        "cpu_seconds": round(took.cpu, 1),
        "wall_seconds": round(took.wall, 1),
        "overrides": list(_recipe(run.name).overrides) if run.name not in CLASSIFIERS else [],
        "revision": git_revision(),
    }
    run.path.parent.mkdir(parents=True, exist_ok=True)
    write_text(run.path, json.dumps(row) + "\n")
    name = run.path.relative_to(RESULTS)
    print(f"{name}: mean IoU {mean_iou(matrix):.3f}, {took.cpu:.0f} CPU s", flush=True)


def confusion(truth: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.int64]:
    """Count the labelled pixels by true and mapped class; pixels that the map leaves empty are wrong in column 0.

    Returns:
        classes × (classes + 1): rows are true classes 1…, columns mapped ones 0, 1, ….
    """
    counted = truth > 0
    pairs = (truth[counted].astype(np.int64) - 1) * (classes + 1) + found[counted]
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def _recipe(name: str) -> Recipe:
    return (RECIPES | ABLATION | SHALLOW | NARROW | FEW)[name]


def _classified(run: Run, area: Area) -> tuple[npt.NDArray[np.uint8], Took]:
    clock, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    found = classify(CLASSIFIERS[run.name], area, run.seed)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found, Took(cpu, time.perf_counter() - clock)


def _trained(run: Run, area: Area) -> tuple[npt.NDArray[np.uint8], Took]:
    here = DATA / run.scene.experiment / run.area
    return train_and_map(run.scene, area, here, _recipe(run.name), run.seed, run.accelerator)


if __name__ == "__main__":
    main()
