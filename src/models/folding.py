"""Batch norms worked into the convolutions before them, for networks that only answer any more."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from src.models.network import Network

log = logging.getLogger(__name__)

SMALL = 64
"""Side of the image, in pixels, that a network is tried with, where it takes it."""
CLOSE = 1e-3
"""By how much of their standard deviation the logits may change: float32 sums in another order differ by less."""


@torch.inference_mode()
def fold_batch_norms(network: Network, chip_size: tuple[int, int]) -> Network:
    """Return a network that answers the same without its batch norms, or the network itself.

    A trained batch norm multiplies and adds what it has learned. A convolution before it can do that with its weights
    (Jacob et al., Quantization and Training of Neural Networks, 2018, section 3.2), which leaves one pass over memory
    less. Which convolution is before it is seen in an answer, not read off the network's code; and where the folded
    network does not answer as before, the network stays what it is.

    Args:
        network: In eval mode. It is not changed; what comes back shares the weights that do not change.
        chip_size: Width and height in pixels of an image that it takes.
    """
    architecture = network.architecture
    if not any(isinstance(module, nn.BatchNorm2d) for module in architecture.modules()):
        return network
    for image in trial_images(network, chip_size):
        try:
            pairs, before = _watch(architecture, image)
            break
        except Exception:  # whatever an architecture made for one size raises
            log.debug("A network takes no image of %s to find its batch norms with", tuple(image.shape), exc_info=True)
    else:
        return network
    if not pairs:
        return network
    shared = {id(tensor): tensor for tensor in (*architecture.parameters(), *architecture.buffers())}
    try:
        folded = copy.deepcopy(architecture, shared)
        for convolution, norm in pairs:
            _fold(folded, convolution, norm)
        same = alike(folded(image), before)
    except Exception:  # whatever a network provokes whose parts know of each other
        log.debug("A network keeps its batch norms, since folding them failed", exc_info=True)
        return network
    if not same:
        log.debug("A network keeps its batch norms, since it answers otherwise without them")
        return network
    return with_architecture(network, folded)


def alike(answer: torch.Tensor, expected: torch.Tensor) -> bool:
    """Tell whether logits are the same but for the order of sums."""
    return bool((answer - expected).abs().max() <= CLOSE * expected.std())


def trial_images(network: Network, chip_size: tuple[int, int]) -> Iterator[torch.Tensor]:
    """Yield images to try a network with, on its device: a small one, and one of the chips' width and height."""
    width, height = chip_size
    for shape in ((SMALL, SMALL), (height, width)):
        image = torch.randn(1, network.used.numel(), *shape, generator=torch.Generator().manual_seed(0))
        yield image.to(network.scale.device)


def with_architecture(network: Network, architecture: nn.Module) -> Network:
    """Return a network that shares all with another but the architecture."""
    other = copy.copy(network)
    other._modules = {**network._modules, "architecture": architecture}  # setattr would change both
    return other


def _watch(architecture: nn.Module, image: torch.Tensor) -> tuple[list[tuple[str, str]], torch.Tensor]:
    """Let a network answer; return which batch norm takes what which convolution gives, and the answer."""
    made: dict[int, tuple[str, torch.Tensor]] = {}  # the tensor stays, so that no other one gets its number
    followed: list[tuple[str, str]] = []
    hooks = []
    for name, module in architecture.named_modules():
        if type(module) is nn.Conv2d:

            def remember(_: nn.Module, __: object, output: torch.Tensor, name: str = name) -> None:
                made[id(output)] = name, output

            hooks.append(module.register_forward_hook(remember))
        elif _is_foldable(module):

            def look(_: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
                if id(inputs[0]) in made:
                    followed.append((made[id(inputs[0])][0], name))

            hooks.append(module.register_forward_pre_hook(look))
    try:
        answer = architecture(image)
    finally:
        for hook in hooks:
            hook.remove()
    return _once(followed), answer


def _once(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out what is used more than once: its other use would not want the other's factors."""
    pairs = list(pairs)
    convolutions, norms = (Counter(names) for names in zip(*pairs, strict=True)) if pairs else ({}, {})
    return [(c, n) for c, n in pairs if convolutions[c] == 1 and norms[n] == 1]


def _is_foldable(module: nn.Module) -> bool:
    kinds = (nn.BatchNorm2d, BatchNormAct2d)
    return type(module) in kinds and not module.training and module.running_mean is not None


def _fold(architecture: nn.Module, convolution: str, norm: str) -> None:
    """Give a convolution a batch norm's factors and sums, and put what is left of the norm in its place."""
    folded, batch = architecture.get_submodule(convolution), architecture.get_submodule(norm)
    assert isinstance(folded, nn.Conv2d)
    assert isinstance(batch, nn.BatchNorm2d)
    assert batch.running_mean is not None
    assert batch.running_var is not None
    factor = (batch.running_var + batch.eps).rsqrt()
    factor = factor * batch.weight if batch.affine else factor
    bias = -batch.running_mean if folded.bias is None else folded.bias - batch.running_mean
    bias = bias * factor + batch.bias if batch.affine else bias * factor
    folded.weight = nn.Parameter(folded.weight * factor[:, None, None, None], requires_grad=False)
    folded.bias = nn.Parameter(bias, requires_grad=False)
    left = nn.Sequential(batch.drop, batch.act) if isinstance(batch, BatchNormAct2d) else nn.Identity()
    parent, _, last = norm.rpartition(".")
    setattr(architecture.get_submodule(parent), last, left)
