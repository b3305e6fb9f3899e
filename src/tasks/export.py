"""``python export.py``: a checkpoint as ONNX, compared with PyTorch before it is handed out."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.atomic import whole_file, write_text
from src.bands import all_measured
from src.datafolder import read_data_folder
from src.errors import UserError
from src.evaluation import read_chip
from src.models.checkpoint import ONNX, TrainedOn, find_checkpoint, load_described
from src.models.network import Network
from src.models.onnx_file import probabilities_of, takes_other_sizes, write_onnx
from src.pixel_size import sides_on_ground
from src.spec import NetworkSpec
from src.stac import model_item
from src.tables import Part
from src.tasks.schema import ExportConfig

log = logging.getLogger(__name__)

MOST_DIFFERENT = 1e-2
"""Largest difference of a probability from PyTorch's with which a file is handed out; rounding makes 1e-5 to 1e-3."""


def run(config: DictConfig) -> None:
    """Run the task."""
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, ExportConfig)
    output = Path(settings.output or Path(HydraConfig.get().runtime.output_dir) / "model.onnx")
    export(settings, output)


def export(settings: ExportConfig, output: Path) -> float:
    """Export a checkpoint, compare it with PyTorch, describe it; returns the largest difference of a probability.

    Args:
        settings: The command's keys.
        output: The ``.onnx`` to write; the STAC item goes beside it as ``.json``.

    Raises:
        UserError: Something that was given cannot be used, or the file computes something else; it is not kept then.
    """
    if settings.chips < 1:
        raise UserError(f"chips={settings.chips} leaves nothing to compare on; expected 1 or more.")
    if output.suffix.lower() != ONNX:
        raise UserError(f"output={output} does not end in {ONNX}; expected the name of an ONNX file. Add the ending.")
    checkpoint = find_checkpoint(settings.checkpoint)
    if checkpoint.suffix.lower() == ONNX:
        raise UserError(f"checkpoint={checkpoint} is an ONNX file already; expected a .ckpt that train.py wrote.")
    check_item(item := output.with_suffix(".json"))
    network, said = load_described(checkpoint)
    spec = said.spec
    images, resolution, origin = _images(settings, spec, said.trained_on)
    with whole_file(output) as partial:
        free, difference = _write_and_compare(partial, network, spec, deepness_metadata(spec, resolution), images)
        if not difference <= MOST_DIFFERENT:
            raise UserError(
                f"The ONNX file's probabilities are up to {difference:.2g} off PyTorch's on {origin}; expected at most "
                f"{MOST_DIFFERENT:g}, so it was not kept. Please tell us, with the architecture and the encoder."
            )
    trained_with = str(said.versions.get("torch", torch.__version__))
    described = model_item(
        output, network, spec, free, torch_version=trained_with, onnx_version=importlib.metadata.version("onnx")
    )
    write_text(item, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    size = "any size" if free else f"{spec.chip_size[0]} × {spec.chip_size[1]} px"
    log.info("Network  %s, windows of %s, %s", spec.title, size, checkpoint)
    log.info("Checked  largest difference of a probability from PyTorch's %.2g, on %s", difference, origin)
    log.info("%s  %.1f MB", output, output.stat().st_size / 1e6)
    log.info("%s", item)
    return difference


def check_item(path: Path) -> None:
    """Refuse to write a STAC item over what is none, as the record of a map or of a training.

    Raises:
        UserError: There is such a file.
    """
    if path.is_file():
        try:
            ours = "stac_version" in json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            ours = False
        if not ours:
            raise UserError(
                f"The description of the ONNX file would be written over {path}, which is something else; expected "
                "another name. Give another output."
            )


def deepness_metadata(spec: NetworkSpec, resolution: float | None) -> dict[str, Any]:
    """Return what the QGIS plugin Deepness reads from a model's metadata.

    Args:
        spec: The network.
        resolution: Metres per pixel, None if not known.
    """
    side = min(spec.chip_size)
    metadata: dict[str, Any] = {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(spec.classes.names)),
        # Its documentation says one, its code reads the other.
        "tiles_size": side,
        "tile_size": side,
        "tiles_overlap": round(spec.overlap),
        # The most probable class is to be shown, however improbable.
        "seg_thresh": 0.0,
        "seg_small_segment": 1,
    }
    return metadata if resolution is None else metadata | {"resolution": round(100 * resolution, 4)}


def _write_and_compare(
    path: Path, network: Network, spec: NetworkSpec, metadata: dict[str, Any], images: list[npt.NDArray[np.float32]]
) -> tuple[bool, float]:
    """Write for any size if that computes the same, else for that of the chips; whether it is any, and how far off."""
    if takes_other_sizes(network, spec):
        try:
            write_onnx(path, network, spec, metadata, free=True)
        except UserError as error:  # what holds for one size may not be known for all
            log.debug("%s", error)
        else:
            larger = np.tile(images[0], (1, 2, 2))
            difference = compare(path, network, spec, [*images, larger])
            if difference <= MOST_DIFFERENT:
                return True, difference
    write_onnx(path, network, spec, metadata, free=False)
    return False, compare(path, network, spec, images)


def compare(path: Path, network: Network, spec: NetworkSpec, images: list[npt.NDArray[np.float32]]) -> float:
    """Return the largest difference between the file's probabilities, by ONNX Runtime, and PyTorch's.

    PyTorch's are those that a map by the checkpoint is made of, with its own mask of what is no measurement. Infinite
    where the file does not take an image.
    """
    nodata, largest = None if spec.nodata_is_data else spec.nodata, 0.0
    for image in images:
        valid = torch.from_numpy(all_measured(image, nodata, spec.normalization.used))[None]
        with torch.inference_mode():
            expected = network(torch.from_numpy(image[None]), valid).softmax(1).numpy()
        try:
            found = probabilities_of(path, image[None])
        except Exception as error:  # noqa: BLE001  ONNX Runtime has a dozen kinds
            log.debug("%s", error)
            return math.inf
        largest = max(largest, float(np.nan_to_num(np.abs(found - expected), nan=np.inf).max()))
    return largest


def _images(
    settings: ExportConfig, spec: NetworkSpec, trained: TrainedOn
) -> tuple[list[npt.NDArray[np.float32]], float | None, str]:
    """Return images to compare on, C × H × W in file numbers, metres per pixel, and where they are from."""
    folder = settings.data_dir or str(trained.folder or "")
    if settings.data_dir is None and not (folder and Path(folder).is_dir()):
        rng = np.random.default_rng(0)
        mean, std = (np.asarray(v)[:, None, None] for v in (spec.normalization.mean, spec.normalization.std))
        shape = (len(spec.bands), *reversed(spec.chip_size))
        noise = [(mean + std * rng.standard_normal(shape)) * spec.normalization.scale for _ in range(settings.chips)]
        return [image.astype(np.float32) for image in noise], None, f"{settings.chips} images of noise"
    data = read_data_folder(folder)
    parts: tuple[Part, ...] = ("test", "validation", "train")
    samples = [sample for part in parts for sample in data.samples(part, required=False)]
    if not samples:
        raise UserError(f"{folder} lists no chip; expected at least one to compare on. Give another data_dir.")
    chosen = samples[: settings.chips]
    chips = [read_chip(sample, spec) for sample in chosen]
    sides = spec.sides or sides_on_ground(chip.info for chip in chips)
    with np.errstate(over="ignore"):  # nodata values of float64, which are infinite then
        images = [chip.image.astype(np.float32) for chip in chips]
    return images, sides[0] if sides else None, f"{len(images)} chips of {folder}"
