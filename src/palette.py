"""Colours for classes that bring none: twenty chosen ones, then what differs most from all before."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

PALETTE = tuple(
    "#1f77b4 #ff7f0e #2ca02c #d62728 #9467bd #8c564b #e377c2 #bcbd22 #17becf #7f7f7f "  # noqa: SIM905
    "#aec7e8 #ffbb78 #98df8a #ff9896 #c5b0d5 #c49c94 #f7b6d2 #dbdb8d #9edae5 #c7c7c7".split()
)
"""Qualitative colours (Tableau 20, strong ones first)."""
MOST = 255
"""As many classes as there can be."""

_BACKGROUND = ("#ffffff", "#000000")
"""What stands for no class in pictures and viewers: no class's colour comes near."""
_STEPS = (40, 70, 100, 130, 160, 190, 220, 245)
"""Values of red, green and blue that further colours are made of."""
# Oklab (Björn Ottosson, 2020): linear RGB → cones → lightness and two opponent colours.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OPPONENTS = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def palette_color(position: int) -> str:
    """Return the colour (#rrggbb) of the class at an index of 0–254 that has none of its own; no two have the same."""
    return PALETTE[position] if position < len(PALETTE) else _further()[position - len(PALETTE)]


@cache
def _further() -> tuple[str, ...]:
    """Choose the colours after the first twenty: each the one that lies farthest, to the eye, from all before it."""
    choice = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij"), axis=-1).reshape(-1, 3)
    seen = oklab(choice)
    taken = oklab(np.array([list(bytes.fromhex(color[1:])) for color in (*PALETTE, *_BACKGROUND)]))
    nearest = np.linalg.norm(seen[:, None] - taken, axis=-1).min(axis=1)
    colors = []
    for _ in range(MOST - len(PALETTE)):
        farthest = int(nearest.round(6).argmax())  # rounded: the same one on every machine
        colors.append(f"#{bytes(choice[farthest].tolist()).hex()}")
        nearest = np.minimum(nearest, np.linalg.norm(seen - seen[farthest], axis=-1))
    return tuple(colors)


def oklab(rgb: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Turn red, green and blue 0–255 (… × 3) into Oklab, where a distance is as large as the eye takes it for."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    opponents: npt.NDArray[np.float64] = np.cbrt(linear @ _CONES.T) @ _OPPONENTS.T
    return opponents
