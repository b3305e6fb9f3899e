"""A map of a scene of any size: planned, mapped strip by strip, gone on with after a break, whole at the end."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from src.atomic import write_text
from src.errors import UserError
from src.file_lock import locked
from src.fingerprints import fingerprints
from src.mapping.cog import Layer, write_cog
from src.mapping.inference import Predictor
from src.mapping.map_paths import areas_path, layer_file_path, map_report_path, strips_folder
from src.mapping.map_record import MapRecord, record_path
from src.mapping.map_scores import row_blocks
from src.mapping.network_file import file_hash, hashed
from src.mapping.options import MapOptions
from src.mapping.outputs import check_no_folder, check_replaces_nothing, layer_path, polygons_path, written
from src.mapping.plan import MapPlan
from src.mapping.polygons import map_polygons, write_polygons
from src.mapping.processes import StripJob, map_in_processes
from src.mapping.scene_reader import SceneReader, open_scene, scene_decoding
from src.mapping.strip_store import StripStore, differing, finished_strips, read_plan, start_store, strips_bytes
from src.mapping.strips import PROBABILITIES, UNCERTAINTY, map_layers, map_strips
from src.mapping.styles import polygon_style, raster_style, share_style
from src.mapping.window_choice import WindowRequest, choose_plan
from src.memory import give_back_memory
from src.models.checkpoint import TrainedOn, find_checkpoint, load_described
from src.models.network import Network
from src.models.precision import choose_device, precision_name
from src.models.threads import computing_with
from src.raster.read import RasterInfo
from src.score_files import remove_map_scores
from src.spec import NetworkSpec, git_revision, software_versions
from src.vector import sieve

log = logging.getLogger(__name__)

Show = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Is told what is under way and how many pixels there are, None where nobody counts them; gives what takes the
pixels that are done: the first time those that were done before, then those since its last call."""


@contextmanager
def silent(_: str, __: int | None) -> Iterator[Callable[[int], None]]:
    """Show nothing; see :data:`Show`."""
    yield lambda _: None


@dataclass(frozen=True)
class Mapper:
    """A trained network, where it came from, and where it runs; maps one scene after another.

    Attributes:
        checkpoint: The checkpoint's file.
        network: The network.
        spec: What it expects.
        device: Where it runs.
        options: How it maps.
        fingerprint: SHA-256 of the file that the network was loaded from; taken of ``checkpoint`` where none is given.
        trained_on: What this file says it was trained on.
    """

    checkpoint: Path
    network: Network
    spec: NetworkSpec
    device: torch.device
    options: MapOptions
    fingerprint: str = ""
    trained_on: TrainedOn = field(default_factory=TrainedOn)

    def __post_init__(self) -> None:
        """Hash the checkpoint where whoever loaded the network has not."""
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", file_hash(self.checkpoint))

    @classmethod
    def load(cls, checkpoint: str | Path, options: MapOptions | None = None, accelerator: str = "auto") -> Mapper:
        """Load a checkpoint, or the best one of a run's folder.

        Args:
            checkpoint: A ``.ckpt``, a run's folder or an exported ``.onnx``.
            options: How scenes are mapped; the command's defaults if None.
            accelerator: ``auto``, ``cpu`` or ``gpu``.

        Raises:
            UserError: There is no such checkpoint or device, or it cannot be read.
        """
        path, device = find_checkpoint(checkpoint), choose_device(accelerator)
        (network, said), fingerprint = hashed(path, load_described)
        return cls(path, network, said.spec, device, options or MapOptions(), fingerprint, said.trained_on)


@dataclass(frozen=True)
class SceneMap:
    """A finished map.

    Attributes:
        path: The class map.
        files: Every file that was written, the class map first.
        uncertainty: The uncertainty raster if it was asked for.
        grid: The scene.
        plan: The windows that were used.
        made: False where it was there already.
    """

    path: Path
    files: tuple[Path, ...]
    uncertainty: Path | None
    grid: RasterInfo
    plan: MapPlan
    made: bool = True


def map_scene(
    mapper: Mapper,
    image: str | Path,
    output: str | Path,
    show: Show = silent,
    *,
    label: str | Path | None = None,
) -> SceneMap:
    """Map a scene into a Cloud Optimized GeoTIFF, and further files if asked for.

    What is finished is kept in a folder beside the output until the map is whole; the same call goes on from there.
    A map that the same call has finished before is left as it is.

    Args:
        mapper: The network and how it maps.
        image: The scene.
        output: The class map to write; other files are named after it.
        show: Shows how far each part of the work is.
        label: What the map is to be scored against, so that neither the map nor its scores take its place; None for
            nothing.

    Raises:
        UserError: The scene cannot be read or does not fit, an option is impossible, the output cannot be written or
            would take the place of the scene, the checkpoint, the label or the files of a training, or another process
            is writing it.
    """
    image, output = str(image), Path(output)
    _check_output(mapper, image, output, label)
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = strips_folder(output)
    with _only_run(output), scene_decoding(mapper.device.type), open_scene(image, mapper.spec, folder) as reader:
        record = MapRecord(record_path(output), {**_fingerprint(mapper, reader.info), "made": mapper.options.files})
        if (before := record.finished()) is not None:
            log.info("Map      is there already, made by the same checkpoint with the same settings: left as it is")
            shutil.rmtree(folder, ignore_errors=True)
            return _scene_map(mapper, before.files, reader.info, MapPlan.from_dict(before.plan), made=False)
        try:
            plan = _map(mapper, reader, folder, show)
            _make_files(mapper, folder, output, reader.info, show)
        except BaseException:
            _keep_or_remove(folder, _fingerprint(mapper, reader.info))
            raise
        _remove_before(record, output, {path.name for path in (folder / "whole").iterdir()})
        files = _publish(folder / "whole", output)
        record.write(files, plan.to_dict())
        shutil.rmtree(folder, ignore_errors=True)
        return _scene_map(mapper, files, reader.info, plan)


def _check_output(mapper: Mapper, image: str, output: Path, label: str | Path | None) -> None:
    check_no_folder([output])
    labels = [] if label is None else [str(label)]
    files = written(output, mapper.options, scored=bool(labels))
    check_replaces_nothing(files, scenes=[image], labels=labels, checkpoint=mapper.checkpoint)


@contextmanager
def _only_run(output: Path) -> Iterator[None]:
    """Raise UserError if another process writes the same map right now."""
    path = output.with_name(f".{output.name}.lock")
    with locked(path) as ours:
        if not ours:
            raise UserError(
                f"{output} is being made by another run; expected one at a time. Wait for it, or name another output."
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _scene_map(mapper: Mapper, files: tuple[Path, ...], grid: RasterInfo, plan: MapPlan, made: bool = True) -> SceneMap:
    uncertain = layer_path(files[0], UNCERTAINTY) if mapper.options.probabilities else None
    return SceneMap(files[0], files, uncertain, grid, plan, made)


def _make_files(mapper: Mapper, folder: Path, output: Path, grid: RasterInfo, show: Show) -> None:
    """Turn the layers into the files that were asked for, in the folder ``whole``."""
    whole, layers = folder / "whole", _layers(mapper)
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    for layer in layers:
        path = layer_path(whole / output.name, layer.name)
        with show(f"Writing {path.name}", None):
            write_cog(folder / f"{layer.name}.raw", path, layer, grid)
    if mapper.options.vector:
        _write_polygons(mapper, whole / output.name, grid, show)
    _write_styles(mapper, whole / output.name, layers)


def _layers(mapper: Mapper) -> list[Layer]:
    return map_layers(mapper.spec.classes, mapper.options.probabilities)


def _keep_or_remove(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """After a failure: keep what another run can go on with, and say so; remove what none can."""
    if strips := len(finished_strips(folder)):
        if read_plan(folder, fingerprint) is not None:  # else they are another command's, which may go on with them
            log.info("%d finished strips are kept in %s; a run with the same output goes on there.", strips, folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _map(mapper: Mapper, reader: SceneReader, folder: Path, show: Show) -> MapPlan:
    """Map the strips that are not done yet; return the plan."""
    options = mapper.options
    predictor = Predictor(mapper.network, mapper.device, options.tta, mapper.spec.chip_size, options.devices)
    with computing_with(max(1, torch.get_num_threads() // options.devices)):
        plan = _plan(mapper, predictor, reader, folder)
    give_back_memory()  # what windows of other sizes took
    with show("Mapping", plan.height * plan.width) as advance:
        _map_strips(mapper, predictor, reader, plan, folder, advance)
    give_back_memory()  # what windows took, before files are made
    return plan


def _map_strips(
    mapper: Mapper,
    predictor: Predictor,
    reader: SceneReader,
    plan: MapPlan,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    todo = sorted(set(range(len(plan.rows))) - finished_strips(folder))
    rows = sum(plan.rows[strip].final - plan.rows[strip].first for strip in todo)
    advance((plan.height - rows) * plan.width)
    options = mapper.options
    if options.devices > 1 and len(todo) > 1:
        job = StripJob(
            mapper.checkpoint,
            mapper.fingerprint,
            reader.info.path,
            plan,
            folder,
            mapper.device.type,
            options.tta,
            options.probabilities,
            options.devices,
        )
        predictor.leave()
        map_in_processes(job, todo, options.devices, advance)
        return
    with StripStore(folder, _layers(mapper), plan.height, plan.width) as store:
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


def _plan(mapper: Mapper, predictor: Predictor, reader: SceneReader, folder: Path) -> MapPlan:
    """Return the plan of the run that was broken off if it was the same, else make one and start a store."""
    fingerprint = _fingerprint(mapper, reader.info)
    before = read_plan(folder, fingerprint)
    if before is not None:
        plan = MapPlan.from_dict(before)
        done = len(finished_strips(folder))
        log.info("Windows  %s, as before the break: %d of %d strips are done", _describe(plan), done, len(plan.rows))
        return plan
    if (changed := differing(folder, fingerprint)) and (done := len(finished_strips(folder))):
        log.info("Anew     %d strips are of a run that differs in %s, and are replaced", done, ", ".join(changed))
    options = mapper.options
    request = WindowRequest(options.overlap, options.window, options.blend, options.batch_size)
    choice = choose_plan(request, predictor, mapper.spec, reader)
    log.info("Windows  %s; %s", _describe(choice.plan), choice.reason)
    _check_room(reader, choice.plan, folder, _layers(mapper))
    start_store(folder, fingerprint, choice.plan.to_dict())
    return choice.plan


def _describe(plan: MapPlan) -> str:
    (height, width), (down, across) = plan.window, plan.halo
    return f"{width} × {height} px sharing {across} × {down} px on each side, in batches of {plan.batch}"


def _check_room(reader: SceneReader, plan: MapPlan, folder: Path, layers: list[Layer]) -> None:
    info = reader.info
    needed = info.window.pixels * sum(layer.pixel_bytes for layer in layers) + reader.scratch_bytes(plan.window[0])
    free = shutil.disk_usage(folder.parent).free + strips_bytes(folder)  # another map's, which make room now
    if free < needed:
        raise UserError(
            f"{folder.parent} has {free / 1e9:.1f} GB free; mapping {info.path} needs at least {needed / 1e9:.1f} GB "
            "there until the map is compressed. Free some space or write elsewhere."
        )


def _fingerprint(mapper: Mapper, info: RasterInfo) -> dict[str, Any]:
    """Everything that a map's numbers depend on."""
    file = Path(info.path)
    stat = file.stat() if file.is_file() else None
    # As it was given, links and all: GDAL looks for what belongs to a file beside the link.
    itself, *beside = fingerprints([str(file.absolute()) if stat else info.path])
    if not stat:  # it may lie in an archive
        beside.insert(0, itself)
    return {
        "checkpoint": mapper.fingerprint,
        "image": str(file.resolve()) if stat else info.path,
        "image_bytes": stat.st_size if stat else None,
        "image_changed": stat.st_mtime_ns if stat else None,
        **({"image_files": beside} if beside else {}),
        "grid": [info.width, info.height, info.crs, list(info.transform), info.dtype, str(info.nodata)],
        **({"control": [info.control.crs, *map(list, info.control.points)]} if info.control else {}),
        # Which may stand beside the file, in what fingerprints() leaves out since programs write it by themselves.
        "bands": [[band.name, band.wavelength] for band in info.bands],
        "masks": [info.masked, list(info.alpha)],
        "options": mapper.options.numbers,
        "device": mapper.device.type,
        "precision": precision_name(mapper.device, mapper.network),
        "versions": software_versions(),
        "revision": git_revision(),
    }


def _write_polygons(mapper: Mapper, classes: Path, grid: RasterInfo, show: Show) -> None:
    """Write the polygons of the class map beside it, sieved if asked for."""
    source, path = classes, polygons_path(classes)
    if mapper.options.sieve > 1:
        source = classes.parent.with_name("sieved.raw")
        with show("Sieving", None):
            sieve(classes, source, mapper.options.sieve)
    file = Path(grid.path)
    changed = datetime.fromtimestamp(file.stat().st_mtime if file.is_file() else 0, UTC)
    stamp = changed.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    with show(f"Writing {path.name}", grid.window.pixels) as advance:
        polygons = map_polygons(_counted(source, advance), grid.width)
        write_polygons(path, polygons, grid, mapper.spec.classes, stamp)


def _counted(source: Path, advance: Callable[[int], None]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the rows of a class map, and say how many pixels were done before each block."""
    advance(0)
    for _, window, values in row_blocks(source):
        yield values
        advance(window.pixels)


def _write_styles(mapper: Mapper, output: Path, layers: list[Layer]) -> None:
    classes = mapper.spec.classes
    for layer in layers:
        style = raster_style(classes) if layer.classes else share_style(layer.name == PROBABILITIES)
        write_text(layer_path(output, layer.name).with_suffix(".qml"), style)
    if mapper.options.vector:
        write_text(polygons_path(output).with_suffix(".qml"), polygon_style(classes))


def _remove_before(record: MapRecord, output: Path, new: set[str]) -> None:
    """Remove what belongs to the map before and is not replaced with it: record, scores, areas, report and others."""
    before = record.files()
    others = [file for file in before if file.name not in new] if before[:1] == (output,) else []
    record.remove()
    remove_map_scores(output)
    for file in (*others, areas_path(output), layer_file_path(output), map_report_path(output)):
        for path in (file, file.with_name(f"{file.name}.aux.xml")):
            path.unlink(missing_ok=True)


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
