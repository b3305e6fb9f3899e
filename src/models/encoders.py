"""Encoders by name, and what timm must be told so that they take chips of any size."""

from __future__ import annotations

import difflib
import functools
import re
from typing import Any

import segmentation_models_pytorch as smp
import timm
from timm.models import get_pretrained_cfg
from timm.models._registry import _model_to_module
from torch import nn

from src.errors import UserError

TIMM = "tu-"
"""Prefix of encoders that come from timm."""

ANY_SIZE: dict[str, dict[str, Any]] = {
    # Position embeddings are resampled to whatever comes in.
    "vision_transformer": {"dynamic_img_size": True},
    "deit": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
    # Windows are padded where they don't fit; the mask of shifted windows is made anew for each size.
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
    "swin_transformer_v2_cr": {"strict_img_size": False},
}
"""Per timm module the arguments that free an encoder from the one input size that it was published with."""


@functools.cache
def smp_names() -> tuple[str, ...]:
    """Names of smp's own encoders."""
    return tuple(smp.encoders.get_encoder_names())


@functools.cache
def timm_names() -> tuple[str, ...]:
    """Names of timm's models, without tags."""
    return tuple(timm.list_models())


def check_encoder(name: str) -> None:
    """Raise UserError with the nearest names if neither smp nor timm knows the encoder."""
    if name in smp_names():
        return
    base, _, tag = name.removeprefix(TIMM).partition(".")
    if name.startswith(TIMM) and base in timm_names():
        tags = _tags(base)
        if tag and tag not in tags:
            near = difflib.get_close_matches(tag, tags, 3, 0.0)
            known = f"one of its tags ({', '.join(near)})" if near else "no tag, it has no published weights"
            raise UserError(f"Encoder {name}: {base} has no weights tagged {tag}; expected {known}.")
        return
    raise UserError(
        f"Encoder {name} is unknown; the nearest names are {', '.join(_nearest(name))}. See docs/encoders.md."
    )


@functools.cache
def _tags(base: str) -> tuple[str, ...]:
    return tuple(found.partition(".")[2] for found in timm.list_pretrained(f"{base}.*"))


def _nearest(name: str) -> list[str]:
    known = [*smp_names(), *(TIMM + n for n in timm_names())]
    near = difflib.get_close_matches(name, known, 3, 0.0)
    if TIMM + name in known:  # timm's own spelling, the likeliest slip
        near = [TIMM + name, *near[:2]]
    return near


def encoder_arguments(name: str, architecture: str, chip_size: tuple[int, int] | None) -> dict[str, Any]:
    """Return what timm must be told for an encoder to take chips of this size, and larger windows if it can.

    Args:
        name: Name of the encoder; smp's own need nothing.
        architecture: Name of the architecture.
        chip_size: Width and height of the training chips in pixels; None leaves fixed sizes as published.
    """
    if not name.startswith(TIMM):
        return {}
    base = name.removeprefix(TIMM)
    module = _model_to_module.get(base.partition(".")[0], "")
    arguments = dict(ANY_SIZE.get(module, {}))
    if architecture == "dpt":
        arguments["num_classes"] = 0  # smp leaves the classifier in, parameters that never learn
        patch = re.search(r"patch(\d+)", base)
        if patch and int(patch[1]).bit_count() != 1:
            # DPT scales by powers of two; published kernels are resampled to these patches when they are loaded.
            arguments["patch_size"] = 16
    config = get_pretrained_cfg(base, allow_unregistered=False)
    fixed = bool(config and config.fixed_input_size)
    if fixed and chip_size and not arguments.get("dynamic_img_size"):
        arguments["img_size"] = (chip_size[1], chip_size[0])
    return arguments


def drop_unused(network: nn.Module) -> None:
    """Take out of a DPT's encoder what comes behind the last features: parameters that no gradient would reach."""
    encoder = network.get_submodule("encoder")
    model, indices = encoder.get_submodule("model"), encoder._output_indices
    prune = getattr(model, "prune_intermediate_layers", None)
    if prune is not None:
        prune(indices, prune_norm=True, prune_head=True)
