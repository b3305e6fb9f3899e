"""Checkpoints with the highest validation IoU, and the last one: which, when, and how they get onto the disk."""

from __future__ import annotations

import time
from pathlib import Path, PureWindowsPath
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from src.errors import UserError
from src.models.checkpoint import LAST, SCORED, UNFINISHED, write_checkpoint

SYNCHRONIZE = 20
"""Steps of the optimiser between two looks at the clock where several processes have to agree on it."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint beside its place and moves it there once it is on the disk.

    Lightning's own writing goes through the folder for temporary files: from another file system a checkpoint would be
    copied into place, and half a one would stand there if the process were killed.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; raises UserError if there is no room for it."""
        del storage_options
        write_checkpoint(path, checkpoint)


def checkpoint_plugins() -> list[Any]:
    """Return the plugins that let a trainer write our checkpoints and no others.

    Where SLURM starts it, Lightning would leave one of its own at SIGUSR1, and take that up in any later run of the
    folder that is meant to begin. ``resume=last`` goes on from ours.

    Raises:
        UserError: SLURM's tasks were asked for in a way that Lightning does not take.
    """
    plugins: list[Any] = [WholeCheckpoints()]
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():  # Lightning asks in this order
        return plugins
    try:
        return [*plugins, SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:
        raise UserError(f"This SLURM job cannot train: {error}") from error


class BestCheckpoints(ModelCheckpoint):
    """Keeps ``00026-val_iou_0.7115.ckpt`` of the best epochs, and ``last.ckpt`` always.

    Args:
        dirpath: Folder of the checkpoints.
        save_top_k: How many of the best to keep; −1 for all, 0 for none but the last.
        every_n_minutes: In epochs that take longer, ``last.ckpt`` is also saved in their middle, so that no more than
            these minutes are lost when the process dies; None only after each epoch.
    """

    CHECKPOINT_NAME_LAST = Path(LAST).stem

    def __init__(self, dirpath: str, save_top_k: int = 1, every_n_minutes: float | None = None) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=SCORED,
            auto_insert_metric_name=False,
            monitor="val_iou",
            mode="max",
            save_top_k=save_top_k,
            save_last=True,
            enable_version_counter=False,
        )
        if every_n_minutes is not None and not every_n_minutes >= 0:
            raise UserError(
                f"callbacks.model_checkpoint.every_n_minutes={every_n_minutes} is no time; expected minutes, or null."
            )
        self.every_n_minutes = every_n_minutes
        self._saved = time.monotonic()
        self._outdated: list[str] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and remove what a killed process has left unfinished."""
        super().on_train_start(trainer, pl_module)
        self._saved = time.monotonic()
        if trainer.is_global_zero and self.dirpath is not None:
            for leftover in Path(self.dirpath).glob(f".*{UNFINISHED}"):
                leftover.unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the last in the middle of a long epoch."""
        del pl_module, outputs, batch, batch_idx
        loop = trainer.fit_loop
        # The epoch's end saves by itself, and gradients that are being added up are in no checkpoint.
        if not _within_epoch(trainer) or loop._should_accumulate():
            return
        ends = trainer.should_stop and loop._can_stop_early
        if ends or self._is_due(trainer):
            before = self._last_global_step_saved
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
            self._last_global_step_saved = before  # or the epoch would not count if its other batches have no labels

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the best and the last (where every epoch is validated), or the last alone (after any other epoch)."""
        super().on_train_epoch_end(trainer, pl_module)
        if not _within_epoch(trainer):
            self._keep_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the best and the last (where only some epochs are, and where a training is stopped within an epoch)."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING and not self._should_save_on_train_epoch_end(trainer):
            self._keep_last(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over which of this folder's checkpoints are the best, by their names only.

        Lightning removes what a checkpoint names as outdated, wherever it lies, and checkpoints come from anybody. Here
        a path stands for the file of that name in our folder, or for nothing; and a run's folder may have moved.
        """
        named = state_dict.get("best_k_models")
        found = {self._own(path): score for path, score in named.items()} if isinstance(named, dict) else {}
        best = {path: score for path, score in found.items() if path and _is_number(score)}
        self.best_k_models, self.last_model_path = best, self._own(state_dict.get("last_model_path"))
        self.kth_best_model_path = min(best, key=lambda path: best[path], default="")
        self.best_model_path = max(best, key=lambda path: best[path], default="")
        if best:
            self.kth_value, self.best_model_score = best[self.kth_best_model_path], best[self.best_model_path]

    def _should_save_on_train_epoch_end(self, trainer: L.Trainer) -> bool:
        """Not where a training is stopped within an epoch: resumed from its end, it would leave out the rest of it."""
        return not _within_epoch(trainer) and super()._should_save_on_train_epoch_end(trainer)

    def _own(self, path: Any) -> str:
        """Return the checkpoint of this folder that the last part of a path names; nothing where there is none."""
        name = PureWindowsPath(str(path)).name  # it splits at both kinds of slashes
        file = Path(self.dirpath or "") / name
        return str(file) if name.endswith(self.FILE_EXTENSION) and file.is_file() else ""

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Tell whether the time is over; one process decides for all, and not at every step."""
        if self.every_n_minutes is None:
            return False
        due = time.monotonic() - self._saved >= 60 * self.every_n_minutes
        if trainer.world_size == 1:
            return due
        return trainer.global_step % SYNCHRONIZE == 0 and bool(trainer.strategy.broadcast(due))

    def _keep_last(self, trainer: L.Trainer) -> None:
        """Save the last epoch also where it is not among the best: Lightning alone would leave it out."""
        if self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        outdated, self._outdated = self._outdated, []
        for path in outdated:
            super()._remove_checkpoint(trainer, path)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._saved = time.monotonic()

    def _remove_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Keep what is not among the best any more until ``last.ckpt``, which names it, is replaced as well."""
        del trainer
        self._outdated.append(filepath)


def _within_epoch(trainer: L.Trainer) -> bool:
    """Tell whether batches of the epoch are left."""
    return not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def _is_number(score: Any) -> bool:
    return isinstance(score, torch.Tensor) and score.numel() == 1
