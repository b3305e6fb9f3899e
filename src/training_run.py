"""A training from data to checkpoint in one call: train.py without its command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import nn

from src import run_folder
from src.augmentation import Augmentation
from src.callbacks.average import average_weights
from src.callbacks.checkpoints import BestCheckpoints, checkpoint_plugins
from src.callbacks.early_stopping import EarlyStopping
from src.callbacks.progress import EpochLines
from src.callbacks.table import EpochTable
from src.datamodules.base import DataDescription, SegmentationData
from src.errors import UserError
from src.models.losses import CrossEntropy
from src.models.optimization import Optimization
from src.models.segmenter import Segmenter
from src.plain_values import make_plain, plain
from src.run_folder import Trained
from src.training import (
    HOUSE_TRAINER,
    NetworkChoice,
    check_crop,
    choose_class_weights,
    choose_trainer_options,
    decorrelate,
    enough_memory,
    interruptible,
    make_network,
    quiet_lightning,
)


@dataclass(frozen=True)
class Recipe:
    """How a network learns; the defaults are those of ``python train.py``.

    Attributes:
        epochs: Epochs at most; of few chips one takes each several times (``min_steps`` of the data).
        patience: Epochs without a better validation IoU after which training ends; None for never.
        optimization: Optimiser, learning rate and its course.
        augmentation: Random changes of training batches.
        loss: Takes logits B × n × H × W and class indices B × H × W; None for cross-entropy with ``class_weights``.
        class_weights: true for the data folder's own, false for none, the name of a rule, or a number per class.
        deep_supervision: Weight of the loss of each branch of the network alone, beside that of their sum.
        ema_decay: Share that a moving average of the weights keeps at each step; 0 for no average.
        seed: Of weights, order and augmentation.
    """

    epochs: int = 50
    patience: int | None = 20
    optimization: Optimization = field(default_factory=Optimization)
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(flips=True, rotate90=True))
    loss: nn.Module | None = None
    class_weights: bool | str | Sequence[float] = True
    deep_supervision: float = 1.0
    ema_decay: float = 0.0
    seed: int = 42

    def __post_init__(self) -> None:
        """Take NumPy's numbers for plain ones: they would get into checkpoints."""
        make_plain(self, *_own_keys(self))


def train(
    data: SegmentationData,
    folder: str | Path,
    network: NetworkChoice | None = None,
    recipe: Recipe | None = None,
    *,
    accelerator: str = "auto",
    callbacks: Sequence[Callback] = (),
) -> Trained:
    """Train a network and return its best checkpoint.

    Args:
        data: Where chips come from: :class:`src.datamodules.chips.ChipData` for a data folder.
        folder: The run's folder: ``checkpoints/``, ``metrics.csv``, ``run.json``. An earlier run that is there moves
            into ``earlier/`` within.
        network: Architecture, encoder and what they start from; a U-Net with ResNet-18 from random weights if None.
        recipe: How it learns; the command's defaults if None.
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        callbacks: Further callbacks of Lightning's.

    Returns:
        The best checkpoint by validation IoU, its scores on the validation chips, and the last checkpoint.

    Raises:
        UserError: The data, the network or the recipe cannot be used, or the loss became no number.
    """
    folder, network, recipe = Path(folder), network or NetworkChoice(), recipe or Recipe()
    if network.resume is not None:
        raise UserError(
            f"resume={network.resume} is a key of train.py, which goes on with a run; expected a new one here. Give "
            "init_from to begin with its weights, or run train.py resume=…."
        )
    quiet_lightning()
    L.seed_everything(recipe.seed, verbose=False)
    options = choose_trainer_options(accelerator, 1, "auto")
    described = data.describe()
    config = _config(described, data, network, recipe)
    segmenter = _segmenter(described, network, recipe, config)
    data.setup()
    decorrelate(segmenter.network, data)
    run_folder.set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run_folder.describe(folder, config, ())
    keeper = BestCheckpoints(str(folder / "checkpoints"))
    own: list[Callback | None] = [EpochLines(), keeper, average_weights(recipe.ema_decay)]
    if recipe.patience is not None:
        own.append(EarlyStopping("val_iou", mode="max", patience=recipe.patience))
    trainer = L.Trainer(
        **HOUSE_TRAINER,
        **options,
        max_epochs=recipe.epochs,
        callbacks=[callback for callback in (*own, *callbacks) if callback is not None],
        plugins=checkpoint_plugins(),
        logger=[EpochTable(str(folder / "metrics.csv"))],
        default_root_dir=folder,
    )
    with enough_memory(data.batch_size), interruptible(trainer):
        trainer.fit(segmenter, datamodule=data)
    return run_folder.read_trained(Path(keeper.best_model_path or keeper.last_model_path), Path(keeper.last_model_path))


def _segmenter(data: DataDescription, choice: NetworkChoice, recipe: Recipe, config: dict[str, Any]) -> Segmenter:
    network, spec = make_network(data, choice)
    check_crop(network, spec, recipe.augmentation)
    loss = recipe.loss or CrossEntropy(choose_class_weights(data, recipe.class_weights))
    return Segmenter(
        network,
        spec,
        loss,
        recipe.optimization,
        recipe.augmentation,
        recipe.seed,
        config,
        deep_supervision=recipe.deep_supervision,
    )


def _config(
    described: DataDescription, data: SegmentationData, network: NetworkChoice, recipe: Recipe
) -> dict[str, Any]:
    """Return what goes into the checkpoint: plain values by name, as a command's configuration would be."""
    config: dict[str, Any] = plain(
        {
            "data_dir": described.origin,
            "batch_size": data.batch_size,
            "network": asdict(network),
            "loss": type(recipe.loss).__name__ if recipe.loss else "CrossEntropy",
            "optimizer": asdict(recipe.optimization),
            "augmentation": asdict(recipe.augmentation),
            **{key: getattr(recipe, key) for key in _own_keys(recipe)},
        }
    )
    return config


def _own_keys(recipe: Recipe) -> list[str]:
    """Return the names of a recipe's numbers and choices, those of its parts left out."""
    return [key for key in vars(recipe) if key not in ("loss", "optimization", "augmentation")]
