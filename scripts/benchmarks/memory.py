"""How the peak of memory grows with the scene: prepare.py, and predict.py with everything it can write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from scripts.benchmarks.measuring import Options, Turn, in_a_process, take_turn
from scripts.benchmarks.networks import save_untrained
from scripts.benchmarks.rows import Row
from scripts.benchmarks.scenes import ROWS, TILED, repeated_scene
from scripts.make_scene import SceneFiles
from src.mapping.ground_truth import LabelOptions, ground_truth
from src.mapping.map_scores import survey
from src.mapping.scene_map import MapOptions, Mapper, map_scene
from src.models.checkpoint import load_network
from src.models.precision import choose_device
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation

SMALL = 2000
CHIP = 256
GOAL = 0.9


def measure(options: Options) -> list[Row]:
    """Compare the peaks of a small and a large scene, each in a process of its own."""
    checkpoint = save_untrained(options.folder / "network.ckpt", "compact_unet")
    turns: dict[str, list[Turn]] = {}
    for side in (SMALL, options.side):
        for layout in (TILED, ROWS):
            files = repeated_scene(options.folder, side, side, noise=0, layout=layout)
            made = options.folder / "made"
            kind = "tiles" if layout is TILED else "rows"
            turns.setdefault(f"prepare, stored in {kind}", []).append(_peak(made, prepare_once, files, made))
            turns.setdefault(f"predict, stored in {kind}", []).append(_peak(made, map_once, files, checkpoint, made))
            files.image.unlink()
    return [_row(f"memory: {step}", small, large, options.side) for step, (small, large) in sorted(turns.items())]


def prepare_once(files: SceneFiles, folder: Path) -> float:
    """Prepare a scene; return its megapixels."""
    spec = prepare(Preparation(str(files.image), str(files.label), (CHIP, CHIP), (CHIP, CHIP)), folder)
    scene = spec.scenes[0]
    return scene.width * scene.height / 1e6


def map_once(files: SceneFiles, checkpoint: Path, folder: Path) -> float:
    """Map and score a scene with probabilities, polygons and a ground truth; return its megapixels."""
    network, spec = load_network(checkpoint)
    mapper = Mapper(checkpoint, network, spec, choose_device(), MapOptions(probabilities="uint8", polygons=True))
    found = map_scene(mapper, str(files.image), folder / "map.tif")
    source = ground_truth(str(files.label), found.grid, spec.classes, LabelOptions())
    with source.open() as label, torch.inference_mode():
        survey(found.path, spec.classes, label)
    return found.grid.window.pixels / 1e6


def _peak(made: Path, work: Callable[..., float], *arguments: object) -> Turn:
    turn: Turn = in_a_process(take_turn, work, *arguments)
    shutil.rmtree(made)
    return turn


def _row(step: str, small: Turn, large: Turn, side: int) -> Row:
    return Row(
        step=f"{step}, {side}² px",
        ours=large.peak_mb,
        theirs=small.peak_mb,
        unit="MB",
        against="limit",
        meaning=f"the same at {SMALL}² px",
        share=small.peak_mb / large.peak_mb,
        goal=GOAL,
        seconds=large.seconds,
        cpu_seconds=large.cpu_seconds,
        peak_mb=large.peak_mb,
    )
