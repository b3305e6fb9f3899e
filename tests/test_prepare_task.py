"""From the command line to settings, and prepare on real data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from src.class_map import ClassRule
from src.datafolder import read_data_folder
from src.errors import UserError
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.splits import imbalance
from src.tasks import prepare as task
from src.tasks import schema
from tests import rasters
from tests.test_balance import best_of_random

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared/data"
REAL = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")


def composed(*overrides: str) -> Preparation:
    from omegaconf import OmegaConf

    schema.register()
    with initialize_config_dir(str(ROOT / "configs")):
        given = OmegaConf.to_object(compose("prepare", [*overrides]))
    assert isinstance(given, schema.PrepareConfig)
    return task.settings(given)


def test_defaults_are_those_of_specdeepmap() -> None:
    given = composed("image=a.tif", "label=b.tif", "data_dir=d")
    assert given == Preparation("a.tif", "b.tif")
    assert (given.chip_size, given.chip_step, given.min_coverage) == ((256, 256), (256, 256), 50)
    assert (given.shares, given.seed, given.scaler, given.strategy) == ((80, 10, 10), 42, None, "balanced")


@pytest.mark.parametrize("values", ["[1,2]", "train", "[1,true,3]", "[1,2,x]"])
def test_part_values_that_are_none_are_one_line(values: str) -> None:
    with pytest.raises(UserError, match=r"split\.values=.* list the values of training, validation and test"):
        composed("image=a.tif", "label=b.tif", "data_dir=d", "split.raster=c.tif", f"split.values={values}")


def test_keys_arrive_as_plain_values() -> None:
    given = composed(
        "image=[a.tif,b.tif]",
        "label=[c.tif,d.gpkg]",
        "data_dir=d",
        "chip.size=[64,32]",
        "class_map=[{value: 3, merge: [farm, 7], name: farmland}, {value: 1, merge: wood}]",
        "class_colors={3: '#ffffff'}",
        "class_names=[x,y]",
        "split.strategy=blocks",
        "split.raster=parts.tif",
        "split.values=[1,null,2]",
    )
    assert given.image == ("a.tif", "b.tif")
    assert given.chip_size == (64, 32)
    assert (given.split_raster, given.split_values) == ("parts.tif", (1, None, 2))
    assert given.class_map == (ClassRule(3, ("farm", 7), "farmland"), ClassRule(1, ("wood",)))
    assert given.class_colors == {3: "#ffffff"}
    assert given.class_names == ("x", "y")
    assert given.strategy == "blocks"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("chip.size=[1,2,3]", "is no size"),
        ("chip.step=1.5", "is no size"),
        ("class_names=forest", "no list or mapping"),
        ("image={a: 1}", "is no path"),
        ("class_map=[{value: 1, merge: [1.5]}]", "whole numbers or text"),
        ("chip.compress=jpeg", "choose none, lzw, deflate, zstd"),
    ],
)
def test_values_of_the_wrong_kind_are_one_line(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        composed("image=a.tif", "label=b.tif", "data_dir=d", override)


def test_the_command_makes_a_folder_and_says_what(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    command = [sys.executable, "prepare.py", f"image={image}", f"label={label}", f"data_dir={tmp_path / 'data'}"]
    keys = ["chip.size=16", "chip.step=16", f"hydra.run.dir={tmp_path / 'run'}"]
    result = subprocess.run([*command, *keys], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "16 of 16 windows are chips; dropped: none."
    assert all(Path(line).exists() for line in lines[-10:])
    assert lines[-1] == str(tmp_path / "data/overview.html")
    report = Path(lines[-1]).read_text(encoding="utf-8")
    assert "chip.size=16" in report
    again = subprocess.run([*command, *keys], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "nothing to do" in again.stdout
    assert Path(lines[-1]).read_text(encoding="utf-8") == report
    result = subprocess.run([*command, *keys, "seed=1"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("prepare.py: error: ")
    assert len(result.stderr.splitlines()) == 1


SETS = {
    "havel": ("sentinel2_havel/havel_*_image.tif", "sentinel2_havel/havel_*_label.tif", 64),
    "havel8": ("sentinel2_havel/havel_train_image.tif", "sentinel2_havel/havel_train_label8_osm.tif", 64),
    "pines": ("hyperspectral/indian_pines_image.tif", "hyperspectral/indian_pines_label.tif", 16),
    "enmap": ("hyperspectral/enmap_potsdam_image.tif", "hyperspectral/enmap_potsdam_label.tif", 32),
    "specdeepmap": ("specdeepmap_enmap/images/*.tif", "specdeepmap_enmap/labels/*.tif", 32),
}


@REAL
@pytest.mark.parametrize("name", SETS)
def test_real_data_become_folders_that_are_balanced(name: str, tmp_path: Path) -> None:
    """No random permutation that keeps every class where it can be has a smaller total variation."""
    image, label, size = SETS[name]
    given = Preparation(
        str(SHARED / image), str(SHARED / label), (size, size), (size, size), min_coverage=10, scaler=10_000
    )
    spec = prepare(given, tmp_path / "data")
    folder = read_data_folder(tmp_path / "data")
    parts = ("train", "validation", "test")
    labels = [rasters.read(s.label) for part in parts for s in folder.samples(part)]
    counts = np.array([np.bincount(pixels.ravel(), minlength=256) for pixels in labels])[:, list(spec.classes.values)]
    sizes = tuple(len(folder.samples(part)) for part in parts)
    best = best_of_random(counts, (sizes[0], sizes[1], sizes[2]), 100_000 if len(counts) < 100 else 20_000)
    assert spec.split["imbalance"] <= best + 1e-9
    assert spec.split["imbalance"] == pytest.approx(imbalance(counts, np.repeat(np.arange(3), sizes)))
    statistics = folder.statistics
    assert statistics is not None
    pixels = np.concatenate([rasters.read(s.image).reshape(len(spec.bands), -1) for s in folder.samples("train")], 1)
    valid = np.ones(pixels.shape[1], bool) if spec.nodata is None else (pixels[list(spec.used)] != spec.nodata).all(0)
    expected = pixels[:, valid].astype(np.float64) / 10_000
    used = np.array(spec.used)
    np.testing.assert_allclose(np.array(statistics.mean)[used], expected.mean(1)[used], rtol=1e-9)
    np.testing.assert_allclose(np.array(statistics.std)[used], expected.std(1)[used], rtol=1e-9)


def test_a_folder_may_be_called_by_a_number() -> None:
    given = composed("image=2021", "label=[2021,b.tif]", "data_dir=2022")
    assert (given.image, given.label) == ("2021", ("2021", "b.tif"))
