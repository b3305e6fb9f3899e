"""What a network starts from: published or given encoder weights, and the normalisation that they bring with them.

:func:`prepare_weights` decides, before the network is built, on encoder, normalisation and first layer;
:func:`apply_weights` then puts the tensors into the network. The encoder keeps the data's bands in the data's order:
the first layer is adapted to them, so that a checkpoint takes a raster as it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from src.bands import Band, Normalization
from src.errors import UserError
from src.foreign_text import in_a_line
from src.models import imagenet, satellite
from src.models.architectures import WITHOUT_ENCODER, encoder_name, outline
from src.models.band_kernels import Kernels, matched_bands, rgb_bands, same_bands
from src.models.correspondence import band_order, normalized_alike
from src.models.encoders import TIMM, encoder_arguments
from src.models.pretrained import aligned, check_numbers, filtered, own_tensors, read_weights, url_file
from src.models.whitening import ATTRIBUTE
from src.spec import NetworkSpec

AUTO = "auto"
"""The encoder that the weights belong to."""

DEFAULT_ENCODER = "resnet18"


@dataclass(frozen=True)
class WeightsChoice:
    """The ``weights`` group.

    Attributes:
        kind: Random weights, smp's and timm's RGB weights, torchgeo's, or a file.
        name: smp's name of the weights (``imagenet``, ``noisy-student``), or torchgeo's enum member
            (``ResNet18_Weights.SENTINEL2_ALL_MOCO``).
        path: Weights file, for kind ``file``.
        like: What a file's weights are: trained on the data's own bands (``none``), or of another kind.
        rgb: Red, green and blue of the data as 1-based numbers or names; None finds them.
        bands: For each band of the data the weights' band that it is, or None; None altogether matches by name.
        scale: Divides the file's numbers to give those that the weights were trained with; None decides.
    """

    kind: Literal["none", "imagenet", "torchgeo", "file"] = "none"
    name: str | None = None
    path: str | None = None
    like: Literal["none", "imagenet", "torchgeo"] = "none"
    rgb: Sequence[int | str] | None = None
    bands: Sequence[str | None] | None = None
    scale: float | None = None

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> WeightsChoice:
        """Read the group's keys; raises UserError for a value that does not exist."""
        unknown = [key for key in row if key not in KEYS]
        if unknown:
            raise UserError(f"weights.{unknown[0]} is unknown; there are {', '.join(KEYS)}. Leave it out.")
        choice = cls(**row)
        for key, known in (
            ("kind", ("none", "imagenet", "torchgeo", "file")),
            ("like", ("none", "imagenet", "torchgeo")),
        ):
            if getattr(choice, key) not in known:
                raise UserError(f"weights.{key}={getattr(choice, key)} is unknown; expected {', '.join(known)}.")
        choice._check_kinds()
        if choice.kind == "file" and not choice.path:
            raise UserError("weights=file needs weights.path=…, a safetensors file or a pickle of plain tensors.")
        return choice

    def _check_kinds(self) -> None:
        for key in ("name", "path"):
            value = getattr(self, key)
            if value is not None and not isinstance(value, str):
                raise UserError(
                    f"weights.{key}={value} is no word; expected one, or null. Put it in quotes: '\"{value}\"'."
                )
        for key, kinds, example in (("rgb", (int, str), "[3,2,1]"), ("bands", (str, type(None)), "[B2,B3,null]")):
            value = getattr(self, key)
            if value is None:
                continue
            if (
                isinstance(value, str)
                or not isinstance(value, Sequence)
                or not all(isinstance(v, kinds) for v in value)
            ):
                what = "numbers or names" if key == "rgb" else "names, null for a band that the weights don't know"
                raise UserError(f"weights.{key}={value} does not fit; expected a list of {what}, as in {example}.")
        scale = self.scale
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if scale is not None and not (number and 0 < scale < math.inf):
            raise UserError(
                f"weights.scale={scale} does not fit; expected a number above 0, which divides the file's, or null."
            )

    @property
    def trained(self) -> str:
        """What the weights were trained as, wherever they come from."""
        return self.like if self.kind == "file" else self.kind


@dataclass(frozen=True)
class WeightsPlan:
    """What a network starts from.

    Attributes:
        encoder: The encoder to build.
        normalization: What is to be done to the file's numbers.
        pretrained: Whether the encoder starts from weights, and may therefore be frozen.
        lines: All of it in words, to print.
        tensors: The encoder's tensors by its own names, as they were trained; empty for random weights.
        kernels: How the first layer is adapted to the data's bands.
        inputs: Names of the first layer's tensors, and how often each band enters there.
    """

    encoder: str
    normalization: Normalization
    pretrained: bool = False
    lines: tuple[str, ...] = ()
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    kernels: Kernels | None = None
    inputs: Mapping[str, int] = field(default_factory=dict)


def prepare_weights(
    choice: WeightsChoice,
    architecture: str,
    encoder: str,
    bands: Sequence[Band],
    data: Normalization,
    chip_size: tuple[int, int],
    *,
    dtype: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> WeightsPlan:
    """Decide what a network starts from; reads the weights, from the caches if they are there.

    Args:
        choice: The ``weights`` group.
        architecture: Name of the architecture.
        encoder: Name of the encoder as the user gave it; ``auto`` takes the one that the weights belong to.
        bands: The bands of the chips.
        data: Normalisation by the data folder's own statistics: what random weights get, and bands that the weights
            don't know.
        chip_size: Width and height of the training chips in pixels.
        dtype: The chips' data type, a NumPy name: uint8 means 255 is white.
        options: The architecture's further parameters.

    Raises:
        UserError: The weights cannot be had, belong to another encoder, or the bands cannot be matched.
    """
    if architecture in WITHOUT_ENCODER and choice.kind != "none":
        raise UserError(
            f"model={architecture} has no encoder that published weights would fit; leave weights=none, or start "
            "from a whole network with init_from=….ckpt."
        )
    encoder = _encoder_for(choice, architecture, encoder)
    if choice.kind == "none":
        return WeightsPlan(encoder, data, lines=("weights: random; every band normalised by its own mean and std",))
    inputs, names = input_layers(architecture, encoder, chip_size, options or {})
    arguments = encoder_arguments(encoder, architecture, chip_size)
    if choice.trained == "imagenet":
        kernels = rgb_bands(bands, data.used, choice.rgb)
        normalization, words = imagenet.normalization(choice.scale, encoder, choice.name, kernels, data, dtype)
        source, channels = _path_of(choice) or imagenet.locate(encoder, choice.name), 3
    elif choice.trained == "torchgeo":
        weights = satellite.find_weights(choice.name)
        kernels = matched_bands(bands, data.used, weights.bands, choice.bands, weights.sensor)
        normalization, words = satellite.normalization(weights, choice.scale, kernels, data)
        source, channels = _path_of(choice) or url_file(weights.url), len(weights.bands)
    else:
        kernels, normalization, words = same_bands(bands, data.used), data, "every band by its own mean and std"
        source, channels = Path(choice.path or ""), len(bands)
    state, before = read_weights(source)
    cautions: tuple[str, ...] = ()
    if before is not None and choice.trained == "none":
        channels = len(before.bands)
        kernels, cautions = _of_checkpoint(before, source, bands, data, choice.bands)
    tensors = own_tensors(state, names)
    if not tensors:
        if encoder.startswith(TIMM):
            state = filtered(encoder.removeprefix(TIMM), state, channels, arguments, str(source))
        tensors = aligned(state, names, str(source))
    check_numbers(tensors, str(source))
    _check_shapes(tensors, names, inputs, channels, len(bands), source)
    lines = (f"weights: {source} → {encoder}", *kernels.lines, f"normalisation: {words}", *cautions)
    return WeightsPlan(encoder, normalization, True, lines, tensors, kernels, inputs)


def apply_weights(network: nn.Module, plan: WeightsPlan) -> None:
    """Put a plan's tensors into a network that was built for it (the architecture, not its normalising wrapper)."""
    if plan.kernels is None:
        return
    tensors = {
        name: plan.kernels.adapt(value, plan.inputs[name]) if name in plan.inputs else value
        for name, value in plan.tensors.items()
    }
    encoder = network.get_submodule("encoder")
    encoder.load_state_dict(encoder.state_dict() | tensors)


def input_layers(
    architecture: str, encoder: str, chip_size: tuple[int, int], options: Mapping[str, Any]
) -> tuple[dict[str, int], dict[str, torch.Size]]:
    """Find the tensors of an encoder that depend on the number of bands, by building it for 5 and for 6.

    Returns:
        For each such tensor how often a band enters it; and the shape of every tensor of the encoder for 5 bands.
    """
    shapes = []
    for count in (5, 6):
        network = outline(architecture, encoder, count, 2, chip_size, **options)
        shapes.append({name: value.shape for name, value in network.get_submodule("encoder").state_dict().items()})
    few, more = shapes
    inputs = {name: more[name][1] - few[name][1] for name in few if few[name] != more[name]}
    return inputs, few


def _encoder_for(choice: WeightsChoice, architecture: str, encoder: str) -> str:
    if choice.trained != "torchgeo":
        return encoder_name(architecture, DEFAULT_ENCODER if encoder == AUTO else encoder)
    fitting = satellite.find_weights(choice.name).encoders
    if encoder == AUTO:
        return fitting[0]
    if encoder.partition(".")[0] not in fitting:
        raise UserError(
            f"weights.name={choice.name} belongs to encoder={fitting[0]}; encoder={encoder} contradicts it. Leave "
            "encoder= out, or choose other weights."
        )
    return encoder


def _of_checkpoint(
    before: NetworkSpec, source: Path, bands: Sequence[Band], data: Normalization, given: Sequence[str | None] | None
) -> tuple[Kernels, tuple[str, ...]]:
    """Match the data's bands with those that a checkpoint of ours names; ``given`` as for :func:`matched_bands`.

    Returns:
        How its first layer is adapted, and what to be careful with.

    Raises:
        UserError: It was trained on other bands, or on whitened components.
    """
    if before.options.get(ATTRIBUTE):
        raise UserError(
            f"{source} was trained with normalize=whiten, so its first layer takes no bands; give another file, or "
            f"start from the whole network: init_from={source} without weights=file."
        )
    names = [band.name for band in before.bands]
    order = band_order(before.bands, bands)
    if given is not None:
        kernels = matched_bands(bands, data.used, names, given)
    elif order is not None:
        kernels = same_bands(bands, data.used, order)
    else:
        raise UserError(
            f"{source} was trained on {in_a_line(names)}; the data have "
            f"{in_a_line([band.name for band in bands])}. Say for each band of the data which of those it "
            "is: weights.bands=[…], null for none."
        )
    if normalized_alike(before, data, order):
        return kernels, ()
    return kernels, (
        f"CAUTION: {source} had its bands normalised in another way; start from the whole network to keep that: "
        "init_from=… with weights=… and normalize=… as its run had them",
    )


def _path_of(choice: WeightsChoice) -> Path | None:
    return Path(choice.path) if choice.kind == "file" and choice.path else None


def _check_shapes(
    tensors: Mapping[str, torch.Tensor],
    shapes: Mapping[str, torch.Size],
    inputs: Mapping[str, int],
    channels: int,
    count: int,
    source: Path,
) -> None:
    """Raise UserError where tensors cannot be what they are said to be."""
    for name, value in tensors.items():
        expected = list(shapes[name])
        if name in inputs:
            expected[1] = inputs[name] * channels + (expected[1] - 5 * inputs[name])
        if list(value.shape) != expected:
            bands = f" for {channels} bands" if name in inputs else ""
            hint = " Give weights of the encoder that encoder= names."
            if name in inputs:
                hint = (
                    f" Say what it was trained on: weights.like=none (the data's {count} bands), imagenet or torchgeo."
                )
            raise UserError(
                f"{source}: {name} is {_by(value.shape)}, the encoder expects {_by(expected)}{bands}.{hint}"
            )


def _by(shape: Sequence[int]) -> str:
    return " × ".join(str(side) for side in shape)


KEYS = tuple(item.name for item in dataclasses.fields(WeightsChoice))
"""Keys that a YAML of the group may list."""
