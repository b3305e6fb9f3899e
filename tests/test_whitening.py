"""Bands that are much alike become components that are not, and every checkpoint carries them."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from src.datamodules.chips import ChipData
from src.errors import UserError
from src.models.architectures import accepted_sizes, build
from src.models.checkpoint import load_network
from src.models.losses import CrossEntropy
from src.models.optimization import Optimization
from src.models.segmenter import Segmenter
from src.models.whitening import FLOOR, Whitening, whitening_of
from src.run_folder import Trained
from src.training import NetworkChoice, choose_components, decorrelate, make_network
from src.training_run import Recipe, train
from tests.chip_folder import make_chip_folder

SMALL = {"widths": [8, 16], "dropout": 0.0}


def spectra(bands: int = 20, pixels: int = 5000) -> torch.Tensor:
    """Bands that share their brightness, with three faint differences between them."""
    draw = torch.Generator().manual_seed(0)
    brightness = torch.randn(1, pixels, generator=draw).expand(bands, -1)
    shapes = torch.randn(bands, 3, generator=draw) @ (
        torch.tensor([[0.3], [0.2], [0.15]]) * torch.randn(3, pixels, generator=draw)
    )
    return brightness + shapes


def whitened(module: Whitening, pixels: torch.Tensor) -> torch.Tensor:
    return module(pixels[None, :, :, None])[0, :, :, 0]


def test_components_have_nothing_to_do_with_each_other_and_like_variance() -> None:
    module, pixels = Whitening(20, 4), spectra()
    module.fit(pixels.split(700, dim=1))
    covariance = torch.cov(whitened(module, pixels)).numpy()
    assert np.abs(covariance - np.diag(np.diagonal(covariance))).max() < 1e-3
    shares = torch.linalg.eigvalsh(torch.cov(pixels)).flip(0)[:4].numpy()
    np.testing.assert_allclose(np.diagonal(covariance), shares / (shares + FLOOR * shares[0]), rtol=1e-3)
    assert np.diagonal(covariance).min() > 0.5, "the faint shapes are as strong as the brightness"


def test_zero_stays_zero_and_a_band_that_never_changes_counts_nowhere() -> None:
    pixels = spectra()
    pixels[3] = 0
    module = Whitening(20, 20)
    module.fit([pixels])
    assert not whitened(module, torch.zeros(20, 5)).any()
    changed = torch.zeros(20, 5)
    changed[3] = 7
    assert whitened(module, changed).abs().max() < 1e-6


def test_signs_do_not_depend_on_the_machine() -> None:
    module = Whitening(20, 4)
    module.fit([spectra()])
    weight = module.weight[:, :, 0, 0]
    assert (weight.gather(1, weight.abs().argmax(1, keepdim=True)) > 0).all()


def test_bfloat16_around_it_changes_nothing() -> None:
    module, pixels = Whitening(20, 4), spectra()
    module.fit([pixels])
    with torch.autocast("cpu", torch.bfloat16):
        found = whitened(module, pixels)
    assert found.dtype == torch.float32
    assert torch.equal(found, whitened(module, pixels))


@pytest.mark.parametrize("architecture", ["unet", "segformer", "pixel_resnet"])
def test_any_network_takes_components_in_the_bands_place(architecture: str) -> None:
    network = build(architecture, "resnet18", 12, 3, (64, 64), whitening=5).eval()
    assert network(torch.rand(1, 12, 64, 64)).shape == (1, 3, 64, 64)
    assert accepted_sizes(network, 12, [(64, 64), (96, 64)]) == [(64, 64), (96, 64)]
    first = next(p for p in network.parameters() if p.ndim == 4)
    assert first.shape[1] == 5


@pytest.mark.parametrize("components", [-1, 13, 10**9, "4"])
def test_a_number_of_components_that_does_not_fit_is_one_line(components: object) -> None:
    with pytest.raises(UserError, match="1 to 12 components"):
        build("unet", "resnet18", 12, 3, (64, 64), whitening=components)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chip_folder(tmp_path_factory.mktemp("chips") / "chips", bands=6)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Trained:
    choice = NetworkChoice("compact_unet", "none", SMALL, normalize="whiten")
    return train(ChipData(folder, batch_size=3), folder.parent / "run", choice, Recipe(epochs=2), accelerator="cpu")


def test_a_checkpoint_has_the_components_of_its_training_chips(folder: Path, trained: Trained) -> None:
    network, spec = load_network(trained.best)
    found = whitening_of(network.architecture)
    assert spec.options["whitening"] == 6
    assert found is not None
    data = ChipData(folder)
    data.setup()
    pixels = torch.cat(list(data.spectra()), dim=1)
    known = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    components = whitened(found, network.normalize(pixels[None, :, :, None], known)[0, :, :, 0])
    covariance = torch.cov(components).numpy()
    assert np.abs(covariance - np.diag(np.diagonal(covariance))).max() < 0.01


def test_a_network_that_starts_from_a_checkpoint_keeps_its_components(folder: Path, trained: Trained) -> None:
    data = ChipData(folder)
    data.setup()
    before, _ = load_network(trained.best)
    network, spec = make_network(
        data.describe(), NetworkChoice("compact_unet", "none", SMALL, init_from=str(trained.best))
    )
    decorrelate(network, data)
    own, theirs = whitening_of(network.architecture), whitening_of(before.architecture)
    assert own is not None
    assert theirs is not None
    assert torch.equal(own.weight, theirs.weight)
    assert spec.options["whitening"] == 6


@pytest.mark.parametrize(("normalize", "components"), [("auto", 0), ("whiten", 6), (True, 0), (False, 0)])
def test_what_normalize_means(folder: Path, normalize: bool | str, components: int) -> None:
    choice = NetworkChoice("compact_unet", "none", SMALL, normalize=normalize)
    described = ChipData(folder).describe()
    assert choose_components(described, choice, pretrained=False) == components
    _, spec = make_network(described, choice)
    assert spec.options.get("whitening", 0) == components


def test_hundreds_of_bands_are_whitened_when_asked_for(tmp_path: Path) -> None:
    described = ChipData(make_chip_folder(tmp_path / "chips", bands=65)).describe()
    asked = {
        word: choose_components(described, NetworkChoice(normalize=word), pretrained=False)
        for word in ("auto", "whiten")
    }
    assert asked == {"auto": 0, "whiten": 64}


def test_pretrained_weights_get_the_bands_themselves(folder: Path) -> None:
    described = ChipData(folder).describe()
    assert choose_components(described, NetworkChoice(), pretrained=True) == 0
    with pytest.raises(UserError, match="leave normalize=auto"):
        choose_components(described, NetworkChoice(normalize="whiten"), pretrained=True)


def test_a_network_without_components_is_not_trained(folder: Path, tmp_path: Path) -> None:
    data = ChipData(folder)
    network, spec = make_network(data.describe(), NetworkChoice("compact_unet", "none", SMALL, normalize="whiten"))
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="decorrelate before training"):
        trainer.fit(Segmenter(network, spec, CrossEntropy(None), Optimization()), datamodule=data)
