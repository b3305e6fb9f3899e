"""How a network learns: one shape of step for training and validation, and scores from one confusion matrix."""

from __future__ import annotations

import time
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
from src.models.architectures import encoder_of, thaw
from src.models.checkpoint import VAL_MATRIX, hyper_parameters
from src.models.detail import tell_apart
from src.models.distributed import channels_last, freeze_unused, keep_activations, share_buffers, share_number
from src.models.network import Network, most_likely
from src.models.optimization import Optimization
from src.models.precision import training_layout
from src.models.whitening import whitening_of
from src.scores import Scores, confusion_matrix, counting_device
from src.spec import NetworkSpec

Stage = Literal["train", "val"]
WATCHED = ("val_iou", "val_loss")
"""What every validation leaves for callbacks that watch a training."""


class Tally:
    """Loss and confusion matrix of one epoch's stage, kept on the device, where that can count, until somebody asks."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.device = counting_device(device)
        self.matrix = torch.zeros((classes, classes), dtype=torch.int64, device=self.device)
        self.loss = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.chips = 0

    def add(self, loss: torch.Tensor, target: torch.Tensor, prediction: torch.Tensor) -> None:
        """Count a batch; its loss weighs as much as it has labelled pixels."""
        here = confusion_matrix(target.to(self.device), prediction.to(self.device), len(self.matrix))
        self.matrix += here
        pixels = here.sum()
        self.loss += torch.stack([loss.detach().to(self.device).double() * pixels, pixels.double()])
        self.chips += len(target)

    def total(self) -> dict[str, Any]:
        """Return plain numbers, of all processes together (each of them has to ask)."""
        numbers = [self.matrix.clone(), self.loss.clone(), torch.tensor(self.chips, device=self.device)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for number in numbers:
                torch.distributed.all_reduce(number)
        matrix, loss, chips = (number.tolist() for number in numbers)
        return {"matrix": matrix, "loss": loss, "chips": chips}

    def count(self, before: Mapping[str, Any]) -> None:
        """Add a :meth:`total`."""
        self.matrix += self.matrix.new_tensor(before["matrix"])
        self.loss += self.loss.new_tensor(before["loss"])
        self.chips += int(before["chips"])


@dataclass(frozen=True)
class Step:
    """What a batch comes to.

    Attributes:
        loss: Mean over the labelled pixels, of the network's answer.
        minimised: The same with the losses of its branches alone, where there are such.
        target: True class indices B × H × W, as augmented.
        prediction: Predicted ones.
    """

    loss: torch.Tensor
    minimised: torch.Tensor
    target: torch.Tensor
    prediction: torch.Tensor


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
        deep_supervision: Weight of the loss of each of the network's branches alone, beside that of their sum (Lee et
            al., Deeply-Supervised Nets, 2015). What one of them has learned by heart would else leave nothing to be
            learned to the other.
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
        *,
        deep_supervision: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= deep_supervision < np.inf:
            raise UserError(f"deep_supervision={deep_supervision:g} is no weight; give 0 or more.")
        self.network, self.spec, self.loss = channels_last(network), spec, loss
        self.layout: torch.memory_format = torch.channels_last
        self.optimization, self.seed, self.config = optimization, seed, dict(config or {})
        self.augmentation = augmentation if augmentation is not None and augmentation.changes else None
        self.levels = self.augmentation.levels(spec.normalization, spec.statistics) if self.augmentation else None
        self.deep_supervision = deep_supervision if deep_supervision and tell_apart(network.architecture) else 0.0
        self.lr = optimization.lr
        self._tallies: dict[Stage, Tally] = {}
        self._outcomes: dict[Stage, Outcome] = {}
        self._pending: tuple[torch.Tensor, list[str]] | None = None
        self._counted: dict[str, Any] | None = None
        self._began = self.seconds = 0.0
        self.rate = self.lr

    @property
    def encoder(self) -> nn.Module | None:
        """What is frozen, thawed and given a rate as the network's encoder, None for architectures that have none."""
        return encoder_of(self.network.architecture)

    def summary(self, device: torch.device, precision: str) -> str:
        """Say in one line what is trained, and on what."""
        count = sum(p.numel() for p in self.network.parameters())
        parameters = f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count}"
        frozen = ", its encoder frozen" if self.encoder_frozen else ""
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
        return f"{self.spec.title}: {parameters} parameters{frozen}, on {where}, {precision}"

    @property
    def encoder_frozen(self) -> bool:
        """Whether the encoder learns nothing, not even batch-norm statistics."""
        return self.encoder is not None and not any(p.requires_grad for p in self.encoder.parameters())

    def unfreeze_encoder(self) -> None:
        """Let the encoder learn again."""
        thaw(self.network.architecture)

    def forward(self, image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Return logits for an image in the file's own numbers, as the network does."""
        logits: torch.Tensor = self.network(image, valid)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor | None:
        """Learn from a batch; one without a labelled pixel contributes nothing, not even to the statistics."""
        if not batch.labelled and self.trainer.world_size == 1:
            return None
        seed = self._step_seed(batch_idx)
        # Dropout draws from PyTorch's own generator: seeded here, a resumed run draws what it would have drawn.
        torch.manual_seed(seed)
        step = self.step(batch, seed)
        self._tallies["train"].add(step.loss, step.target, step.prediction)
        self._check(step.minimised, batch.names)
        return step.minimised

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Score a batch and return the predicted indices, B × H × W."""
        del batch_idx
        step = self.step(batch)
        self._tallies["val"].add(step.loss, step.target, step.prediction)
        return step.prediction

    def step(self, batch: Batch, seed: int | None = None) -> Step:
        """Run a batch: normalise, augment, predict, compare.

        Args:
            batch: On the module's device.
            seed: Of the augmentation; None leaves the batch as it is.
        """
        pixels = Pixels(self.network.normalize(batch.image, batch.valid), batch.target, batch.valid)
        if seed is not None and self.augmentation is not None:
            pixels = self.augmentation(pixels, seed, self.levels)
        target = torch.where(pixels.valid, pixels.target, IGNORE)
        answer = self._answer(pixels.image.contiguous(memory_format=self.layout))
        logits, *branches = torch.split(answer, len(self.spec.classes), dim=1)
        loss = self.loss(logits, target)
        minimised = loss
        if branches:
            alone = torch.stack([self.loss(branch, target) for branch in branches])
            minimised = (loss + self.deep_supervision * alone.sum()) / (1 + self.deep_supervision * len(branches))
        return Step(loss, minimised, target, most_likely(logits.detach()))

    def _answer(self, image: torch.Tensor) -> torch.Tensor:
        """Run the architecture; raises UserError where a batch norm gets one number per channel."""
        try:
            answer: torch.Tensor = self.network.architecture(image)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            count, _, height, width = image.shape
            raise UserError(
                f"A batch of {count} chip{'s' * (count != 1)} of {width} × {height} px leaves a batch norm of "
                f"{self.spec.title} a single number per channel; it learns from two and more. Give a larger "
                "batch_size, more training chips, larger chips, or fewer stages (model.encoder_depth)."
            ) from error
        return answer

    def _step_seed(self, batch_idx: int) -> int:
        entropy = (self.seed, self.current_epoch, batch_idx + 1, self.global_rank)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _check(self, loss: torch.Tensor, names: list[str]) -> None:
        """Stop at a loss that is no number; on a GPU one step later, so that nobody has to wait for it."""
        if loss.device.type != "cpu":
            self._check_pending()
        self._pending = loss.detach(), names
        if loss.device.type == "cpu":
            self._check_pending()

    def _check_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None and not bool(torch.isfinite(pending[0])):
            raise UserError(
                f"The loss became {float(pending[0])} in epoch {self.current_epoch} at the chips "
                f"{', '.join(pending[1])}; expected a finite number. Look at these chips, or lower lr={self.lr:g}."
            )

    def on_train_epoch_start(self) -> None:
        """Begin an epoch: its random numbers follow from seed and epoch alone."""
        L.seed_everything(self._step_seed(-1) % 2**32, verbose=False)
        self._begin("train")
        for earlier in (self._tallies, self._outcomes):  # epochs without a validation have no scores
            earlier.pop("val", None)
        self._began = time.monotonic()

    def setup(self, stage: str) -> None:
        """Lay the network out for the device, and prepare for several processes."""
        if stage == "fit":
            if (whitening := whitening_of(self.network.architecture)) is not None and not whitening.fitted:
                raise ValueError("the network's whitening is empty; call src.training.decorrelate before training")
            keep_activations(self.trainer.strategy)
            self.layout = training_layout(self.trainer.strategy.root_device, str(self.trainer.precision))
            if self.layout is torch.contiguous_format:
                for parameter in self.network.parameters():
                    parameter.data = parameter.data.contiguous()
        if stage == "fit" and self.trainer.world_size > 1:
            freeze_unused(self.network, self.spec)

    def on_train_start(self) -> None:
        """Go on where a resumed run was: in its epoch, and on its schedule, which may have become longer."""
        # Lightning forgets it where the loader is made before a checkpoint is loaded, as for the schedule's length.
        self.trainer.fit_loop._load_combined_loader_states()
        if self.trainer.world_size > 1:
            share_buffers(self.network)  # those that were computed from the data too
        if self._counted is not None:
            self._begin("train")
            if self.global_rank == 0:  # the counts are those of all processes
                self._tallies["train"].count(self._counted)
            self._began, self._counted = time.monotonic(), None
        for entry in self.trainer.lr_scheduler_configs:
            schedule: Any = entry.scheduler
            for group, base, course in zip(
                schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
            ):
                group["lr"] = base * course(schedule.last_epoch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Note the rate of the step."""
        self.rate = float(optimizer.param_groups[-1]["lr"])

    def on_train_batch_end(self, *_: Any) -> None:
        """Note how long the epoch has taken, validation not counted."""
        self.seconds = time.monotonic() - self._began

    def on_validation_epoch_start(self) -> None:
        """Begin a validation; every process scores the same network."""
        self._check_pending()
        if self.trainer.world_size > 1:
            share_buffers(self.network)
        self._begin("val")

    def on_validation_epoch_end(self) -> None:
        """Tell the callbacks what they decide by; what the last step may have broken must not become a checkpoint."""
        outcome = self.outcome("val")
        if not np.isfinite(outcome.loss):
            raise UserError(
                f"The loss of the validation chips became {outcome.loss} in epoch {self.current_epoch}; expected a "
                f"finite number. Look at these chips, or lower lr={self.lr:g}."
            )
        self.log_dict(dict(zip(WATCHED, (outcome.scores.mean_iou, outcome.loss), strict=True)), logger=False)

    def on_train_epoch_end(self) -> None:
        """Log the epoch: one set of numbers, by the epoch's number."""
        self._check_pending()
        if not self.has_trained:
            return
        numbers = self.numbers()
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, step=self.current_epoch)
            logger.save()

    def _begin(self, stage: Stage) -> None:
        self._tallies[stage] = Tally(len(self.spec.classes), self.device)
        self._outcomes.pop(stage, None)

    def outcome(self, stage: Stage) -> Outcome:
        """Return what the epoch's stage came to, over all processes (each of them has to ask)."""
        if stage not in self._outcomes:
            counted = self._tallies[stage].total()
            loss, pixels = counted["loss"]
            matrix = np.array(counted["matrix"], np.int64)
            self._outcomes[stage] = Outcome(loss / pixels if pixels else 0.0, Scores(matrix), counted["chips"])
        return self._outcomes[stage]

    @property
    def resumes_epoch(self) -> bool:
        """Whether a resumed run is about to go on in the middle of an epoch."""
        return self._counted is not None

    @property
    def has_trained(self) -> bool:
        """False in a run that was resumed at the very end of an epoch, until the next one begins."""
        return "train" in self._tallies

    def numbers(self) -> dict[str, float]:
        """Return everything that is logged of an epoch: losses, scores, rate, chips per second."""
        numbers: dict[str, float] = {"epoch": self.current_epoch, "lr": self.rate, "chips_per_second": self.speed}
        for stage in self._tallies:
            outcome = self.outcome(stage)
            scores, names = outcome.scores, self.spec.classes.distinct_names
            numbers[f"{stage}_loss"] = outcome.loss
            numbers[f"{stage}_iou"] = scores.mean_iou
            numbers[f"{stage}_accuracy"] = scores.overall_accuracy
            for name, iou, support in zip(names, scores.iou.tolist(), scores.support, strict=True):
                if support:
                    numbers[f"{stage}_iou_of/{name}"] = iou
        return numbers

    @property
    def speed(self) -> float:
        """Training chips per second in this epoch, over all processes."""
        return self.outcome("train").chips / max(self.seconds, 1e-9)

    def configure_optimizers(self) -> Any:
        """Return optimiser and per-step schedule; several processes learn at the rate that the first one has found."""
        if self.trainer.world_size > 1:
            self.lr = share_number(self.lr, self.device)
        clipped = bool(self.trainer.gradient_clip_val)
        optimizer = self.optimization.build(self.network, self.encoder, self.lr, clipped=clipped)
        steps = int(self.trainer.estimated_stepping_batches)
        if self.optimization.epochs is not None and self.trainer.max_epochs:
            steps = -(-steps * self.optimization.epochs // self.trainer.max_epochs)
        schedule = self.optimization.scheduler(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what describes the network."""
        checkpoint["hyper_parameters"] = hyper_parameters(self.spec, self.config)
        if "val" in self._outcomes:
            checkpoint[VAL_MATRIX] = self._outcomes["val"].scores.matrix.tolist()
        if not self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            checkpoint["train_counts"] = self._tallies["train"].total()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what the unfinished epoch of a resumed run has counted, and the rate that a range test found."""
        self._counted = checkpoint.get("train_counts")
        for schedule in checkpoint.get("lr_schedulers", []):
            self.lr = float(schedule["base_lrs"][-1])  # of what is not the encoder: a thawed one has a rate of its own
        for state in checkpoint.get("optimizer_states", []):
            _join_stem(state["param_groups"], self.network.architecture)


def _join_stem(groups: list[dict[str, Any]], architecture: nn.Module) -> None:
    """Put a stem's parameters, which come first among the rest in older checkpoints, before the encoder's.

    Args:
        groups: Of an optimiser's state, changed in place: the encoder's weights, its other parameters, and the rest's.
        architecture: What the optimiser is of.
    """
    whole = encoder_of(architecture)
    if whole is None or len(groups) != 4:
        return
    for inside, outside, of_weights in ((0, 2, True), (1, 3, False)):
        both, alone = (
            sum((parameter.ndim > 1) == of_weights for parameter in part.parameters())
            for part in (whole, architecture.get_submodule("encoder"))
        )
        if len(groups[inside]["params"]) == alone:
            moved = groups[outside]["params"][: both - alone]
            groups[inside]["params"] = [*moved, *groups[inside]["params"]]
            groups[outside]["params"] = groups[outside]["params"][both - alone :]
