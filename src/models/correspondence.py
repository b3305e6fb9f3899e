"""What a network has in common with the checkpoint that it starts from: which band, which class is which.

A checkpoint of the bands B2, B3, B4 fits data of B4, B3, B2 in shape, and would see blue as red.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from src.bands import match_bands
from src.errors import UserError
from src.labels import ClassTable
from src.models.architectures import outline
from src.spec import NetworkSpec

_MOST = 8
"""Names that a line lists at most."""

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
    found, moved, odd = dict(tensors), [], []
    bands = [[band.name for band in each.bands] for each in (before, spec)]
    classes = [each.classes.names for each in (before, spec)]
    order = band_order(before, spec)
    kinds = (("bands", bands, order, (1, 0)), ("classes", classes, class_order(before.classes, spec.classes), (0, 1)))
    for what, (there, here), places, grown in kinds:
        if len(there) != len(here):  # their tensors do not fit, and are named
            continue
        if places is None:
            odd.append(f"its {what} are {_listed(there)}, not {_listed(here)}")
        elif places != tuple(range(len(places))):
            axes = dependent_axes(spec, *grown)
            if axes is None:
                odd.append(f"its {what} are in another order, {_listed(there)}, which cannot be changed here")
                continue
            found = {name: _reordered(tensor, axes.get(name, ()), places) for name, tensor in found.items()}
            moved.append(f"its {what} put into the order {_listed(here)}")
    if not normalized_alike(before, spec, order):
        odd.append("its bands were normalised in another way (give weights=… and normalize=… as its run had them)")
    return found, moved, odd


def band_order(before: NetworkSpec, spec: NetworkSpec) -> tuple[int, ...] | None:
    """Return for each band its position in the checkpoint; None where these are other bands."""
    if len(before.bands) != len(spec.bands):
        return None
    try:
        return match_bands(spec.bands, before.bands, "the checkpoint", "this data")
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


def normalized_alike(before: NetworkSpec, spec: NetworkSpec, order: Sequence[int] | None) -> bool:
    """Tell whether both get numbers of one kind: standardised by their own data's statistics, or as weights want them.

    Args:
        before: What the checkpoint is of.
        spec: What this network is.
        order: See :func:`band_order`.
    """
    own = [_by_statistics(each) for each in (before, spec)]
    if own[0] != own[1]:
        return False
    if own[0] or order is None:
        return True
    there, here = (
        [(float(mean), float(std), each.scale) for mean, std in zip(each.mean, each.std, strict=True)]
        for each in (before.normalization, spec.normalization)
    )
    # Bands that the weights do not know are normalised by the data's statistics.
    used = spec.normalization.used
    return any(there[place] == numbers for place, numbers, taken in zip(order, here, used, strict=True) if taken)


def _by_statistics(spec: NetworkSpec) -> bool:
    if spec.statistics is not None:
        return spec.normalization == spec.statistics
    return any(spec.normalization.mean)  # older checkpoints do not say


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


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _MOST else f"{', '.join(names[:3])} … {names[-1]} ({len(names)})"
