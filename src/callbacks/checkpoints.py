"""Checkpoints with the highest validation IoU, and the last one."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn


class BestCheckpoints(ModelCheckpoint):
    """Keeps ``00026-val_iou_0.7115.ckpt`` of the best epochs, and ``last.ckpt`` always.

    Args:
        dirpath: Folder of the checkpoints.
        save_top_k: How many of the best to keep; −1 for all, 0 for none but the last.
    """

    CHECKPOINT_NAME_LAST = "last"

    def __init__(self, dirpath: str, save_top_k: int = 1) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="{epoch:05d}-val_iou_{val_iou:.4f}",
            auto_insert_metric_name=False,
            monitor="val_iou",
            mode="max",
            save_top_k=save_top_k,
            save_last=True,
            enable_version_counter=False,
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the best and the last (where every epoch is validated)."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._should_save_on_train_epoch_end(trainer):
            self._keep_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the best and the last (where only some epochs are)."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING and not self._should_save_on_train_epoch_end(trainer):
            self._keep_last(trainer)

    def _keep_last(self, trainer: L.Trainer) -> None:
        """Save the last epoch also where it is not among the best: Lightning alone would leave it out."""
        if self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
