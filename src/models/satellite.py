"""Weights trained on satellite images, by torchgeo's enum: which encoder they fit, their bands and their scaling."""

from __future__ import annotations

import difflib
import functools
import warnings
from dataclasses import dataclass
from typing import Any

from src.bands import Normalization
from src.errors import UserError
from src.models.band_kernels import CENTRES, Kernels

ENCODERS = {
    "ResNet18_Weights": ("resnet18", "tu-resnet18"),
    "ResNet50_Weights": ("resnet50", "tu-resnet50"),
    "ResNet152_Weights": ("resnet152", "tu-resnet152"),
    "ViTSmall16_Weights": ("tu-vit_small_patch16_224",),
    "ViTBase16_Weights": ("tu-vit_base_patch16_224",),
    "ViTLarge16_Weights": ("tu-vit_large_patch16_224",),
    "ViTHuge14_Weights": ("tu-vit_huge_patch14_224",),
    "ViTSmall14_DINOv2_Weights": ("tu-vit_small_patch14_dinov2",),
    "ViTBase14_DINOv2_Weights": ("tu-vit_base_patch14_dinov2",),
}
"""torchgeo's enums whose tensors fit an encoder here (its metadata's ``model`` is wrong for some members)."""


@dataclass(frozen=True)
class SatelliteWeights:
    """Weights as torchgeo describes them.

    Attributes:
        name: ``Enum.MEMBER``.
        encoders: The encoders that they fit, the usual one first.
        url: Where they are published.
        bands: The bands that they were trained on, in order.
        sensor: A key of :data:`src.models.band_kernels.CENTRES`, empty for other sensors.
        mean: Per band, subtracted from the sensor's own numbers.
        std: Per band, divides afterwards.
    """

    name: str
    encoders: tuple[str, ...]
    url: str
    bands: tuple[str, ...]
    sensor: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@functools.cache
def find_weights(name: str | None) -> SatelliteWeights:
    """Look weights up in torchgeo, which is imported only now: it takes seconds.

    Raises:
        UserError: There are no such weights, or they fit no encoder here.
    """
    if not name:
        raise UserError(
            "weights.name is not given; expected torchgeo's enum, as in ResNet18_Weights.SENTINEL2_ALL_MOCO."
        )
    group, _, member = name.partition(".")
    if group not in ENCODERS:
        raise UserError(f"weights.name={name}: {group} fits no encoder here; expected one of {', '.join(ENCODERS)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchgeo's dependencies announce what they will change
        import torchgeo.models  # noqa: PLC0415

    members: dict[str, Any] = dict(getattr(torchgeo.models, group).__members__)
    if member not in members:
        near = difflib.get_close_matches(member, members, 3, 0.0)
        raise UserError(
            f"weights.name={name} is unknown to torchgeo; the nearest are {', '.join(f'{group}.{n}' for n in near)}."
        )
    weights = members[member]
    count = int(weights.meta["in_chans"])
    bands = tuple(weights.meta.get("bands") or ("B4", "B3", "B2"))  # without: RGB photographs
    mean, std = _scaling(weights.transforms, count)
    sensor = next((key for key in CENTRES if member.startswith(key)), "")
    return SatelliteWeights(name, ENCODERS[group], weights.url, bands, sensor, mean, std)


def _scaling(transforms: Any, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fold a chain of normalising transforms into one mean and one standard deviation per band.

    ((x − m₁) / s₁ − m₂) / s₂ = (x − (m₁ + s₁ m₂)) / (s₁ s₂). Resizing and cropping are left out: the network takes
    chips of any size.
    """
    mean, std = [0.0] * count, [1.0] * count
    for step in transforms if hasattr(transforms, "__iter__") else [transforms]:
        if hasattr(step, "mean") and hasattr(step, "std"):
            m, s = (list(map(float, value)) * (count if len(value) == 1 else 1) for value in (step.mean, step.std))
            mean = [a + b * c for a, b, c in zip(mean, std, m, strict=True)]
            std = [b * c for b, c in zip(std, s, strict=True)]
    return tuple(mean), tuple(std)


def normalization(
    weights: SatelliteWeights, scale: float | None, kernels: Kernels, data: Normalization
) -> tuple[Normalization, str]:
    """Scale the weights' bands as they were trained, further bands by the data folder's statistics.

    Args:
        weights: The weights.
        scale: Divides the file's numbers to give the sensor's own (0.0001 for reflectances from 0 to 1 where the
            weights were trained on 10 000 times that); None for 1.
        kernels: Which band of the data is which of the weights.
        data: Normalisation by the data folder's statistics.

    Returns:
        The normalisation, and the same in words.
    """
    divisor = 1.0 if scale is None else float(scale)
    means, stds = [m * data.scale / divisor for m in data.mean], [s * data.scale / divisor for s in data.std]
    trained = [i for i, source in enumerate(kernels.sources) if source is not None]
    small = all(abs(means[i]) < 0.01 * weights.std[kernels.sources[i] or 0] for i in trained)
    for i, source in enumerate(kernels.sources):
        if source is not None:
            means[i], stds[i] = weights.mean[source], weights.std[source]
    spread = sorted({weights.std[s] for s in kernels.sources if s is not None})
    divisors = " to ".join(f"{s:g}" for s in dict.fromkeys((spread[0], spread[-1])))
    words = f"as the weights were trained, divided by {divisors}"
    if divisor != 1:
        words = f"divided by {divisor:g} (weights.scale), then {words}"
    if small and spread[0] > 100:
        words += "; CAUTION: the data's numbers are far smaller; for reflectances from 0 to 1 set weights.scale=0.0001"
    return Normalization(data.used, divisor, tuple(means), tuple(stds)), words
