"""Checkpoints that SpecDeepMap itself wrote: what is in them, as a network of ours. Nothing in one is ever run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from src.bands import Band, Normalization
from src.class_names import renamed
from src.errors import UserError
from src.labels import UNCLASSIFIED, ClassTable
from src.models.architectures import encoder_name
from src.models.network import Network, build_network
from src.models.pretrained import check_numbers
from src.spec import NetworkSpec

ARCHITECTURES = {
    "unet": "unet",
    "unet++": "unetplusplus",
    "unetplusplus": "unetplusplus",
    "deeplabv3+": "deeplabv3plus",
    "deeplabv3plus": "deeplabv3plus",
    "segformer": "segformer",
    "justounetsimple": "justo_unet_simple",
}
"""Its names in lower case, and ours."""

_PREFIX, _HEAD = "model.", "segmentation_head."
_JUSTO = {
    "enc_conv1": "encoder.0.0",
    "enc_bn1": "encoder.0.1",
    "enc_conv2": "encoder.1.0",
    "enc_bn2": "encoder.1.1",
    "dec_conv1": "decoder.0",
    "dec_bn1": "decoder.1",
    "dec_conv2": "segmentation_head.0",
    "dec_bn2": "segmentation_head.1",
}
"""Layers of its JustoUNetSimple, and ours."""

_KEPT = {
    "architecture",
    "backbone",
    "in_channels",
    "classes",
    "class_values",
    "forward_mapping",
    "reverse_mapping",
    "img_x",
    "img_y",
    "scaler",
    "preprocess",
    "remove_background_class",
}


class _Inert:
    """Stands for an object of a class that is not loaded: keeps what it was made of, does nothing."""

    def __init__(self, *arguments: Any, **_: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


@dataclass(frozen=True)
class Imported:
    """A converted checkpoint.

    Attributes:
        network: With the checkpoint's weights.
        spec: What it is.
        dropped: What has no place in our checkpoints, in words.
    """

    network: Network
    spec: NetworkSpec
    dropped: tuple[str, ...]


def import_checkpoint(path: str | Path, class_names: Any = None, class_colors: Any = None) -> Imported:
    """Convert a checkpoint of SpecDeepMap's trainer.

    Nodata values went through that network as they are, so ``nodata_is_data`` is set. The network's output for class
    value 0 is left out: 0 is unclassified, never a class.

    Args:
        path: The checkpoint.
        class_names: Names, which it holds none of, in the order of the values or by value; ``class_3`` where None.
        class_colors: Colours as #rrggbb, in the same way; a palette where None.

    Raises:
        UserError: It cannot be read without running what is in it, is no checkpoint of SpecDeepMap, or names or colours
            do not fit its classes.
    """
    content = read_foreign(path)
    parameters, state = content.get("hyper_parameters"), content.get("state_dict")
    if not isinstance(parameters, Mapping) or "architecture" not in parameters or not isinstance(state, Mapping):
        raise UserError(
            f"{path} does not describe SpecDeepMap's network; expected a .ckpt that SpecDeepMap's trainer wrote. One "
            "that train.py wrote is used as it is."
        )
    try:
        spec, outputs = _spec(parameters)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} lacks a hyper-parameter or has an odd one ({error!r}); export it again.") from error
    spec = NetworkSpec.from_dict(spec.to_dict(), str(path))  # as who uses it reads it
    spec = replace(spec, classes=renamed(spec.classes, class_names, class_colors, str(path)))
    network = build_network(spec)
    _fill(network, state, outputs, str(path))
    return Imported(network.eval(), spec, _dropped(content, parameters, outputs))


def read_foreign(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that holds objects of any classes; each becomes an inert stand-in, none is imported.

    Raises:
        UserError: There is no such file, it is no checkpoint, or it asks for what PyTorch never loads.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no checkpoint {path}; give the path of a .ckpt that SpecDeepMap's trainer wrote.")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stand_ins: list[Any] = [(type("Inert", (_Inert,), {}), name) for name in names]
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes provoke
        raise UserError(
            f"{path} cannot be read as a checkpoint without running what is in it; expected a .ckpt that SpecDeepMap's "
            "trainer wrote. Get it anew from where it was trained."
        ) from error
    return dict(content) if isinstance(content, Mapping) else {}


def _spec(parameters: Mapping[str, Any]) -> tuple[NetworkSpec, list[int]]:
    """Return the spec, and which of the network's outputs are classes, in the order of the class table."""
    name = str(parameters["architecture"])
    if name.lower() not in ARCHITECTURES:
        known = "Unet, Unet++, DeepLabV3+, SegFormer, JustoUNetSimple"
        raise UserError(f"SpecDeepMap's architecture {name} is not known here; expected one of {known}. Train it anew.")
    bands, values = int(parameters["in_channels"]), _class_values(parameters)
    outputs = sorted((index for index, value in values.items() if value != UNCLASSIFIED), key=values.__getitem__)
    spec = NetworkSpec(
        architecture=ARCHITECTURES[name.lower()],
        encoder=encoder_name(ARCHITECTURES[name.lower()], str(parameters.get("backbone"))),
        options={},
        bands=tuple(Band(f"band {number}") for number in range(1, bands + 1)),
        normalization=_normalization(parameters, bands),
        nodata=None,
        classes=ClassTable.build(values[index] for index in outputs),
        chip_size=(int(parameters["img_x"]), int(parameters["img_y"])),
        nodata_is_data=True,
    )
    return spec, outputs


def _class_values(parameters: Mapping[str, Any]) -> dict[int, int]:
    """Return the class value of each of the network's outputs."""
    mapping = parameters.get("reverse_mapping")
    if mapping:
        return {int(index): int(value) for index, value in mapping.items()}
    return {index: index for index in range(int(parameters["classes"]))}


def _normalization(parameters: Mapping[str, Any], bands: int) -> Normalization:
    """Translate scaler and preprocessing: first values are divided by the scaler, then standardised."""
    scaler = parameters.get("scaler")
    scale = 1.0 if scaler in (None, "None") else float(scaler)
    steps = parameters.get("preprocess")
    if steps is None:
        return Normalization.identity(bands, scale)
    found = [state for state in _states(steps) if "mean" in state and "std" in state]
    if len(found) != 1:
        raise ValueError("preprocess is no normalisation")
    mean, std = ([float(v) for v in _listed(found[0][key], bands)] for key in ("mean", "std"))
    return Normalization.from_statistics(mean, std, scale=scale)


def _states(thing: Any) -> list[Mapping[str, Any]]:
    """Return the attributes of every stand-in inside a composed transform."""
    if isinstance(thing, _Inert):
        own = [thing.state] if isinstance(thing.state, Mapping) else []
        return own + [state for part in own for value in part.values() for state in _states(value)]
    if isinstance(thing, list | tuple):
        return [state for part in thing for state in _states(part)]
    if isinstance(thing, Mapping):
        return [state for part in thing.values() for state in _states(part)]
    return []


def _listed(value: Any, bands: int) -> list[float]:
    """Return one number per band; a single one is for all of them."""
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    if len(numbers) not in (1, bands):
        raise ValueError(f"{len(numbers)} means or deviations for {bands} bands")
    return numbers * bands if len(numbers) == 1 else numbers


def _fill(network: Network, state: Mapping[Any, Any], outputs: list[int], origin: str) -> None:
    """Load the weights, of the last layers those of the outputs that are classes, in the order of the classes."""
    own = network.architecture.state_dict()
    weights: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if isinstance(key, str) and key.startswith(_PREFIX) and isinstance(value, torch.Tensor):
            name = _our_name(key.removeprefix(_PREFIX))
            last = name.startswith(_HEAD) and value.ndim > 0 and len(value) > max(outputs)
            weights[name] = value[outputs] if last else value
    check_numbers(weights, origin)
    try:
        network.architecture.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{origin} has other layers than its {type(network.architecture).__name__}, for example "
            f"{next(iter(sorted(set(own) ^ set(weights))), 'of another size')}; expected a checkpoint as SpecDeepMap "
            "wrote it. Train it anew if a newer version changed the network."
        ) from error


def _our_name(key: str) -> str:
    layer, _, rest = key.partition(".")
    return f"{_JUSTO[layer]}.{rest}" if layer in _JUSTO else key


def _dropped(content: Mapping[str, Any], parameters: Mapping[str, Any], outputs: list[int]) -> tuple[str, ...]:
    training = sorted(set(content) - {"state_dict", "hyper_parameters"})
    left = sorted(set(parameters) - _KEPT - {"hparams"})
    zero = sorted(set(_class_values(parameters)) - set(outputs))
    words = [f"state of the training: {', '.join(training)}"] if training else []
    words += [f"hyper-parameters: {', '.join(left)}"] if left else []
    words += ["the network's output for class value 0 (unclassified)"] if zero else []
    return tuple(words)
