"""Optimisers and the course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from src.errors import UserError
from src.plain_values import make_plain

OPTIMIZERS: dict[str, type[Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
SCHEDULES = ("cosine", "constant")
UNDECAYED = "_undecayed"
"""Ends the name of a group of biases and norms, since Lightning's monitor of rates wants other names for all groups."""


@dataclass(frozen=True)
class Optimization:
    """An optimiser with its schedule, which moves at every step.

    Attributes:
        name: adamw, adam or sgd.
        lr: Learning rate at its highest.
        weight_decay: For weights; biases and norms are never decayed.
        schedule: ``cosine`` down to ``min_lr``, or ``constant``.
        warmup: Share of all steps during which the rate rises linearly.
        min_lr: Where the cosine ends.
        epochs: Length of the schedule; None for ``trainer.max_epochs``. Give it to train in several parts.
        encoder_lr: Factor on the encoder's rate.
        options: Further arguments of the optimiser (``betas``, ``momentum`` …).
    """

    name: str = "adamw"
    lr: float = 0.003
    weight_decay: float = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.0
    min_lr: float = 1e-6
    epochs: int | None = None
    encoder_lr: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UserError for a name or number that means nothing; NumPy's numbers become plain ones."""
        make_plain(self, *(key.name for key in fields(self)))
        if self.name not in OPTIMIZERS:
            raise UserError(f"optimizer.name={self.name} is not known; choose one of {', '.join(OPTIMIZERS)}.")
        if self.schedule not in SCHEDULES:
            raise UserError(f"optimizer.schedule={self.schedule} is not known; choose one of {', '.join(SCHEDULES)}.")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr={self.lr} cannot be used; give a number above 0.")
        for key in ("weight_decay", "min_lr", "encoder_lr"):
            if not 0 <= (value := getattr(self, key)) < math.inf:
                raise UserError(f"optimizer.{key}={value} cannot be used; give 0 or more.")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"optimizer.epochs={self.epochs} is no length of a schedule; give 1 or more, or null.")
        if not 0 <= self.warmup < 1:
            raise UserError(f"optimizer.warmup={self.warmup} is a share of all steps; give 0 up to below 1.")
        options: Any = self.options
        if options is None:  # as a command line says that there are none: {} leaves those of configs/optimizer
            object.__setattr__(self, "options", {})
        elif not isinstance(options, Mapping):
            raise UserError(
                f"optimizer.options={options} does not fit; expected the optimiser's further arguments by name. Give "
                "null for none, or some: optimizer.options={momentum: 0.9}."
            )

    def build(
        self, network: nn.Module, encoder: nn.Module | None, lr: float | None = None, *, clipped: bool = False
    ) -> Optimizer:
        """Make the optimiser.

        Args:
            network: Everything that learns.
            encoder: The part of it whose rate is multiplied by ``encoder_lr``.
            lr: Another rate than the configured one (the learning-rate finder's).
            clipped: Whether gradients are clipped before each step. Fused optimisers undo the scale of float16
                gradients within the step, too late for that; Lightning refuses them in any mixed precision.
        """
        lr = self.lr if lr is None else lr
        inside = {id(p) for p in encoder.parameters()} if encoder is not None else set()
        groups = [
            *self._groups("encoder", (p for p in network.parameters() if id(p) in inside), lr * self.encoder_lr),
            *self._groups("rest", (p for p in network.parameters() if id(p) not in inside), lr),
        ]
        can_fuse = self.name != "sgd" and all(p.device.type in ("cpu", "cuda") for p in network.parameters())
        options: dict[str, Any] = {"fused": True} if can_fuse and not clipped else {}
        make: Callable[..., Optimizer] = OPTIMIZERS[self.name]
        optimizer = make(groups, lr=lr, **(options | self.options))
        optimizer.register_load_state_dict_pre_hook(_own_names)
        return optimizer

    def _groups(self, name: str, parameters: Iterable[nn.Parameter], lr: float) -> list[dict[str, Any]]:
        everything = list(parameters)
        weights, others = [p for p in everything if p.ndim > 1], [p for p in everything if p.ndim <= 1]
        groups = [(name, weights, self.weight_decay), (name + UNDECAYED, others, 0.0)]
        return [{"params": p, "lr": lr, "weight_decay": decay, "name": name} for name, p, decay in groups if p]

    def scheduler(self, optimizer: Optimizer, steps: int) -> LambdaLR:
        """Make the schedule of ``steps`` optimiser steps."""
        rises = round(self.warmup * steps)

        def factor(lowest: float, step: int) -> float:
            if step < rises:
                return (step + 1) / (rises + 1)
            if self.schedule == "constant":
                return 1.0
            done = min(1.0, (step - rises) / max(1, steps - 1 - rises))
            return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * done))

        def course(group: dict[str, Any]) -> Any:
            lowest = min(1.0, self.min_lr / group["lr"]) if group["lr"] else 1.0  # encoder_lr=0 stays 0
            return lambda step: factor(lowest, step)

        return LambdaLR(optimizer, [course(group) for group in optimizer.param_groups])


def _own_names(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Let groups keep their names when a state is loaded; in older checkpoints two of a part have the same."""
    own, loaded = optimizer.param_groups, state["param_groups"]
    if len(own) != len(loaded):  # which PyTorch refuses in its own words
        return state
    return state | {"param_groups": [new | {"name": old["name"]} for old, new in zip(own, loaded, strict=True)]}
