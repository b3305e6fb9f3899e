"""Which windows a network takes well: found out by running it, never by its name."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from src.errors import UserError
from src.mapping import window_choice
from src.mapping.inference import Predictor
from src.mapping.scene_map import Mapper
from src.mapping.scene_reader import open_scene
from src.mapping.window_choice import Choice, WindowRequest, choose_plan
from src.models import architectures
from src.models.locality import LOCAL, far_influence
from tests.mapping_scenes import Argmax, Blur, MeanOfWindow, make_mapper, write_raster


def influence(architecture: str, encoder: str, chip: int = 32, **options: Any) -> float | None:
    torch.manual_seed(0)
    network = architectures.build(architecture, encoder, 3, 4, (chip, chip), **options).eval()
    return far_influence(network, 3, (chip, chip))


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("unet", "resnet18"), ("linknet", "resnet18"), ("unet", "mobilenet_v2"), ("compact_unet", "none")],
)
def test_convolutional_networks_are_local(architecture: str, encoder: str) -> None:
    found = influence(architecture, encoder)
    assert found is not None
    assert found < LOCAL / 10


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("deeplabv3plus", "resnet18"),  # pools over the window
        ("pspnet", "resnet18"),  # the same, on a pyramid
        ("fpn", "resnet18"),  # normalises over the window
        ("unet", "mit_b0"),  # attends to all of the window
        ("dpt", "tu-vit_tiny_patch16_224"),  # the same, with position embeddings
    ],
)
def test_networks_that_see_the_whole_window_are_found_out(architecture: str, encoder: str) -> None:
    found = influence(architecture, encoder)
    assert found is None or found > LOCAL


class OneSize(nn.Module):
    """Takes windows of 32 × 32 pixels only."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.float() + torch.zeros(32, 32, device=image.device)


def test_why_nobody_knows_how_far_a_network_sees_can_be_looked_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert far_influence(OneSize(), 3, (32, 32)) is None
    assert "to see how far it looks\nTraceback" in caplog.text


def choose(folder: Path, mapper: Mapper, height: int, width: int, **request: Any) -> Choice:
    layout = request.pop("layout", {"tiled": True, "blockxsize": 64, "blockysize": 64})
    path = write_raster(folder / "scene.tif", np.zeros((3, height, width), np.uint8), **layout)
    asked = {"overlap": 20.0, "window": None, "blend": "cosine", "batch_size": None} | request
    with open_scene(str(path), mapper.spec) as reader:
        return choose_plan(WindowRequest(**asked), Predictor(mapper.network, mapper.device), mapper.spec, reader)


@pytest.fixture
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_choice, "WORTH_PROBING", 0)
    monkeypatch.setattr(window_choice, "WORTH_MEASURING", {"cpu": 0})


@pytest.mark.usefixtures("always_look")
@pytest.mark.parametrize(
    ("network", "words"),
    [(MeanOfWindow(), "depends on the window's size"), (OneSize(), "no larger one fits")],
)
def test_the_training_chips_size_is_kept_where_the_answer_depends_on_it(
    tmp_path: Path, network: nn.Module, words: str
) -> None:
    choice = choose(tmp_path, make_mapper(tmp_path, network), 600, 700)
    assert choice.plan.window == (32, 32)
    assert words in choice.reason


@pytest.mark.usefixtures("always_look")
def test_a_local_network_gets_the_fastest_window_and_the_reason_has_the_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A window takes a millisecond, and each of its pixels ten nanoseconds: what a clock says is no test's business.
    monkeypatch.setattr(window_choice, "_seconds", lambda _, image, __: 1e-3 + 1e-8 * image[0, 0].numel())
    choice = choose(tmp_path, make_mapper(tmp_path, Blur()), 600, 700)
    assert choice.plan.window[0] > 32
    rates = [(float(rate), int(px)) for px, rate in re.findall(r"(\d+) px (\d+\.\d+)", choice.reason)]
    assert len(rates) >= 3
    assert max(rates)[1] == choice.plan.window[1]


@pytest.mark.usefixtures("always_look")
def test_a_device_whose_memory_takes_no_window_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_little(*_: Any) -> float:
        raise UserError("The memory of cuda:0 is not enough. Lower batch_size to 2.")

    monkeypatch.setattr(window_choice, "_seconds", too_little)
    with pytest.raises(UserError, match="Lower batch_size to 2"):
        choose(tmp_path, make_mapper(tmp_path, Blur()), 600, 700)


def test_small_scenes_are_not_worth_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_choice, "far_influence", lambda *_: pytest.fail("looked"))
    choice = choose(tmp_path, make_mapper(tmp_path, Blur()), 60, 70)
    assert choice.plan.window == (32, 32)
    assert "too small to look" in choice.reason


def test_middling_scenes_get_the_window_with_the_fewest_pixels_without_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_choice, "WORTH_PROBING", 0)
    choice = choose(tmp_path, make_mapper(tmp_path, Blur()), 500, 500)
    assert "fewest pixels" in choice.reason
    others = [dataclasses.replace(choice.plan, window=(side, side)) for side in (32, 256, 384)]
    assert all(choice.plan.computed_pixels <= other.computed_pixels for other in others)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(("height", "width"), [(500, 500), (1000, 330), (290, 1400)])
def test_windows_fit_the_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int, precision: str
) -> None:
    """No window of multiples of 32 px up to the largest that is tried leaves fewer pixels to compute."""
    monkeypatch.setattr(window_choice, "WORTH_PROBING", 0)
    monkeypatch.setattr(window_choice, "precision_name", lambda *_: precision)
    plan = choose(tmp_path, make_mapper(tmp_path, Blur()), height, width).plan
    largest = window_choice.BFLOAT16_SIDE if precision == "bfloat16" else max(window_choice.SIDES["cpu"])
    sides = range(32, largest + 1, 32)
    squares = [dataclasses.replace(plan, window=(side, side)) for side in sides]
    fewest = [
        min(side * len(spans) for side, spans in zip(sides, axis, strict=True))
        for axis in zip(*[(s.rows, s.columns) for s in squares], strict=True)
    ]
    assert plan.computed_pixels == fewest[0] * fewest[1]


@pytest.mark.parametrize(("lanes", "window"), [(1, (1088, 1088)), (2, (864, 1088)), (3, (1088, 1088))])
def test_windows_come_out_even_for_those_that_compute_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lanes: int, window: tuple[int, int]
) -> None:
    """3 × 3 windows would keep two threads busy for as long as 10, and leave one of them idle at the end."""
    monkeypatch.setattr(window_choice, "_lanes", lambda *_: lanes)
    monkeypatch.setattr(window_choice, "precision_name", lambda *_: "bfloat16")
    plan = choose(tmp_path, make_mapper(tmp_path, Blur(), chip=224), 3072, 3072).plan
    assert plan.window == window

    assert -(-plan.windows // lanes) * window[0] * window[1] <= 3072 * 3072 / lanes * 1.2


def test_asking_for_a_window_is_obeyed_whatever_the_network(tmp_path: Path) -> None:
    choice = choose(tmp_path, make_mapper(tmp_path, MeanOfWindow()), 600, 700, window=96)
    assert (choice.plan.window, choice.reason) == ((96, 96), "as asked for")


def test_overlap_is_percent_of_the_training_chip_whatever_the_window(tmp_path: Path) -> None:
    mapper = make_mapper(tmp_path, Blur(), chip=100)
    for window in (100, 400):
        assert choose(tmp_path, mapper, 900, 900, window=window, overlap=12.5).plan.halo == (13, 13)


@pytest.mark.usefixtures("always_look")
def test_windows_are_not_larger_than_the_scene_needs(tmp_path: Path) -> None:
    height, width = choose(tmp_path, make_mapper(tmp_path, Argmax()), 40, 900).plan.window
    assert height <= 64
    assert width > 64
