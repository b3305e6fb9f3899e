"""Batches side by side on a CPU: in order, each with a copy of its own, and the same numbers as one after the other."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from torch import nn

from src.bands import Normalization
from src.mapping.scene_map import map_scene
from src.models import architectures, lanes
from src.models.lanes import Copies, Lanes
from src.models.network import Network
from src.models.threads import computing_with
from tests.mapping_scenes import make_mapper, write_raster

BANDS, CHIP = 3, (64, 64)


@pytest.fixture
def three_threads() -> Iterator[None]:
    with computing_with(3):
        yield
        after = torch.get_num_threads()
    assert after == 3  # a lane's number ends with it


def wrapped(architecture: nn.Module) -> Network:
    ones = (1.0,) * BANDS
    return Network(architecture, Normalization((True,) * BANDS, 1.0, (0.0,) * BANDS, ones)).eval()


def unet() -> Network:
    torch.manual_seed(0)
    return wrapped(architectures.build("unet", "resnet18", BANDS, 2, CHIP))


PEAK = """
import torch
from src.bands import Normalization
from src.models import architectures
from src.models.lanes import Copies
from src.models.network import Network
bands, side = 60, 768
encoder = "none" if "{architecture}" == "pixel_resnet" else "resnet18"
network = architectures.build("{architecture}", encoder, bands, 4, (64, 64))
ones = (1.0,) * bands
wrapped = Network(network, Normalization((True,) * bands, 1.0, (0.0,) * bands, ones), full_precision=True).eval()
told = Copies(wrapped, (64, 64))._trial.pixel_bytes
def peak():  # of this process; getrusage's begins with what the one that started it had
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
image, valid = torch.ones(1, bands, side, side), torch.ones(1, side, side, dtype=torch.bool)
before = peak()
with torch.inference_mode():
    wrapped(image, valid).float().softmax(1)
print(told, (peak() - before) / side**2)
"""


class Noting(nn.Module):
    """Notes its input, does something else for a while, and answers from its notes, as some encoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(BANDS, 2, 1)
        self.noted = torch.empty(0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.noted = image
        time.sleep(0.01)
        answer: torch.Tensor = self.kernel(self.noted)
        return answer


class ByHeart(Noting):
    """Cannot be copied: a copy answers something else."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return nn.Conv2d(BANDS, 2, 1)


class Single(Noting):
    """Cannot be copied: it says so."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise TypeError("there is one of it")


class OneSize(Noting):
    """Takes no image that anybody would try."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) + torch.zeros(5, 5)


def bands(path: Path) -> npt.NDArray[Any]:
    with rasterio.open(path) as dataset:
        values: npt.NDArray[Any] = dataset.read()
    return values


def side_by_side(copies: Copies, images: list[torch.Tensor]) -> list[torch.Tensor]:
    mask = torch.ones(1, *CHIP, dtype=torch.bool)

    @torch.inference_mode()
    def work(own: Network, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = own(image, mask)
        return logits

    with copies.lanes(1).run(work, images) as results:
        return list(results)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("make", [unet, lambda: wrapped(Noting())])
def test_batches_side_by_side_get_the_answers_of_batches_one_by_one(make: Any) -> None:
    network = make()
    images = [torch.randn(1, BANDS, *CHIP, generator=torch.Generator().manual_seed(n)) for n in range(12)]
    found = side_by_side(copies := Copies(network, CHIP), images)
    assert copies.lanes(1).count == 3
    with computing_with(1):
        expected = side_by_side(Copies(network, CHIP), images)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.usefixtures("three_threads")
def test_copies_share_the_weights() -> None:
    first, *others = Copies(unet(), CHIP).lanes(1).networks
    assert len(others) == 2
    state = first.state_dict()
    for other in others:
        assert other.architecture is not first.architecture
        assert {k: v.data_ptr() for k, v in other.state_dict().items()} == {k: v.data_ptr() for k, v in state.items()}


@pytest.mark.parametrize(
    ("threads", "count", "each"),
    [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1), (5, 4, 1), (6, 3, 2), (7, 3, 2), (8, 4, 2), (10, 2, 5), (16, 4, 4)],
)
def test_as_many_lanes_as_threads_four_at_most(
    monkeypatch: pytest.MonkeyPatch, threads: int, count: int, each: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = Copies(wrapped(nn.Conv2d(BANDS, 2, 1)), CHIP).lanes(1)
    assert (found.count, found.threads) == (count, each)


@pytest.mark.usefixtures("three_threads")
def test_no_more_lanes_than_half_of_the_free_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies(unet(), CHIP)
    assert copies.lanes(2**20).count == 3
    held = copies._trial.pixel_bytes  # type: ignore[union-attr]
    assert 64 / 4 * 4 <= held <= 1000  # 64 channels at half of the resolution, and not all that there ever was
    for lanes_that_fit, count in ((0.5, 1), (1.2, 1), (2.5, 2), (50, 3)):
        free = 2 * lanes_that_fit * lanes.SPARE * held * 2**20
        monkeypatch.setattr(lanes, "available_memory", lambda free=free: free)
        found = copies.lanes(2**20)
        assert (found.count, found.threads) == (count, 3 if count == 1 else 1)
        assert copies.lanes(2**20, threads=1).threads == 1  # sums over more of them would be other sums
        assert copies.lanes(2**20, threads=1).count == count
        assert copies.lanes().count == 3
        assert Copies(unet(), CHIP, processes=2).lanes(2**20).count == min(3, max(1, int(lanes_that_fit / 2)))


@pytest.mark.usefixtures("three_threads")
def test_lanes_are_no_more_than_asked_for() -> None:
    assert [Copies(unet(), CHIP).lanes(most=most).count for most in (1, 2, 9)] == [1, 2, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak where Linux writes it")
@pytest.mark.parametrize("architecture", ["unet", "segformer", "pixel_resnet"])
def test_memory_is_told_from_what_is_held_at_a_time(architecture: str) -> None:
    """In a process of its own, by its peak: twice of what is held is enough, and not ten times too much."""
    run = subprocess.run(
        [sys.executable, "-c", PEAK.format(architecture=architecture)], capture_output=True, text=True, check=True
    )
    told, took = map(float, run.stdout.split())
    assert took / 1.2 < lanes.SPARE * told < 10 * took


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("architecture", [ByHeart(), nn.Identity()])
def test_what_cannot_be_copied_gets_one_lane_with_all_threads(architecture: nn.Module) -> None:
    found = Copies(wrapped(architecture), CHIP).lanes(1)
    assert (found.count, found.threads) == (1, 3)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        (Single(), "copying it failed\nTraceback"),
        (ByHeart(), "its copy answers otherwise"),
        (OneSize(), "takes no image of (1, 3, 64, 64) to compare copies by\nTraceback"),
    ],
)
def test_what_kept_a_network_from_being_copied_can_be_looked_up(
    architecture: nn.Module, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert Copies(wrapped(architecture), CHIP).lanes(1).count == 1
    assert words in caplog.text


@pytest.mark.usefixtures("three_threads")
def test_an_error_comes_out_where_its_result_would_have() -> None:
    network = wrapped(nn.Identity())
    threads_of_lanes: set[tuple[str, int]] = set()

    def work(_: Network, number: int) -> float:
        threads_of_lanes.add((threading.current_thread().name, torch.get_num_threads()))
        return 6 / (3 - number)

    with Lanes((network, network), 1).run(work, range(10)) as results:
        assert [next(results) for _ in range(3)] == [2, 3, 6]
        with pytest.raises(ZeroDivisionError):
            next(results)
    assert {number for _, number in threads_of_lanes} == {1}
    assert threading.current_thread().name not in {name for name, _ in threads_of_lanes}


def test_maps_do_not_depend_on_the_number_of_threads_up_to_four(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 1000, (BANDS, 300, 260), dtype=np.uint16)
    path = write_raster(tmp_path / "scene.tif", image)
    network = architectures.build("unet", "resnet18", BANDS, 3, CHIP)
    made = []
    for threads in (1, 2, 4):
        mapper = make_mapper(tmp_path, network, chip=64, window=96, probabilities="float16")
        with computing_with(threads):
            made.append(map_scene(mapper, str(path), tmp_path / str(threads) / "map.tif"))
    rasters = [[file for file in found.files if file.suffix == ".tif"] for found in made]
    assert len(rasters[0]) == 3
    for files in zip(*rasters, strict=True):
        first, *others = (bands(file) for file in files)
        assert all(np.array_equal(first, other) for other in others), files[0].name
