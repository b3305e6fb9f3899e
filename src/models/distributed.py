"""What a network needs so that several processes can train it together."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins import TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import nn

from src.models.network import Network
from src.spec import NetworkSpec


def strategy(name: str, devices: Any, num_nodes: int = 1) -> DDPStrategy | str:
    """Return Lightning's strategy of a name.

    PyTorch would exchange batch-norm statistics before every forward pass, in validation too, where processes may
    have different numbers of batches and would wait for each other; :func:`share_buffers` does it once before.

    Args:
        name: ``auto``, ``ddp``, or any other of Lightning's, which is left as it is.
        devices: A number of devices, or their numbers.
        num_nodes: Machines.
    """
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
    if name == "ddp" or (name == "auto" and count * num_nodes > 1):
        return DDPStrategy(broadcast_buffers=False)
    return name


class SyncBatchNorms(TorchSyncBatchNorm):
    """Lightning's, for the batch norms of timm's encoders too: those hold the activation behind them.

    PyTorch's own conversion, which Lightning calls, makes bare batch norms of them.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise all batch norms of a network; weights and statistics stay."""
        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Undo :meth:`apply`."""
        reverted = super().revert(model)
        if isinstance(model, SyncBatchNormAct):
            whole = BatchNormAct2d(model.num_features, model.eps, affine=model.affine)
            whole.momentum, whole.track_running_stats = model.momentum, model.track_running_stats
            whole._parameters, whole._buffers = reverted._parameters, reverted._buffers
            whole._modules = reverted._modules
            reverted = whole
        reverted.training = model.training
        return reverted


def keep_activations(strategy: Any) -> None:
    """Let a strategy that synchronises batch norms (``trainer.sync_batchnorm``) do so by :class:`SyncBatchNorms`.

    Args:
        strategy: Any of Lightning's, before its ``setup``, in which it converts the network.
    """
    if type(getattr(strategy, "_layer_sync", None)) is TorchSyncBatchNorm:
        strategy._layer_sync = SyncBatchNorms()


def channels_last(network: Network) -> Network:
    """Put the kernels' channels last, which convolutions are fastest with; returns the network.

    1 × 1 kernels are left alone: both layouts are the same to them, but PyTorch's processes cannot exchange tensors
    that carry the other one's strides.
    """
    for parameter in network.parameters():
        if parameter.ndim == 4 and parameter.shape[2:] != (1, 1):
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def freeze_unused(network: Network, spec: NetworkSpec) -> list[str]:
    """Freeze parameters that take no part in the result, and return their names.

    Encoders that are cut off before their end have such. Processes would wait for their gradients, and then not
    average those of the others.
    """
    training = network.training
    network.eval()  # batch-norm statistics stay as they are
    width, height = spec.chip_size
    device = network.scale.device
    with torch.enable_grad():
        logits: torch.Tensor = network.architecture(torch.zeros(1, len(spec.bands), height, width, device=device))
        logits.sum().backward()  # type: ignore[no-untyped-call]
    network.train(training)
    unused = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.requires_grad_(False)
            unused.append(name)
        parameter.grad = None
    return unused


def share_buffers(network: Network) -> None:
    """Give every process the first one's batch-norm statistics, so that all of them score the same network."""
    for buffer in network.buffers():
        torch.distributed.broadcast(buffer, 0)


def share_number(number: float, device: torch.device) -> float:
    """Give every process the first one's number; all of them have to call."""
    shared = torch.tensor(number, dtype=torch.float64, device=device)
    torch.distributed.broadcast(shared, 0)
    return float(shared)
