"""How a network learns: one shape of step for training and validation, and scores from one confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import nn

from src.augmentation import Augmentation, Pixels
from src.datamodules.batches import Batch
from src.errors import UserError
from src.labels import IGNORE
from src.models.checkpoint import hyper_parameters
from src.models.network import Network
from src.models.optimization import Optimization
from src.scores import Scores, confusion_matrix
from src.spec import NetworkSpec

Stage = Literal["train", "val"]


class Tally:
    """Loss and confusion matrix of one epoch's stage, kept on the device until somebody asks."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.matrix = torch.zeros((classes, classes), dtype=torch.int64, device=device)
        self.loss = torch.zeros(2, dtype=torch.float64, device=device)
        self.chips = 0

    def add(self, loss: torch.Tensor, target: torch.Tensor, prediction: torch.Tensor) -> None:
        """Count a batch; its loss weighs as much as it has labelled pixels."""
        here = confusion_matrix(target, prediction, len(self.matrix))
        self.matrix += here
        pixels = here.sum()
        self.loss += torch.stack([loss.detach().double() * pixels, pixels.double()])
        self.chips += len(target)


@dataclass(frozen=True)
class Outcome:
    """What an epoch's stage comes to: mean loss over labelled pixels, scores, and the chips it took."""

    loss: float
    scores: Scores
    chips: int


class Segmenter(L.LightningModule):
    """A network with what it takes to train it.

    Args:
        network: The network; its normalisation is part of it.
        spec: What it is; goes into every checkpoint.
        loss: Takes logits and class indices, returns one number.
        optimization: Optimiser and schedule.
        augmentation: What happens to training batches, None for nothing.
        seed: Of all that is random; epoch and step are added to it.
        config: The composed configuration, for the checkpoint.
    """

    def __init__(
        self,
        network: Network,
        spec: NetworkSpec,
        loss: nn.Module,
        optimization: Optimization,
        augmentation: Augmentation | None = None,
        seed: int = 42,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.spec, self.loss = network, spec, loss
        self.optimization, self.seed, self.config = optimization, seed, dict(config or {})
        self.augmentation = augmentation if augmentation is not None and augmentation.changes else None
        self.lr = optimization.lr
        self._tallies: dict[Stage, Tally] = {}
        self._outcomes: dict[Stage, Outcome] = {}
        self._pending: tuple[torch.Tensor, list[str]] | None = None

    @property
    def encoder(self) -> nn.Module | None:
        """The network's encoder, None for architectures that have none of their own."""
        encoder = getattr(self.network.architecture, "encoder", None)
        return encoder if isinstance(encoder, nn.Module) else None

    def forward(self, image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Return logits for an image in the file's own numbers, as the network does."""
        logits: torch.Tensor = self.network(image, valid)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor | None:
        """Learn from a batch; one without a labelled pixel contributes nothing, not even to the statistics."""
        if not batch.labelled and self.trainer.world_size == 1:
            return None
        loss, _ = self._step("train", batch, batch_idx)
        self._check(loss, batch.names)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Score a batch and return the predicted indices."""
        return self._step("val", batch, batch_idx)[1]

    def _step(self, stage: Stage, batch: Batch, batch_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = Pixels(self.network.normalize(batch.image, batch.valid), batch.target, batch.valid)
        if stage == "train" and self.augmentation is not None:
            pixels = self.augmentation(pixels, self._step_seed(batch_idx))
        image = pixels.image.contiguous(memory_format=torch.channels_last)
        target = torch.where(pixels.valid, pixels.target, IGNORE)
        logits: torch.Tensor = self.network.architecture(image)
        loss: torch.Tensor = self.loss(logits, target)
        prediction = logits.detach().argmax(1)
        self._tallies[stage].add(loss, target, prediction)
        return loss, prediction

    def _step_seed(self, batch_idx: int) -> int:
        entropy = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _check(self, loss: torch.Tensor, names: list[str]) -> None:
        """Stop at a loss that is no number; on a GPU one step later, so that nobody has to wait for it."""
        before, self._pending = self._pending, (loss.detach(), names)
        if loss.device.type == "cpu":
            before = self._pending
        if before is not None and not bool(torch.isfinite(before[0])):
            raise UserError(
                f"The loss became {float(before[0])} in epoch {self.current_epoch} at the chips "
                f"{', '.join(before[1])}; expected a finite number. Look at these chips, or lower lr={self.lr:g}."
            )

    def on_train_epoch_start(self) -> None:
        """Begin an epoch: its random numbers follow from seed and epoch alone."""
        L.seed_everything(self.seed + 1_000 * self.current_epoch + self.global_rank, verbose=False)
        self._begin("train")

    def on_validation_epoch_start(self) -> None:
        """Begin a validation; every process scores the same network."""
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)
        self._begin("val")

    def on_validation_epoch_end(self) -> None:
        """Log the validation's scores."""
        self._log("val")

    def on_train_epoch_end(self) -> None:
        """Log the training's scores."""
        self._pending = None
        self._log("train")

    def _begin(self, stage: Stage) -> None:
        self._tallies[stage] = Tally(len(self.spec.classes), self.device)
        self._outcomes.pop(stage, None)

    def outcome(self, stage: Stage) -> Outcome:
        """Return what the epoch's stage came to, over all processes (each of them has to ask)."""
        if stage not in self._outcomes:
            tally = self._tallies[stage]
            chips = torch.tensor(tally.chips, device=self.device)
            if self.trainer.world_size > 1:
                for number in (tally.matrix, tally.loss, chips):
                    torch.distributed.all_reduce(number)
            total, pixels = tally.loss.tolist()
            loss = total / pixels if pixels else 0.0
            self._outcomes[stage] = Outcome(loss, Scores(tally.matrix.cpu().numpy()), int(chips))
        return self._outcomes[stage]

    def _log(self, stage: Stage) -> None:
        outcome = self.outcome(stage)
        scores = outcome.scores
        numbers = {"loss": outcome.loss, "iou": scores.mean_iou, "accuracy": scores.overall_accuracy}
        self.log_dict({f"{stage}_{name}": value for name, value in numbers.items()}, logger=True)
        per_class = zip(self.spec.classes.names, scores.iou.tolist(), scores.support, strict=True)
        self.log_dict({f"{stage}_iou_of/{name}": value for name, value, support in per_class if support})

    def configure_optimizers(self) -> Any:
        """Return optimiser and per-step schedule."""
        optimizer = self.optimization.build(self.network, self.encoder, self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        if self.optimization.epochs is not None and self.trainer.max_epochs:
            steps = -(-steps * self.optimization.epochs // self.trainer.max_epochs)
        schedule = self.optimization.scheduler(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what describes the network."""
        checkpoint["hyper_parameters"] = hyper_parameters(self.spec, self.config)
        if "val" in self._outcomes:
            checkpoint["val_matrix"] = self._outcomes["val"].scores.matrix.tolist()
