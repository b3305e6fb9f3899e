"""What a person sees while a network trains: a bar for the running epoch, and a line for every finished one."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from src.models.segmenter import Segmenter

log = logging.getLogger(__name__)

HEADER = "epoch        train loss    IoU   val loss    IoU      rate   chips/s   left"


class EpochLines(ProgressBar):
    """A progress bar on a terminal, and after each epoch one line: losses, IoUs, rate, chips/s, time left."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None
        self._active = True
        self._began, self._first_epoch = 0.0, 0

    def disable(self) -> None:
        """Say nothing (processes other than the first)."""
        self._active = False

    def enable(self) -> None:
        """Speak again."""
        self._active = True

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Print the header."""
        self._began, self._first_epoch = time.monotonic(), trainer.current_epoch
        if self._active:
            log.info(HEADER)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin a bar."""
        self._show(f"epoch {trainer.current_epoch}", int(trainer.num_training_batches))

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the bar."""
        self._advance()

    def on_validation_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin a bar."""
        self._show("validation", int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(self, *_: Any) -> None:
        """Move the bar."""
        self._advance()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the epoch's line."""
        assert isinstance(pl_module, Segmenter)
        if not pl_module.has_trained:
            return
        numbers = pl_module.numbers()  # in every process: it adds up what all have counted
        self._hide()
        if self._active:
            log.info(self._line(trainer, numbers))

    def _line(self, trainer: L.Trainer, numbers: dict[str, float]) -> str:
        epoch, epochs = trainer.current_epoch, trainer.max_epochs or 0
        each = (time.monotonic() - self._began) / (epoch - self._first_epoch + 1)
        cells = [
            f"{epoch:5d} / {epochs - 1:<4d}",
            f"{numbers['train_loss']:9.4f}  {numbers['train_iou']:.3f}",
            f"{numbers['val_loss']:9.4f}  {numbers['val_iou']:.3f}" if "val_iou" in numbers else " " * 16,
            f"{numbers['lr']:8.2g}",
            f"{numbers['chips_per_second']:8.1f}",
            f"{duration(each * (epochs - epoch - 1)):>5}",
        ]
        return "  ".join(cells)

    def on_exception(self, *_: Any) -> None:
        """Take the bar away."""
        self._hide()

    def _show(self, what: str, total: int) -> None:
        self._hide()
        console = Console(stderr=True)
        if self._active and console.is_terminal:
            columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(
                *columns, TextColumn("batches"), TimeRemainingColumn(), console=console, transient=True
            )
            self._bar.add_task(what, total=total)
            self._bar.start()

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])

    def _hide(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """Write a duration in at most five characters: 45 s, 3:07, 2h05."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}"
