"""What a command has to leave behind that worked on an odd input: each check takes the case's folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import torch

Outcome = Callable[[Path], None]

LISTS = ("train_files.csv", "validation_files.csv", "test_files.csv")


def read(path: Path) -> npt.NDArray[Any]:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def training_chips(folder: Path) -> npt.NDArray[Any]:
    """Pixels of the training chips of a data folder that are measured in every band, bands × pixels."""
    found = []
    for row in rows(folder / "train_files.csv"):
        with rasterio.open(folder / row["image"]) as dataset:
            pixels, nodata = dataset.read().reshape(dataset.count, -1), dataset.nodata
        measured = np.isfinite(pixels).all(0) & (True if nodata is None else (pixels != nodata).all(0))
        found.append(pixels[:, measured])
    return np.concatenate(found, axis=1)


def same_chips(folder: Path) -> None:
    """The chips of the scene as it should be, and the same lists, counts and statistics, but for the files' names."""
    made, expected = folder / "new", folder / "d"
    for name in LISTS:
        ours, theirs = rows(made / name), rows(expected / name)
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs, strict=True):
            assert np.array_equal(read(made / one["image"]), read(expected / other["image"]))
            assert np.array_equal(read(made / one["mask"]), read(expected / other["mask"]))
    for name in ("Summary_train_val.csv", "Normalize_Bands.csv"):
        assert (made / name).read_bytes() == (expected / name).read_bytes()


def one_class(value: int) -> Outcome:
    """A data folder with one class, which all of its labelled pixels have."""

    def check(folder: Path) -> None:
        made = folder / "new"
        assert [entry["value"] for entry in json.loads((made / "dataset.json").read_text())["classes"]] == [value]
        (summary,) = rows(made / "Summary_train_val.csv")
        assert (summary["Class ID"], summary["Train Percentage"]) == (str(value), "100.0")
        assert {int(v) for row in rows(made / LISTS[0]) for v in np.unique(read(made / row["mask"]))} == {value}

    return check


def statistics(bands: int) -> Outcome:
    """Finite statistics of every band, those that NumPy finds over the measured pixels of the training chips."""

    def check(folder: Path) -> None:
        made = folder / "new"
        pixels = training_chips(made).astype(np.float64)
        table = rows(made / "Normalize_Bands.csv")
        assert len(table) == len(pixels) == bands
        np.testing.assert_allclose([float(row["mean"]) for row in table], pixels.mean(1), rtol=1e-6)
        np.testing.assert_allclose([float(row["std"]) for row in table], pixels.std(1), rtol=1e-4, atol=1e-9)
        for name in LISTS:  # a chip without any measurement would teach and test nothing
            assert all(np.isfinite(read(made / row["image"])).all(0).any() for row in rows(made / name))

    return check


def no_blank_chip(folder: Path) -> None:
    """Statistics as above, and no chip that has nothing but nodata."""
    statistics(4)(folder)
    for name in LISTS:
        for row in rows(folder / "new" / name):
            assert (read(folder / "new" / row["image"]) != 0).any()


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


def trained(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = (folder / "run/checkpoints").glob("*val_iou*.ckpt")
    return weights(path)


def same_weights(folder: Path) -> None:
    """What the training learned from the data folder as it should be, bit by bit."""
    expected, found = weights(folder / "good.ckpt"), trained(folder)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def other_weights(folder: Path) -> None:
    """Finite weights, and not those of the data folder as it should be: what is odd in it counts."""
    expected, found = weights(folder / "good.ckpt"), trained(folder)
    assert all(bool(torch.isfinite(values).all()) for values in found.values())
    assert any(not torch.equal(expected[name], found[name]) for name in expected)


def mapped(folder: Path) -> None:
    """A map on the scene's grid: a class where every band has a measurement, 0 elsewhere."""
    with rasterio.open(folder / "i.tif") as scene, rasterio.open(folder / "m.tif") as made:
        pixels, nodata, classes = scene.read(), scene.nodata, made.read(1)
        assert (made.shape, made.crs, made.transform) == (scene.shape, scene.crs, scene.transform)
    measured = np.isfinite(pixels).all(0) & (True if nodata is None else (pixels != nodata).all(0))
    assert set(np.unique(classes[measured])) <= {1, 2, 3}
    assert not classes[~measured].any()


def blank_map(folder: Path) -> None:
    """A map on the scene's grid without a class anywhere."""
    mapped(folder)
    assert not read(folder / "m.tif").any()


def same_map(place: str) -> Outcome:
    """The map of the same numbers in another file, ``place``: mapped on the spot by the command itself."""

    def check(folder: Path) -> None:
        from tests.commands import run

        result = run("predict", "checkpoint=good.ckpt", f"image={place}", "output=again.tif", cwd=folder)
        assert result.code == 0, result.err
        assert np.array_equal(read(folder / "m.tif"), read(folder / "again.tif"))
        assert len(np.unique(read(folder / "m.tif"))) > 1

    return check
