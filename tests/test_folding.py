"""Batch norms folded into convolutions: the same answers, nothing changed in the network, nothing folded by mistake."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from src.bands import Normalization
from src.mapping.inference import Predictor
from src.models import architectures
from src.models.detail import DETAIL
from src.models.folding import fold_batch_norms
from src.models.network import Network
from src.models.threads import computing_with
from src.training import NetworkChoice

BANDS, CLASSES, CHIP = 4, 3, (64, 64)


def wrapped(architecture: nn.Module) -> Network:
    """Give an architecture a normalisation, and batch norms that look as if they had learned something."""
    torch.manual_seed(0)
    for module in architecture.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.8, 1.25)
            if module.affine:
                nn.init.uniform_(module.weight, 0.8, 1.25)
                nn.init.uniform_(module.bias, -0.2, 0.2)
    every = (1.0,) * BANDS
    return Network(architecture, Normalization((True,) * BANDS, 1.0, (0.0,) * BANDS, every)).eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@torch.inference_mode()
def answer(network: Network) -> torch.Tensor:
    image = torch.randn(2, BANDS, *CHIP, generator=torch.Generator().manual_seed(1))
    logits: torch.Tensor = network(image, torch.ones(2, *CHIP, dtype=torch.bool))
    return logits


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("unet", "resnet18"),
        ("unet", "tu-efficientnet_b0"),  # batch norm and activation in one module
        ("deeplabv3plus", "mobilenet_v2"),  # convolutions in groups
        ("segformer", "tu-convnext_atto"),  # one batch norm, in the decoder
        ("pixel_resnet", "none"),
        ("compact_unet", "none"),
    ],
)
def test_a_network_answers_the_same_without_its_batch_norms(architecture: str, encoder: str) -> None:
    network = wrapped(architectures.build(architecture, encoder, BANDS, CLASSES, CHIP))
    before, state, had = answer(network), {k: v.clone() for k, v in network.state_dict().items()}, norms(network)
    folded = fold_batch_norms(network, CHIP)
    assert had > 0
    assert norms(folded) == 0
    torch.testing.assert_close(answer(folded), before, rtol=1e-4, atol=1e-4 * float(before.std()))
    assert norms(network) == had
    assert torch.equal(answer(network), before)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_the_network_that_is_taken_without_further_keys_is_folded_and_copied() -> None:
    """With its branch at full resolution. Where either fails a map takes longer, and nobody is told."""
    choice = NetworkChoice()
    options = choice.chosen_options
    network = wrapped(architectures.build(choice.architecture, choice.encoder, BANDS, CLASSES, CHIP, **options))
    branch = network.architecture.get_submodule(DETAIL)
    before, had = answer(network), norms(branch)
    assert had > 0
    predictor = Predictor(network, torch.device("cpu"), chip_size=CHIP)
    assert norms(predictor.network) == 0
    torch.testing.assert_close(answer(predictor.network), before, rtol=1e-4, atol=1e-4 * float(before.std()))
    with computing_with(3):
        lanes = predictor.lanes(1)
    assert (lanes.count, lanes.threads) == (3, 1)
    assert len({id(other.architecture.get_submodule(DETAIL)) for other in lanes.networks}) == 3


def test_weights_that_do_not_change_are_not_held_twice() -> None:
    network = wrapped(architectures.build("segformer", "tu-convnext_atto", BANDS, CLASSES, CHIP))
    own = {tensor.data_ptr() for tensor in network.parameters()}
    new = [tensor for tensor in fold_batch_norms(network, CHIP).parameters() if tensor.data_ptr() not in own]
    assert 0 < sum(tensor.numel() for tensor in new) < 0.1 * sum(tensor.numel() for tensor in network.parameters())


class Twice(nn.Module):
    """Its convolution is used with and without the batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(BANDS, BANDS, 3, padding=1), nn.BatchNorm2d(BANDS)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.convolution(image)
        return torch.add(self.norm(made), made)


class Shared(Twice):
    """One batch norm after two convolutions."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.norm(self.convolution(self.norm(self.convolution(image)))))


class Before(Twice):
    """The batch norm comes first."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.convolution(self.norm(image)))


class Hooked(Twice):
    """A copy of it would look for what the network itself has noted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        seen = self.seen
        self.norm.register_forward_hook(lambda *given: seen.append(given[-1]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.norm(self.convolution(image))
        return self.seen.pop()


class Statistics(Twice):
    """The batch norm goes by the image that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(BANDS, track_running_stats=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.norm(self.convolution(image)))


@pytest.mark.parametrize("make", [Twice, Shared, Before, Hooked, nn.Identity])
def test_what_cannot_be_folded_stays(make: Callable[[], nn.Module]) -> None:
    network = wrapped(make())
    assert fold_batch_norms(network, CHIP) is network


def test_a_batch_norm_without_statistics_of_its_own_stays() -> None:
    every = (1.0,) * BANDS
    network = Network(Statistics(), Normalization((True,) * BANDS, 1.0, (0.0,) * BANDS, every)).eval()
    assert fold_batch_norms(network, CHIP) is network


def test_a_network_that_takes_one_size_is_folded_at_that() -> None:
    class OneSize(Twice):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.norm(self.convolution(image)) + torch.zeros(40, 48)
            return made

    assert norms(fold_batch_norms(wrapped(OneSize()), (48, 40))) == 0


def test_what_kept_a_network_from_being_folded_can_be_looked_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fold_batch_norms(wrapped(Hooked()), CHIP)
    assert "folding them failed\nTraceback" in caplog.text
    caplog.clear()
    fold_batch_norms(wrapped(nn.Sequential(nn.BatchNorm2d(BANDS), nn.Flatten(), nn.Linear(7, 2))), CHIP)
    assert caplog.text.count("takes no image of (1, 4, 64, 64) to find its batch norms with\nTraceback") == 2
