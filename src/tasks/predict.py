"""``python predict.py``: map one scene or several with a checkpoint."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.atomic import check_output_folder
from src.class_map import ClassMap
from src.datafolder import DATASET, read_dataset
from src.errors import UserError
from src.grid import Blend
from src.input_files import GEOTIFFS, find_files
from src.label_sources import NoLabelError, without_label
from src.mapping.areas import format_areas, write_areas_csv
from src.mapping.ground_truth import (
    GroundTruth,
    LabelOptions,
    UnknownClass,
    check_ground_truth,
    ground_truth,
    ground_truth_style,
    read_otherwise,
)
from src.mapping.layer_file import ShownLayer, scene_layer, write_layer_file
from src.mapping.map_paths import areas_path, layer_file_path, strips_folder
from src.mapping.map_record import record_path
from src.mapping.map_scores import MapSurvey, survey
from src.mapping.options import MapOptions
from src.mapping.outputs import (
    check_not_among_scenes,
    check_replaces_nothing,
    choose_outputs,
    report_path,
    written,
)
from src.mapping.processes import check_processes
from src.mapping.scene_map import Mapper, SceneMap, map_scene
from src.mapping.scene_reader import open_scene
from src.mapping.strips import Probabilities
from src.mapping.trained_ground import TrainedGround
from src.models.precision import arrange_memory, choose_device, precision_name
from src.preparation.scene_files import pair
from src.progress import stage
from src.radiometry import unlike_training
from src.raster.georeference import crs_label
from src.raster.read import RasterInfo, describe
from src.report.prediction import MappedScene, prediction_report
from src.score_files import (
    MEANINGS,
    check_same_kind,
    score_prefix,
    write_score_files,
)
from src.score_lines import format_scores
from src.spec import software_versions
from src.tasks.prepare import class_rule
from src.tasks.reporting import add_report
from src.tasks.schema import PredictConfig
from src.vector import is_vector, vector_crs

log = logging.getLogger(__name__)

FILES = {
    "_probabilities": "Probability of each class",
    "_uncertainty": "Uncertainty: normalised entropy of the probabilities",
    "_polygons": "Polygons with class value and name",
    "_areas.csv": "What each class covers: pixels, percent, hectares",
}
"""What the files beside a map are, by the end of their names."""
LAYERS = {"": "Map", "_probabilities": "Probabilities", "_uncertainty": "Uncertainty", "_polygons": "Polygons"}
"""What QGIS calls them."""


def run(config: DictConfig) -> float | None:
    """Run the task; returns the mean IoU over all scenes, None without labels."""
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, PredictConfig)
    run_folder = Path(HydraConfig.get().runtime.output_dir)
    mapper, scenes = map_all(settings, run_folder)
    make = partial(prediction_report, scenes=scenes, spec=mapper.spec, checkpoint=mapper.checkpoint)
    add_report(report_path([scene.output for scene in scenes], settings.output), "predict", config, make)
    scored = [scene.evaluation.pooled.mean_iou for scene in scenes if scene.evaluation]
    return sum(scored) / len(scored) if scored else None


def map_all(settings: PredictConfig, run_folder: Path) -> tuple[Mapper, list[MappedScene]]:
    """Map and score every scene, write the files, say what they are.

    Args:
        settings: The command's keys.
        run_folder: Where maps go whose place was not given.

    Raises:
        UserError: Something that was given cannot be used; what can be seen before mapping is seen before.
    """
    images = find_files(_texts(settings.image), "image")
    labels = find_labels(settings.label, images)
    outputs = choose_outputs(images, settings.output, run_folder)
    check_output_folder(outputs[0].parent)
    check_not_among_scenes(outputs, _texts(settings.image))
    scored = [file for file in labels if file is not None]
    for output in outputs if scored else []:
        check_same_kind(output.parent, score_prefix(output), of_map=True)
    mapper = load_mapper(settings)
    files = [file for output in outputs for file in written(output, mapper.options, scored=bool(scored))]
    files.append(report_path(outputs, settings.output))
    check_replaces_nothing(files, scenes=images, labels=scored, checkpoint=mapper.checkpoint)
    trained = TrainedGround.of(mapper.trained_on) if scored else TrainedGround()
    unmapped = _unmapped(mapper, scored, settings)
    checked = [_check(mapper, image, label, settings, trained) for image, label in zip(images, labels, strict=True)]
    checked = [
        found._replace(unmapped=unmapped.get(label)) if label and found.truth else found
        for found, label in zip(checked, labels, strict=True)
    ]
    labels = _labels_there(images, labels, checked)
    with _saying_where(outputs, settings.output):
        return mapper, [
            _map_one(mapper, image, output, found, label, settings)
            for image, output, found, label in zip(images, outputs, checked, labels, strict=True)
        ]


@contextmanager
def _saying_where(outputs: Sequence[Path], output: str | None) -> Iterator[None]:
    """When a run whose command named no ``output`` is broken off, say which ``output`` lets the same command go on."""
    try:
        yield
    except BaseException as error:
        if output is None and any(path.is_file() or strips_folder(path).is_dir() for path in outputs):
            place = outputs[0] if len(outputs) == 1 else outputs[0].parent
            words = f"What is finished is kept; add output={place} to the same command to go on from there."
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(words) from error
            log.info(words)
        raise


def load_mapper(settings: PredictConfig) -> Mapper:
    """Load the network once for all scenes; raises UserError for what cannot be used."""
    options = map_options(settings)
    check_processes(settings.devices, device := choose_device(settings.accelerator))
    arrange_memory(device)
    mapper = Mapper.load(settings.checkpoint, options, settings.accelerator)
    spec = mapper.spec
    log.info("Network  %s, %d bands, %d classes, %s", spec.title, len(spec.bands), len(spec.classes), mapper.checkpoint)
    several = f"{settings.devices} processes, " if settings.devices > 1 else ""
    log.info("Device   %s%s, %s", several, device, precision_name(device, mapper.network))
    return mapper


def map_options(settings: PredictConfig) -> MapOptions:
    """Check and type the options; raises UserError for one that is none of its choices."""
    blends: dict[str, Blend] = {blend: blend for blend in get_args(Blend)}
    if settings.blend not in blends:
        raise UserError(f"blend={settings.blend} is not known; expected one of {', '.join(blends)}. Take cosine.")
    storages: dict[object, Probabilities | None] = {False: None, True: "uint8", "uint8": "uint8", "float16": "float16"}
    wanted = settings.probabilities
    if not isinstance(wanted, bool | str) or wanted not in storages:
        raise UserError(f"probabilities={wanted} is not known; expected true, false, uint8 or float16. Take true.")
    if settings.sieve < 0:
        raise UserError(f"sieve={settings.sieve} is no number of pixels; expected 0 (keep all) or more.")
    if settings.sieve and not settings.vector:
        raise UserError(f"sieve={settings.sieve} is for polygons, which are not asked for. Add vector=true.")
    return MapOptions(
        overlap=settings.overlap,
        window=settings.window,
        blend=blends[settings.blend],
        batch_size=settings.batch_size,
        tta=settings.tta,
        probabilities=storages[wanted],
        vector=settings.vector,
        sieve=settings.sieve,
        devices=settings.devices,
    )


def find_labels(given: Any, images: Sequence[str]) -> list[str | None]:
    """Return a label file for every scene; see :func:`src.preparation.scene_files.pair`."""
    if given is None:
        return [None] * len(images)
    return [*pair(images, find_files(_texts(given), "label"), "label")]


def _texts(given: Any) -> list[str]:
    return [str(entry) for entry in (given if isinstance(given, list) else [given])]


class Checked(NamedTuple):
    """What is known of a scene before it is mapped.

    Attributes:
        truth: What it is scored against; None for nothing.
        unlike: What about its numbers is unlike those of training; None for nothing.
        seen: That the network was trained on it, where it is scored; None if it was not, or if nobody knows.
        beside: That the label has no class on it; None if it has, or where there is no label.
        unmapped: That the labels of training were read with a class map, and these are not; None for nothing.
    """

    truth: GroundTruth | None
    unlike: str | None
    seen: str | None = None
    beside: NoLabelError | None = None
    unmapped: str | None = None

    @property
    def limits(self) -> str | None:
        """What speaks against its scores and not against its map; None for nothing."""
        return "; ".join(words for words in (self.seen, self.unmapped) if words) or None

    @property
    def caution(self) -> str | None:
        """All that speaks against its scores; None for nothing."""
        return "; ".join(words for words in (self.unlike, self.limits) if words) or None


def _unmapped(mapper: Mapper, labels: Sequence[str], settings: PredictConfig) -> dict[str, str]:
    """Say of which labels the classes may be others because training's were read with a class map, and these are not.

    Returns:
        What to say, by label. It is logged, once for all of them.
    """
    class_map = _training_map(mapper) if labels and settings.class_map is None else None
    if class_map is None:
        return {}
    classes, options = mapper.spec.classes, label_options(settings)
    found = [label for label in dict.fromkeys(labels) if read_otherwise(label, classes, options, class_map)]
    words = (
        "the labels of training were read with a class_map and these are read without one, so their classes may count "
        f"as others; if they have the classes that those had, add class_map={shlex.quote(class_map.written())}"
    )
    if found:
        log.warning("CAUTION: %s: %s", ", ".join(found[:3]) + " …" * (len(found) > 3), words)
    return dict.fromkeys(found, words)


def _training_map(mapper: Mapper) -> ClassMap | None:
    """Return the class map that training's labels were read with; None without one, or where nobody knows."""
    folder, entries = mapper.trained_on.folder, mapper.trained_on.class_map
    with suppress(UserError, OSError):  # what is wrong with another command's files is not ours to say
        if folder is not None and (folder / DATASET).is_file():
            made = read_dataset(folder / DATASET)
            if made.classes.values == mapper.spec.classes.values:  # else it was made anew since
                entries = made.config.get("class_map")
        return None if entries is None else ClassMap.from_entries(entries)
    return None


def _check(mapper: Mapper, image: str, label: str | None, settings: PredictConfig, trained: TrainedGround) -> Checked:
    """Open a scene and what it is scored against before hours are spent on mapping others."""
    with open_scene(image, mapper.spec) as reader:
        info = reader.info
        checked = Checked(None, unlike_training(mapper.spec, [info], reader.sample(), reader.bands))
    if label is not None:
        try:
            truth = ground_truth(label, info, mapper.spec.classes, label_options(settings))
            check_ground_truth(truth, label, info, mapper.spec.classes)
            checked = Checked(truth, checked.unlike, trained.caution(info))
        except NoLabelError as error:
            checked = checked._replace(beside=error)
    for words in filter(None, (checked.unlike, checked.seen)):
        log.warning("CAUTION: %s: %s", image, words)
    return checked


def _labels_there(images: Sequence[str], labels: Sequence[str | None], checked: Sequence[Checked]) -> list[str | None]:
    """Return the labels without those that have no class on their scene, which may be where a label is for several.

    Raises:
        NoLabelError: A label that is for one scene has none there, or one for several on none of them.
    """
    beside = [image for image, found in zip(images, checked, strict=True) if found.beside]
    for label, found in zip(labels, checked, strict=True):
        if found.beside and (labels.count(label) == 1 or len(beside) == len(images)):
            raise found.beside
    if beside:
        log.warning("CAUTION: %s; they are mapped without scores.", without_label(beside, len(images)))
    return [None if found.beside else label for label, found in zip(labels, checked, strict=True)]


def label_options(settings: PredictConfig) -> LabelOptions:
    """Say how labels are read; raises UserError for a class map that contradicts itself."""
    rules = None if settings.class_map is None else ClassMap(tuple(class_rule(rule) for rule in settings.class_map))
    return LabelOptions(rules, settings.label_field, settings.label_layer)


def _map_one(
    mapper: Mapper, image: str, output: Path, checked: Checked, label: str | None, settings: PredictConfig
) -> MappedScene:
    info, truth = describe(image), checked.truth
    log.info("")
    log.info("Scene    %s, %d × %d px, %s, %s", image, info.width, info.height, info.dtype, crs_label(info.crs))
    if info.crs is None:
        where = "has the scene's control points" if info.control else "lies where the scene lies in rows and columns"
        log.info("         Without a CRS the map %s; areas and polygons are in pixels.", where)
    if truth is not None and truth.note:
        log.info("Label    %s", truth.note)
    began = time.monotonic()
    scene = map_scene(mapper, image, output, stage, label=label)
    if scene.made:
        seconds, megapixels = time.monotonic() - began, info.window.pixels / 1e6
        log.info("Mapped   %.1f Mpx in %.1f s, %.2f Mpx/s", megapixels, seconds, megapixels / seconds)
    found = _survey(mapper, scene, truth)
    unknown = _say_unknown(truth, found)
    files = [*scene.files, areas_path(output), record_path(output)]
    write_areas_csv(areas_path(output), found.areas)
    files.append(_layer_file(mapper, scene, image, label, settings))
    for line in ("", *format_areas(found.areas)):
        log.info(line)
    if not any(area.pixels for area in found.areas if area.value):
        log.info("Map      is empty: no pixel has a measurement in all bands that count%s.", _dead(mapper, image))
    if found.scores is not None:
        context = _context(mapper, scene, image, label, unknown, checked.caution)
        files += write_score_files(output.parent, found.scores, context, score_prefix(output))
        for line in ("", f"Against {label}, on {found.scores.pooled.matrix.sum():,} labelled pixels:", ""):
            log.info(line)
        for line in format_scores(found.scores):
            log.info(line)
    log.info("")
    for path in files:
        log.info("%s  %s", path, _size(path, info))
    named = [(path, _meaning(path, output)) for path in files]
    return MappedScene(
        image,
        output,
        found.areas,
        scene.uncertainty,
        found.scores,
        named,
        found.sample,
        checked.unlike,
        checked.limits,
        unknown,
    )


def _dead(mapper: Mapper, image: str) -> str:
    """Say which bands of a scene have no measurement at all."""
    with open_scene(image, mapper.spec) as reader:
        dead = reader.dead_bands()
    return f"; there is none in {', '.join(dead)}" if dead else ""


def _layer_file(mapper: Mapper, scene: SceneMap, image: str, label: str | None, settings: PredictConfig) -> Path:
    """Write what QGIS opens with one click: the map on its scene, with everything else that belongs to it."""
    path = layer_file_path(scene.path)
    layers = [
        ShownLayer(
            LAYERS.get(file.stem.removeprefix(scene.path.stem), file.stem),
            str(file),
            file.with_suffix(".qml").read_text(encoding="utf-8"),
            shown=file == scene.path,
            vector=file.suffix == ".gpkg",
            crs=scene.grid.crs,
        )
        for file in scene.files
        if file.suffix != ".qml"
    ]
    if label is not None:
        vector, layer = is_vector(label), settings.label_layer
        crs = vector_crs(label, layer) if vector else describe(label).crs
        style = ground_truth_style(label, mapper.spec.classes, label_options(settings))
        layers.append(ShownLayer("Labels", label, style, shown=False, vector=vector, crs=crs, layer=layer))
    write_layer_file(path, scene.path.stem, [*layers, scene_layer(image, spec=mapper.spec)])
    return path


def _survey(mapper: Mapper, scene: SceneMap, truth: GroundTruth | None) -> MapSurvey:
    classes, pixels = mapper.spec.classes, scene.grid.window.pixels
    if truth is None:
        with stage("Measuring", pixels) as advance:
            return survey(scene.path, classes, advance=advance)
    with truth.open() as label, stage("Scoring", pixels) as advance:
        return survey(scene.path, classes, label, advance)


def _say_unknown(truth: GroundTruth | None, found: MapSurvey) -> list[UnknownClass]:
    """Return the classes of the labels that the checkpoint does not know, once they are said."""
    unknown = [] if truth is None else truth.unknown(found.unknown)
    if unknown:
        counts = ", ".join(f"{entry.title} ({entry.pixels:,})" for entry in unknown)
        log.info("Label    has pixels of %s, which the checkpoint does not know; they do not count.", counts)
    if truth is not None and found.scores is None:
        log.info("Label    has no class where the map has one: there is nothing to score.")
    return unknown


def _context(
    mapper: Mapper, scene: SceneMap, image: str, label: str | None, unknown: list[UnknownClass], caution: str | None
) -> dict[str, Any]:
    return {
        "checkpoint": str(mapper.checkpoint),
        "checkpoint_sha256": mapper.fingerprint,
        "image": image,
        "label": label,
        "map": str(scene.path),
        "caution": caution,
        "unknown_classes": [asdict(entry) for entry in unknown],
        "plan": scene.plan.to_dict(),
        "device": str(mapper.device),
        "precision": precision_name(mapper.device, mapper.network),
        "versions": software_versions(),
    }


def _size(path: Path, info: RasterInfo) -> str:
    megabytes = path.stat().st_size / 1e6
    size = f"{megabytes:.1f} MB" if megabytes >= 0.1 else f"{megabytes * 1000:.1f} kB"
    return f"{info.width} × {info.height} px, {size}" if path.suffix.lower() in GEOTIFFS else size


def _meaning(path: Path, output: Path) -> str:
    """Say in a few words what a file is."""
    if path == output:
        return "The map: class values with names and colours"
    if path == record_path(output):
        return "What the map was made of: checkpoint, settings, windows, versions"
    if path.suffix == ".qlr":
        return "All of it for QGIS: drag it into the window"
    if path.suffix == ".qml":
        return f"How QGIS shows {path.stem}"
    return next(
        (words for end, words in {**FILES, **MEANINGS}.items() if path.name.endswith(end) or path.stem.endswith(end)),
        "",
    )
