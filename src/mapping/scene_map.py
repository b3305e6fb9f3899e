"""A map of a scene of any size: planned, mapped strip by strip, gone on with after a break, whole at the end."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from src.atomic import write_text
from src.errors import UserError
from src.grid import Blend
from src.mapping.cog import Layer, write_cog
from src.mapping.inference import Predictor
from src.mapping.map_scores import row_blocks
from src.mapping.plan import MapPlan
from src.mapping.polygons import map_polygons, write_polygons
from src.mapping.processes import StripJob, map_in_processes
from src.mapping.scene_reader import SceneReader, open_scene
from src.mapping.strip_store import StripStore, finished_strips, read_plan, start_store
from src.mapping.strips import CLASSES, PROBABILITIES, UNCERTAINTY, Probabilities, map_layers, map_strips
from src.mapping.styles import polygon_style, raster_style, share_style
from src.mapping.window_choice import WindowRequest, choose_plan
from src.models.network import Network
from src.models.precision import precision_name
from src.raster.read import RasterInfo, block_cache
from src.spec import NetworkSpec, software_versions
from src.vector import sieve

log = logging.getLogger(__name__)

CACHE_MEGABYTES = 64
"""Decoded blocks that GDAL keeps: enough for the tiles that neighbouring windows share."""


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
        polygons: Also write polygons.
        min_pixels: Polygons with fewer pixels join their largest neighbour.
        processes: Between how many processes the strips are divided, each with a GPU of its own where there are.
    """

    overlap: float = 20.0
    window: int | None = None
    blend: Blend = "cosine"
    batch_size: int | None = None
    average_turns: bool = False
    probabilities: Probabilities | None = None
    polygons: bool = False
    min_pixels: int = 0
    processes: int = 1

    @property
    def numbers(self) -> dict[str, Any]:
        """Those that the map's numbers depend on."""
        others = ("polygons", "min_pixels", "processes")
        return {key: value for key, value in asdict(self).items() if key not in others}


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
        files: Every file that was written, the class map first.
        uncertainty: The uncertainty raster if it was asked for.
        grid: The scene.
        plan: The windows that were used.
    """

    path: Path
    files: tuple[Path, ...]
    uncertainty: Path | None
    grid: RasterInfo
    plan: MapPlan


def layer_path(output: Path, layer: str) -> Path:
    """Name a map's further rasters: ``map.tif`` → ``map_probabilities.tif``."""
    return output if layer == CLASSES else output.with_name(f"{output.stem}_{layer}{output.suffix}")


def polygons_path(output: Path) -> Path:
    """Name a map's polygons: ``map.tif`` → ``map_polygons.gpkg``, since QGIS takes ``map.qml`` for the raster's."""
    return output.with_name(f"{output.stem}_polygons.gpkg")


def map_scene(mapper: Mapper, image: str, output: Path, advance: Callable[[int], None] = lambda _: None) -> SceneMap:
    """Map a scene into a Cloud Optimized GeoTIFF, and further files if asked for.

    What is finished is kept in a folder beside the output until the map is whole; the same call goes on from there.

    Args:
        mapper: The network and how it maps.
        image: The scene.
        output: The class map to write; other files are named after it.
        advance: Called with the number of pixels that have been mapped since its last call.

    Raises:
        UserError: The scene cannot be read or does not fit, an option is impossible, the output cannot be written.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f".{output.name}.partial")
    layers = map_layers(mapper.spec.classes, mapper.options.probabilities)
    try:
        with block_cache(CACHE_MEGABYTES):
            with open_scene(image, mapper.spec) as reader:
                grid, plan = reader.info, _map(mapper, reader, folder, layers, advance)
            _make_files(mapper, folder, output, layers, grid)
    except BaseException:
        _keep_or_remove(folder)
        raise
    files = _publish(folder / "whole", output)
    shutil.rmtree(folder, ignore_errors=True)
    uncertain = layer_path(output, UNCERTAINTY) if mapper.options.probabilities else None
    return SceneMap(output, files, uncertain, grid, plan)


def _make_files(mapper: Mapper, folder: Path, output: Path, layers: list[Layer], grid: RasterInfo) -> None:
    """Turn the layers into the files that were asked for, in the folder ``whole``."""
    whole = folder / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    for layer in layers:
        write_cog(folder / f"{layer.name}.raw", layer_path(whole / output.name, layer.name), layer, grid)
    if mapper.options.polygons:
        _write_polygons(mapper, whole / output.name, grid)
    _write_styles(mapper, whole / output.name, layers)


def _keep_or_remove(folder: Path) -> None:
    """After a failure: keep what another run can go on with, and say so; remove what none can."""
    if strips := len(finished_strips(folder)):
        log.info("%d finished strips are kept in %s; the same command goes on from there.", strips, folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _map(
    mapper: Mapper, reader: SceneReader, folder: Path, layers: list[Layer], advance: Callable[[int], None]
) -> MapPlan:
    """Map the strips that are not done yet; return the plan."""
    predictor = Predictor(mapper.network, mapper.device, mapper.options.average_turns)
    plan = _plan(mapper, predictor, reader, folder, layers)
    todo = sorted(set(range(len(plan.rows))) - finished_strips(folder))
    rows = sum(plan.rows[strip].final - plan.rows[strip].first for strip in todo)
    advance((plan.height - rows) * plan.width)
    options = mapper.options
    if options.processes > 1 and len(todo) > 1:
        job = StripJob(
            mapper.checkpoint,
            reader.info.path,
            plan,
            folder,
            mapper.device.type,
            options.average_turns,
            options.probabilities,
            CACHE_MEGABYTES,
        )
        map_in_processes(job, todo, options.processes, advance)
        return plan
    with StripStore(folder, layers, plan.height, plan.width) as store:
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
    return plan


def _plan(mapper: Mapper, predictor: Predictor, reader: SceneReader, folder: Path, layers: list[Layer]) -> MapPlan:
    """Return the plan of the run that was broken off if it was the same, else make one and start a store."""
    fingerprint = _fingerprint(mapper, reader.info)
    before = read_plan(folder, fingerprint)
    if before is not None:
        plan = MapPlan.from_dict(before)
        done = len(finished_strips(folder))
        log.info("Windows  %s, as before the break: %d of %d strips are done", _describe(plan), done, len(plan.rows))
        return plan
    options = mapper.options
    request = WindowRequest(options.overlap, options.window, options.blend, options.batch_size)
    choice = choose_plan(request, predictor, mapper.spec, reader)
    log.info("Windows  %s; %s", _describe(choice.plan), choice.reason)
    _check_room(reader.info, folder, layers)
    start_store(folder, fingerprint, choice.plan.to_dict())
    return choice.plan


def _describe(plan: MapPlan) -> str:
    (height, width), (down, across) = plan.window, plan.halo
    return f"{width} × {height} px sharing {across} × {down} px on each side, {plan.batch} at once"


def _check_room(info: RasterInfo, folder: Path, layers: list[Layer]) -> None:
    needed = info.window.pixels * sum(layer.pixel_bytes for layer in layers)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise UserError(
            f"{folder.parent} has {free / 1e9:.1f} GB free; mapping {info.path} needs at least {needed / 1e9:.1f} GB "
            "there until the map is compressed. Free some space or write elsewhere."
        )


def _fingerprint(mapper: Mapper, info: RasterInfo) -> dict[str, Any]:
    """Everything that a map's numbers depend on."""
    file = Path(info.path)
    stat = file.stat() if file.is_file() else None
    return {
        "checkpoint": hashlib.sha256(mapper.checkpoint.read_bytes()).hexdigest(),
        "image": str(file.resolve()) if stat else info.path,
        "image_bytes": stat.st_size if stat else None,
        "image_changed": stat.st_mtime_ns if stat else None,
        "grid": [info.width, info.height, info.crs, list(info.transform), info.dtype, str(info.nodata)],
        "options": mapper.options.numbers,
        "device": mapper.device.type,
        "precision": precision_name(mapper.device, mapper.network),
        "versions": software_versions(),
    }


def _write_polygons(mapper: Mapper, classes: Path, grid: RasterInfo) -> None:
    """Write the polygons of the class map beside it, sieved if asked for."""
    source = classes
    if mapper.options.min_pixels > 1:
        source = classes.parent.with_name("sieved.raw")
        sieve(classes, source, mapper.options.min_pixels)
    file = Path(grid.path)
    changed = datetime.fromtimestamp(file.stat().st_mtime if file.is_file() else 0, UTC)
    strips = (values for _, _, values in row_blocks(source))
    stamp = changed.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    write_polygons(polygons_path(classes), map_polygons(strips, grid.width), grid, mapper.spec.classes, stamp)


def _write_styles(mapper: Mapper, output: Path, layers: list[Layer]) -> None:
    classes = mapper.spec.classes
    for layer in layers:
        style = raster_style(classes) if layer.classes else share_style(layer.name == PROBABILITIES)
        write_text(layer_path(output, layer.name).with_suffix(".qml"), style)
    if mapper.options.polygons:
        write_text(polygons_path(output).with_suffix(".qml"), polygon_style(classes))


def _publish(whole: Path, output: Path) -> tuple[Path, ...]:
    """Move whole files to where they belong, the class map last; return them, without what GDAL put beside them."""
    others = sorted(path for path in whole.iterdir() if path.name != output.name)
    for path in [*others, whole / output.name]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        beside = path.with_name(f"{path.name}.aux.xml")
        if path.suffix != ".xml" and beside not in others:
            output.with_name(beside.name).unlink(missing_ok=True)
        path.replace(output.with_name(path.name))
    return (output, *(output.with_name(path.name) for path in others if path.suffix != ".xml"))
