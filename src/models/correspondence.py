"""What a network has in common with the checkpoint that it starts from: which band, which class is which.

A checkpoint of the bands B2, B3, B4 fits data of B4, B3, B2 in shape, and would see blue as red.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from src.bands import Band, Normalization, match_bands
from src.errors import UserError
from src.foreign_text import in_a_line
from src.labels import ClassTable
from src.models.architectures import outline, whole_options
from src.models.compact import DILATIONS, Residual
from src.models.detail import DETAIL, REACH
from src.models.whitening import ATTRIBUTE
from src.spec import NetworkSpec

Axes = Mapping[str, Sequence[tuple[int, int]]]
"""For each tensor that depends on a count: its dimensions that do, and how often each entry occurs there."""


def in_our_order(
    tensors: Mapping[str, torch.Tensor], before: NetworkSpec, spec: NetworkSpec
) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
    """Put what belongs to bands and classes into the order of this data's.

    Args:
        tensors: The checkpoint's, by their names in the architecture; all of this network's shapes.
        before: What the checkpoint is of.
        spec: What this network is, of the same architecture and encoder.

    Returns:
        The tensors; what was put into another order, and what does not correspond, in words.
    """
    found, moved, odd = dict(tensors), [], _other_options(before, spec)
    bands = [[band.name for band in each.bands] for each in (before, spec)]
    classes = [each.classes.names for each in (before, spec)]
    order = band_order(before.bands, spec.bands)
    kinds = (("bands", bands, order, (1, 0)), ("classes", classes, class_order(before.classes, spec.classes), (0, 1)))
    for what, (there, here), places, grown in kinds:
        if len(there) != len(here):  # their tensors do not fit, and are named
            continue
        if places is None:
            odd.append(f"its {what} are {in_a_line(there)}, not {in_a_line(here)}")
        elif places != tuple(range(len(places))):
            axes = dependent_axes(spec, *grown)
            if axes is None:
                odd.append(f"its {what} are in another order, {in_a_line(there)}, which cannot be changed here")
                continue
            found = {name: _reordered(tensor, axes.get(name, ()), places) for name, tensor in found.items()}
            moved.append(f"its {what} put into the order {in_a_line(here)}")
    if not normalized_alike(before, spec.normalization, order, spec.statistics):
        odd.append("its bands were normalised in another way (give weights=… and normalize=… as its run had them)")
    return found, moved, odd


def _other_options(before: NetworkSpec, spec: NetworkSpec) -> list[str]:
    """Say which options make another network of the same tensors; what is dropped in training makes none."""
    there, here = map(_options, (before, spec))
    kept = [key for key in here | there if not key.endswith("dropout") and repr(there.get(key)) != repr(here.get(key))]
    if not (there.get(DETAIL) and here.get(DETAIL)):  # a branch that is not there does not look any distance
        kept = [key for key in kept if key != REACH]
    named = [f"model.{key}={there.get(key)}, not {here.get(key)}" for key in kept if key != ATTRIBUTE]
    odd = [f"it has {', '.join(named)} (give the model's keys as its run had them)"] if named else []
    if ATTRIBUTE in kept:
        takes = [f"{each[ATTRIBUTE]} whitened components" if each[ATTRIBUTE] else "bands" for each in (there, here)]
        odd.append(f"it takes {takes[0]}, not {takes[1]} (give normalize=… as its run had it)")
    return odd


def _options(spec: NetworkSpec) -> dict[str, Any]:
    return whole_options(spec.architecture, len(spec.bands), spec.options)


def other_blocks(before: NetworkSpec, spec: NetworkSpec, architecture: nn.Module) -> dict[str, str]:
    """Find residual blocks that look another distance than those of the same name in a checkpoint, and say so.

    Args:
        before: What the checkpoint is of.
        spec: What this network is.
        architecture: The same, built.

    Returns:
        What differs, by the prefix of the block's tensors.
    """
    reach = [[options.get(key) for key in (DILATIONS, REACH)] for options in map(_options, (before, spec))]
    if reach[0] == reach[1]:
        return {}
    counts = len(before.bands), len(before.classes)
    whole = outline(before.architecture, before.encoder, *counts, before.chip_size, **before.options)
    there = {name: part.dilation for name, part in whole.named_modules() if isinstance(part, Residual)}
    return {
        f"{name}.": f"dilation {there[name]} there, {part.dilation} here"
        for name, part in architecture.named_modules()
        if isinstance(part, Residual) and there.get(name, part.dilation) != part.dilation
    }


def band_order(before: Sequence[Band], bands: Sequence[Band]) -> tuple[int, ...] | None:
    """Return for each band its position in the checkpoint; None where these are other bands."""
    if len(before) != len(bands):
        return None
    try:
        return match_bands(bands, before, "the checkpoint", "this data")
    except UserError:
        return None


def class_order(before: ClassTable, classes: ClassTable) -> tuple[int, ...] | None:
    """Return for each class its position in the checkpoint, by name; None where these are other classes.

    Classes that one of the two has no names for are told by their values.
    """
    there, here = ([name.strip().casefold() for name in table.names] for table in (before, classes))
    if len(set(there)) == len(there) and sorted(there) == sorted(here):
        return tuple(there.index(name) for name in here)
    nameless = any(table.names == ClassTable.build(table.values).names for table in (before, classes))
    if before.values == classes.values and (nameless or there == here):
        return tuple(range(len(here)))
    return None


def normalized_alike(
    before: NetworkSpec,
    normalization: Normalization,
    order: Sequence[int] | None,
    statistics: Normalization | None = None,
) -> bool:
    """Tell whether both get numbers of one kind: standardised by their own data's statistics, or as weights want them.

    Args:
        before: What the checkpoint is of.
        normalization: What this network does to its bands' numbers.
        order: See :func:`band_order`.
        statistics: The normalisation by the data's own statistics; None where these are not known.
    """
    standardised = _by_statistics(normalization, statistics)
    if _by_statistics(before.normalization, before.statistics) != standardised:
        return False
    if standardised or order is None:
        return True
    there, here = (
        [(float(mean), float(std), each.scale) for mean, std in zip(each.mean, each.std, strict=True)]
        for each in (before.normalization, normalization)
    )
    # Bands that the weights do not know are normalised by the data's statistics.
    used = normalization.used
    return any(there[place] == numbers for place, numbers, taken in zip(order, here, used, strict=True) if taken)


def _by_statistics(normalization: Normalization, statistics: Normalization | None) -> bool:
    # Older checkpoints do not say.
    return normalization == statistics if statistics is not None else any(normalization.mean)


def dependent_axes(spec: NetworkSpec, more_bands: int, more_classes: int) -> Axes | None:
    """Find which dimensions belong to the bands or to the classes, from the shapes of a network with one more.

    Returns:
        None where these are not the dimensions' only entries, or the network is made differently.
    """
    count = len(spec.bands) if more_bands else len(spec.classes)
    few, more = (
        outline(spec.architecture, spec.encoder, bands, classes, spec.chip_size, **spec.options).state_dict()
        for bands, classes in (
            (len(spec.bands), len(spec.classes)),
            (len(spec.bands) + more_bands, len(spec.classes) + more_classes),
        )
    )
    if few.keys() != more.keys():
        return None
    axes: dict[str, list[tuple[int, int]]] = {}
    for name, tensor in few.items():
        if tensor.ndim != more[name].ndim:
            return None
        for axis, (side, grown) in enumerate(zip(tensor.shape, more[name].shape, strict=True)):
            if side == grown:
                continue
            if side != count * (grown - side):
                return None
            axes.setdefault(name, []).append((axis, grown - side))
    return axes


def _reordered(tensor: torch.Tensor, axes: Sequence[tuple[int, int]], order: Sequence[int]) -> torch.Tensor:
    for axis, times in axes:
        first = len(order) * torch.arange(times)[:, None]  # bands run fastest, as in src.models.band_kernels
        tensor = tensor.index_select(axis, (first + torch.tensor(order)).flatten())
    return tensor
