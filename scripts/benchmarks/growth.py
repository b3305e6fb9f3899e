"""Whether a large scene costs more per pixel than a small one."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scripts.benchmarks.measuring import Options, Turn, take_turn
from scripts.benchmarks.networks import save_untrained
from scripts.benchmarks.rows import Row
from scripts.benchmarks.scenes import repeated_scene
from scripts.make_scene import SceneFiles
from src.mapping.scene_map import MapOptions, Mapper, map_scene
from src.models.checkpoint import load_network
from src.models.precision import arrange_memory, choose_device
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation

CHIP = 256
SIDES = (1024, 2048, 4096, 8192)
"""1, 4, 16 and 64 megapixels."""
TURNS = (3, 2, 1, 1)
GOAL = 0.9


def measure(options: Options) -> list[Row]:
    """Measure both steps on scenes of growing size."""
    arrange_memory(device := choose_device())
    checkpoint = save_untrained(options.folder / "network.ckpt", "justo_unet_simple", chip=CHIP)
    network, spec = load_network(checkpoint)
    mapper = Mapper(checkpoint, network, spec, device, MapOptions())
    made = options.folder / "made"

    def prepared(files: SceneFiles) -> float:
        prepare(Preparation(str(files.image), str(files.label), (CHIP, CHIP), (CHIP, CHIP)), made)
        return 1.0

    def mapped(files: SceneFiles) -> float:
        return map_scene(mapper, str(files.image), made / "map.tif").grid.window.pixels / 1e6

    steps: dict[str, Callable[[SceneFiles], float]] = {"prepare": prepared, "predict": mapped}
    rates: dict[str, list[tuple[float, Turn]]] = {step: [] for step in steps}
    for side, turns in zip(SIDES, TURNS, strict=True):
        files = repeated_scene(options.folder, side, side)
        for step, work in steps.items():
            rates[step].append(_rate(partial(work, files), side, turns, made))
        files.image.unlink()
    return [row for step, figures in rates.items() for row in _rows(step, figures)]


def _rate(work: Callable[[], float], side: int, turns: int, made: Path) -> tuple[float, Turn]:
    """Return megapixels per second and the turn that had the median."""
    taken = []
    for _ in range(turns):
        taken.append(take_turn(work))
        shutil.rmtree(made)
    middle = sorted(taken, key=lambda turn: turn.seconds)[len(taken) // 2]
    return side**2 / 1e6 / statistics.median(turn.seconds for turn in taken), middle


def _rows(step: str, figures: list[tuple[float, Turn]]) -> list[Row]:
    rows = []
    per_cpu = [(side**2 / turn.cpu_seconds) for side, (_, turn) in zip(SIDES, figures, strict=True)]
    for number, side in enumerate(SIDES[1:], start=1):
        rate, turn = figures[number]
        rows.append(
            Row(
                step=f"growth: {step}, {side**2 / 2**20:.0f} Mpx",
                ours=rate,
                theirs=figures[0][0],
                unit="Mpx/s",
                against="limit",
                meaning="the same at 1 Mpx",
                share=rate / figures[0][0],
                cpu_share=per_cpu[number] / per_cpu[0],
                goal=GOAL,
                seconds=turn.seconds,
                cpu_seconds=turn.cpu_seconds,
                peak_mb=turn.peak_mb,
            )
        )
    return rows
