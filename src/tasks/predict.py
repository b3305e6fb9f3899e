"""``python predict.py``: map one scene or several with a checkpoint."""

from __future__ import annotations

import glob
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.areas import format_areas
from src.errors import UserError
from src.grid import Blend
from src.map_scores import survey
from src.mapping import MapOptions, Mapper, SceneMap, map_scene
from src.models.checkpoint import find_checkpoint, load_network
from src.models.precision import choose_device, precision_name
from src.progress import progress
from src.raster import describe
from src.strip_mapping import Probabilities
from src.tasks.schema import PredictConfig

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Run the task."""
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, PredictConfig)
    images = find_images(settings.image)
    outputs = choose_outputs(images, settings.output, Path(HydraConfig.get().runtime.output_dir))
    checkpoint = find_checkpoint(settings.checkpoint)
    device = choose_device(settings.accelerator)
    options = map_options(settings)
    network, spec = load_network(checkpoint)
    name = f"{spec.architecture}/{spec.encoder}"
    log.info("Network  %s, %d bands, %d classes, %s", name, len(spec.bands), len(spec.classes), checkpoint)
    log.info("Device   %s, %s", device, precision_name(device, network))
    mapper = Mapper(checkpoint, network, spec, device, options)
    for image, output in zip(images, outputs, strict=True):
        _map_one(mapper, image, output)


def _map_one(mapper: Mapper, image: str, output: Path) -> None:
    info = describe(image)
    log.info("Scene    %s, %d × %d px, %s", image, info.width, info.height, info.dtype)
    if info.crs is None:
        log.info("         It has no CRS: the map has none either, and areas are in pixels.")
    began = time.monotonic()
    with progress("Mapping", info.window.pixels, "px") as advance:
        scene = map_scene(mapper, image, output, advance)
    seconds = time.monotonic() - began
    log.info(
        "Mapped   %.1f Mpx in %.1f s, %.2f Mpx/s", info.window.pixels / 1e6, seconds, info.window.pixels / 1e6 / seconds
    )
    found = survey(scene.path, mapper.spec.classes)
    for line in ("", *format_areas(found.areas), ""):
        log.info(line)
    _name_files(scene)


def _name_files(scene: SceneMap) -> None:
    for path in scene.layers.values():
        log.info("%s  %.1f MB", path, path.stat().st_size / 1e6)


def map_options(settings: PredictConfig) -> MapOptions:
    """Check and type the options; raises UserError for one that is none of its choices."""
    blends: dict[str, Blend] = {blend: blend for blend in get_args(Blend)}
    if settings.blend not in blends:
        raise UserError(
            f"blend={settings.blend} is not known; expected one of {', '.join(blends)}. cosine is smoother."
        )
    storages: dict[object, Probabilities | None] = {False: None, True: "uint8", "uint8": "uint8", "float16": "float16"}
    if settings.probabilities not in storages:
        raise UserError(
            f"probabilities={settings.probabilities} is not known; expected true, false, uint8 or float16. Take true."
        )
    return MapOptions(
        settings.overlap,
        settings.window,
        blends[settings.blend],
        settings.batch_size,
        settings.tta,
        storages[settings.probabilities],
    )


def find_images(given: object) -> list[str]:
    """Return the scenes that a path, a glob or a list of both stands for; raises UserError if there is none."""
    images: list[str] = []
    for entry in given if isinstance(given, list) else [given]:
        text = str(entry)
        found = [text] if Path(text).exists() or not glob.has_magic(text) else _matches(text)
        if not found:
            raise UserError(f"image={text} matches no file; expected at least one raster. Check the pattern.")
        images += found
    if not images:
        raise UserError("image is an empty list; expected at least one raster. Add image=… to the command.")
    return images


def _matches(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  pathlib globs no absolute patterns


def choose_outputs(images: Sequence[str], output: str | None, run_folder: Path) -> list[Path]:
    """Name a map for every scene.

    One scene: ``output``, a file; or ``map.tif`` in the run's folder. Several: ``<scene>_map.tif`` in ``output``, a
    folder; or in the run's.

    Raises:
        UserError: A file is given for several maps, or a map would take the place of a scene.
    """
    if len(images) == 1 and (output is None or Path(output).suffix.lower() in {".tif", ".tiff"}):
        outputs = [Path(output) if output else run_folder / "map.tif"]
    else:
        folder = Path(output) if output else run_folder
        if folder.suffix.lower() in {".tif", ".tiff"}:
            raise UserError(
                f"output={output} is one file for {len(images)} scenes; expected a folder. Give output=maps."
            )
        stems = [Path(image).stem for image in images]
        numbers = [stems[:i].count(stem) for i, stem in enumerate(stems)]
        outputs = [folder / f"{s}_map{f'_{n + 1}' if n else ''}.tif" for s, n in zip(stems, numbers, strict=True)]
    if clash := {p.resolve() for p in outputs} & {Path(image).resolve() for image in images}:
        raise UserError(f"output={clash.pop()} is the scene itself; expected another file. Choose another name.")
    return outputs
