"""``python eval.py``: score a checkpoint on the chips of a data folder or of a list."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.bands import Band
from src.datafolder import DATASET, read_data_folder, read_dataset
from src.errors import UserError
from src.evaluation import check_fit, chip_exporter, evaluate
from src.labels import ClassTable
from src.models.checkpoint import find_checkpoint, load_network
from src.models.precision import choose_device, precision_name
from src.progress import progress
from src.score_files import format_scores, write_score_files
from src.spec import NetworkSpec, software_versions
from src.tables import Part, Sample, read_samples
from src.tasks.schema import EvalConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chips:
    """What is scored: the chips, what to call them, and what their data folder says of bands and classes."""

    samples: list[Sample]
    origin: str
    bands: tuple[Band, ...] | None
    classes: ClassTable | None


def run(config: DictConfig) -> float:
    """Run the task; returns the mean IoU over all pixels."""
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, EvalConfig)
    output = Path(settings.output_dir or HydraConfig.get().runtime.output_dir)
    return score(settings, output)


def score(settings: EvalConfig, output: Path) -> float:
    """Score a checkpoint, write the files, say what they are; returns the mean IoU over all pixels.

    Args:
        settings: The command's keys.
        output: Folder for everything that is written; made if it is not there.

    Raises:
        UserError: Something that was given cannot be used; nothing has been written then.
    """
    device = choose_device(settings.accelerator)
    checkpoint = find_checkpoint(settings.checkpoint)
    chips = find_chips(settings.data_dir, settings.csv, settings.split)
    network, spec = load_network(checkpoint)
    if chips.bands is not None and chips.classes is not None:
        check_fit(spec, chips.bands, chips.classes, chips.origin)
    log.info("Network  %s, %s", _describe(spec), checkpoint)
    log.info("Chips    %d, %s", len(chips.samples), chips.origin)
    log.info("Device   %s, %s, %d chips at once", _device_name(device), precision_name(device), settings.batch_size)
    with _predictions(output, settings.export_predictions) as folder:
        mask = settings.mask_unclassified
        export = chip_exporter(folder, chips.samples, spec.classes, mask) if folder else None
        with progress("Scoring", len(chips.samples), "chips") as advance:
            evaluation = evaluate(
                network,
                spec,
                chips.samples,
                device=device,
                batch_size=settings.batch_size,
                export=export,
                advance=advance,
            )
    context = {
        "checkpoint": str(checkpoint),
        "chips": chips.origin,
        "chip_count": len(chips.samples),
        "device": str(device),
        "precision": precision_name(device),
        "versions": software_versions(),
    }
    for line in ("", *format_scores(evaluation), ""):
        log.info(line)
    for path in write_score_files(output, evaluation, context):
        log.info("%s", path)
    if settings.export_predictions:
        log.info("%s", output / "predictions")
    return evaluation.pooled.mean_iou


def find_chips(data_dir: str | None, csv: str | None, split: str) -> Chips:
    """Return the chips that ``data_dir`` and ``split``, or ``csv``, stand for.

    Raises:
        UserError: Not just one of both is given, the split has no such name, or there is no chip.
    """
    if (data_dir is None) == (csv is None):
        given = "Neither data_dir nor csv is given" if csv is None else "Both data_dir and csv are given"
        raise UserError(f"{given}; expected one of them. Add data_dir=… (a data folder) or csv=… (a list of chips).")
    if csv is not None:
        samples = read_samples(csv)
        if not samples:
            raise UserError(f"{csv} lists no chip; expected at least one row below its header.")
        described = Path(csv).parent / DATASET
        spec = read_dataset(described) if described.is_file() else None
        return Chips(samples, str(csv), spec.bands if spec else None, spec.classes if spec else None)
    parts: dict[str, Part] = {part: part for part in get_args(Part)}
    if split not in parts:
        raise UserError(f"split={split} is no part of a data folder; expected one of {', '.join(parts)}.")
    folder = read_data_folder(str(data_dir))
    samples = folder.samples(parts[split])
    return Chips(samples, f"{data_dir} ({split})", folder.spec.bands, folder.spec.classes)


@contextmanager
def _predictions(output: Path, wanted: bool) -> Iterator[Path | None]:
    """Give a folder beside ``predictions``; it takes its place when the block ends well, else it disappears."""
    if not wanted:
        yield None
        return
    partial, final = output / ".predictions.partial", output / "predictions"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _describe(spec: NetworkSpec) -> str:
    return f"{spec.architecture}/{spec.encoder}, {len(spec.bands)} bands, {len(spec.classes)} classes"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
