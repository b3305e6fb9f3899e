"""Mapping a scene against the bare forward pass, and against tile after tile as people map today."""

from __future__ import annotations

import copy
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.windows import Window

from scripts.benchmarks.measuring import Options, Turn, take_turns
from scripts.benchmarks.networks import bare_forward, fastest_batch, pace, synchronize, train_briefly, untrained_spec
from scripts.benchmarks.rows import Row, compared
from scripts.benchmarks.scenes import repeated_scene
from scripts.make_scene import SceneFiles
from src.cores import cores
from src.mapping.scene_map import MapOptions, Mapper, map_scene
from src.models.checkpoint import save_network
from src.models.network import Network, build_network
from src.models.precision import arrange_memory, choose_device, place
from src.training import NetworkChoice

CHIP = 224
MARGIN = 45
"""20 % of a tile on each side."""
SIDES = {"cpu": 3072, "bfloat16 cpu": 5120, "cuda": 12288}
"""Of the scene, in pixels: large enough for the search for the fastest window to pay, and half of a Sentinel-2 tile's
side where that is quick."""
AROUND = 512
"""Pixels around the tiles that one forward pass over the scene sees too."""
TILES = {"cpu": 5, "cuda": 12}
"""Tiles down and across in a turn of the tile-by-tile way."""
BARE_MEGAPIXELS = {"cpu": 2, "bfloat16 cpu": 8, "cuda": 400}
"""What goes through the network in a turn of the bare forward pass."""
GOAL, GOAL_OTHERS = 0.9, 6.0

Floats = npt.NDArray[np.float32]


def measure(options: Options, network_options: dict[str, Any] | None = None, name: str = "unet/resnet18") -> list[Row]:
    """Compare ours with both, in speed and in agreement with one forward pass over the whole scene.

    Args:
        options: How long, and where.
        network_options: Those of the U-Net; None for a plain one.
        name: What to call it.
    """
    arrange_memory(device := choose_device())
    side, bare_pixels, count = (of.get(pace(device), of["cpu"]) for of in (SIDES, BARE_MEGAPIXELS, TILES))
    files = repeated_scene(options.folder, side, side)
    spec = untrained_spec("unet", "resnet18", CHIP, network_options)
    torch.manual_seed(0)
    network = build_network(spec)
    train_briefly(network, files, CHIP)
    checkpoint = options.folder / "network.ckpt"
    save_network(checkpoint, network, spec, {})
    plain = copy.deepcopy(network).to(device)
    mapper = Mapper(checkpoint, network, spec, device, MapOptions())
    architecture = place(copy.deepcopy(network.architecture), device)
    batch = fastest_batch(architecture, device)
    bare = bare_forward(architecture, batch, max(1, round(bare_pixels * 1e6 / (len(batch) * batch.shape[-1] ** 2))))
    made = options.folder / "made"
    output = made / "map.tif"
    computed: list[float] = []

    def ours() -> float:
        shutil.rmtree(made, ignore_errors=True)  # a finished map is left as it is
        found = map_scene(mapper, str(files.image), output)
        computed.append(found.plan.computed_pixels / side**2)
        return side**2 / 1e6

    tiles = np.zeros((count * (CHIP - 2 * MARGIN),) * 2, np.uint8)
    runs = {"ours": ours, "bare": bare, "others": lambda: map_tile_by_tile(plain, files.image, tiles)}
    if device.type != "cpu":  # where reading, and not computing, may be what takes longest
        runs["reading"] = lambda: read_only(files.image, side, batch.shape[-1])
    turns = take_turns(runs, options)
    with_halo = [Turn(t.amount * computed[-1], t.seconds, t.cpu_seconds, t.peak_mb) for t in turns["ours"]]
    best = f"bare forward, {len(batch)} × {batch.shape[-1]}² px"
    step = f"predict {name}"
    rows = [
        compared(f"{step}, halo counted", (with_halo, turns["bare"]), best, unit="Mpx/s", goal=GOAL),
        compared(
            step,
            (turns["ours"], turns["others"]),
            f"{CHIP} px tiles, one by one, float32",
            unit="Mpx/s",
            goal=GOAL_OTHERS,
            against="others",
        ),
        _agreement(plain, files, output, tiles),
    ]
    if "reading" in turns:
        meaning = f"reading the scene once, {cores()} threads"
        rows.insert(1, compared(step, (turns["ours"], turns["reading"]), meaning, unit="Mpx/s"))
    return rows


def measure_default(options: Options) -> list[Row]:
    """Do the same with the network that ``train.py`` takes without further keys."""
    return measure(options, NetworkChoice().chosen_options, "the default")


def read_only(image: Path, side: int, window: int) -> float:
    """Read a square scene in windows that share nothing, with a thread per core, and do nothing with it."""
    corners = [(row, column) for row in range(0, side, window) for column in range(0, side, window)]

    def read(thread: int) -> None:
        with rasterio.open(image) as dataset:
            for row, column in corners[thread :: cores()]:
                dataset.read(window=Window(column, row, min(window, side - column), min(window, side - row)))

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(read, range(cores())))
    return side**2 / 1e6


@torch.inference_mode()
def map_tile_by_tile(network: Network, image: Path, tiles: npt.NDArray[np.uint8]) -> float:
    """Map the scene's middle with tiles that overlap by 20 % on each side, one after the other; fills ``tiles``."""
    device, kept = network.scale.device, CHIP - 2 * MARGIN
    first = _first(image, tiles)
    valid = torch.ones(1, CHIP, CHIP, dtype=torch.bool, device=device)
    with rasterio.open(image) as dataset:
        for row in range(0, len(tiles), kept):
            for column in range(0, len(tiles), kept):
                part = Window(first + column - MARGIN, first + row - MARGIN, CHIP, CHIP)
                numbers = torch.from_numpy(dataset.read(window=part)).to(device)[None]
                classes = network(numbers, valid).argmax(1)[0, MARGIN:-MARGIN, MARGIN:-MARGIN]
                tiles[row : row + kept, column : column + kept] = classes.cpu().numpy()
    synchronize(device)
    return tiles.size / 1e6


def _first(image: Path, tiles: npt.NDArray[np.uint8]) -> int:
    """Return the first row and column of the tiles, which lie in the middle of a square scene."""
    with rasterio.open(image) as dataset:
        side: int = dataset.width
    return (side - len(tiles)) // 2


@torch.inference_mode()
def _agreement(network: Network, files: SceneFiles, output: Path, tiles: npt.NDArray[np.uint8]) -> Row:
    """Compare both maps with one float32 forward pass over the whole scene, in the part that both have."""
    first, side = _first(files.image, tiles), len(tiles) + 2 * AROUND
    start = (first - AROUND) // 32 * 32  # as in a pass over all of it, whose coarsest cells are 32 px across
    with rasterio.open(files.image) as dataset:
        numbers = torch.from_numpy(dataset.read(window=Window(start, start, side, side)))[None]
    side = side // 32 * 32
    numbers = numbers[..., :side, :side].to(network.scale.device)
    valid = torch.ones(1, side, side, dtype=torch.bool, device=numbers.device)
    inside = slice(first - start, first - start + len(tiles))
    whole = network(numbers, valid).argmax(1)[0].cpu().numpy()[inside, inside]
    with rasterio.open(output) as dataset:
        mapped = dataset.read(1, window=Window(first, first, len(tiles), len(tiles))) - 1
    ours, theirs = (float((one == whole).mean()) for one in (mapped, tiles))
    return Row(
        step="predict: pixels as in one pass over the scene",
        ours=100 * ours,
        theirs=100 * theirs,
        unit="%",
        against="limit",
        meaning=f"{CHIP} px tiles, one by one, float32",
        share=ours / theirs,
        goal=1.0,
    )
