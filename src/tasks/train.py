"""``python train.py``: from the composed configuration to a trained network."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.datamodules.base import SegmentationData
from src.errors import UserError
from src.models import architectures
from src.models.network import Network
from src.models.segmenter import Segmenter
from src.spec import NetworkSpec
from src.training import announce, choose_class_weights, choose_normalization, choose_precision, finish

TARGETS = ["src.*", "lightning.*"]
"""Where the classes that a configuration names may come from."""


def run(config: DictConfig) -> float:
    """Train, and return the best validation IoU, which a sweep maximises."""
    _quiet()
    if config.output_dir is None:
        config.output_dir = HydraConfig.get().runtime.output_dir
    L.seed_everything(config.seed, verbose=False)
    precision = choose_precision(
        config.trainer.accelerator, _plain(config.trainer.devices), str(config.trainer.precision)
    )
    data: SegmentationData = _make(config.datamodule, "datamodule")
    segmenter = build_segmenter(config, data)
    trainer: L.Trainer = _make(
        config.trainer,
        "trainer",
        precision=precision,
        callbacks=[_make(node, f"callbacks.{name}") for name, node in config.callbacks.items() if node],
        logger=[_make(node, f"logger.{name}") for name, node in config.logger.items() if node],
        default_root_dir=config.output_dir,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    data.setup()
    announce(data.describe(), segmenter, data.sizes(), config.trainer.accelerator)
    trainer.fit(segmenter, datamodule=data)
    result = finish(trainer, segmenter.spec.classes)
    return result.scores.mean_iou


def build_segmenter(config: DictConfig, data: SegmentationData) -> Segmenter:
    """Build the network and what trains it, and run it once on an empty batch."""
    described = data.describe()
    normalization = choose_normalization(described, config.normalize)
    options = _plain(config.model)
    architecture = options.pop("name")
    network = architectures.build_checked(
        architecture, config.encoder, len(described.bands), len(described.classes), described.chip_size, **options
    )
    spec = NetworkSpec(
        architecture=architecture,
        encoder=config.encoder,
        options=options,
        bands=described.bands,
        normalization=normalization,
        nodata=described.nodata,
        classes=described.classes,
        chip_size=described.chip_size,
    )
    return Segmenter(
        Network(network, normalization),
        spec,
        _make(config.loss, "loss", weight=choose_class_weights(described, _plain(config.class_weights))),
        _make(config.optimizer, "optimizer"),
        _make(config.augmentation, "augmentation"),
        seed=config.seed,
        config=_plain(config),
    )


def _make(node: Any, name: str, **arguments: Any) -> Any:
    """Instantiate a group's choice as plain Python; what it does not accept is the user's mistake."""
    try:
        return instantiate(node, _convert_="all", _execution_whitelist_=TARGETS, **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        raise UserError(f"{name} cannot be made of {_plain(node)}: {cause}. Change its keys.") from error


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _quiet() -> None:
    """Keep Lightning from telling what our own lines tell better."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
