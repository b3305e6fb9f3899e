"""What a person sees while a network trains: a bar for the running epoch, and a line for every finished one."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from src.models.segmenter import Segmenter

log = logging.getLogger(__name__)

HEADER = "epoch       train loss   IoU    val loss   IoU      rate      chips/s   left"


class EpochLines(ProgressBar):
    """A progress bar on a terminal, and after each epoch one line: losses, IoUs, rate, chips/s, time left."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._began = self._epoch_began = 0.0
        self._epochs_done = 0
        self._active = True

    def disable(self) -> None:
        """Say nothing (processes other than the first)."""
        self._active = False

    def enable(self) -> None:
        """Speak again."""
        self._active = True

    def on_train_start(self, *_: Any) -> None:
        """Print the header."""
        self._began, self._epochs_done = time.monotonic(), 0
        if self._active:
            log.info(HEADER)
            if self._console.is_terminal:
                columns = (
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TextColumn("batches"),
                    TimeRemainingColumn(),
                )
                self._bar = Progress(*columns, console=self._console, transient=True)
                self._task = self._bar.add_task("")

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin the bar anew."""
        self._epoch_began = time.monotonic()
        self._show(f"epoch {trainer.current_epoch}", trainer.num_training_batches)

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the bar."""
        self._advance()

    def on_validation_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin the bar anew."""
        self._trained = time.monotonic()
        self._show("validation", int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(self, *_: Any) -> None:
        """Move the bar."""
        self._advance()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the epoch's line."""
        assert isinstance(pl_module, Segmenter)
        train, val = pl_module.outcome("train"), pl_module.outcome("val")
        rate = trainer.optimizers[0].param_groups[-1]["lr"]
        speed = train.chips / max(1e-9, self._trained - self._epoch_began)
        pl_module.log_dict({"lr": rate, "chips_per_second": speed}, rank_zero_only=True)
        self._epochs_done += 1
        if not self._active:
            return
        if self._bar is not None:
            self._bar.stop()
        epochs = trainer.max_epochs or 0
        each = (time.monotonic() - self._began) / self._epochs_done
        log.info(
            "%5d/%-5d  %10.4f  %5.3f  %9.4f  %5.3f  %8.2g  %9.1f  %5s",
            trainer.current_epoch,
            epochs - 1,
            train.loss,
            train.scores.mean_iou,
            val.loss,
            val.scores.mean_iou,
            rate,
            speed,
            duration(each * (epochs - trainer.current_epoch - 1)),
        )

    def on_train_end(self, *_: Any) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(self, *_: Any) -> None:
        """Take the bar away."""
        self._stop()

    def _show(self, what: str, total: int | float) -> None:
        if self._bar is not None:
            self._bar.start()
            self._bar.reset(self._task, description=what, total=total)

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """Write a duration in at most five characters: 45 s, 3:07, 2h05."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}"
