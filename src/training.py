"""Training, from a description of the data to the best checkpoint; everything here can be called from a notebook."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from src.bands import Normalization
from src.datamodules.base import DataDescription
from src.errors import UserError
from src.labels import ClassTable
from src.models.losses import WEIGHTINGS, class_weights
from src.models.precision import choose_device, precision_name, prefers_bf16
from src.scores import Scores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What a training comes to: its best checkpoint, that one's validation scores, and the last checkpoint."""

    checkpoint: Path
    scores: Scores
    last: Path


def choose_normalization(data: DataDescription, normalize: bool | str) -> Normalization:
    """Choose what is done to the bands' numbers.

    Args:
        data: The training data.
        normalize: ``auto`` or true standardises by the data's own statistics; false only scales.

    Raises:
        UserError: There are no statistics, or there is no such choice.
    """
    if normalize in (True, "auto", "statistics"):
        if data.normalization is None:
            raise UserError(
                f"{data.origin} has no statistics of its bands (Normalize_Bands.csv); run prepare.py again, or train "
                "with normalize=false."
            )
        return data.normalization
    if normalize in (False, "none"):
        count = len(data.bands)
        return Normalization(data.used, data.scale, (0.0,) * count, (1.0,) * count)
    raise UserError(f"normalize={normalize} is not known; choose auto, true or false.")


def choose_class_weights(data: DataDescription, choice: bool | str | Sequence[float]) -> tuple[float, ...] | None:
    """Choose the classes' weights in the loss.

    Args:
        data: The training data.
        choice: true for the data folder's own, false for none, one of WEIGHTINGS, or a number per class.

    Raises:
        UserError: There is no such choice, or the numbers are not one per class.
    """
    if choice is False or choice is None:
        return None
    if choice is True:
        return data.weights
    if isinstance(choice, str):
        return class_weights(data.counts, choice)
    if not isinstance(choice, Sequence):
        raise UserError(f"class_weights={choice} is not known; choose true, false, {', '.join(WEIGHTINGS)}, or a list.")
    weights = tuple(float(weight) for weight in choice)
    if len(weights) != len(data.classes) or min(weights) < 0 or not max(weights):
        raise UserError(
            f"class_weights={list(choice)} does not fit; expected {len(data.classes)} numbers of 0 and more, for "
            f"{', '.join(data.classes.names)}."
        )
    return weights


def choose_precision(accelerator: str, devices: Any, wanted: str) -> str:
    """Choose Lightning's precision by what the device multiplies fastest, and see that the devices are there.

    Args:
        accelerator: As in :data:`src.models.precision.ACCELERATORS`.
        devices: A number, a list of device numbers, or ``auto``.
        wanted: ``auto``, or a precision of Lightning's.

    Raises:
        UserError: There is no such accelerator, or there are not as many devices.
    """
    device = choose_device(accelerator)
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type != "cpu":
        numbers = devices if isinstance(devices, list) else range(devices if isinstance(devices, int) else 1)
        if len(numbers) > there or max(numbers, default=0) >= there:
            raise UserError(
                f"devices={devices}, but this machine has {there} usable GPU{'s' * (there != 1)}; expected at most as "
                "many. Use devices=auto for all there are."
            )
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if prefers_bf16(device) else "32-true"


def announce(data: DataDescription, segmenter: Any, sizes: tuple[int, int], accelerator: str) -> None:
    """Say what is about to be trained, and on what."""
    spec = segmenter.spec
    parameters = sum(p.numel() for p in segmenter.network.parameters()) / 1e6
    device = choose_device(accelerator)
    log.info(
        "%s: %d training and %d validation chips of %d × %d px, %d bands, %d classes (%s)",
        data.origin,
        *sizes,
        *data.chip_size,
        len(data.bands),
        len(data.classes),
        ", ".join(data.classes.names),
    )
    log.info(
        "%s/%s, %.1f M parameters, on %s in %s",
        spec.architecture,
        spec.encoder,
        parameters,
        "the CPU" if device.type == "cpu" else torch.cuda.get_device_name(device),
        precision_name(device),
    )


def finish(trainer: L.Trainer, classes: ClassTable) -> Training:
    """Find the best checkpoint of a finished training and its scores, and print both."""
    keeper = next(c for c in trainer.callbacks if isinstance(c, ModelCheckpoint))  # type: ignore[attr-defined]
    best = Path(keeper.best_model_path or keeper.last_model_path)
    content = torch.load(best, map_location="cpu", weights_only=True, mmap=True)
    scores = Scores(np.array(content["val_matrix"], np.int64))
    for line in class_table(scores, classes):
        log.info("%s", line)
    log.info("best checkpoint: %s", best)
    log.info("last checkpoint: %s", keeper.last_model_path)
    return Training(best, scores, Path(keeper.last_model_path))


def class_table(scores: Scores, classes: ClassTable) -> list[str]:
    """Lay out the scores of each class and their means as lines of text."""
    width = max(len("mean"), *(len(name) for name in classes.names))
    head = f"{'class':{width}}  {'IoU':>6} {'F1':>6} {'precision':>9} {'recall':>6} {'pixels':>10}"
    columns = (scores.iou, scores.f1, scores.precision, scores.recall)
    rows = [
        f"{name:{width}}  {_share(a)} {_share(b)} {_share(c):>9} {_share(d)} {pixels:>10}"
        for name, a, b, c, d, pixels in zip(classes.names, *columns, scores.support.tolist(), strict=True)
    ]
    a, b, c, d = (scores.mean(column) for column in columns)
    mean = f"{'mean':{width}}  {_share(a)} {_share(b)} {_share(c):>9} {_share(d)} {int(scores.support.sum()):>10}"
    return [head, *rows, mean]


def _share(value: float) -> str:
    return f"{'–':>6}" if np.isnan(value) else f"{value:6.3f}"
