"""What a map and the files beside it are called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def maps_in(folder: Path, images: Sequence[str]) -> list[Path]:
    """Name a map for every scene in a folder: ``<scene>_map.tif``, numbered where scenes have one name."""
    stems = [Path(image).stem for image in images]
    numbers = [stems[:i].count(stem) for i, stem in enumerate(stems)]
    return [folder / f"{s}_map{f'_{n + 1}' if n else ''}.tif" for s, n in zip(stems, numbers, strict=True)]


def areas_path(output: Path) -> Path:
    """Name the table of what each class covers: ``map.tif`` → ``map_areas.csv``."""
    return output.with_name(f"{output.stem}_areas.csv")


def layer_file_path(output: Path) -> Path:
    """Name what QGIS opens with one click: ``map.tif`` → ``map.qlr``."""
    return output.with_suffix(".qlr")


def strips_folder(output: Path) -> Path:
    """Name the folder of what is finished of a map, beside it."""
    return output.with_name(f".{output.name}.partial")


def map_report_path(output: Path) -> Path:
    """Name the report of a map whose place was given: ``map.tif`` → ``map_report.html``."""
    return output.with_name(f"{output.stem}_report.html")
