"""Everything that decides what a data folder holds, as plain typed values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from src.class_map import ClassRule
from src.class_names import Named
from src.errors import UserError
from src.raster.write import Compression
from src.splits import Strategy
from src.tables import PARTS


@dataclass(frozen=True)
class Preparation:
    """Everything that decides what a data folder holds.

    Attributes:
        image: Path of a scene, list of paths, or glob.
        label: Raster or vector file for each scene in the same order, or one for all.
        chip_size: Width and height of a chip in pixels.
        chip_step: Distance of neighbouring chips in x and y, pixels.
        min_coverage: Percent of a chip that has a class and a measurement, at least.
        compress: GDAL's name of the chips' compression, ``none`` for none.
        shares: Percent of the chips for training, validation and test.
        strategy: How chips are assigned to them.
        buffer: Pixels between chips of different parts, for the strategy ``blocks``.
        block: Side of a block in pixels; None to choose it.
        split_raster: Raster for each scene in the same order, or one for all, that says the part of every pixel; the
            chips of a part then keep that part's labels only, and shares and strategy count for nothing, unless it
            has no validation.
        split_values: Its values for training, validation and test; None for a part that it does not have.
        seed: Of everything random.
        scaler: Divisor of the statistics; None for none.
        nodata: Nodata value of all bands; None for what the files declare.
        class_map: What classes are merged; None to keep them.
        min_class_share: Percent of the labelled pixels below which a class goes into ``other``.
        class_names: Names; None for the labels' own.
        class_colors: Colours as #rrggbb; None for the labels' own.
        label_field: Attribute of vector labels that holds the class.
        label_layer: Layer of vector labels.
    """

    image: str | tuple[str, ...]
    label: str | tuple[str, ...]
    chip_size: tuple[int, int] = (256, 256)
    chip_step: tuple[int, int] = (256, 256)
    min_coverage: float = 50.0
    compress: Compression = "none"
    shares: tuple[float, float, float] = (80.0, 10.0, 10.0)
    strategy: Strategy = "balanced"
    buffer: int = 0
    block: int | None = None
    split_raster: str | tuple[str, ...] | None = None
    split_values: tuple[int | None, int | None, int | None] = (1, 2, 3)
    seed: int = 42
    scaler: float | None = None
    nodata: float | None = None
    class_map: tuple[ClassRule, ...] | None = None
    min_class_share: float = 0.0
    class_names: Named | None = None
    class_colors: Named | None = None
    label_field: str | None = None
    label_layer: str | None = None

    def __post_init__(self) -> None:
        """Raise UserError for numbers out of their range."""
        for key, numbers in (("chip.size", self.chip_size), ("chip.step", self.chip_step)):
            if min(numbers) <= 0:
                raise UserError(f"{key} is {list(numbers)}; expected pixels above 0. Give for example {key}=256.")
        if self.compress not in get_args(Compression):
            raise UserError(f"chip.compress={self.compress} is not known; choose {', '.join(get_args(Compression))}.")
        for key, percent in (("chip.min_coverage", self.min_coverage), ("min_class_share", self.min_class_share)):
            if not 0 <= percent <= 100:
                raise UserError(f"{key} is {percent:g}; it is a percentage, expected 0 to 100.")
        if not all(share >= 0 for share in self.shares) or sum(self.shares) > 100 + 1e-9 or sum(self.shares) <= 0:
            given = ", ".join(f"split.{part}={share:g}" for part, share in zip(PARTS, self.shares, strict=True))
            raise UserError(f"{given}: expected percentages of 0 or more whose sum is above 0 and at most 100.")
        if self.buffer < 0 or (self.buffer and self.strategy != "blocks"):
            raise UserError(f"split.buffer={self.buffer} needs split.strategy=blocks and is 0 or more pixels.")
        if self.block is not None and self.block <= 0:
            raise UserError(f"split.block is {self.block}; expected pixels above 0, or null to have it chosen.")
        values = [value for value in self.split_values if value is not None]
        if self.split_values[0] is None or len(set(values)) < len(values) or not all(0 <= v <= 255 for v in values):
            raise UserError(
                f"split.values={list(self.split_values)} does not fit; expected different values of 0 to 255, and one "
                "for training at least."
            )
        if self.seed < 0:
            raise UserError(f"seed={self.seed} is below 0; expected a whole number of 0 or more. Take 42.")
        if self.scaler is not None and not 0 < self.scaler < math.inf:
            raise UserError(f"scaler is {self.scaler:g}; pixels are divided by it, so give a number above 0, or null.")
