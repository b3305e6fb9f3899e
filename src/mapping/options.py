"""What can be chosen when a scene is mapped, in the words of ``predict.py``'s keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from src.grid import Blend
from src.mapping.strips import Probabilities

_OF_FILES = ("vector", "sieve")
_OF_NOTHING = ("devices",)


@dataclass(frozen=True)
class MapOptions:
    """How a scene is mapped; names and defaults are those of the command's keys.

    Attributes:
        overlap: Percent of the training chip's side that windows share on each side.
        window: Side of a window in pixels; None for the fastest.
        blend: How windows share what both cover.
        batch_size: Windows that go through the network together, on a CPU in each lane; None for a good number.
        tta: Average over the eight flips and rotations, or the four that keep the shape of windows that are not square
            (test-time augmentation).
        probabilities: Store probabilities and uncertainty, and how; None not to.
        vector: Also write polygons.
        sieve: Polygons with fewer pixels join their largest neighbour.
        devices: Between how many processes the strips are divided, each with a GPU of its own where there are.
    """

    overlap: float = 20.0
    window: int | None = None
    blend: Blend = "cosine"
    batch_size: int | None = None
    tta: bool = False
    probabilities: Probabilities | None = None
    vector: bool = False
    sieve: int = 0
    devices: int = 1

    @property
    def numbers(self) -> dict[str, Any]:
        """Those that the map's numbers depend on."""
        return {key: value for key, value in asdict(self).items() if key not in (*_OF_FILES, *_OF_NOTHING)}

    @property
    def files(self) -> dict[str, Any]:
        """Those that, beside the numbers, decide which files there are and what is in them."""
        return {key: getattr(self, key) for key in _OF_FILES}
