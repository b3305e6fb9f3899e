"""Pictures for TensorBoard: image, label and prediction of a few chips, and the confusion matrix."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from src.datamodules.batches import Batch
from src.figures import confusion_picture
from src.labels import IGNORE
from src.models.segmenter import Segmenter
from src.quicklook import colorize, rgb_bands, stretch

_GAP = 4
"""White pixels between the three pictures of a chip."""
_DPI = 100
"""Pixels per inch of the confusion matrix: every epoch waits for it."""


class Pictures(Callback):
    """Shows image, label and prediction of a few validation chips, the same ones every time.

    The first validation has a set of them, and then each that comes at least ``every`` epochs after the last set.

    Args:
        chips: How many chips; 0 for no pictures at all.
        every: Epochs from one set of pictures to the next.
    """

    def __init__(self, chips: int = 4, every: int = 1) -> None:
        self.chips, self.every = chips, max(1, every)
        self._shown = 0

    def on_validation_epoch_start(self, *_: Any) -> None:
        """Begin with the first chip."""
        self._shown = 0

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show chips of a batch, evenly spread over all batches."""
        del dataloader_idx
        board = _board(trainer)
        if board is None or not self._due(trainer):
            return
        assert isinstance(pl_module, Segmenter)
        assert isinstance(batch, Batch)
        batches = int(sum(trainer.num_val_batches))
        due = -(-self.chips * (batch_idx + 1) // batches) - self._shown
        for position in range(min(due, len(batch.names))):
            picture = triple(batch, outputs, position, pl_module)
            tag = f"validation/{self._shown} {batch.names[position]}"
            board.add_image(tag, picture, trainer.current_epoch, dataformats="HWC")
            self._shown += 1

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the confusion matrix."""
        assert isinstance(pl_module, Segmenter)
        scores = pl_module.outcome("val").scores  # in every process: it adds up what all have counted
        board = _board(trainer)
        if board is None or not self.chips or not self._due(trainer):
            return
        picture = confusion_picture(pl_module.spec.classes.titles, scores.matrix, scores.row_shares, _DPI)
        board.add_image("confusion matrix", picture, trainer.current_epoch, dataformats="HWC")

    def _due(self, trainer: L.Trainer) -> bool:
        """Tell whether this validation has pictures; it follows from the epoch alone, so in a resumed run too."""
        between = trainer.check_val_every_n_epoch or 1  # None: somebody validates by batches instead
        number = (trainer.current_epoch + 1) // between - 1  # of this validation; the first comes after so many epochs
        return number % math.ceil(self.every / between) == 0


def triple(batch: Batch, prediction: torch.Tensor, position: int, segmenter: Segmenter) -> npt.NDArray[np.uint8]:
    """Draw image, label and prediction of a chip side by side: H × (3 · W + gaps) × 3, without class white."""
    spec = segmenter.spec
    valid = batch.valid[position].cpu().numpy()
    image = batch.image[position].cpu().numpy()[list(rgb_bands(spec.bands))]
    target = batch.target[position].cpu().numpy()
    guess = np.where(valid, prediction[position].cpu().numpy(), IGNORE).astype(np.uint8)
    pictures = [
        stretch(image, valid),
        *(colorize(spec.classes.decode(indices), spec.classes) for indices in (target, guess)),
    ]
    gap = np.full((len(valid), _GAP, 3), 255, np.uint8)
    first, second, third = (_on_white(picture) for picture in pictures)
    return np.hstack([first, gap, second, gap, third])


def _on_white(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.where(picture[..., 3:] > 0, picture[..., :3], np.uint8(255))


def _board(trainer: L.Trainer) -> Any:
    """Return TensorBoard's writer in the first process, None elsewhere."""
    if not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)
