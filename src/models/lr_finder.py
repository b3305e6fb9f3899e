"""A learning rate from a range test: the rate grows at every step until the loss explodes (Smith 2017)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from src.atomic import whole_file
from src.datamodules.batches import Batch
from src.errors import UserError
from src.models.segmenter import Segmenter

LOWEST, HIGHEST = 1e-6, 1.0
"""First and last learning rate that a test tries."""
_SMOOTHING = 0.9
_EXPLODED = 4.0
"""Times the lowest loss at which the test ends."""
_SKIP = 10
"""Steps at the beginning whose loss says more about the start than about the rate."""


@dataclass(frozen=True)
class RangeTest:
    """Rates that were tried, their smoothed losses, and the rate at which the loss fell fastest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    rate: float


def find_learning_rate(
    segmenter: Segmenter,
    batches: Iterable[Batch],
    device: torch.device,
    bf16: bool,
    steps: int = 100,
) -> RangeTest:
    """Try growing learning rates and set the segmenter's to the one at which the loss fell fastest.

    The network's weights and statistics are put back afterwards.

    Args:
        segmenter: What is to be trained.
        batches: Training batches; they are taken again from the start if there are too few.
        device: Where to compute.
        bf16: Whether to compute in bfloat16.
        steps: Rates to try, from LOWEST to HIGHEST, evenly spread on a logarithmic scale.

    Raises:
        UserError: The loss is no finite number from the start, or no batch has a labelled pixel.
    """
    kept = {name: value.clone() for name, value in segmenter.state_dict().items()}
    segmenter.to(device).train()
    try:
        rates, losses = _try_rates(segmenter, batches, device, bf16, np.geomspace(LOWEST, HIGHEST, steps).tolist())
    finally:
        segmenter.load_state_dict(kept)
        segmenter.zero_grad(set_to_none=True)
    if len(rates) < _SKIP + 3:
        raise UserError(
            f"lr_finder=true came to no result: the loss was finite for {len(rates)} steps only. Set lr=… by hand."
        )
    slopes = np.gradient(losses, np.log(rates))[_SKIP:-1]
    segmenter.lr = rates[_SKIP + int(np.argmin(slopes))]
    return RangeTest(tuple(rates), tuple(losses), segmenter.lr)


def _try_rates(
    segmenter: Segmenter, batches: Iterable[Batch], device: torch.device, bf16: bool, candidates: list[float]
) -> tuple[list[float], list[float]]:
    optimizer = segmenter.optimization.build(segmenter.network, segmenter.encoder)
    factors = [group["lr"] / segmenter.optimization.lr for group in optimizer.param_groups]
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for number, (rate, batch) in enumerate(zip(candidates, _endless(batches), strict=False)):
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = rate * factor
        moved = Batch(batch.image.to(device), batch.valid.to(device), batch.target.to(device), *batch[3:])
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = segmenter.step(moved, seed=number).minimised
        average = _SMOOTHING * average + (1 - _SMOOTHING) * float(loss.detach())
        smooth = average / (1 - _SMOOTHING ** (number + 1))
        if not np.isfinite(smooth) or (losses and smooth > _EXPLODED * min(losses)):
            break
        rates.append(rate)
        losses.append(smooth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return rates, losses


def _endless(batches: Iterable[Batch]) -> Iterable[Batch]:
    for _ in itertools.count():
        found = False
        for batch in batches:
            if batch.labelled:
                found = True
                yield batch
        if not found:
            return


def draw_range_test(path: str | Path, test: RangeTest) -> None:
    """Draw loss over learning rate as PNG, the chosen rate marked."""
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.semilogx(test.rates, test.losses, color="#1f77b4")
    axes.axvline(test.rate, color="#d62728", linestyle="--", label=f"chosen: {test.rate:.2g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, smoothed")
    axes.legend(frameon=False)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png")
