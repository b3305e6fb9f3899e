"""Scoring chips on disk against the bare forward pass of the same network on a batch in memory."""

from __future__ import annotations

import copy

from scripts.benchmarks.measuring import Options, take_turns
from scripts.benchmarks.networks import bare_forward, pace, random_batch, untrained_spec
from scripts.benchmarks.rows import Row, compared
from scripts.benchmarks.scenes import repeated_scene
from src.datafolder import read_data_folder
from src.evaluation import evaluate
from src.models.network import build_network
from src.models.precision import arrange_memory, choose_device, place
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation

CHIP = 224
BATCHES = {"cpu": (8, 18), "bfloat16 cpu": (8, 54), "cuda": (32, 20)}
"""Chips in a batch and batches: enough that the first one, which nothing can be read ahead of, is no large part."""
SCENES = {"cpu": (8, 24), "bfloat16 cpu": (12, 48), "cuda": (29, 30)}
"""Chips of the scene down and across, of which 80 % are scored at most."""
GOAL = 0.9


def measure(options: Options) -> list[Row]:
    """Compare ours with the bare forward pass in batches of the same size."""
    arrange_memory(device := choose_device())
    down, across = SCENES.get(pace(device), SCENES["cpu"])
    batch, batches = BATCHES.get(pace(device), BATCHES["cpu"])
    files = repeated_scene(options.folder, down * CHIP, across * CHIP)
    folder = options.folder / "chips"
    prepare(Preparation(str(files.image), str(files.label), (CHIP, CHIP), (CHIP, CHIP)), folder)
    data = read_data_folder(folder)
    chips = data.samples("train")[: batch * batches]
    assert len(chips) == batch * batches, "the scene is too small for so many batches"
    spec = untrained_spec("unet", "resnet18", CHIP)
    network = build_network(spec)
    architecture = place(copy.deepcopy(network.architecture), device).eval()
    bare = bare_forward(architecture, random_batch((batch, CHIP, CHIP), device), batches)

    def ours() -> float:
        evaluate(network, spec, chips, device=device, data=data.spec, batch_size=batch)
        return len(chips) * CHIP**2 / 1e6

    turns = take_turns({"ours": ours, "bare": bare}, options)
    step = f"eval unet/resnet18, {CHIP} px"
    return [compared(step, (turns["ours"], turns["bare"]), "bare forward, same batch", unit="Mpx/s", goal=GOAL)]
