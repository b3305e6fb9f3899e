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
    """Keys of ``chip``."""

    size: Any = 256
    step: Any = 256
    min_coverage: float = 50.0
    # Not compressed is what training reads fastest: 2.0 ms for 13 × 256 × 256 uint16, zstd 4.7, lzw 9.0.
    compress: str = "none"


@dataclass
class SplitConfig:
    """Keys of ``split``; shares in percent, buffer and block in pixels."""

    train: float = 80.0
    validation: float = 10.0
    test: float = 10.0
    strategy: Strategy = Strategy.balanced
    buffer: int = 0
    block: int | None = None


@dataclass
class ClassRuleConfig:
    """One entry of ``class_map``: the values or text classes of the labels that become one class."""

    value: int = MISSING
    merge: Any = MISSING
    name: str | None = None
    color: str | None = None


@dataclass
class PrepareConfig:
    """Keys of ``python prepare.py``."""

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
    """Keys of ``python train.py``."""

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
    normalize: Any = "auto"
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
    compile: bool = False
    threads: int | None = None
    paths: Any = None


@dataclass
class EvalConfig:
    """Keys of ``python eval.py``."""

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
    """Keys of ``python predict.py``."""

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
    """Keys of ``python export.py``."""

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
