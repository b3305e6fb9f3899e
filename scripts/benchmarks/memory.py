"""How the peak of memory grows with the scene: prepare.py, and predict.py with everything it can write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from src.models.precision import arrange_memory, choose_device
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation

SMALL = (2000, 2000)
STRIPS = ((1000, 20_000), (20_000, 1000))
"""Height and width: as wide as a large scene, and as high; on the other side more than a window on CPUs."""
WHOLE = ((20_000, 20_000),)
CHIP = 256
ALLOWED = {"prepare": 200.0, "predict": 300.0}
"""Megabytes by which a larger scene may take more than the small one."""


def measure(options: Options) -> list[Row]:
    """Compare the peaks of a small scene and of larger ones, each in a process of its own.

    The network is the smallest there is: what grows with the scene is looked for, in hundreds of megapixels.
    """
    checkpoint = save_untrained(options.folder / "network.ckpt", "justo_unet_simple")
    rows = []
    for layout, kind in ((TILED, "tiles"), (ROWS, "rows")):
        first: tuple[Turn, Turn] | None = None
        for height, width in (SMALL, *(WHOLE if options.whole else STRIPS)):
            turns = _peaks(options.folder, (height, width), layout, checkpoint)
            if first is None:
                first = turns
                continue
            size = f"{width} × {height} px in {kind}"
            rows += [
                _row(step, size, *both)
                for step, both in zip(("prepare", "predict"), zip(first, turns, strict=True), strict=True)
            ]
    return sorted(rows, key=lambda row: row.step.split(",")[0])


def _peaks(folder: Path, size: tuple[int, int], layout: dict[str, Any], checkpoint: Path) -> tuple[Turn, Turn]:
    """Prepare and map a scene of height × width."""
    files = repeated_scene(folder, *size, noise=0, layout=layout)
    made = folder / "made"
    turns = _peak(made, prepare_once, files, made), _peak(made, map_once, files, checkpoint, made)
    files.image.unlink()
    return turns


def prepare_once(files: SceneFiles, folder: Path) -> float:
    """Prepare a scene; return its megapixels."""
    spec = prepare(Preparation(str(files.image), str(files.label), (CHIP, CHIP), (CHIP, CHIP)), folder)
    scene = spec.scenes[0]
    return scene.width * scene.height / 1e6


def map_once(files: SceneFiles, checkpoint: Path, folder: Path) -> float:
    """Map and score a scene with probabilities, polygons and a ground truth; return its megapixels."""
    arrange_memory(device := choose_device())
    network, spec = load_network(checkpoint)
    mapper = Mapper(checkpoint, network, spec, device, MapOptions(probabilities="uint8", vector=True))
    found = map_scene(mapper, str(files.image), folder / "map.tif")
    source = ground_truth(str(files.label), found.grid, spec.classes, LabelOptions())
    with source.open() as label, torch.inference_mode():
        survey(found.path, spec.classes, label)
    return found.grid.window.pixels / 1e6


def _peak(made: Path, work: Callable[..., float], *arguments: object) -> Turn:
    turn: Turn = in_a_process(take_turn, work, *arguments)
    shutil.rmtree(made)
    return turn


def _row(step: str, size: str, small: Turn, large: Turn) -> Row:
    return Row(
        step=f"memory: {step}, {size}",
        ours=large.peak_mb,
        theirs=small.peak_mb,
        unit="MB",
        against="limit",
        meaning="the same at 2000 × 2000 px",
        share=small.peak_mb / large.peak_mb,
        goal=small.peak_mb / (small.peak_mb + ALLOWED[step]),
        seconds=large.seconds,
        cpu_seconds=large.cpu_seconds,
        peak_mb=large.peak_mb,
    )
