"""Does a network's answer for a pixel depend on how large a window it lies in, or only on its surroundings?"""

from __future__ import annotations

import logging
import math

import torch
from torch import nn

log = logging.getLogger(__name__)

LOCAL = 0.02
"""Below this far influence, as a share of the logits' own spread, a network is local.

Found with random weights: convolutional networks 0–0.005; global pooling, group normalisation and attention over
the whole window 0.04–1.7.
"""

_ROWS = 64
"""Rows of the windows, where the network takes so few: more would tell nothing else."""
_NEAR = 640
"""Pixels of the shorter window, at least: half of it is what no local network reaches across."""


@torch.inference_mode()
def far_influence(
    network: nn.Module, bands: int, chip_size: tuple[int, int], device: torch.device | str = "cpu"
) -> float | None:
    """Measure how much a network's answer depends on what is far away, and on the window's size.

    The same picture goes through the network twice: in a long window, and in one that lacks both ends, which are
    brighter and rougher than the rest. In the middle, over 300 pixels from where they differ, convolutions give the
    same answer; pooling over the window, attention over all of it and position embeddings do not.

    Args:
        network: Takes normalised B × bands × H × W; in eval mode.
        bands: Number of bands.
        chip_size: Width and height of the training chips in pixels.
        device: Where the network is.

    Returns:
        Root mean square difference of the logits in the middle, divided by their standard deviation; None if the
        network takes no window but the chip's size.
    """
    width, height = chip_size
    near = math.ceil(max(3 * width, _NEAR) / width) * width
    end = math.ceil(near / 4 / width) * width
    for rows in sorted({min(_ROWS, height), height}):
        picture = torch.randn(1, bands, rows, near + 2 * end, generator=torch.Generator().manual_seed(0))
        for far in (picture[..., :end], picture[..., -end:]):
            far.mul_(2).add_(2)
        picture = picture.to(device)
        try:
            long = network(picture)[..., end:-end]
            short = network(picture[..., end:-end].contiguous())
            break
        except Exception:  # whatever an encoder made for one size raises
            log.debug("A network takes no image of %s to see how far it looks", tuple(picture.shape), exc_info=True)
    else:
        return None
    middle = slice(near // 2 - 16, near // 2 + 16)
    difference = (long - short)[..., middle].float().square().mean().sqrt()
    return float(difference / short[..., middle].float().std(dim=(0, 2, 3)).mean().clamp_min(1e-12))
