"""What users give by mistake, or by right though it is odd: one case per line of a folder, a command and its end."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.transform import from_origin

from tests.bad_inputs.outcomes import (
    Outcome,
    blank_map,
    mapped,
    no_blank_chip,
    one_class,
    other_weights,
    same_chips,
    same_map,
    same_weights,
    statistics,
)

Setup = Callable[[Path], Any]

CUT = ("image=i.tif", "label=l.tif", "data_dir=d", "chip.size=16", "chip.step=16")
TINY = (
    "trainer.max_epochs=1",
    "batch_size=8",
    "model=justo_unet_simple",
    "accelerator=cpu",
    "output_dir=run",
    "logger.tensorboard=null",
)
HEIGHT, WIDTH = 53, 67
"""Of the scenes: prime, so that nothing divides them."""


@dataclass(frozen=True)
class Case:
    """One command in a folder of its own.

    Attributes:
        name: What is odd about it.
        task: The command.
        arguments: Its arguments.
        setup: Puts the odd thing into the folder, which already has ``i.tif``, ``l.tif``, ``d/`` and ``good.ckpt``.
        words: What the one line on stderr has to say; None if the command has to work.
        left: What it has to leave behind then.
    """

    name: str
    task: str
    arguments: tuple[str, ...]
    setup: Setup = lambda _: None
    words: tuple[str, ...] | None = None
    left: Outcome | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a case that asserts nothing, or both."""
        if (self.words is None) == (self.left is None):
            raise ValueError(f"{self.name}: give either what the error says or what the command leaves behind")


def write(path: Path, values: npt.NDArray[Any], **profile: Any) -> None:
    """Write a raster, bands × rows × columns or rows × columns, on the scenes' grid unless told otherwise."""
    bands = values if values.ndim == 3 else values[None]
    grid = {"crs": "EPSG:32633", "transform": from_origin(4e5, 58e5, 10, 10), "driver": "GTiff"} | profile
    count, height, width = bands.shape
    path.unlink(missing_ok=True)
    with rasterio.open(path, "w", count=count, height=height, width=width, dtype=bands.dtype, **grid) as dataset:
        dataset.write(bands)


def image(*, height: int = HEIGHT, width: int = WIDTH, bands: int = 4, dtype: str = "uint16") -> npt.NDArray[Any]:
    """A scene's numbers: every class has a level of its own, with noise."""
    noise = np.random.default_rng(0).integers(0, 60, (bands, height, width))
    return np.asarray(500 * label(height=height, width=width)[None].astype(np.int64) + noise, dtype)


def label(*, height: int = HEIGHT, width: int = WIDTH, values: tuple[int, ...] = (1, 2, 3)) -> npt.NDArray[np.uint8]:
    """Its classes, in blocks that no chip grid meets."""
    block = np.add.outer(np.arange(height) // 7, np.arange(width) // 9) % len(values)
    return np.array(values, np.uint8)[block]


def make_scene(folder: Path) -> None:
    write(folder / "i.tif", image())
    write(folder / "l.tif", label())


def put(name: str, values: npt.NDArray[Any], **profile: Any) -> Setup:
    return lambda folder: write(folder / name, values, **profile)


def cut_off(name: str, share: float) -> Setup:
    def setup(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return setup


def flipped(name: str) -> Setup:
    """Compress a raster and flip bits in its middle."""

    def setup(folder: Path) -> None:
        write(folder / name, image() if name == "i.tif" else label(), compress="deflate")
        content = bytearray((folder / name).read_bytes())
        for position in np.random.default_rng(0).integers(len(content) // 4, 3 * len(content) // 4, 200):
            content[position] ^= 255
        (folder / name).write_bytes(bytes(content))

    return setup


def edited(name: str, change: Callable[[bytes], bytes]) -> Setup:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def described(**entries: Any) -> Setup:
    """Change entries of ``dataset.json``."""

    def setup(folder: Path) -> None:
        path = folder / "d" / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return setup


def checkpoint(change: Callable[[dict[str, Any]], Any]) -> Setup:
    """Change what stands in the checkpoint, as ``bad.ckpt``."""

    def setup(folder: Path) -> None:
        content = torch.load(folder / "good.ckpt", weights_only=True)
        torch.save(change(content) or content, folder / "bad.ckpt")

    return setup


def spec(**entries: Any) -> Setup:
    return checkpoint(lambda content: content["hyper_parameters"]["spec"].update(entries))


def blank_weights(content: dict[str, Any]) -> None:
    content["state_dict"] = {key: value * float("nan") for key, value in content["state_dict"].items()}


class Gadget:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def blank_labels(folder: Path) -> None:
    for path in (folder / "d" / "labels").iterdir():
        with rasterio.open(path, "r+") as chip:
            chip.write(np.zeros((1, chip.height, chip.width), np.uint8))


def copied(folder: Path) -> None:
    shutil.copy(folder / "i.tif", folder / "Szene (1) für Oma's Garten.tif")


def renamed(folder: Path) -> None:
    (folder / "i.tif").rename(folder / "Szene (1) für Oma's Garten.tif")


def prepare(name: str, *arguments: str, setup: Setup = lambda _: None, **end: Any) -> Case:
    given = {argument.split("=")[0] for argument in arguments}
    cut = [argument for argument in CUT if argument.split("=")[0] not in given]
    return Case(name, "prepare", (*cut, *arguments, "data_dir=new"), setup, **_end(**end))


def train(name: str, *arguments: str, setup: Setup = lambda _: None, **end: Any) -> Case:
    return Case(name, "train", ("data_dir=d", *TINY, *arguments), setup, **_end(**end))


def predict(
    name: str,
    *arguments: str,
    setup: Setup = lambda _: None,
    ckpt: str = "good.ckpt",
    **end: Any,
) -> Case:
    given = {argument.split("=")[0] for argument in arguments}
    common = [a for a in (f"checkpoint={ckpt}", "image=i.tif", "output=m.tif") if a.split("=")[0] not in given]
    return Case(name, "predict", (*common, *arguments), setup, **_end(**end))


def evaluate(name: str, *arguments: str, setup: Setup = lambda _: None, **end: Any) -> Case:
    return Case(name, "eval", ("checkpoint=good.ckpt", "output_dir=o", *arguments), setup, **_end(**end))


def export(name: str, *arguments: str, setup: Setup = lambda _: None, **end: Any) -> Case:
    given = {argument.split("=")[0] for argument in arguments}
    common = [a for a in ("checkpoint=good.ckpt", "output=m.onnx") if a.split("=")[0] not in given]
    return Case(name, "export", (*common, *arguments), setup, **_end(**end))


def _end(*, words: str | None = None, left: Outcome | None = None) -> dict[str, Any]:
    return {"words": None if words is None else tuple(words.split("|")), "left": left}


def halved(folder: Path) -> None:
    shutil.copy(folder / "i.tif", folder / "j.tif")
    cut_off("j.tif", 0.5)(folder)


def speckled(path: str, **options: Any) -> Setup:
    """Put NaN and both infinities into a float image, here and there."""
    values = image(dtype="float32", **options)
    for number, odd in enumerate((np.nan, np.inf, -np.inf)):
        values[:, number::7, number::5] = odd
    return put(path, values)


def chip(change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], kind: str = "images", **profile: Any) -> Setup:
    """Change the numbers of the first training chip, or its label's."""

    def setup(folder: Path) -> None:
        row = (folder / TRAIN).read_text().splitlines()[1].split(",")
        path = folder / "d" / row[kind == "labels"]
        with rasterio.open(path) as dataset:
            values = dataset.read()
        write(path, change(values), **profile)

    return setup


def halved_chip(folder: Path) -> None:
    row = (folder / TRAIN).read_text().splitlines()[1].split(",")
    cut_off(f"d/{row[0]}", 0.5)(folder)


def swapped_columns(content: bytes) -> bytes:
    """Give labels for images and images for labels."""
    rows = [row.split(b",") for row in content.splitlines()[1:]]
    return HEADER + b"".join(b",".join(row[::-1]) + b"\n" for row in rows)


def shared_chip(folder: Path) -> None:
    """Let a validation chip be a training chip as well."""
    row = (folder / "d/validation_files.csv").read_bytes().splitlines()[1]
    edited(TRAIN, lambda text: text + row + b"\n")(folder)


def only_tested(folder: Path) -> None:
    """Make the data folder one without training chips, hence without statistics."""
    edited(TRAIN, lambda _: HEADER)(folder)
    edited(STATISTICS, lambda _: b"Band_Number,std,mean\n1,,\n2,,\n3,,\n4,,\n")(folder)


def text(name: str, content: str) -> Setup:
    def setup(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return setup


AWAY = {"transform": from_origin(9e5, 58e5, 10, 10)}
CODE = {"_target_": "os.system", "command": "touch ran"}
EMPTY, HEADER = b"", b"image,mask\n"
TRAIN, STATISTICS = "d/train_files.csv", "d/Normalize_Bands.csv"
ONE = np.ones((HEIGHT, WIDTH))

CASES: tuple[Case, ...] = (
    # Files that are none, or not whole
    prepare("no such image", "image=no.tif", words="no file no.tif"),
    prepare("no such label", "label=no.tif", words="no file no.tif"),
    prepare("an empty file", setup=edited("i.tif", lambda _: EMPTY), words="i.tif|whole file"),
    prepare("a text for an image", setup=edited("i.tif", lambda _: b"hello"), words="i.tif|whole file"),
    prepare("half an image", setup=cut_off("i.tif", 0.5), words="i.tif|whole file"),
    prepare("half a label", setup=cut_off("l.tif", 0.5), words="l.tif|whole file"),
    prepare("flipped bits in the image", setup=flipped("i.tif"), words="i.tif|whole file"),
    prepare("flipped bits in the label, of which GDAL warns", setup=flipped("l.tif"), words="l.tif|whole file"),
    predict("half an image to map", "image=j.tif", setup=halved, words="j.tif|whole file"),
    # Numbers
    prepare("a complex image", setup=put("i.tif", image(dtype="complex64")), words="i.tif|complex64|real"),
    prepare("a complex label", setup=put("l.tif", ONE.astype("complex64")), words="l.tif|complex64|real"),
    predict("a complex image to map", setup=put("i.tif", image(dtype="complex64")), words="i.tif|complex64|real"),
    prepare("labels over 255", setup=put("l.tif", (300 * ONE).astype("uint16")), words="l.tif|300|class_map"),
    prepare("negative labels", setup=put("l.tif", -ONE.astype("int16")), words="l.tif|-1|nodata"),
    prepare("labels between classes", setup=put("l.tif", 1.5 * ONE), words="l.tif|1.5|whole numbers"),
    prepare("infinite labels", setup=put("l.tif", np.inf * ONE), words="l.tif|inf|whole numbers"),
    prepare("whole labels as floats", setup=put("l.tif", label().astype("float32")), left=same_chips),
    prepare("labels that are all 0", setup=put("l.tif", 0 * label()), words="chips|label"),
    prepare("labels of one class", setup=put("l.tif", 0 * label() + 7), left=one_class(7)),
    prepare("labels elsewhere", setup=put("l.tif", label(), **AWAY), words="overlap"),
    prepare("image and label swapped", "image=l.tif", "label=i.tif", words="4 bands|one"),
    prepare(
        "an image that is all NaN",
        setup=put("i.tif", np.nan * image(dtype="float32")),
        words="i.tif|measurement|nodata",
    ),
    prepare(
        "an image that is all infinite",
        setup=put("i.tif", np.inf * image(dtype="float32")),
        words="i.tif|measurement|nodata",
    ),
    prepare("NaN and infinities here and there", setup=speckled("i.tif"), left=statistics(4)),
    prepare(
        "a band of one number",
        setup=put("i.tif", image() * np.array([0, 1, 1, 1])[:, None, None] + 5),
        left=statistics(4),
    ),
    prepare(
        "half a scene of nodata",
        setup=put("i.tif", image() * (np.arange(WIDTH) > WIDTH // 2), nodata=0),
        left=no_blank_chip,
    ),
    prepare("a scene of one pixel", setup=put("i.tif", image(height=1, width=1)), words="chip"),
    prepare(
        "one row",
        setup=lambda folder: (
            put("i.tif", image(height=1, width=100_000))(folder),
            put("l.tif", label(height=1, width=100_000))(folder),
        ),
        words="chip.min_coverage|chip.size",
    ),
    prepare(
        "one row in chips of one row",
        "chip.size=[1000,1]",
        "chip.step=[1000,1]",
        setup=lambda folder: (
            put("i.tif", image(height=1, width=100_000))(folder),
            put("l.tif", label(height=1, width=100_000))(folder),
        ),
        left=statistics(4),
    ),
    prepare(
        "labels whose CRS is another",
        setup=put("l.tif", label(), crs="EPSG:4326", transform=from_origin(400, 58, 1e-4, 1e-4)),
        words="overlap",
    ),
    prepare("300 bands", setup=put("i.tif", image(bands=300)), left=statistics(300)),
    # Values of keys
    prepare("a share that is no number", "split.train=nan", words="split.train=nan|percentages"),
    prepare("shares over 100", "split.train=95", words="at most 100"),
    prepare("a scaler without end", "scaler=inf", words="scaler is inf"),
    prepare("a compression that loses numbers", "chip.compress=jpeg", words="chip.compress=jpeg|deflate"),
    prepare("chips larger than the memory", "chip.size=1000000", words="memory|chip.size"),
    prepare("chips without pixels", "chip.size=0", words="chip.size|above 0"),
    prepare("a strategy that does not exist", "split.strategy=fair", words="split.strategy=fair|balanced, blocks"),
    prepare("neither true nor false", "overwrite=maybe", words="overwrite=maybe|true or false"),
    prepare("an empty path", "image=", words="image|empty path"),
    prepare("a value that Hydra cannot read", "scaler=a(1)b", words="scaler=a(1)b|quotes"),
    prepare("a typo", "chip.sise=3", words="chip.sise|did you mean"),
    train("a typo in a group's key", "trainer.max_epoch=3", words="trainer.max_epoch|did you mean"),
    train("a typo in a choice", "model=unett", words="unett|unet"),
    predict("a typo in a key", "overlapp=3", words="overlapp|did you mean"),
    evaluate("a typo in a key", "data_dir=d", "spilt=test", words="spilt|did you mean"),
    train(
        "a recipe with a tab",
        "--config-dir=recipes",
        "experiment=tab",
        setup=text("recipes/experiment/tab.yaml", "# @package _global_\ntrainer:\n\tmax_epochs: 1\n"),
        words="tab.yaml, line 3|spaces",
    ),
    train(
        "a recipe that runs code",
        "--config-dir=recipes",
        "experiment=code",
        setup=text(
            "recipes/experiment/code.yaml", "# @package _global_\nlr: !!python/object/apply:os.system [touch ran]\n"
        ),
        words="code.yaml|python/object",
    ),
    # Paths
    prepare(
        "umlauts, brackets, quotes and spaces", "image=Szene (1) für Oma's Garten.tif", setup=renamed, left=same_chips
    ),
    predict("the same in a list", "image=[Szene (1) für Oma's Garten.tif]", setup=copied, left=same_map("i.tif")),
    # Data folders
    train("no data folder", "data_dir=no", words="no is no data folder"),
    train("an empty list", setup=edited(TRAIN, lambda _: EMPTY), words="train_files.csv|lacks the column"),
    train("a list without rows", setup=edited(TRAIN, lambda _: HEADER), words="train_files.csv|no chip"),
    train("a folder that is only tested on", setup=only_tested, words="train_files.csv|no chip|split.train above 0"),
    train("a missing column", setup=edited(TRAIN, lambda t: t.replace(b"mask", b"maske")), words="'mask'"),
    train("semicolons", setup=edited(TRAIN, lambda t: t.replace(b",", b";")), words="image;mask"),
    train("rows twice", setup=edited(TRAIN, lambda t: t + t.partition(b"\n")[2]), left=other_weights),
    train("a chip in both lists", setup=shared_chip, words="train_files.csv|validation_files.csv"),
    train("a chip without a measurement", setup=chip(lambda v: 0 * v, nodata=0), left=other_weights),
    train("a chip of another size", setup=chip(lambda v: v[:, :9, :9]), words="9 × 9|16 × 16"),
    train("a chip with a band too few", setup=chip(lambda v: v[:3]), words="3 bands|4"),
    train("a label of another size", setup=chip(lambda v: v[:, :9], "labels"), words="9 pixels|same size"),
    train("a label of an unknown class", setup=chip(lambda v: 0 * v + 77, "labels"), words="77|1, 2, 3"),
    train("a chip that is half a file", setup=halved_chip, words="whole"),
    train("image and label swapped", setup=edited(TRAIN, swapped_columns), words="bands"),
    train(
        "BOM and CRLF", setup=edited(TRAIN, lambda t: b"\xef\xbb\xbf" + t.replace(b"\n", b"\r\n")), left=same_weights
    ),
    train("Windows paths", setup=edited(TRAIN, lambda t: t.replace(b"/", b"\\")), left=same_weights),
    train("an absolute path", setup=edited(TRAIN, lambda _: HEADER + b"/etc/passwd,/etc/passwd\n"), words="outside"),
    train("a way out", setup=edited(TRAIN, lambda _: HEADER + b"../i.tif,../l.tif\n"), words="outside"),
    train("a zero byte in a path", setup=edited(TRAIN, lambda t: t + b"images/\0,labels/a.tif\n"), words="no path"),
    train("Latin-1", setup=edited(TRAIN, lambda t: t + b"images/\xe4.tif,a\n"), words="train_files.csv|CSV"),
    train("a list of JSON", setup=edited("d/dataset.json", lambda _: b"[]"), words="dataset.json|format"),
    train("a newer format", setup=described(format=9), words="dataset.json|format 9|update"),
    train("bands that are null", setup=described(bands=None), words="dataset.json|prepare.py"),
    train(
        "a config that names code",
        setup=described(config=CODE),
        left=same_weights,
    ),
    train("no labelled pixel", setup=blank_labels, words="labelled pixel|prepare.py"),
    train(
        "infinite statistics",
        setup=edited(STATISTICS, lambda _: b"Band_Number,std,mean\n1,inf,0\n2,1,1\n3,1,1\n4,1,1\n"),
        words="Normalize_Bands.csv|band 1",
    ),
    # Trainings that cannot be
    train("no epoch", "trainer.max_epochs=0", words="trainer.max_epochs=0"),
    train("epochs in words", "trainer.max_epochs=many", words="trainer.max_epochs=many"),
    train("no validation in time", "trainer.check_val_every_n_epoch=5", words="check_val_every_n_epoch=5"),
    train("nothing to validate", "trainer.limit_val_batches=0", words="limit_val_batches=0"),
    train("an unknown precision", "trainer.precision=64-true", words="64-true|32-true"),
    train("no device", "devices=0", words="devices"),
    train("a seed below 0", "seed=-1", words="seed=-1"),
    train("processes in words", "datamodule.workers=few", words="datamodule.workers=few"),
    train("a key too many", "+optimizer.foo=1", words="optimizer|foo"),
    train("a class that is not ours", "loss._target_=os.getcwd", words="loss"),
    train("a checkpoint that is not there", "resume=no.ckpt", words="no checkpoint no.ckpt"),
    # Checkpoints
    predict("a raster for a checkpoint", ckpt="i.tif", words="i.tif|.ckpt"),
    predict("a checkpoint that runs code", setup=checkpoint(lambda _: {"x": Gadget()}), ckpt="bad.ckpt", words="bad"),
    predict(
        "a pickle that runs code",
        setup=lambda folder: (folder / "bad.ckpt").write_bytes(pickle.dumps(Gadget())),
        ckpt="bad.ckpt",
        words="bad.ckpt|plain data",
    ),
    predict("weights that are NaN", setup=checkpoint(blank_weights), ckpt="bad.ckpt", words="bad.ckpt|NaN"),
    predict("a text for an exported network", setup=text("bad.onnx", "hello"), ckpt="bad.onnx", words="bad.onnx|ONNX"),
    predict(
        "a normalisation of another number of bands",
        setup=spec(normalization={"used": [True], "scale": 1.0, "mean": [0.0], "std": [1.0]}),
        ckpt="bad.ckpt",
        words="bad.ckpt|for 4 bands",
    ),
    predict("a checkpoint without classes", setup=spec(classes=[]), ckpt="bad.ckpt", words="bad.ckpt|0 classes"),
    predict("a checkpoint without bands", setup=spec(bands=[]), ckpt="bad.ckpt", words="bad.ckpt|0 bands"),
    predict("chips without pixels", setup=spec(chip_size=[0, 0]), ckpt="bad.ckpt", words="bad.ckpt|[0, 0]"),
    predict("a newer checkpoint", setup=spec(format=9), ckpt="bad.ckpt", words="format 9|update"),
    # Maps
    predict("too few bands", setup=put("i.tif", image(bands=3)), words="3 bands|expects 4"),
    predict("one pixel", setup=put("i.tif", image(height=1, width=1)), left=mapped),
    predict("one row", setup=put("i.tif", image(height=1, width=100_000)), left=mapped),
    predict("one column", setup=put("i.tif", image(height=3001, width=1)), left=mapped),
    predict("NaN and infinities here and there", setup=speckled("i.tif"), left=mapped),
    predict("more bands than were trained on", setup=put("i.tif", image(bands=300)), words="300 bands|expects 4"),
    predict("an output folder that is a file", "output=l.tif/m.tif", words="l.tif"),
    predict("all NaN", setup=put("i.tif", np.nan * image(dtype="float32")), left=blank_map),
    predict("all infinite", setup=put("i.tif", -np.inf * image(dtype="float32")), left=blank_map),
    predict("all nodata", setup=put("i.tif", 0 * image(), nodata=0), left=blank_map),
    predict("all nodata, against labels", "label=l.tif", setup=put("i.tif", 0 * image(), nodata=0), left=blank_map),
    predict("no CRS", "image=j.tif", setup=put("j.tif", image(), crs=None), left=same_map("i.tif")),
    predict("labels of other classes", "label=l.tif", setup=put("l.tif", 0 * label() + 9), words="l.tif|1, 2, 3"),
    predict("fractions for labels", "label=l.tif", setup=put("l.tif", 1.5 * ONE), words="l.tif|1.5"),
    predict("half a label to score against", "label=l.tif", setup=cut_off("l.tif", 0.5), words="l.tif|whole file"),
    predict("nothing but halo", "overlap=49", words="overlap=49"),
    predict("windows larger than the memory", "window=1000000", words="memory|window"),
    predict("a map as JPEG", "output=m.jpg", words="m.jpg|.tif"),
    predict("a map as ENVI, by its header", "output=m.hdr", words="m.hdr|.tif"),
    predict("a map over its scene", "output=i.tif", words="the scene itself"),
    # Exported networks
    export("a raster for a checkpoint", "checkpoint=i.tif", words="i.tif|.ckpt"),
    export("a network as JPEG", "output=m.jpg", words="m.jpg|.onnx"),
    export("weights that are NaN", "checkpoint=bad.ckpt", setup=checkpoint(blank_weights), words="bad.ckpt|NaN"),
    export(
        "a checkpoint that says nothing of itself",
        "checkpoint=bad.ckpt",
        setup=checkpoint(lambda content: content.pop("hyper_parameters") and content),
        words="bad.ckpt|does not describe",
    ),
    export("a typo in a key", "outputt=m.onnx", words="outputt|did you mean"),
    export("a data folder that is none", "data_dir=i.tif", words="i.tif|data folder"),
    # Scores
    evaluate("a chip with a band too few", "data_dir=d", "split=train", setup=chip(lambda v: v[:3]), words="3 bands"),
    evaluate(
        "chips of other classes", "data_dir=d", "split=train", setup=chip(lambda v: 0 * v + 9, "labels"), words="9"
    ),
    evaluate("neither folder nor list", words="data_dir|csv"),
    evaluate("a list that is none", "csv=i.tif", words="i.tif|CSV"),
    evaluate("an unknown part", "data_dir=d", "split=exam", words="split=exam|validation"),
    evaluate("no chips at once", "data_dir=d", "batch_size=0", words="batch_size=0"),
)
