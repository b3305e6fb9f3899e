"""Exponential moving average of the weights."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging

from src.errors import UserError


def average_weights(decay: float = 0.0) -> AverageWeights | None:
    """Return the callback, or None for a decay of 0; raises UserError for one that is no share."""
    if not 0 <= decay < 1:
        raise UserError(f"callbacks.ema.decay={decay} is a share; give 0 up to below 1, for example 0.99.")
    return AverageWeights(decay) if decay else None


class AverageWeights(WeightAveraging):
    """Validates and saves the exponential moving average of the weights instead of the weights themselves.

    The average of few steps would still contain the random start, so the decay grows with the steps: after n steps
    it is at most (1 + n) / (10 + n).

    Args:
        decay: Share of the average that is kept at each step, above 0 and below 1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._blend)
        self.decay = decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin the average on the device that trains.

        Lightning would take the one that the network is on by now, the CPU: all weights would go there at each step.
        """
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # A number that decides what is done: asked of a GPU, it would have to wait for it.
            self._average_model.n_averaged = torch.zeros_like(self._average_model.n_averaged, device="cpu")

    @torch.no_grad()
    def _blend(self, average: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor) -> None:
        del count  # the same, but on the device
        assert self._average_model is not None
        steps = int(self._average_model.n_averaged)
        decay = min(self.decay, (1 + steps) / (10 + steps))
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, 1 - decay)
        else:
            torch._foreach_copy_(average, current)
