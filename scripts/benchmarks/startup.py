"""How long a command takes to say what it takes, and what a task imports beside the libraries that it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmarks.measuring import Options, Run, Turn, take_turn, take_turns
from scripts.benchmarks.rows import Row, compared

ROOT = Path(__file__).resolve().parents[2]
ASKED = {("train.py", "--help"): 1.5, ("train.py", "--cfg", "job"): 2.0, ("predict.py", "--help"): 1.5}
"""Commands, and the seconds that they may take."""
HYDRA = ("-c", "import hydra.main, omegaconf")
IMPORTS = {
    "prepare": "import hydra, matplotlib.figure, pandas, pyogrio, rasterio, shapely",
    "train": "import hydra, lightning, pandas, rasterio, segmentation_models_pytorch",
    "eval": "import hydra, pandas, rasterio, segmentation_models_pytorch",
    "predict": "import hydra, pandas, pyogrio, rasterio, segmentation_models_pytorch",
}
"""Tasks, and the libraries that each of them needs."""
GOAL = 0.7


def measure(options: Options) -> list[Row]:
    """Compare commands that only answer with their bounds, and a task's imports with those of its libraries."""
    python = [sys.executable]
    runs: dict[str, Run] = {" ".join(asked): _starting([*python, *asked]) for asked in ASKED}
    runs["hydra"] = _starting([*python, *HYDRA])
    turns = take_turns(runs, options)
    imports: dict[str, Run] = {}
    for task, libraries in IMPORTS.items():
        imports[f"task {task}"] = _starting([*python, "-c", f"import src.tasks.{task}"])
        imports[f"libraries {task}"] = _starting([*python, "-c", libraries])
    for task in ("train", "predict"):  # so that no later one reads its libraries' files for the first time
        imports[f"libraries {task}"]()
    turns |= {name: [take_turn(run)] for name, run in imports.items()}  # which takes a minute, most of it for PyTorch
    rows = []
    for asked, bound in ASKED.items():
        name = " ".join(asked)
        limit = [Turn(1.0, bound, bound, 0.0)] * len(turns[name])
        rows.append(compared(name, (turns[name], limit), "what it may take", unit="s", goal=1.0, against="bound"))
        rows.append(compared(name, (turns[name], turns["hydra"]), "importing Hydra", unit="s"))
    for task in IMPORTS:
        both = turns[f"task {task}"], turns[f"libraries {task}"]
        rows.append(compared(f"imports of {task}", both, "importing its libraries", unit="s", goal=GOAL))
    return [_without_memory(row) for row in rows]


def _starting(command: Sequence[str]) -> Run:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run() -> float:
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        return 1.0

    return run


def _without_memory(row: Row) -> Row:
    """Leave out a peak that is this process's, not the command's."""
    return Row(**{**vars(row), "peak_mb": None})
