"""An end of the training when nothing gets better, which a resumed run remembers."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping as LightningsEarlyStopping

from src.errors import UserError

log = logging.getLogger(__name__)

BETTER = {"val_iou": "max", "val_loss": "min"}
"""Which way the numbers go that a training can be stopped by."""


class EarlyStopping(LightningsEarlyStopping):
    """Lightning's, in a run that is resumed too: its patience is what is given now, and a run that has ended stays so.

    Lightning's takes the patience out of the checkpoint, and trains an epoch more whenever the same command is given.

    Args:
        monitor: The number that has to get better: ``val_iou`` or ``val_loss``.
        mode: Which way is better: ``max`` or ``min``.
        patience: Validations in a row without a better number after which the training ends.
        further: Further arguments of Lightning's.

    Raises:
        UserError: The mode is not the number's, or the patience below 0.
    """

    def __init__(self, monitor: str = "val_iou", mode: str = "max", patience: int = 20, **further: Any) -> None:
        if BETTER.get(monitor, mode) != mode and mode in BETTER.values():
            raise UserError(
                f"callbacks.early_stopping.mode={mode} would end a training whose {monitor} gets better; add "
                f"callbacks.early_stopping.mode={BETTER[monitor]}."
            )
        if patience < 0:
            raise UserError(
                f"callbacks.early_stopping.patience={patience} is no number of validations; give 0 or more, or "
                "callbacks.early_stopping=null to train all epochs."
            )
        super().__init__(monitor=monitor, mode=mode, patience=patience, **further)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over how long nothing has become better."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End a run at once that had ended before."""
        del pl_module
        if self.stopped_epoch and self.wait_count >= self.patience:
            trainer.should_stop = True
            log.info(
                "%s has not become better for %d epochs; raise callbacks.early_stopping.patience to train on.",
                self.monitor,
                self.wait_count,
            )
