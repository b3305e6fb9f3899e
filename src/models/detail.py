"""What encoders lose: the pixel itself, and its neighbours, at full resolution.

The U-Net of Ronneberger et al. (2015) joins features of the image's own resolution before its last layer. Networks
around an encoder that was made for photographs do not: ResNets halve twice before their first block, and what is
finer comes back from there by interpolation. Spectra of single pixels, which tell most of what there is to know in a
satellite's image, never reach the last layer. This branch brings them there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from src.errors import UserError
from src.models.compact import PixelResNet

DETAIL = "detail"
"""Name of the option (channels, 0 for none), of the module in an architecture and so of its tensors in a checkpoint."""
REACH = "detail_dilations"
"""Name of the option that says how far the branch looks: a residual block of 3 × 3 weights for each dilation."""
DROPOUT = "detail_dropout"
"""Name of the option that says which share of its channels is dropped before its last layer in training."""
_DILATIONS, _DROPPED = (1,), 0.0
"""What they were before there were such options: in checkpoints from then."""
_APART = "tells_branches_apart"


@dataclass(frozen=True)
class Branch:
    """What the branch is; see :class:`src.models.compact.PixelResNet`.

    Attributes:
        width: Channels of every layer, 0 for no branch.
        dilations: Its blocks.
        dropout: Share of the channels that is dropped in training.
    """

    width: int
    dilations: tuple[int, ...] = _DILATIONS
    dropout: float = _DROPPED


def add_detail(architecture: nn.Module, bands: int, classes: int, branch: Branch) -> nn.Module:
    """Let an architecture add the logits of a small network at full resolution to its own.

    Args:
        architecture: B × bands × H × W → logits B × classes × H × W.
        bands: Number of input channels.
        classes: Number of classes.
        branch: What the small network is.

    Returns:
        The same architecture.
    """
    setattr(architecture, DETAIL, PixelResNet(bands, classes, branch.width, branch.dilations, branch.dropout))
    architecture.register_forward_hook(_with_detail)
    return architecture


def branch_options(options: dict[str, Any]) -> Branch:
    """Take the branch's options out of an architecture's.

    Raises:
        UserError: They are no such numbers.
    """
    width, reach, dropout = options.pop(DETAIL, 0), options.pop(REACH, _DILATIONS), options.pop(DROPOUT, _DROPPED)
    if not _is_count(width) or width < 0:
        raise UserError(f"model.{DETAIL}={width} is no number of channels; give 1 or more, or 0 for no such branch.")
    if not isinstance(reach, list | tuple) or not all(_is_count(dilation) and dilation > 0 for dilation in reach):
        raise UserError(f"model.{REACH}={reach} does not fit; give distances of 1 pixel or more, such as [1,2,4].")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"model.{DROPOUT}={dropout} is no share; give 0 up to below 1.")
    return Branch(width, tuple(reach), dropout)


def kept_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return an architecture's options as a checkpoint keeps them.

    Without a branch there are none of its options, and one that is as all were before has the options of before: their
    checkpoints can be resumed.
    """
    if not options.get(DETAIL):
        return {key: value for key, value in options.items() if key not in (DETAIL, REACH, DROPOUT)}
    before = {REACH: list(_DILATIONS), DROPOUT: _DROPPED}
    plain = {key: list(value) if key == REACH and isinstance(value, tuple) else value for key, value in options.items()}
    return {key: value for key, value in plain.items() if key not in before or value != before[key]}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def tell_apart(architecture: nn.Module) -> bool:
    """Let an architecture say in training what each of its branches alone says; tell whether it has any.

    In training mode its answer is then B × 3·classes × H × W: the sum of the logits, which is its answer elsewhere, the
    architecture's own, and the branch's.
    """
    if not hasattr(architecture, DETAIL):
        return False
    setattr(architecture, _APART, True)
    return True


def _with_detail(architecture: nn.Module, images: tuple[torch.Tensor, ...], logits: torch.Tensor) -> torch.Tensor:
    branch: PixelResNet = getattr(architecture, DETAIL)
    alone = branch(*images)
    summed: torch.Tensor = logits + alone
    if architecture.training and getattr(architecture, _APART, False):
        return torch.cat([summed, logits, alone], dim=1)
    return summed
