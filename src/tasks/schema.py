"""The keys of each command with their types: an unknown key or a wrong type ends in one line.

Group nodes (model, loss, …) are ``Any`` here; the YAML that is chosen lists their keys, and Hydra refuses others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


class Strategy(Enum):
    """Choices of ``split.strategy``."""

    balanced = "balanced"
    blocks = "blocks"
    random = "random"


@dataclass
class ChipConfig:
    """Keys of ``chip``.

    Attributes:
        size: Side of a chip in pixels, or [x,y].
        step: Distance in pixels of neighbouring chips, or [x,y]; equal to ``size`` they touch, smaller they
            overlap, larger there are gaps.
        min_coverage: Percent of a chip that needs both a class and a measurement for the chip to be kept.
        compress: Compression of the chips: ``none``, ``deflate``, ``lzw`` or ``zstd``. Not compressed is what
            training reads fastest: 2.0 ms for 13 × 256 × 256 uint16, zstd 4.7, lzw 9.0.
    """

    size: Any = 256
    step: Any = 256
    min_coverage: float = 50.0
    compress: str = "none"


@dataclass
class SplitConfig:
    """Keys of ``split``.

    Attributes:
        train: Percent of the chips for training.
        validation: Percent of the chips that choose the best epoch.
        test: Percent of the chips for ``eval.py``. The three may sum to less than 100.
        strategy: ``balanced``: each part gets its share of every class; ``blocks``: whole squares of ground;
            ``random``.
        buffer: Pixels that parts keep from each other, with ``blocks``.
        block: Side of a block in pixels, with ``blocks``; null to have it chosen.
        raster: A raster per scene, or one for all, that says each pixel's part: chips keep their part's labels only.
        values: The raster's values for training, validation and test; null for a part that it does not have. With null
            for validation, training's chips are divided by ``train``, ``validation`` (0: none validate) and
            ``strategy``; else percentages count for nothing.
    """

    train: float = 80.0
    validation: float = 10.0
    test: float = 10.0
    strategy: Strategy = Strategy.balanced
    buffer: int = 0
    block: int | None = None
    raster: Any = None
    values: Any = field(default_factory=lambda: [1, 2, 3])


@dataclass
class ClassRuleConfig:
    """One entry of ``class_map``: what becomes one class.

    Attributes:
        value: Class value, 1–255; 0 makes it unclassified.
        merge: Values or text classes of the labels that become this class; 112 and '112' are the same.
        name: Its name; null for what the labels call its own value, if that is merged, or the only one that is.
        color: Its colour as ``'#rrggbb'``; null for the labels' own, of its value first.
    """

    value: int = MISSING
    merge: Any = MISSING
    name: str | None = None
    color: str | None = None


@dataclass
class PrepareConfig:
    """Keys of ``python prepare.py``.

    Attributes:
        image: Scene: a path, a list of paths, a glob, or a folder of GeoTIFFs.
        label: Labels, raster or polygons, in the same order; or one for all scenes.
        data_dir: The data folder to make; it appears whole or not at all.
        overwrite: Replace a data folder that other settings made.
        chip: How chips are cut.
        split: How chips are assigned to training, validation and test.
        seed: Of everything random.
        scaler: Divides pixel values before statistics, and so in training and mapping; null for none.
        nodata: Nodata value of all bands, in place of what the files declare.
        class_map: Classes to merge, rename, colour or drop, in burning order; what no entry names becomes
            unclassified. Null keeps the labels' own.
        min_class_share: Percent of the labelled pixels below which a class goes into ``other``; 0 keeps all.
        class_names: Names, as a list in the order of the values or as {value: name}; null for the labels' own.
        class_colors: Colours as ``'#rrggbb'``, like ``class_names``.
        label_field: Attribute of vector labels that holds the class; null if there is but one.
        label_layer: Layer of vector labels; null for the only one.
        threads: Threads that compute and read; null for the cores that the process may use.
        paths: Where runs are written; a group.
    """

    image: Any = MISSING
    label: Any = MISSING
    data_dir: str = MISSING
    overwrite: bool = False
    chip: ChipConfig = field(default_factory=ChipConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    seed: int = 42
    scaler: float | None = None
    nodata: float | None = None
    class_map: list[ClassRuleConfig] | None = None
    min_class_share: float = 0.0
    class_names: Any = None
    class_colors: Any = None
    label_field: str | None = None
    label_layer: str | None = None
    threads: int | None = None
    paths: Any = None


@dataclass
class TrainConfig:
    """Keys of ``python train.py``.

    Attributes:
        data_dir: The data folder that ``prepare.py`` or SpecDeepMap made.
        output_dir: The run's folder; null for ``hydra.run.dir``.
        datamodule: Where samples come from; a group.
        model: Architecture; a group.
        encoder: Encoder: a name of segmentation-models-pytorch's, or ``tu-`` and a name of timm's; ``auto`` for
            the one that the weights belong to.
        weights: What the encoder starts from; a group.
        freeze_encoder: Leave the encoder as it is; null does so with pretrained weights.
        augmentation: Random changes of training batches; a group.
        loss: What is minimised; a group.
        class_weights: Weights of the classes in the loss: true for the data folder's, false for none,
            ``inverse_frequency``, ``inverse_sqrt``, ``effective_number``, or a number per class.
        deep_supervision: Weight of the loss of each branch of the network alone, beside that of their sum, where it has
            branches (``model.detail``); 0 for none.
        normalize: ``auto``: as the weights want it, else each band by the training chips' mean and standard
            deviation; true: always the latter; ``whiten``: then their principal components too, 64 at most, of about
            the same variance; false: only the scaler.
        class_names: Names in place of the data folder's, as a list in the order of the values or as {value: name}.
        class_colors: Colours as ``'#rrggbb'``, like ``class_names``.
        optimizer: Optimiser and course of the learning rate; a group.
        trainer: Device, precision and length; a group.
        callbacks: What watches a run; a group.
        logger: Where numbers are logged; a group.
        accelerator: ``auto``, ``cpu``, ``gpu``, ``cuda`` or ``mps``.
        devices: How many GPUs or processes, a list of GPU numbers, or ``auto``.
        num_nodes: Machines that train together.
        batch_size: Chips per batch, in each process.
        lr: Highest learning rate.
        lr_finder: Find the learning rate in a range test first, and train with it.
        seed: Of weights, order and augmentation.
        resume: Go on with a run: a checkpoint, or ``last`` for the last run's.
        init_from: Start from the network of a checkpoint.
        refit: Train on the validation chips too, once everything is chosen; the last epoch is kept.
        compile: Compile the network: slow to start, faster then.
        threads: Threads that compute and read; null for the cores that the process may use.
        paths: Where runs are written; a group.
    """

    data_dir: str | None = None
    output_dir: str | None = None
    datamodule: Any = MISSING
    model: Any = MISSING
    encoder: str = "resnet18"
    weights: Any = MISSING
    freeze_encoder: bool | None = None
    augmentation: Any = MISSING
    loss: Any = MISSING
    class_weights: Any = True
    deep_supervision: float = 1.0
    normalize: Any = "auto"
    class_names: Any = None
    class_colors: Any = None
    optimizer: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    batch_size: int = 16
    lr: float = 0.003
    lr_finder: bool = False
    seed: int = 42
    resume: str | None = None
    init_from: str | None = None
    refit: bool = False
    compile: bool = False
    threads: int | None = None
    paths: Any = None


@dataclass
class EvalConfig:
    """Keys of ``python eval.py``.

    Attributes:
        checkpoint: A ``.ckpt``, a run's folder (its best one), or an exported ``.onnx``.
        data_dir: The data folder whose ``split`` is scored.
        csv: A list of chips instead: columns ``image`` and ``mask``, paths relative to it.
        split: ``train``, ``validation`` or ``test``.
        output_dir: Where scores and pictures go; null for hydra.run.dir, ``logs/eval/<time>``.
        export_predictions: Write each chip's prediction as a GeoTIFF.
        mask_unclassified: Leave exported predictions empty where the label is.
        batch_size: Chips that go through the network at once; on a CPU its threads share them.
        accelerator: ``auto``, ``cpu``, ``gpu``, ``cuda`` or ``mps``.
        threads: Threads that compute and read; null for the cores that the process may use.
        paths: Where runs are written; a group.
    """

    checkpoint: str = MISSING
    data_dir: str | None = None
    csv: str | None = None
    split: str = "test"
    output_dir: str | None = None
    export_predictions: bool = False
    mask_unclassified: bool = True
    batch_size: int = 16
    accelerator: str = "auto"
    threads: int | None = None
    paths: Any = None


@dataclass
class PredictConfig:
    """Keys of ``python predict.py``.

    Attributes:
        checkpoint: A ``.ckpt``, a run's folder (its best one), or an exported ``.onnx``.
        image: Scene: a path, a list of paths, a glob, or a folder of GeoTIFFs.
        output: The map, a ``.tif``; with several scenes a folder. Null for hydra.run.dir, ``logs/predict/<time>``.
        overlap: Percent of the training chip's side that neighbouring windows share on each side.
        window: Side of a window in pixels; null for the fastest of those that were tried.
        blend: What happens where windows share pixels: ``cosine`` fades, ``crop`` puts a border in the middle.
        tta: Average over the eight flips and 90° rotations, or the four that keep the shape of windows that are not
            square: eight or four times the work.
        probabilities: Write the classes' probabilities and the uncertainty too: false, true (``uint8``),
            ``uint8`` or ``float16``.
        vector: Write polygons as GeoPackage too.
        sieve: Polygons with fewer pixels join their largest neighbour; the map keeps them.
        label: Ground truth, raster or polygons, one per scene or one for all: score the map.
        label_field: Attribute of vector labels that holds the class.
        label_layer: Layer of vector labels.
        class_map: What becomes which class in ``label``, as in ``prepare.py``.
        batch_size: Windows in a batch, of which CPUs compute several at a time; null for a good number.
        accelerator: ``auto``, ``cpu``, ``gpu``, ``cuda`` or ``mps``.
        devices: Processes that share the work, each with a GPU of its own where there are.
        threads: Threads that compute and read; null for the cores that the process may use.
        paths: Where runs are written; a group.
    """

    checkpoint: str = MISSING
    image: Any = MISSING
    output: str | None = None
    overlap: float = 20.0
    window: int | None = None
    blend: str = "cosine"
    tta: bool = False
    probabilities: Any = False
    vector: bool = False
    sieve: int = 0
    label: Any = None
    label_field: str | None = None
    label_layer: str | None = None
    class_map: list[ClassRuleConfig] | None = None
    batch_size: int | None = None
    accelerator: str = "auto"
    devices: int = 1
    threads: int | None = None
    paths: Any = None


@dataclass
class StudySweeperConfig:
    """Keys of ``hydra.sweeper`` in a study.

    Attributes:
        sampler: Optuna's sampler, of the group ``hydra/sweeper/sampler``.
        storage: SQLAlchemy's address of the study's database.
        study_name: The study's name there.
        n_trials: Trials that the study shall have, over all processes and restarts.
        n_jobs: Trials that this process hands to its launcher at a time.
        grace: Seconds without a sign of life after which a trial is taken from its process.
        params: What is searched, by key, in Hydra's words for sweeps.
    """

    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])
    _target_: str = "src.tasks.sweeper.StudySweeper"
    sampler: Any = MISSING
    storage: str | None = None
    study_name: str | None = None
    n_trials: int = 20
    n_jobs: int = 1
    grace: int = 60
    params: dict[str, str] | None = None


@dataclass
class GridSweeperConfig:
    """Keys of ``hydra.sweeper`` in a grid: those of Hydra's own sweeper."""

    _target_: str = "src.tasks.sweeper.GridSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


@dataclass
class ExportConfig:
    """Keys of ``python export.py``.

    Attributes:
        checkpoint: A ``.ckpt``, or a run's folder (its best one).
        output: The ``.onnx`` to write, its STAC item beside it; null for ``model.onnx`` in hydra.run.dir,
            ``logs/export/<time>``.
        data_dir: Chips to compare ONNX Runtime with PyTorch on; null for those that the checkpoint was trained
            on.
        chips: How many of them.
        paths: Where runs are written; a group.
    """

    checkpoint: str = MISSING
    output: str | None = None
    data_dir: str | None = None
    chips: int = 8
    paths: Any = None


SCHEMAS: dict[str, type] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
}


def register() -> None:
    """Make every schema known to Hydra as ``<task>_schema``."""
    store = ConfigStore.instance()
    for task, schema in SCHEMAS.items():
        store.store(f"{task}_schema", schema, replace=True)
    store.store("grid", GridSweeperConfig, group="hydra/sweeper", replace=True)
    store.store("study", StudySweeperConfig, group="hydra/sweeper", replace=True)
