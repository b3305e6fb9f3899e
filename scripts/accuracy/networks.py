"""Networks, trained and mapped with the commands that everybody uses."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scripts.accuracy.scenes import HELD_OUT, Area, BenchmarkScene, read, write_like

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Recipe:
    """What train.py is told beside the experiment of the scene.

    Attributes:
        title: What it is.
        overrides: Keys of train.py.
        few: Whether it has chips of 32 px side by side, which prepare.py divides by itself, and not the experiment of
            the scene: what most people begin with.
    """

    title: str
    overrides: tuple[str, ...] = ()
    few: bool = False


@dataclass(frozen=True)
class Took:
    """Seconds of a command: the processors' and the clock's."""

    cpu: float
    wall: float


DEFAULT = Recipe(
    "train.py without further keys",
    (
        *("model=unet", "encoder=resnet18", "augmentation.cutmix=0", "class_weights=true", "lr=0.003"),
        *("optimizer.warmup=0", "callbacks.ema.decay=0"),
    ),
)
OURS = Recipe("experiment=small_scene")
SPECDEEPMAP = Recipe(
    "U-Net/resnet18 with SpecDeepMap's settings",
    (
        *("model=unet", "model.detail=0", "encoder=resnet18", "augmentation=none", "augmentation.cutmix=0"),
        *(
            "loss=cross_entropy",
            "optimizer=adam",
            "optimizer.warmup=0",
            "lr=0.003",
            "batch_size=16",
            "class_weights=true",
        ),
        *("trainer.max_epochs=50", "trainer.precision=32-true", "callbacks.ema.decay=0"),
    ),
)

ABLATION = {
    "whitened": Recipe("bands whitened", ("normalize=whiten",)),
    "default-whitened": Recipe("default, bands whitened", (*DEFAULT.overrides, "normalize=whiten")),
    "default-plain": Recipe("default without its branch at full resolution", (*DEFAULT.overrides, "model.detail=0")),
    "default-wide": Recipe("default, 48 channels in its branch for 32", (*DEFAULT.overrides, "model.detail=48")),
    "default-warmup": Recipe(
        "default, warm-up", (*DEFAULT.overrides[:-2], "optimizer.warmup=0.1", "callbacks.ema.decay=0")
    ),
    "default-ema": Recipe("default, warm-up and average of weights", DEFAULT.overrides[:-2]),
    "default-cutmix": Recipe(
        "default, warm-up, average of weights, CutMix",
        ("model=unet", "encoder=resnet18", "class_weights=true", "lr=0.003"),
    ),
    "default-sqrt": Recipe(
        "default, warm-up, average of weights, class weights share^-0.5",
        ("model=unet", "encoder=resnet18", "augmentation.cutmix=0", "lr=0.003"),
    ),
    "default-200-epochs": Recipe("default, 200 epochs for 50", (*DEFAULT.overrides, "trainer.max_epochs=200")),
    "default-no-augmentation": Recipe("default, no augmentation", ("augmentation=none", *DEFAULT.overrides)),
    "100-epochs": Recipe("100 epochs for 50", ("trainer.max_epochs=100",)),
    "200-epochs": Recipe("200 epochs for 50", ("trainer.max_epochs=200",)),
    "unet-resnet18": Recipe("model=unet encoder=resnet18", ("model=unet", "encoder=resnet18")),
    "compact-unet": Recipe("model=compact_unet", ("model=compact_unet",)),
    "widest-context": Recipe("dilations 1, 2, 4, 8: a block more", ("model.dilations=[1,2,4,8]",)),
    "no-context": Recipe("single pixels: no 3 × 3 weights at all", ("model.dilations=[]",)),
    "no-augmentation": Recipe("no augmentation", ("augmentation=none", "augmentation.cutmix=0")),
    "no-cutmix": Recipe("no CutMix", ("augmentation.cutmix=0",)),
    "crop-32": Recipe("crops of 32 px", ("augmentation.crop=32",)),
    "crop-16": Recipe("crops of 16 px", ("augmentation.crop=16",)),
    "rotation-zoom": Recipe("rotation by any angle, zoom", ("augmentation.rotation=45", "augmentation.zoom=0.25")),
    "gain-noise": Recipe(
        "mild gain, brightness and noise",
        ("augmentation.gain=0.05", "augmentation.brightness=0.1", "augmentation.noise=0.05"),
    ),
    "band-dropout": Recipe("band dropout 0.1", ("augmentation.band_dropout=0.1",)),
    "label-smoothing": Recipe("label smoothing 0.1", ("loss.label_smoothing=0.1",)),
    "no-ema": Recipe("no average of weights", ("callbacks.ema.decay=0",)),
    "no-warmup": Recipe("no warm-up", ("optimizer.warmup=0",)),
    "weight-decay": Recipe("weight decay 0.1 for 0.01", ("optimizer.weight_decay=0.1",)),
    "oversample": Recipe("chips with rare classes more often", ("datamodule.oversample=0.5",)),
    "unweighted": Recipe("no class weights", ("class_weights=false",)),
    "one-minus-share": Recipe("class weights 1 − share", ("class_weights=true",)),
    "dice": Recipe("cross-entropy and Dice", ("loss=ce_dice",)),
    "lr-0.005": Recipe("lr 0.005 for 0.002", ("lr=0.005",)),
}
"""One lever each, beside OURS."""

NARROW = {
    f"narrow-{name}": Recipe(f"{recipe.title}, dilations 1, 1, 1", ("model.dilations=[1,1,1]", *recipe.overrides))
    for name, recipe in {"context": Recipe("small_scene"), **ABLATION}.items()
    if not name.startswith("default") and not any("model" in override for override in recipe.overrides)
}
"""The same around ``narrow-context``, which was OURS until 28 November 2026; run only where they are asked for."""

_BEFORE = ("model.detail=32", "model.detail_dilations=[1]", "model.detail_dropout=0", "deep_supervision=0")
_THEN = "until 29 Nov 2026"
SHALLOW = {
    "shallow": Recipe(f"train.py without further keys, {_THEN}", (*DEFAULT.overrides, *_BEFORE)),
    "unet-shallow": Recipe(f"model=unet encoder=resnet18, {_THEN}", (*ABLATION["unet-resnet18"].overrides, *_BEFORE)),
} | {
    f"shallow-{name.removeprefix('default-')}": Recipe(f"{recipe.title}, {_THEN}", (*_BEFORE, *recipe.overrides))
    for name, recipe in ABLATION.items()
    if name.startswith("default")
}
"""The same around what was DEFAULT until then, whose branch had one block, and no loss of its own."""

FEW = {
    "few": Recipe("few chips, side by side; train.py without further keys", few=True),
    "few-refit": Recipe("few chips, all of them, the last epoch (refit=true)", ("refit=true",), few=True),
    "few-plain": Recipe("few chips, as few steps (datamodule.min_steps=0)", ("datamodule.min_steps=0",), few=True),
}
"""A handful of chips; run only where they are asked for."""


def prepare_chips(scene: BenchmarkScene, area: Area, here: Path) -> Path:
    """Make an area's chips in a folder, where they are not there yet; return their folder."""
    chips = here / "chips"
    if not chips.is_dir():
        parts = write_like(here / "parts.tif", area.parts, area.image)
        _command(
            *("prepare.py", f"experiment={scene.experiment}", f"image={area.image}", f"label={area.label}"),
            *(f"split.raster={parts}", f"data_dir={chips}", f"hydra.run.dir={here / 'prepare'}"),
        )
    return chips


def prepare_few(area: Area, here: Path) -> Path:
    """Make chips of an area that do not overlap, where they are not there yet; return their folder."""
    chips = here / "few"
    if not chips.is_dir():
        known = np.where(area.parts != HELD_OUT, area.parts, 0) > 0
        label = write_like(here / "known.tif", np.where(known, read(area.label)[0], 0).astype(np.uint8), area.image)
        _command(
            *("prepare.py", f"image={area.image}", f"label={label}", f"data_dir={chips}", "chip.min_coverage=5"),
            *("chip.size=32", "chip.step=32", f"hydra.run.dir={here / 'prepare_few'}"),
        )
    return chips


def train_and_map(
    scene: BenchmarkScene, area: Area, here: Path, recipe: Recipe, seed: int, accelerator: str = "cpu"
) -> tuple[npt.NDArray[np.uint8], Took]:
    """Prepare an area's chips, train on them, and map its held-out scene.

    Args:
        scene: What to train on.
        area: Of it.
        here: The area's folder; its chips are made once and used again, the run is removed.
        recipe: How to train.
        seed: Of the training.
        accelerator: Where to train and map.

    Returns:
        The map, H × W class values, and what training took (not preparation and mapping).

    Raises:
        subprocess.CalledProcessError: A command failed.
    """
    chips = prepare_few(area, here) if recipe.few else prepare_chips(scene, area, here)
    run = Path(tempfile.mkdtemp(prefix="run-", dir=here))
    took = _command(
        *("train.py", *(() if recipe.few else (f"experiment={scene.experiment}",))),
        *(f"data_dir={chips}", f"seed={seed}", f"accelerator={accelerator}", f"hydra.run.dir={run}"),
        *recipe.overrides,
    )
    _command(
        *("predict.py", f"checkpoint={run}", f"image={area.held_image}", f"output={run / 'map.tif'}"),
        *(f"accelerator={accelerator}", f"hydra.run.dir={run / 'predict'}"),
    )
    found = read(run / "map.tif")[0]
    shutil.rmtree(run)
    return found, took


def _command(*arguments: str) -> Took:
    """Run one of the commands quietly; return what it took."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(cpu, time.perf_counter() - clock)
