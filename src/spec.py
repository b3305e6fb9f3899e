"""What is written to disk and into checkpoints, as frozen dataclasses of plain things."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.bands import Band, Normalization, bands_from_dicts, bands_to_dicts
from src.errors import UserError
from src.labels import ClassTable

FORMAT = 1
"""Version of dataset.json and of checkpoints; older ones keep loading, newer ones are refused."""

NO_ENCODER = "none"
"""What stands in an encoder's place where an architecture has none."""

MAX_SIDE = 100_000
"""Pixels of a chip's side above which a description is taken to be damaged."""

_PACKAGES = ("torch", "lightning", "segmentation-models-pytorch", "timm", "rasterio", "numpy")


@dataclass(frozen=True)
class SceneSpec:
    """A source scene: name, path as given, size in pixels, CRS as WKT (None without one), affine transform."""

    name: str
    path: str
    width: int
    height: int
    crs: str | None
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class DatasetSpec:
    """``dataset.json``: what a data folder's CSVs and chips cannot hold.

    Attributes:
        scenes: The scenes that the chips were cut from.
        bands: The bands of every chip, in file order.
        used: Whether each band has measurements and is not marked bad.
        nodata: The chips' nodata value, None without one.
        dtype: The chips' data type, a NumPy name.
        chip_size: Width and height in pixels.
        chip_step: Distance of neighbouring chips in x and y, pixels.
        classes: The class table.
        split: Strategy, shares and measured imbalance of the split.
        scaler: Divisor of the statistics, None without one.
        seed: Seed of the split.
        versions: Versions of the software that wrote it.
        config: The configuration that made the folder; the same configuration has nothing to do.
        revision: Of the preparation that made it, 1 where nothing is said: raised whenever chips or split may differ.
    """

    scenes: tuple[SceneSpec, ...]
    bands: tuple[Band, ...]
    used: tuple[bool, ...]
    nodata: float | None
    dtype: str
    chip_size: tuple[int, int]
    chip_step: tuple[int, int]
    classes: ClassTable
    split: dict[str, Any]
    scaler: float | None
    seed: int
    versions: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    revision: int = 1

    @property
    def nodata_given(self) -> bool:
        """Whether the user gave the nodata value, in place of what the scenes declare."""
        return self.config.get("nodata") is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings for JSON, which knows no NaN: ``"nan"``."""
        return {
            "format": FORMAT,
            "scenes": [{**vars(scene), "transform": list(scene.transform)} for scene in self.scenes],
            "bands": [{**row, "used": used} for row, used in zip(bands_to_dicts(self.bands), self.used, strict=True)],
            "nodata": _number(self.nodata),
            "dtype": self.dtype,
            "chip_size": list(self.chip_size),
            "chip_step": list(self.chip_step),
            "classes": self.classes.to_dicts(),
            "split": self.split,
            "scaler": self.scaler,
            "seed": self.seed,
            "versions": self.versions,
            "config": self.config,
            "revision": self.revision,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], origin: str) -> DatasetSpec:
        """Inverse of :meth:`to_dict`.

        Args:
            row: The parsed ``dataset.json``.
            origin: What to call it in an error, usually its path.

        Raises:
            UserError: It was written by a newer version, or an entry is missing or of the wrong type.
        """
        check_format(row, origin)
        try:
            return cls(
                scenes=tuple(SceneSpec(**{**s, "transform": _transform(s["transform"])}) for s in row["scenes"]),
                bands=bands_from_dicts(row["bands"]),
                used=tuple(bool(band["used"]) for band in row["bands"]),
                nodata=None if row["nodata"] is None else float(row["nodata"]),
                dtype=str(row["dtype"]),
                chip_size=_pair(row["chip_size"]),
                chip_step=_pair(row["chip_step"]),
                classes=ClassTable.from_dicts(row["classes"]),
                split=dict(row["split"]),
                scaler=None if row["scaler"] is None else float(row["scaler"]),
                seed=int(row["seed"]),
                versions=dict(row["versions"]),
                config=dict(row["config"]),
                revision=int(row.get("revision", 1)),  # earlier versions do not say
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{origin} is not a whole dataset.json ({error!r}); delete it to derive everything from the CSVs and "
                "chips, or run prepare.py again with overwrite=true."
            ) from error


@dataclass(frozen=True)
class NetworkSpec:
    """All that it takes to build a trained network and to feed it; part of every checkpoint.

    Attributes:
        architecture: Name of the architecture (``unet``).
        encoder: Name of the encoder (``resnet18``, ``tu-convnext_tiny``).
        options: The architecture's further parameters.
        bands: The bands that it was trained on, in order.
        normalization: What is done to their numbers.
        nodata: The training chips' nodata value: the default for rasters that declare none.
        classes: The class table.
        chip_size: Width and height of the training chips in pixels.
        overlap: Percent of the chip's side that windows share on each side.
        nodata_is_data: True if nodata values go to the network as they are (imported SpecDeepMap checkpoints).
        nodata_given: Whether the user gave the nodata value: then it counts also for rasters that declare another one.
        sides: Sides of the training scenes' smallest and largest pixels on the ground in metres, None where these are
            not known.
        statistics: The training chips' own mean and standard deviation, whatever the numbers are normalised by; None
            where these are not known.
    """

    architecture: str
    encoder: str
    options: dict[str, Any]
    bands: tuple[Band, ...]
    normalization: Normalization
    nodata: float | None
    classes: ClassTable
    chip_size: tuple[int, int]
    overlap: float = 20.0
    nodata_is_data: bool = False
    nodata_given: bool = False
    sides: tuple[float, float] | None = None
    statistics: Normalization | None = None

    @property
    def title(self) -> str:
        """Architecture and encoder, as in ``unet/resnet18``; the architecture alone where it has no encoder."""
        return self.architecture if self.encoder == NO_ENCODER else f"{self.architecture}/{self.encoder}"

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings: loads with ``torch.load(weights_only=True)``."""
        return {
            "format": FORMAT,
            "architecture": self.architecture,
            "encoder": self.encoder,
            "options": self.options,
            "bands": bands_to_dicts(self.bands),
            "normalization": self.normalization.to_dict(),
            "nodata": _number(self.nodata),
            "classes": self.classes.to_dicts(),
            "chip_size": list(self.chip_size),
            "overlap": self.overlap,
            "nodata_is_data": self.nodata_is_data,
            "nodata_given": self.nodata_given,
            "sides": None if self.sides is None else list(self.sides),
            "statistics": None if self.statistics is None else self.statistics.to_dict(),
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], origin: str) -> NetworkSpec:
        """Inverse of :meth:`to_dict`; ``origin`` names the checkpoint in errors.

        Raises:
            UserError: It was written by a newer version, or an entry is missing or of the wrong type.
        """
        check_format(row, origin)
        try:
            if not row["bands"] or not row["classes"] or not all(0 < side <= MAX_SIDE for side in row["chip_size"]):
                counts = f"{len(row['bands'])} bands, {len(row['classes'])} classes"
                raise ValueError(f"{counts}, chips of {row['chip_size']} pixels")
            return cls(
                architecture=str(row["architecture"]),
                encoder=str(row["encoder"]),
                options={_word(name): value for name, value in row["options"].items()},
                bands=bands_from_dicts(row["bands"]),
                normalization=Normalization.from_dict(row["normalization"]).checked(len(row["bands"])),
                nodata=None if row["nodata"] is None else float(row["nodata"]),
                classes=ClassTable.from_dicts(row["classes"]),
                chip_size=_pair(row["chip_size"]),
                overlap=float(row["overlap"]),
                nodata_is_data=bool(row["nodata_is_data"]),
                nodata_given=bool(row.get("nodata_given", False)),  # older checkpoints do not say
                sides=None if (sides := row.get("sides")) is None else _lengths(sides),
                statistics=None
                if (statistics := row.get("statistics")) is None
                else Normalization.from_dict(statistics).checked(len(row["bands"])),
            )
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{origin} is not a whole SpecDeepMap checkpoint ({error!r}); give one that train.py wrote."
            ) from error


def _word(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is no name")
    return name


def check_format(row: Any, origin: str) -> None:
    """Raise UserError if ``row`` (read from ``origin``) has no format version or one newer than ours."""
    found = row.get("format") if isinstance(row, Mapping) else None
    if not isinstance(found, int) or found < 1:
        raise UserError(f"{origin} has no format version; expected a file that prepare.py or train.py wrote.")
    if found > FORMAT:
        raise UserError(
            f"{origin} has format {found}, this version reads up to {FORMAT}; update SpecDeepMap to use it."
        )


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


@functools.cache
def git_revision() -> str | None:
    """Revision of this checkout, with ``-dirty`` when files differ; None outside a git checkout.

    It stays that of the first call: what is edited later is not what runs.
    """
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def _number(value: float | None) -> float | str | None:
    """Return what JSON can hold, and ``float`` reads: ``"nan"`` for NaN, which is also equal to itself."""
    return value if value is None or math.isfinite(value) else str(value)


def _transform(value: Any) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = map(float, value)
    return a, b, c, d, e, f


def _lengths(value: Any) -> tuple[float, float]:
    shortest, longest = map(float, value)
    if not 0 < shortest <= longest < math.inf:
        raise ValueError(f"lengths {shortest} and {longest}")
    return shortest, longest


def _pair(value: Any) -> tuple[int, int]:
    x, y = value
    return int(x), int(y)
