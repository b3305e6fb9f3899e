"""Thawing a frozen encoder once the decoder has learned something."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from src.errors import UserError
from src.models.optimization import UNDECAYED
from src.models.segmenter import Segmenter

log = logging.getLogger(__name__)


class Unfreeze(Callback):
    """Thaws the encoder at an epoch, and lets it learn at a lower rate than the rest.

    Args:
        epoch: Number of the epoch that begins with a thawed encoder; None never thaws.
        factor: On the learning rate of the encoder.
    """

    def __init__(self, epoch: int | None = None, factor: float = 0.1) -> None:
        if epoch is not None and epoch < 1:
            raise UserError(f"callbacks.unfreeze.epoch={epoch}: expected 1 or more; with 0 use freeze_encoder=false.")
        if not 0 <= factor < math.inf:
            raise UserError(f"callbacks.unfreeze.factor={factor} is no share of a rate; give 0 or more, such as 0.1.")
        self.epoch, self.factor = epoch, factor
        self.lowered = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot work: several processes exchange only the gradients that they agreed on at the start."""
        assert isinstance(pl_module, Segmenter)
        if self.epoch is None or stage != "fit":
            return
        if not pl_module.encoder_frozen:
            raise UserError(f"callbacks.unfreeze.epoch={self.epoch}, but nothing is frozen; add freeze_encoder=true.")
        if trainer.world_size > 1:
            weights: Any = pl_module.config.get("weights")
            scaled = isinstance(weights, Mapping) and weights.get("kind", "none") != "none"
            kept = ", the same weights=… (bands stay scaled as they want it)" if scaled else ""
            raise UserError(
                "callbacks.unfreeze does not go with several processes; train with freeze_encoder=true first, then "
                f"once more with freeze_encoder=false init_from=….ckpt{kept} and a lower lr."
            )
        if trainer.ckpt_path is None:  # a run that goes on has begun with it
            self.check_epoch(trainer.max_epochs, pl_module.optimization.epochs)

    def check_epoch(self, max_epochs: int | None, scheduled: int | None) -> None:
        """Raise UserError if the epoch never comes.

        Args:
            max_epochs: After which the training ends; None or −1 for never.
            scheduled: Epochs of the whole training, of which this may be the first part; None if it is all.
        """
        epochs = max(max_epochs or 0, scheduled or 0)
        if self.epoch is not None and max_epochs not in (None, -1) and self.epoch >= epochs:
            raise UserError(
                f"callbacks.unfreeze.epoch={self.epoch} never comes: the training ends after {epochs} "
                f"epoch{'s' * (epochs != 1)}, counted from 0. Give a lower epoch, or a higher trainer.max_epochs."
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Thaw in a run that is resumed in the middle of an epoch."""
        assert isinstance(pl_module, Segmenter)
        if pl_module.resumes_epoch:
            self._thaw(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Thaw where the epoch has come."""
        assert isinstance(pl_module, Segmenter)
        self._thaw(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Keep whether the encoder's rate has been lowered."""
        return {"lowered": self.lowered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.lowered = bool(state_dict["lowered"])

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """See by the rates of a run that did not keep it whether it has lowered the encoder's, at whatever epoch."""
        del trainer
        assert isinstance(pl_module, Segmenter)
        if self.epoch is None:
            return
        rates = {group["name"]: group["initial_lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]}
        began_with = checkpoint["hyper_parameters"].get("config") or {}
        share = (began_with.get("optimizer") or {}).get("encoder_lr", pl_module.optimization.encoder_lr)
        self.lowered = "encoder" in rates and not math.isclose(rates["encoder"], rates["rest"] * share)

    def _thaw(self, trainer: L.Trainer, segmenter: Segmenter) -> None:
        """Thaw if the epoch has come; a run that is resumed later thaws again, but does not lower the rate again."""
        if self.epoch is None or trainer.current_epoch < self.epoch or not segmenter.encoder_frozen:
            return
        segmenter.unfreeze_encoder()
        if not self.lowered:
            self._lower(trainer)
            log.info("encoder thawed, it learns at %g of the rate", self.factor)

    def _lower(self, trainer: L.Trainer) -> None:
        self.lowered = True
        scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        for number, group in enumerate(trainer.optimizers[0].param_groups):
            if group["name"].removesuffix(UNDECAYED) == "encoder":
                group["lr"] *= self.factor
                group["initial_lr"] *= self.factor
                scheduler.base_lrs[number] *= self.factor
