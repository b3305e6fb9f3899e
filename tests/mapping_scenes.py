"""What the tests of mapping share: rasters of known numbers, and networks of known behaviour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.transform import from_origin
from torch import nn

from src.bands import Band, Normalization
from src.labels import ClassTable
from src.mapping.scene_map import MapOptions, Mapper
from src.models.checkpoint import save_network
from src.models.network import Network, build_network
from src.spec import NetworkSpec

UTM = "EPSG:32633"
CLASSES = ClassTable.build([1, 4, 9], {1: "water", 4: "forest & heath", 9: "town"}, {1: "#1e5adc"})


def write_raster(path: Path, image: npt.NDArray[Any], *, crs: str | None = UTM, **options: Any) -> Path:
    """Write C × H × W as a GeoTIFF, without a name for any band unless ``names`` are given."""
    names = options.pop("names", None)
    transform = options.pop("transform", from_origin(300_000, 5_800_000, 10, 10) if crs else rasterio.Affine.identity())
    count, height, width = image.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": image.dtype}
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform, **options) as dataset:
        dataset.write(image)
        for number, name in enumerate(names or (), start=1):
            dataset.set_band_description(number, name)
    return path


def read(path: Path, band: int = 1) -> npt.NDArray[Any]:
    with rasterio.open(path) as dataset:
        values: npt.NDArray[Any] = dataset.read(band)
    return values


class Argmax(nn.Module):
    """Says for each pixel which band is brightest: it sees no neighbour."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.float()


class Blur(nn.Module):
    """Three bands, each a mean over 5 × 5 pixels: sees two pixels far, and blanks beyond the edge."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(image.float(), 5, stride=1, padding=2)


class Levels(nn.Module):
    """Says for each pixel whether the mean of its bands is nearest to 0.4, 0.5 or 0.6."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        levels = torch.tensor([0.4, 0.5, 0.6])[:, None, None]
        return -(image.float().mean(1, keepdim=True) - levels).abs()


class Constant(nn.Module):
    """Always the second class."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(image), 3, *image.shape[-2:])
        logits[:, 1] = 2.0
        return logits


class Halving(nn.Module):
    """Takes windows whose sides are multiples of eight."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        small = nn.functional.avg_pool2d(image.float(), 8)
        return image + small.repeat_interleave(8, -1).repeat_interleave(8, -2)


class MeanOfWindow(nn.Module):
    """Every pixel's answer depends on the whole window."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + image.mean((2, 3), keepdim=True)


class Compass(nn.Module):
    """Prefers the first class to the east of bright pixels, the second to their south."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = image[:, :1].float()
        return torch.cat([first.roll(1, -1), first.roll(1, -2), first * 0 + 0.2], 1)


def bands_of(count: int) -> tuple[Band, ...]:
    return tuple(Band(f"band {i + 1}") for i in range(count))


def make_mapper(
    folder: Path,
    architecture: nn.Module,
    *,
    chip: int = 32,
    nodata: float | None = None,
    bands: int = 3,
    **options: Any,
) -> Mapper:
    """A mapper around a network of three classes; ``options`` are those of MapOptions."""
    normalization = Normalization.identity(bands)
    spec = NetworkSpec("test", "none", {}, bands_of(bands), normalization, nodata, CLASSES, (chip, chip))
    checkpoint = folder / "network.ckpt"
    checkpoint.write_bytes(type(architecture).__name__.encode())
    network = Network(architecture, spec.normalization, full_precision=True).eval()
    return Mapper(checkpoint, network, spec, torch.device("cpu"), MapOptions(**options))


def make_trained(
    folder: Path, architecture: str = "compact_unet", chip: int = 32, bands: int = 3, **options: Any
) -> Mapper:
    """A mapper around a real network with random weights, saved as a checkpoint."""
    normalization = Normalization((True,) * bands, 1.0, (0.5,) * bands, (0.3,) * bands)
    spec = NetworkSpec(architecture, "none", {}, bands_of(bands), normalization, None, CLASSES, (chip, chip))
    torch.manual_seed(0)
    network = build_network(spec).eval()
    checkpoint = folder / "network.ckpt"
    save_network(checkpoint, network, spec, {})
    return Mapper(checkpoint, network, spec, torch.device("cpu"), MapOptions(**options))


def noise(height: int, width: int, seed: int = 0, bands: int = 3) -> npt.NDArray[np.float32]:
    """Bands of noise in 0–1, smooth over a few pixels so that classes form regions."""
    field = torch.rand(1, bands, height + 8, width + 8, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.avg_pool2d(field, 9, stride=1)[0].numpy()
    return (smooth - smooth.min()) / np.ptp(smooth)


class Shown:
    """Notes what a mapping shows: the parts of the work, and the pixels of each."""

    def __init__(self) -> None:
        self.parts: dict[str, list[int]] = {}

    @contextmanager
    def __call__(self, what: str, _: int | None) -> Iterator[Callable[[int], None]]:
        yield self.parts.setdefault(what, []).append
