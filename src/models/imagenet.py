"""Weights trained on RGB pictures, as smp and timm publish them: where they are, and the numbers they expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from timm.models import get_pretrained_cfg

from src.bands import Normalization
from src.errors import UserError
from src.models.band_kernels import Kernels
from src.models.encoders import TIMM
from src.models.pretrained import hub_file, read_json, url_file

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which nearly all of smp's encoders were trained with."""

_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DPN = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
_OTHERS = {"inceptionresnetv2": _HALF, "inceptionv4": _HALF, "xception": _HALF} | {
    f"dpn{size}": _DPN for size in ("68", "68b", "92", "98", "107", "131")
}
"""smp's encoders that were trained with other numbers."""


def locate(encoder: str, name: str | None) -> Path:
    """Return the file of an encoder's RGB weights.

    Args:
        encoder: Name of the encoder; timm's tag chooses among timm's weights.
        name: smp's name of the weights, None for ``imagenet``.

    Raises:
        UserError: There are no such weights, or they can't be had.
    """
    if not encoder.startswith(TIMM):
        settings = _settings(encoder, name)
        return hub_file(settings["repo_id"], ["model.safetensors"], settings["revision"])
    config = get_pretrained_cfg(encoder.removeprefix(TIMM))
    if config and config.hf_hub_id:
        return hub_file(config.hf_hub_id, [config.hf_hub_filename or "model.safetensors", "pytorch_model.bin"])
    if config and isinstance(config.url, str) and config.url:
        return url_file(config.url)
    raise UserError(
        f"timm publishes no weights of {encoder.removeprefix(TIMM)}; choose weights=none or another encoder."
    )


def normalization(
    scale: float | None, encoder: str, name: str | None, kernels: Kernels, data: Normalization, dtype: str
) -> tuple[Normalization, str]:
    """Normalise red, green and blue as the weights were trained, further bands by the data folder's statistics.

    Args:
        scale: What in the file is white (1.0 for the weights); None decides: 255 for uint8, else the data folder's
            scaler, else such that red, green and blue are on average as bright as the weights' own pictures.
        encoder: Name of the encoder.
        name: smp's name of the weights.
        kernels: Which band is red, green, blue.
        data: Normalisation by the data folder's statistics.
        dtype: The chips' data type.

    Returns:
        The normalisation, and the same in words.
    """
    mean, std = statistics(encoder, name)
    rgb = [i for i, source in enumerate(kernels.sources) if source is not None]
    raw_mean = [m * data.scale for m in data.mean]
    if scale is not None:
        reason = "weights.scale"
    elif dtype == "uint8":
        scale, reason = 255.0, "uint8"
    elif data.scale != 1:
        scale, reason = data.scale, "the data folder's scaler"
    else:
        brightness = sum(raw_mean[i] for i in rgb) / max(len(rgb), 1)
        scale, reason = (
            brightness / (sum(mean) or sum(MEAN)) * 3,
            "the brightness of red, green and blue; weights.scale=… sets it",
        )
    if not scale > 0:
        scale, reason = 1.0, "numbers as they are, since their mean is not positive"
    means, stds = list(raw_mean), [s * data.scale for s in data.std]
    for i, source in enumerate(kernels.sources):
        means[i], stds[i] = (mean[source], std[source]) if source is not None else (means[i] / scale, stds[i] / scale)
    listing = f"mean {', '.join(f'{m:.3f}' for m in mean)}, std {', '.join(f'{s:.3f}' for s in std)}"
    words = f"divided by {scale:g} ({reason}); red, green, blue by the weights' {listing}; further bands by their own"
    if not rgb:
        words = "every band by its own mean and std"
    return Normalization(data.used, float(scale), tuple(means), tuple(stds)), words


def statistics(encoder: str, name: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per colour, of values from 0 to 1, that an encoder's weights expect."""
    if encoder.startswith(TIMM):
        config = get_pretrained_cfg(encoder.removeprefix(TIMM))
        return (tuple(config.mean), tuple(config.std)) if config else (MEAN, STD)
    settings = smp.encoders.encoders[encoder]["pretrained_settings"].get(name or "imagenet")
    try:  # published beside the weights
        file = hub_file(settings["repo_id"], ["config.json"], settings["revision"]) if settings else None
    except UserError:
        file = None
    published = read_json(file) if file else {}
    if "mean" in published and "std" in published:
        return tuple(published["mean"]), tuple(published["std"])
    return _OTHERS.get(encoder, (MEAN, STD))


def _settings(encoder: str, name: str | None) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = smp.encoders.encoders[encoder]["pretrained_settings"]
    wanted = name or "imagenet"
    if wanted not in known:
        raise UserError(
            f"encoder={encoder} has no weights named {wanted}; expected "
            + (f"weights.name={' or '.join(known)}." if known else "weights=none, there are none for it.")
        )
    return known[wanted]
