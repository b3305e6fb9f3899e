"""``python train.py``: from the composed configuration to a trained network."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from src import run_folder
from src.callbacks.checkpoints import BestCheckpoints, checkpoint_plugins
from src.callbacks.unfreeze import Unfreeze
from src.cores import undivided
from src.datamodules.base import SegmentationData
from src.errors import UserError
from src.file_lock import only_run
from src.first_process import is_first, numbered
from src.foreign_text import in_a_line
from src.models.architectures import encoder_name
from src.models.checkpoint import load_network
from src.models.lr_finder import draw_range_test, find_learning_rate
from src.models.precision import check_compiler, choose_device
from src.models.restart import check_resumable, find_resumable
from src.models.restart import run_folder as folder_of
from src.models.segmenter import WATCHED, Segmenter
from src.models.weights import WeightsChoice
from src.report.page import Report
from src.report.provenance import Run
from src.run_folder import Trained
from src.score_lines import format_scores
from src.scores import Evaluation
from src.tasks.changed_keys import changed_keys, started_with
from src.tasks.command_line import as_single_run
from src.tasks.kinds import check_kinds
from src.tasks.other_processes import ending_together
from src.tasks.reporting import add_report
from src.tasks.run_places import is_named
from src.training import (
    HOUSE_TRAINER,
    NetworkChoice,
    check_crop,
    check_run,
    choose_class_weights,
    choose_trainer_options,
    decorrelate,
    enough_memory,
    interruptible,
    make_network,
    quiet_lightning,
    unheard_bands,
)

log = logging.getLogger(__name__)

TARGETS = ["src.*", "lightning.*", "optuna.pruners.*"]
"""Where the classes that a configuration names may come from."""
OUTSIDE = r"Target '([^']*)' is not in the Hydra execution whitelist"
"""How Hydra says that a class is from elsewhere."""
TRAINER_KEYS = ("accelerator", "devices", "precision", "strategy", "num_nodes")
"""Keys of the trainer that are decided by what the machine has."""
STARTED = {
    "SLURM_NTASKS_PER_NODE": "devices",
    "SLURM_NNODES": "num_nodes",
    "LOCAL_WORLD_SIZE": "devices",
    "GROUP_WORLD_SIZE": "num_nodes",
}
"""Where SLURM and torchrun, which may have been started by SLURM, say how many processes they have started."""
FILES = {
    "metrics.csv": "all numbers, a row per epoch",
    "lr_finder.png": "range test of the learning rate",
    "run.json": "command, configuration, versions",
    "tensorboard": "curves and pictures for TensorBoard",
    "train.log": "what was printed",
}
"""What a training leaves beside its checkpoints."""


def run(config: DictConfig) -> float:
    """Train, and return the best validation IoU, which a sweep maximises."""
    quiet_lightning()
    check_run(config.seed, _plain(config.trainer), keeping_last=_keeping_last(config))
    check_length(config)
    checkpoint = _resumed(config)
    if checkpoint:
        _keep_start(config, checkpoint)
    folder = Path(config.output_dir)
    L.seed_everything(config.seed, verbose=False)
    options = choose_options(config)
    for key in ("refit", "class_names", "class_colors"):
        if config[key] and key not in config.datamodule:
            given = "true" if config[key] is True else "…"
            raise UserError(
                f"{key}={given} needs the chips of a data folder; leave it out, or choose datamodule=chips."
            )
    data: SegmentationData = make(config.datamodule, "datamodule")
    segmenter = build_segmenter(config, data, checkpoint)
    epochs, last = config.trainer.max_epochs, config.resume == "last"
    first = check_resumable(checkpoint, segmenter.spec, epochs, finished=last) if checkpoint else 0
    changed = changed_keys(checkpoint, _plain(config)) if checkpoint and first < epochs else []
    trainer = build_trainer(config, options, first)
    check_tasks(trainer)
    check_first(trainer)
    if not checkpoint:  # before an earlier run is set aside
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Unfreeze):
                callback.check_epoch(trainer.max_epochs, segmenter.optimization.epochs)
    with only_run(folder) if is_first() else nullcontext():  # the others of a training write there with it
        data.setup(processes=trainer.num_devices)
        data.check_processes(trainer.world_size)
        if is_first():
            _open_folder(config, fresh=not checkpoint, first=first)
            new = _unheard(trainer, segmenter) if checkpoint is None else []  # else its weights are yet to be loaded
            for line in (*idle_encoder(config), *new, *changed):
                log.warning("%s", line)
        return _train(config, trainer, segmenter, data, checkpoint)


def check_length(config: DictConfig) -> None:
    """See that a training is as long as its epochs say; raises UserError where it would end within one, unvalidated."""
    if (steps := config.trainer.get("max_steps")) not in (None, -1):
        raise UserError(
            f"trainer.max_steps={steps} would end the training within an epoch, whose end is when it is validated and "
            "kept; expected a number of epochs. Leave it out, and give trainer.max_epochs, or trainer.max_time."
        )


def check_first(trainer: L.Trainer) -> None:
    """See that a process which leaves everything to the first one has one.

    Raises:
        UserError: The trainer takes it for the first, or the only, process, and the environment does not.
    """
    if trainer.is_global_zero and not is_first():
        raise UserError(
            f"The environment says {numbered()}, a process beside the first of a training, and this training is of "
            f"{trainer.world_size} process{'es' * (trainer.world_size != 1)} with this one as first; expected both to "
            "say the same. Unset it for a training of its own, or give num_nodes and devices."
        )


def idle_encoder(config: DictConfig) -> list[str]:
    """Say in a line that the command line gives an encoder to an architecture without one; nothing if it does not."""
    given = any(word.startswith("encoder=") for word in HydraConfig.get().overrides.task)
    if not given or encoder_name(config.model.name, config.encoder) == config.encoder:
        return []
    return [f"CAUTION: encoder={config.encoder}: without effect, since model={config.model.name} has no encoder"]


def _unheard(trainer: L.Trainer, segmenter: Segmenter) -> list[str]:
    """Say in a line which bands stay without effect, since the encoder that does not know them never learns."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    thawed = any(isinstance(callback, Unfreeze) and callback.epoch is not None for callback in callbacks)
    names = [] if thawed else unheard_bands(segmenter.network, segmenter.spec)
    if not names:
        return []
    return [
        f"CAUTION: {in_a_line(names)}: without effect, since the weights do not know such bands and the encoder is "
        "frozen; let it learn (freeze_encoder=false, or later: callbacks.unfreeze.epoch=5)"
    ]


def _open_folder(config: DictConfig, *, fresh: bool, first: int) -> None:
    """Set aside what is there of another run, and write down what this one is.

    Args:
        config: The composed configuration.
        fresh: Whether the run begins and does not go on.
        first: Number of the first epoch that is to be trained.
    """
    folder = Path(config.output_dir)
    if fresh:
        run_folder.set_aside(folder)
    if first < config.trainer.max_epochs:
        run_folder.describe(folder, _plain(config), HydraConfig.get().overrides.task, first)
    else:
        log.info("All %d epochs are trained; raise trainer.max_epochs to train on.", config.trainer.max_epochs)


def _train(
    config: DictConfig, trainer: L.Trainer, segmenter: Segmenter, data: SegmentationData, checkpoint: Path | None
) -> float:
    """Train in a folder that is ours by now; returns the best validation IoU."""
    precision = str(trainer.precision)
    decorrelate(segmenter.network, data)
    if config.lr_finder and not checkpoint and is_first():
        _find_rate(config, segmenter, data, precision)
    log.info("%s", data.summary())
    if (few := data.few_chips(trainer.world_size, trainer.accumulate_grad_batches)) is not None:
        log.info("%s", few)
    if config.refit:
        log.info("refit: the validation chips are trained on too, their scores prove nothing; the last epoch is kept")
    log.info("%s", segmenter.summary(choose_device(config.trainer.accelerator), precision))
    with as_single_run(config.output_dir), undivided(), ending_together():
        _fit(trainer, segmenter, data, checkpoint)
    trained = _finish(config, trainer, segmenter)
    if is_first():
        add_report(Path(config.output_dir) / "report.html", "train", config, partial(_report, config, data, trained))
    return trained.scores.mean_iou


def _fit(trainer: L.Trainer, segmenter: Segmenter, data: SegmentationData, checkpoint: Path | None) -> None:
    try:
        with enough_memory(data.batch_size), interruptible(trainer):
            trainer.fit(segmenter, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except MisconfigurationException as error:  # what it can only tell from the number of batches
        raise UserError(f"trainer cannot train so: {error}. Change trainer's keys.") from error
    except RuntimeError as error:
        if "Early stopping conditioned on metric" not in str(error):
            raise
        raise UserError(f"{error}. Change callbacks.early_stopping.monitor.") from error
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    if any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers):
        log.info("trainer.max_time is over, which all parts of a resumed run share; raise it to train on.")


def choose_options(config: DictConfig) -> dict[str, Any]:
    """Choose what the trainer is told, and let the GPU that it will train on be PyTorch's current one from now on.

    What comes before it trains follows the current one. The trainer turns to its own only then, and leaves that to the
    next run of a multirun.
    """
    wanted = _plain({key: config.trainer[key] for key in TRAINER_KEYS})
    options = choose_trainer_options(**wanted)
    if options["accelerator"] != "gpu" or not torch.cuda.is_available():
        return options
    devices = options["devices"]
    numbers = devices if isinstance(devices, list) else range(int(devices))
    rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    own = numbers[rank if rank < len(numbers) else 0]
    if own != torch.cuda.current_device():
        torch.cuda.set_device(own)
        options = choose_trainer_options(**wanted)  # another may have other numbers
    return options


def check_tasks(trainer: L.Trainer) -> None:
    """See that SLURM or torchrun has started a process for each of a trainer's devices; raises UserError if not."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None:
        return
    try:
        environment.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)
    except ValueError as error:
        who = "SLURM (--ntasks-per-node, --nodes)" if isinstance(environment, SLURMEnvironment) else "torchrun"
        started = {key: os.environ[name] for name, key in STARTED.items() if name in os.environ}
        raise UserError(
            f"devices={trainer.num_devices} num_nodes={trainer.num_nodes} is not what {who} has started; expected a "
            f"process for each device. Set {' '.join(f'{key}={number}' for key, number in started.items())}."
        ) from error


def _report(config: DictConfig, data: SegmentationData, trained: Trained, run: Run) -> Report:
    """Put a training into a report, with chips that its best checkpoint maps anew."""
    # Here, so that a training does not wait for the libraries that only its report needs.
    from src.report.training import read_history, training_report, validation_examples  # noqa: PLC0415

    folder = Path(config.output_dir)
    network, spec = load_network(trained.best)
    device = choose_device(config.trainer.accelerator)
    known = [(trained.last, "last checkpoint, to go on from")]
    if trained.best != trained.last:
        known.insert(0, (trained.best, "best checkpoint, by validation IoU"))
    known += [(folder / name, what) for name, what in FILES.items() if (folder / name).exists()]
    return training_report(
        run,
        trained.scores,
        read_history(folder / "metrics.csv"),
        spec=spec,
        checkpoint=trained.best,
        data=data.describe().origin,
        refit=config.refit,
        last=trained.best == trained.last,
        examples=validation_examples(network, spec, data.val_dataloader(), device),
        files=known,
    )


def build_segmenter(config: DictConfig, data: SegmentationData, resumed: Path | None = None) -> Segmenter:
    """Build the network and what trains it, for a run that begins or goes on; see :func:`src.training.make_network`."""
    if config.compile:
        check_compiler(choose_device(config.trainer.accelerator))
    described = data.describe()
    model = _plain(config.model)
    choice = NetworkChoice(
        architecture=model.pop("name"),
        encoder=config.encoder,
        options=model,
        weights=WeightsChoice.from_dict(_plain(config.weights)),
        normalize=config.normalize,
        freeze_encoder=config.freeze_encoder,
        init_from=config.init_from,
        resume=resumed,
        compile=config.compile,
    )
    network, spec = make_network(described, choice)
    augmentation = make(config.augmentation, "augmentation")
    check_crop(network, spec, augmentation)
    segmenter = Segmenter(
        network,
        spec,
        make(config.loss, "loss", weight=choose_class_weights(described, _plain(config.class_weights))),
        make(config.optimizer, "optimizer"),
        augmentation,
        seed=config.seed,
        config=_plain(config),
        deep_supervision=config.deep_supervision,
    )
    try:  # here, since the trainer makes them when the run's folder has been prepared
        segmenter.optimization.scheduler(segmenter.optimization.build(network, segmenter.encoder), steps=1)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"No optimiser can be made of these keys: {error}. Change optimizer's keys.") from error
    return segmenter


def build_trainer(config: DictConfig, options: dict[str, Any], first_epoch: int = 0) -> L.Trainer:
    """Make Lightning's trainer with the callbacks and loggers of the configuration.

    Args:
        config: The composed configuration.
        options: What :func:`src.training.choose_trainer_options` decided.
        first_epoch: Where a resumed run goes on; TensorBoard forgets what was logged later.
    """
    callbacks = [make(node, f"callbacks.{name}") for name, node in _callbacks(config).items() if node]
    if not any(isinstance(callback, BestCheckpoints) for callback in callbacks):
        raise UserError(
            "callbacks.model_checkpoint is not what keeps the best and the last checkpoint, without which a training "
            "comes to nothing; leave it out, or give its keys: callbacks.model_checkpoint.save_top_k=…"
        )
    loggers = [make(node, f"logger.{name}") for name, node in config.logger.items() if node]
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger) and first_epoch:
            logger._kwargs["purge_step"] = first_epoch
    trainer: L.Trainer = make(
        config.trainer,
        "trainer",
        **options,
        callbacks=[callback for callback in callbacks if callback is not None],
        plugins=checkpoint_plugins(),
        logger=loggers,
        default_root_dir=config.output_dir,
        **HOUSE_TRAINER,
    )
    return trainer


def _callbacks(config: DictConfig) -> dict[str, Any]:
    """Return the callbacks' nodes; a refit has nothing to stop by or to choose by, so it keeps its last epoch."""
    nodes = dict(config.callbacks.items())
    stopping = nodes.get("early_stopping")
    if stopping and stopping.get("monitor") not in WATCHED:
        raise UserError(
            f"callbacks.early_stopping.monitor={stopping.get('monitor')} is none of the numbers that a training can be "
            f"stopped by; expected {' or '.join(WATCHED)}. Name one of them."
        )
    if config.refit:
        nodes["early_stopping"] = None
        if nodes.get("model_checkpoint"):
            nodes["model_checkpoint"] = OmegaConf.merge(nodes["model_checkpoint"], {"save_top_k": 0})
    return nodes


def make(node: Any, name: str, **arguments: Any) -> Any:
    """Instantiate a group's choice as plain Python.

    Args:
        node: The group's part of the configuration.
        name: What to call it in an error.
        arguments: Further arguments of the class.

    Raises:
        UserError: It does not accept its keys, is no class that may be named, or needs a package that is not installed.
    """
    target = get_class_or_function(node)
    if target is not None:
        check_kinds(target, {k: v for k, v in _plain(node).items() if k[0] != "_" and k not in arguments}, name)
    try:
        return instantiate(node, _convert_="all", _execution_whitelist_=TARGETS, **arguments)
    except ModuleNotFoundError as error:
        package = name.rpartition(".")[2]
        raise UserError(f"{name} needs a package that is not installed here; get it: pip install {package}") from error
    except (InstantiationException, MisconfigurationException, AttributeError, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        if found := re.match(OUTSIDE, str(cause)):
            key = re.search(r"full_key: (\S+)", str(error))
            raise UserError(
                f"{key[1] if key else name}._target_={found[1]} is no class that a configuration may name; expected "
                f"one of {', '.join(TARGETS)}. Make it in a class or function below src/, and name that one."
            ) from error
        keys = {key: value for key, value in _plain(node).items() if key != "_target_"}
        raise UserError(f"{name} cannot be made of {keys}: {cause}. Change {name}'s keys.") from error


def get_class_or_function(node: Any) -> Callable[..., Any] | None:
    """Return what a group's ``_target_`` names; None for one of ours elsewhere or a package that is not installed."""
    path = str(node.get("_target_", ""))
    if not path.startswith(("src.", "lightning.")):
        return None
    found: Callable[..., Any] = get_object(path)
    return found


def _resumed(config: DictConfig) -> Path | None:
    """Decide on the run's folder: a resumed run goes on in its own."""
    here = Path(HydraConfig.get().runtime.output_dir)
    checkpoint = None
    if config.resume is not None:
        if config.init_from is not None and config.resume != "last":
            raise UserError(
                "resume= and init_from= contradict each other; resume goes on, init_from starts anew. Give one of "
                "them, or init_from with resume=last, for the run that has to begin."
            )
        hydra = HydraConfig.get()
        named = config.output_dir is not None or hydra.mode is RunMode.MULTIRUN or is_named(cast(DictConfig, hydra))
        own = Path(config.output_dir) if config.output_dir is not None else here
        checkpoint = find_resumable(config.resume, Path(config.paths.logs) / "train", own, named=named)
        if checkpoint is None:
            log.info("resume=last: %s has no checkpoint yet, so the run begins", own)
    if config.output_dir is None:
        config.output_dir = str(folder_of(checkpoint) if checkpoint else here)
    if checkpoint:
        log.info("going on from %s", checkpoint)
        if is_first() and Path(config.output_dir).resolve() != here.resolve():
            _log_to(Path(config.output_dir) / "train.log")
    return checkpoint


def _keep_start(config: DictConfig, checkpoint: Path) -> None:
    """Let a resumed run stay what it began as: what it started from, and whether its encoder is frozen."""
    start = started_with(checkpoint)
    if config.init_from not in (None, start["init_from"]):
        log.info("init_from=%s: without effect, since the run has begun", config.init_from)
    config.init_from = start["init_from"]
    if config.freeze_encoder is None:
        config.freeze_encoder = start["freeze_encoder"]


def _find_rate(config: DictConfig, segmenter: Segmenter, data: SegmentationData, precision: str) -> None:
    device = choose_device(config.trainer.accelerator)
    with enough_memory(data.batch_size):
        test = find_learning_rate(segmenter, data.train_dataloader(), device, precision.startswith("bf16"))
    plot = Path(config.output_dir) / "lr_finder.png"
    draw_range_test(plot, test)
    log.info("learning rate %.3g found in a range test: %s", test.rate, plot)


def _keeping_last(config: DictConfig) -> str | None:
    """Return the key by which the last epoch is kept, not the best one; None where there is none."""
    if config.refit:
        return "refit=true"
    kept = OmegaConf.select(config, "callbacks.model_checkpoint.save_top_k")
    return "callbacks.model_checkpoint.save_top_k=0" if kept == 0 else None


def _finish(config: DictConfig, trainer: L.Trainer, segmenter: Segmenter) -> Trained:
    keeper = next(c for c in trainer.callbacks if isinstance(c, BestCheckpoints))  # type: ignore[attr-defined]
    last = Path(keeper.last_model_path)  # the best one too where none is kept (save_top_k=0)
    best = Path(keeper.best_model_path) if keeper.best_model_path and not config.refit else last
    trained = run_folder.read_trained(best, last)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            used = {"lr": trainer.optimizers[0].param_groups[-1]["initial_lr"]}  # found, or the resumed run's
            logger.log_hyperparams(_hyper_parameters(config) | used, {"best_val_iou": trained.scores.mean_iou})
            logger.finalize("success")
    epoch = "last epoch, which has learnt from them" if config.refit else "last epoch" if best == last else "best epoch"
    log.info("scores on the validation chips, %s:", epoch)
    for line in format_scores(Evaluation(segmenter.spec.classes, trained.scores)):
        log.info("%s", line)
    log.info("last checkpoint: %s", trained.last)
    if config.refit or best != last:
        log.info("%s checkpoint: %s", "refitted" if config.refit else "best", best)
    return trained


def _hyper_parameters(config: DictConfig) -> dict[str, Any]:
    """Return what TensorBoard shows beside the final score: the keys and choices that shape a training."""
    shown = ("encoder", "freeze_encoder", "class_weights", "normalize", "batch_size", "lr", "seed", "data_dir")
    choices = HydraConfig.get().runtime.choices
    groups = ("model", "weights", "augmentation", "loss", "optimizer")
    row = {key: str(config[key]) if not isinstance(config[key], int | float) else config[key] for key in shown}
    return row | {group: choices[group] for group in groups} | {"max_epochs": config.trainer.max_epochs}


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
