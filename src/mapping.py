"""A map of a scene of any size: planned, mapped strip by strip, gone on with after a break, whole at the end."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from src.cog import Layer, write_cog
from src.errors import UserError
from src.grid import Blend
from src.inference import Predictor
from src.map_plan import MapPlan, check_window, halo_pixels
from src.models.network import Network
from src.models.precision import precision_name
from src.raster import RasterInfo
from src.scene_reader import SceneReader, open_scene
from src.spec import NetworkSpec, software_versions
from src.strip_mapping import CLASSES, Probabilities, map_layers, map_strips
from src.strip_store import StripStore, finished_strips, read_plan, start_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapOptions:
    """How a scene is mapped.

    Attributes:
        overlap: Percent of the training chip's side that windows share on each side.
        window: Side of a window in pixels; None for the fastest.
        blend: How windows share what both cover.
        batch_size: Windows that go through the network together; None for a good number.
        average_turns: Average over the eight flips and rotations.
        probabilities: Store probabilities and uncertainty, and how.
    """

    overlap: float = 20.0
    window: int | None = None
    blend: Blend = "cosine"
    batch_size: int | None = None
    average_turns: bool = False
    probabilities: Probabilities | None = None


@dataclass(frozen=True)
class Mapper:
    """A trained network, where it came from, and where it runs; maps one scene after another.

    Attributes:
        checkpoint: The checkpoint's file.
        network: The network.
        spec: What it expects.
        device: Where it runs.
        options: How it maps.
    """

    checkpoint: Path
    network: Network
    spec: NetworkSpec
    device: torch.device
    options: MapOptions


@dataclass(frozen=True)
class SceneMap:
    """A finished map.

    Attributes:
        path: The class map.
        layers: All rasters, by the name of the layer.
        grid: The scene.
        plan: The windows that were used.
    """

    path: Path
    layers: dict[str, Path]
    grid: RasterInfo
    plan: MapPlan


def layer_path(output: Path, layer: str) -> Path:
    """Name a map's further files: ``map.tif`` → ``map_probabilities.tif``."""
    return output if layer == CLASSES else output.with_name(f"{output.stem}_{layer}{output.suffix}")


def map_scene(mapper: Mapper, image: str, output: Path, advance: Callable[[int], None] = lambda _: None) -> SceneMap:
    """Map a scene into a Cloud Optimized GeoTIFF, and further ones if asked for.

    What is finished is kept in a folder beside the output until the map is whole; the same call goes on from there.

    Args:
        mapper: The network and how it maps.
        image: The scene.
        output: The class map to write; other layers are named after it.
        advance: Called with the number of pixels that have been mapped since its last call.

    Raises:
        UserError: The scene cannot be read or does not fit, an option is impossible, the output cannot be written.
    """
    options = mapper.options
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f".{output.name}.partial")
    layers = map_layers(mapper.spec.classes, options.probabilities)
    with open_scene(image, mapper.spec) as reader:
        grid = reader.info
        plan = _plan(mapper, reader, folder, layers)
        store = StripStore(folder, layers, grid.height, grid.width)
        try:
            todo = sorted(set(range(len(plan.rows))) - store.done())
            advance(grid.window.pixels - sum(plan.rows[i].final - plan.rows[i].first for i in todo) * grid.width)
            predictor = Predictor(mapper.network, mapper.device, options.average_turns)
            map_strips(
                reader,
                predictor,
                plan,
                todo,
                store,
                classes=mapper.spec.classes,
                probabilities=options.probabilities,
                advance=advance,
            )
        finally:
            store.close()
    paths = {layer.name: layer_path(output, layer.name) for layer in layers}
    for layer in layers:
        write_cog(folder / f"{layer.name}.raw", folder / paths[layer.name].name, layer, grid)
    for layer in reversed(layers):
        _publish(folder / paths[layer.name].name, paths[layer.name])
    shutil.rmtree(folder, ignore_errors=True)
    return SceneMap(output, paths, grid, plan)


def _plan(mapper: Mapper, reader: SceneReader, folder: Path, layers: list[Layer]) -> MapPlan:
    """Return the plan of the run that was broken off if it was the same, else make one and start a store."""
    fingerprint = _fingerprint(mapper, reader.info)
    before = read_plan(folder, fingerprint)
    if before is not None:
        plan = MapPlan.from_dict(before)
        done = len(finished_strips(folder))
        log.info("Going on with a run that was broken off: %d of %d strips are done.", done, len(plan.rows))
        return plan
    plan = _make_plan(mapper, reader)
    needed = reader.info.window.pixels * sum(layer.pixel_bytes for layer in layers)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise UserError(
            f"{folder.parent} has {free / 1e9:.1f} GB free; mapping {reader.info.path} needs at least "
            f"{needed / 1e9:.1f} GB there until the map is compressed. Free some space or write elsewhere."
        )
    start_store(folder, fingerprint, plan.to_dict())
    return plan


def _make_plan(mapper: Mapper, reader: SceneReader) -> MapPlan:
    options, info = mapper.options, reader.info
    halo = halo_pixels(mapper.spec.chip_size, options.overlap)
    side = options.window or 512
    window = (side, side)
    check_window(window, halo, options.overlap)
    batch = options.batch_size or max(1, 2**19 // (side * side))
    return MapPlan(info.height, info.width, window, halo, options.blend, batch)


def _fingerprint(mapper: Mapper, info: RasterInfo) -> dict[str, Any]:
    """Everything that a map's numbers depend on."""
    file = Path(info.path)
    stat = file.stat() if file.is_file() else None
    return {
        "checkpoint": hashlib.sha256(mapper.checkpoint.read_bytes()).hexdigest(),
        "image": str(file.resolve()) if stat else info.path,
        "image_bytes": stat.st_size if stat else None,
        "image_changed": stat.st_mtime_ns if stat else None,
        "grid": [info.width, info.height, info.crs, list(info.transform), info.dtype, list(info.nodata)],
        "options": asdict(mapper.options),
        "device": mapper.device.type,
        "precision": precision_name(mapper.device, mapper.network),
        "versions": software_versions(),
    }


def _publish(written: Path, path: Path) -> None:
    """Give a whole file its name, and what GDAL wrote beside it."""
    beside = Path(f"{written}.aux.xml")
    with written.open("rb") as file:
        os.fsync(file.fileno())
    if beside.exists():
        beside.replace(f"{path}.aux.xml")
    else:
        Path(f"{path}.aux.xml").unlink(missing_ok=True)
    written.replace(path)
