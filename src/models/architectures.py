"""Architectures by name: build one, see that it takes the data, find the chip sizes that it takes."""

from __future__ import annotations

import copy
import difflib
import inspect
import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

from src.errors import UserError
from src.models.compact import CompactUNet, JustoUNetSimple, PixelResNet, stem_channels
from src.models.detail import DETAIL, DROPOUT, REACH, Branch, add_detail, branch_options
from src.models.encoders import TIMM, check_encoder, drop_unused, encoder_arguments
from src.models.whitening import ATTRIBUTE, whiten
from src.spec import NO_ENCODER

WITH_ENCODER: dict[str, Callable[..., nn.Module]] = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "manet": smp.MAnet,
    "linknet": smp.Linknet,
    "fpn": smp.FPN,
    "pspnet": smp.PSPNet,
    "pan": smp.PAN,
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
    "dpt": smp.DPT,
}
"""Architectures of segmentation-models-pytorch, around an encoder that is chosen by name."""

WITHOUT_ENCODER: dict[str, Callable[..., nn.Module]] = {
    "justo_unet_simple": JustoUNetSimple,
    "compact_unet": CompactUNet,
    "pixel_resnet": PixelResNet,
}
"""Small networks for chips of few pixels; ``encoder=`` means nothing to them."""

ARCHITECTURES = WITH_ENCODER | WITHOUT_ENCODER

ENCODER_PARTS = ("stem", "encoder")
"""Attributes of an architecture that are frozen and thawed as its encoder, in the order of its parameters."""

_OURS = {"encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params"}
_OF_FILES = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Arguments of timm that read files or download: options come out of checkpoints, which are data."""


def build(
    architecture: str,
    encoder: str,
    bands: int,
    classes: int,
    chip_size: tuple[int, int] | None = None,
    /,
    **options: Any,
) -> nn.Module:
    """Build a network with random weights: B × bands × H × W → logits B × classes × H × W. Downloads nothing.

    Args:
        architecture: A name of :data:`ARCHITECTURES`.
        encoder: Name of smp's encoder or ``tu-`` and timm's; ignored by architectures without one.
        bands: Number of input channels.
        classes: Number of classes.
        chip_size: Width and height of the training chips in pixels; encoders made for one size are made for this.
        options: Further arguments of the architecture, and of a timm encoder; ``whitening`` for as many components of
            the bands, which the network then takes in their place (see :mod:`src.models.whitening`); ``detail`` for a
            branch of as many channels at full resolution, beside an encoder, and ``detail_dilations`` and
            ``detail_dropout`` for what it is like (see :mod:`src.models.detail`).

    Raises:
        UserError: Unknown architecture, encoder or option, or the two do not go together.
    """
    if architecture not in ARCHITECTURES:
        near = difflib.get_close_matches(architecture, ARCHITECTURES, 1, 0.0)[0]
        raise UserError(f"model={architecture} is unknown; did you mean {near}? There are {', '.join(ARCHITECTURES)}.")
    components = options.pop(ATTRIBUTE, 0)
    if components:
        if not isinstance(components, int) or isinstance(components, bool) or not 0 < components <= bands:
            raise UserError(f"{ATTRIBUTE}={components} does not fit {bands} bands; expected 1 to {bands} components.")
        network = build(architecture, encoder, components, classes, chip_size, **options)
        return whiten(network, bands, components)
    branch = branch_options(options) if architecture in WITH_ENCODER else Branch(0)
    _check_options(architecture, encoder, options)
    if architecture in WITHOUT_ENCODER:
        try:
            return WITHOUT_ENCODER[architecture](bands, classes, **options)
        except (ValueError, IndexError, TypeError, RuntimeError) as error:
            given = ", ".join(f"model.{name}={value}" for name, value in options.items())
            raise UserError(
                f"model={architecture} cannot be built with {given}: {cause(error)}. Change model's keys; "
                "docs/reference/configuration.md says what each of them takes."
            ) from error
    check_encoder(encoder)
    arguments = encoder_arguments(encoder, architecture, chip_size) | options
    try:
        with warnings.catch_warnings():
            # smp calls some of its own encoders deprecated, and recommends another readout for DPT.
            warnings.simplefilter("ignore")
            network = WITH_ENCODER[architecture](
                encoder_name=encoder, encoder_weights=None, in_channels=bands, classes=classes, **arguments
            )
            if architecture == "dpt":
                drop_unused(network)
    except Exception as error:  # smp and timm raise whatever an encoder provokes
        raise UserError(
            f"model={architecture} cannot take encoder={encoder}: {cause(error)}. docs/encoders.md lists what works."
        ) from error
    try:
        return add_detail(network, bands, classes, branch) if branch.width else network
    except (MemoryError, RuntimeError) as error:
        raise UserError(
            f"model.detail={branch.width} cannot be built: {cause(error)}. Give fewer channels, or 0 for none."
        ) from error


def freeze(architecture: nn.Module) -> None:
    """Let the encoder learn nothing, and answer as it does in validation for as long as that lasts.

    smp leaves a frozen encoder in the mode that it is in, except for its batch norms: its dropout and its drop path
    would go on drawing in training, and in validation too.
    """
    architecture.freeze_encoder()  # type: ignore[operator]  # every architecture is one of smp's kind
    architecture.get_submodule("encoder").eval()


def thaw(architecture: nn.Module) -> None:
    """Undo :func:`freeze`."""
    architecture.unfreeze_encoder()  # type: ignore[operator]
    architecture.get_submodule("encoder").train(architecture.training)


def encoder_of(architecture: nn.Module) -> nn.Module | None:
    """Return what :func:`freeze` freezes, with the stem before the encoder; None where there is no encoder."""
    parts = [part for name in ENCODER_PARTS if isinstance(part := getattr(architecture, name, None), nn.Module)]
    parts = [part for part in parts if next(part.parameters(), None) is not None]
    return nn.ModuleList(parts) if len(parts) > 1 else parts[0] if parts else None


def outline(
    architecture: str,
    encoder: str,
    bands: int,
    classes: int,
    chip_size: tuple[int, int] | None = None,
    /,
    **options: Any,
) -> nn.Module:
    """Build a network of shapes only, without numbers and without memory (the meta device); see :func:`build`."""
    try:
        with torch.device("meta"):
            network = build(architecture, encoder, bands, classes, chip_size, **options)
    except UserError as error:
        if "meta" not in str(error):
            raise
        network = build(architecture, encoder, bands, classes, chip_size, **options)  # it computes as it is built
    return network.to("meta")  # smp's own encoders make their first layer's numbers whatever the device


def build_checked(
    architecture: str, encoder: str, bands: int, classes: int, chip_size: tuple[int, int], /, **options: Any
) -> nn.Module:
    """Build a network and run it once on an empty batch of the data's shape; arguments as for :func:`build`.

    Raises:
        UserError: As :func:`build`; or the network does not take chips of this size (the nearest sizes are named).
    """
    network = build(architecture, encoder, bands, classes, chip_size, **options)
    width, height = chip_size
    problem = trial(network, torch.zeros(1, bands, height, width))
    if problem is None:
        return network
    pair = f"model={architecture}" + (f" with encoder={encoder}" if architecture in WITH_ENCODER else "")
    sizes = nearest_sizes(architecture, encoder, bands, classes, chip_size, **options)
    if not sizes:
        raise UserError(f"{pair} does not run: {problem}. docs/encoders.md lists what works.")
    listing = " or ".join(f"{w} × {h}" for w, h in sizes)
    raise UserError(
        f"{pair} cannot take chips of {width} × {height} px ({problem}); it takes {listing} px: cut "
        "the chips anew with chip.size=…, or choose another encoder."
    )


def trial(network: nn.Module, image: torch.Tensor) -> str | None:
    """Run a network in eval mode on one image; return None if H and W come out as they went in, else the cause."""
    training = network.training
    try:
        with torch.inference_mode():
            logits = network.eval()(image)
    except Exception as error:  # noqa: BLE001  whatever the encoder's arithmetic of sizes provokes
        return cause(error)
    finally:
        network.train(training)
    if logits.shape[-2:] != image.shape[-2:]:
        return f"{image.shape[-1]} × {image.shape[-2]} px become {logits.shape[-1]} × {logits.shape[-2]}"
    return None


def accepted_sizes(network: nn.Module, bands: int, sizes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return those of ``sizes`` (width, height in pixels) that a built network takes, without computing anything.

    Tells a prediction which windows are possible, since an encoder may need a multiple of something, or one size.
    """
    shadow = copy.deepcopy(network).to("meta")
    accepted = []
    for width, height in sizes:
        problem = trial(shadow, torch.empty(1, bands, height, width, device="meta"))
        if problem and "meta" in problem:  # the sizes follow from numbers
            problem = trial(network, torch.zeros(1, bands, height, width))
        if problem is None:
            accepted.append((width, height))
    return accepted


def nearest_sizes(
    architecture: str, encoder: str, bands: int, classes: int, chip_size: tuple[int, int], /, **options: Any
) -> list[tuple[int, int]]:
    """Return the nearest smaller and the nearest larger chip size that works, as far as there are such."""
    found = []
    for direction in (-1, 1):
        for width, height in _candidates(chip_size, direction):
            try:
                network = outline(architecture, encoder, bands, classes, (width, height), **options)
            except UserError:
                continue
            if trial(network, torch.empty(1, bands, height, width, device="meta")) is None:
                found.append((width, height))
                break
    return found


def cause(error: Exception) -> str:
    """Put into a few words why an encoder and an architecture, or a size, do not go together."""
    steps = traceback.extract_tb(error.__traceback__)
    text = str(error) or (steps[-1].line or "" if steps else "")  # timm asserts without a word
    text = re.sub(r"\s+", " ", text).strip().rstrip(".")
    return in_words(text) or (f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__)


def in_words(text: str) -> str | None:
    """Say in plain words what a message of smp, timm or torch means; None for one that is not known."""
    found = ((re.search(pattern, text), meaning) for pattern, meaning in _CAUSES.items())
    return next((match.expand(meaning) for match, meaning in found if match), None)


_CAUSES = {
    r"Unsupported model downsampling pattern": "its features do not halve in size from stage to stage; plain vision "
    "transformers go with model=dpt",
    r"Expected image height and width divisible by (\d+)": r"width and height must be multiples of \1",
    r"output_stride|not support dilated": "it cannot be dilated, which this architecture needs (pan can do without: "
    "model.encoder_output_stride=32)",
    r"feature_info|features_only": "timm gives no features of its stages",
    r"not support encoder_name=mit|`mit_\w+` is not supported": "smp has not made this architecture for mit_* encoders",
    r"Depth of the encoder cannot exceed .* got (\d+) depth, model has (\d+)": r"it has \2 stages, model.encoder_depth "
    r"asks for \1",
    r"list index out of range|out_indices": "it has fewer stages than model.encoder_depth asks for; lower it, and give "
    "as many model.decoder_channels",
    r"Invalid channel dimensions": "its features have other widths than timm says",
    r"dimension of length 3 at -3|tensor b \(3\) at non-singleton dimension 1": "it is made for three bands",
    r"Attempting to broadcast|Sizes of tensors must match|must match the size of tensor": "the sizes of "
    "its features do not fit together, this architecture halves and doubles",
    r"Only Timm encoders": "dpt takes timm's vision transformers only (tu-…)",
    r"forward_intermediates|return_prefix_tokens": "it is no plain vision transformer, timm gives no tokens",
}


def _candidates(chip_size: tuple[int, int], direction: int) -> list[tuple[int, int]]:
    """Return sizes to try, nearest first: both sides to the next multiple of 8, 16, 32, 64 and so on."""
    sizes = set()
    for multiple in (2, 4, 8, 14, 16, 28, 32, 64, 128, 224, 256):
        width, height = (multiple * (side // multiple if direction < 0 else -(-side // multiple)) for side in chip_size)
        if width and height and (width, height) != chip_size:
            sizes.add((width, height))
    return sorted(sizes, key=lambda size: abs(size[0] - chip_size[0]) + abs(size[1] - chip_size[1]))


def whole_options(architecture: str, bands: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an architecture's options, those that were not given too: equal where they mean the same.

    Args:
        architecture: A name of :data:`ARCHITECTURES`.
        bands: Number of input channels.
        options: As for :func:`build`.

    Raises:
        UserError: They are none.
    """
    given = dict(options)
    components = given.pop(ATTRIBUTE, 0)
    whole = _defaults(architecture)
    if architecture in WITH_ENCODER:
        branch = branch_options(given)
        whole |= {DETAIL: branch.width}
        whole |= {REACH: branch.dilations, DROPOUT: branch.dropout} if branch.width else {}
    whole |= given
    if architecture == "compact_unet":
        whole["stem"] = stem_channels(whole["stem"], components or bands)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in whole.items()}
    return plain | {ATTRIBUTE: components}


def _defaults(architecture: str) -> dict[str, Any]:
    """Return what an architecture's own options are unless they are given."""
    parameters = inspect.signature(ARCHITECTURES[architecture].__init__).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in _OURS | {"self", "kwargs", "bands"}
    }


def _check_options(architecture: str, encoder: str, options: dict[str, Any]) -> None:
    known = list(_defaults(architecture))
    takes_more = architecture in WITH_ENCODER and encoder.startswith(TIMM)  # they go to timm
    unknown = [name for name in options if name in _OURS | _OF_FILES or not (name in known or takes_more)]
    if unknown:
        raise UserError(f"model.{unknown[0]} is unknown to model={architecture}; it has {', '.join(known)}.")


def encoder_name(architecture: str, encoder: str) -> str:
    """Return the encoder's name to write down: ``none`` for architectures without one."""
    return NO_ENCODER if architecture in WITHOUT_ENCODER else encoder
