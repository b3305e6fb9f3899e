"""Measure speed and memory against limits that are measured in the same run, and print one table.

    python scripts/bench.py                     every step but the last two, as `make bench` does
    python scripts/bench.py train predict       these steps only
    python scripts/bench.py train-default       these with the network that train.py takes without further keys

Every step runs in a process of its own, with scenes that it makes itself. Ours and what it is held against take
turns, so that a busy machine slows both down; docs/performance.md explains the rows. The figures are also written
to logs/bench/<time>.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from pkgutil import resolve_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds only what lies beside it

from rich.console import Console

from scripts.benchmarks.measuring import Options, in_a_process
from scripts.benchmarks.rows import Row, print_table
from src.atomic import write_text
from src.cores import cores
from src.memory import use_large_pages

STEPS = {
    "prepare": "scripts.benchmarks.prepare.measure",
    "split": "scripts.benchmarks.split.measure",
    "train": "scripts.benchmarks.train.measure",
    "eval": "scripts.benchmarks.evaluation.measure",
    "predict": "scripts.benchmarks.predict.measure",
    "start-up": "scripts.benchmarks.startup.measure",
    "memory": "scripts.benchmarks.memory.measure",
    "growth": "scripts.benchmarks.growth.measure",
    "train-default": "scripts.benchmarks.train.measure_default",
    "predict-default": "scripts.benchmarks.predict.measure_default",
}
"""Each step and the function that takes options and returns its rows."""
ASKED = ("train-default", "predict-default")
"""Steps that are measured only where they are named: with them all would take longer than a quarter of an hour."""
CHOOSING = ("eval", "predict", "predict-default", "growth", "memory")
"""Steps that take memory by their device, as the commands do; the others ask for large pages."""

LOGS = Path(__file__).resolve().parents[1] / "logs/bench"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the steps that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("steps", nargs="*", metavar="step", help=f"{', '.join(STEPS)} (all but {', '.join(ASKED)})")
    parser.add_argument("--rounds", type=int, default=4, help="how often the runs take turns (default 4)")
    parser.add_argument("--whole", action="store_true", help="measure memory on 20 000 × 20 000 px, which takes long")
    parser.add_argument("--folder", type=Path, default=tempfile.gettempdir(), help="where scenes are kept meanwhile")
    parser.add_argument("--json", type=Path, help="where the figures are written (default: logs/bench/<time>.json)")
    given = parser.parse_args(arguments)
    if unknown := [step for step in given.steps if step not in STEPS]:
        parser.error(f"{unknown[0]} is no step; choose from {', '.join(STEPS)}")
    console = Console(width=max(140, Console().width))
    began = datetime.now().astimezone()
    machine = in_a_process(describe_machine)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for step in given.steps or (step for step in STEPS if step not in ASKED):
        clock = time.perf_counter()
        rows += in_a_process(run_step, step, Options(given.folder, given.rounds, given.whole))
        seconds[step] = round(time.perf_counter() - clock, 1)
        console.print(f"{step}: measured in {seconds[step]:.0f} s", highlight=False)
    print_table(rows, console)
    path = given.json or LOGS / f"{began:%Y-%m-%d_%H-%M-%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {
        "date": began.isoformat(timespec="seconds"),
        "machine": machine,
        "rows": [row.as_json() for row in rows],
        "seconds": seconds,
    }
    write_text(path, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    console.print(f"{path}", highlight=False)


def run_step(step: str, options: Options) -> list[Row]:
    """Measure one step in a folder of its own."""
    # Lightning's warnings, and ours of few chips, would stand between the steps.
    logging.basicConfig(level=logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    if step not in CHOOSING:
        use_large_pages()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        rows: list[Row] = resolve_name(STEPS[step])(replace(options, folder=Path(scratch)))
    return rows


def describe_machine() -> dict[str, object]:
    """Say in general words what the figures were measured on."""
    import torch  # noqa: PLC0415  only in the process that asks

    from src.models.precision import choose_device, prefers_bf16  # noqa: PLC0415  imports torch

    device = choose_device()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper(),
        "precision": "bfloat16" if prefers_bf16(device) else "float32",
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
