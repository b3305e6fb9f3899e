"""Pictures for TensorBoard: when they come, and what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.augmentation import Augmentation
from src.callbacks import pictures
from src.callbacks.pictures import Pictures
from src.datamodules.chips import ChipData
from src.figures import confusion_picture
from src.labels import ClassTable
from src.models.losses import CrossEntropy
from src.models.optimization import Optimization
from src.models.segmenter import Segmenter
from src.training import HOUSE_TRAINER, NetworkChoice, make_network
from tests.chip_folder import make_chip_folder


def fit(folder: Path, epochs: int, between: int, shown: Pictures, classes: ClassTable | None = None) -> None:
    """Train a small network with a board in the folder."""
    data = ChipData(make_chip_folder(folder / "data", (2, 1, 0)), batch_size=2, min_steps=0)
    options = {"encoder_depth": 3, "decoder_channels": [16, 16, 8]}
    network, spec = make_network(data.describe(), NetworkChoice(options=options))
    spec = replace(spec, classes=classes or spec.classes)
    trainer = L.Trainer(
        **HOUSE_TRAINER,
        accelerator="cpu",
        max_epochs=epochs,
        check_val_every_n_epoch=between,
        logger=TensorBoardLogger(str(folder), "", ""),
        callbacks=[shown],
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Segmenter(network, spec, CrossEntropy(), Optimization(), Augmentation(), seed=0, config={}), data)


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
    fit(tmp_path, 4, between, Pictures(chips=1, every=every))
    board = EventAccumulator(str(tmp_path), {"images": 0}).Reload()
    tags = board.Tags()["images"]
    assert len(tags) == 2
    assert all([event.step for event in board.Images(tag)] == expected for tag in tags)


def test_the_matrix_tells_classes_of_one_name_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, ...]] = []

    def draw(titles: tuple[str, ...], *numbers: Any) -> Any:
        drawn.append(titles)
        return confusion_picture(titles, *numbers)

    monkeypatch.setattr(pictures, "confusion_picture", draw)
    fit(tmp_path, 1, 1, Pictures(chips=1), ClassTable.build([2, 7], {2: "forest", 7: "forest"}))
    assert drawn == [("2 forest", "7 forest")]
