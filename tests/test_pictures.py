"""Pictures for TensorBoard: when they come."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.augmentation import Augmentation
from src.callbacks.pictures import Pictures
from src.datamodules.chips import ChipData
from src.models.losses import CrossEntropy
from src.models.optimization import Optimization
from src.models.segmenter import Segmenter
from src.training import HOUSE_TRAINER, NetworkChoice, make_network
from tests.chip_folder import make_chip_folder


@pytest.mark.parametrize(
    ("every", "between", "expected"),
    [
        (2, 2, [1, 3]),  # none came where both had a factor in common
        (1, 2, [1, 3]),
        (2, 1, [0, 2]),
        (3, 2, [1]),  # the second validation, two epochs later, is too early
    ],
)
def test_pictures_come_with_the_first_validation_and_then_after_so_many_epochs(
    tmp_path: Path, every: int, between: int, expected: list[int]
) -> None:
    data = ChipData(make_chip_folder(tmp_path / "data", (2, 1, 0)), batch_size=2, min_steps=0)
    options = {"encoder_depth": 3, "decoder_channels": [16, 16, 8]}
    network, spec = make_network(data.describe(), NetworkChoice(options=options))
    trainer = L.Trainer(
        **HOUSE_TRAINER,
        accelerator="cpu",
        max_epochs=4,
        check_val_every_n_epoch=between,
        logger=TensorBoardLogger(str(tmp_path), "", ""),
        callbacks=[Pictures(chips=1, every=every)],
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Segmenter(network, spec, CrossEntropy(), Optimization(), Augmentation(), seed=0, config={}), data)
    board = EventAccumulator(str(tmp_path), {"images": 0}).Reload()
    tags = board.Tags()["images"]
    assert len(tags) == 2
    assert all([event.step for event in board.Images(tag)] == expected for tag in tags)
