"""What a training is made of, from a description of the data; everything here can be called from a notebook."""

from __future__ import annotations

import logging
import math
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch

from src.augmentation import Augmentation
from src.bands import Normalization
from src.datamodules.base import DataDescription, SegmentationData
from src.errors import UserError
from src.first_process import is_first
from src.models import distributed
from src.models.architectures import ENCODER_PARTS, WITHOUT_ENCODER, build_checked, freeze, trial
from src.models.detail import DETAIL, DROPOUT, REACH, kept_options
from src.models.losses import WEIGHTINGS, class_weights
from src.models.network import Network
from src.models.precision import choose_device, prefers_bf16
from src.models.restart import Start, components_of, start_from
from src.models.weights import WeightsChoice, apply_weights, prepare_weights
from src.models.whitening import ATTRIBUTE, COMPONENTS, whitening_of
from src.spec import NetworkSpec

log = logging.getLogger(__name__)

WHITEN = "whiten"
"""The choice of ``normalize`` that standardises and decorrelates."""
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
"""What ``trainer.precision`` may be; Lightning's others do not go with losses and scores in float32."""
HOUSE_TRAINER: dict[str, Any] = {
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}
"""What no trainer of ours does: score before it trains, describe the network its own way, choose samples itself."""
_OPTIONS: dict[str, dict[str, Any]] = {"unet": {DETAIL: 32, REACH: [1, 2, 4], DROPOUT: 0.2}}
"""Where ``configs/model`` differs from what the architectures' own parameters are."""


@dataclass(frozen=True)
class NetworkChoice:
    """Which network, and what it starts from.

    Attributes:
        architecture: Name of the architecture.
        encoder: Name of the encoder; ``auto`` for the one that the weights belong to.
        options: The architecture's further parameters; None for what ``train.py`` takes without further keys.
        weights: What the encoder starts from.
        normalize: ``auto``, ``whiten``, true or false; see :func:`choose_normalization` and
            :func:`choose_components`.
        freeze_encoder: None freezes pretrained encoders only.
        init_from: Checkpoint whose network to start from.
        resume: Checkpoint of the run that goes on, whose weights the trainer loads: the network starts from nothing
            else, whatever weights and ``init_from`` say.
        compile: Whether to compile the network (slow to start, faster then).
    """

    architecture: str = "unet"
    encoder: str = "resnet18"
    options: dict[str, Any] | None = None
    weights: WeightsChoice = field(default_factory=WeightsChoice)
    normalize: bool | str = "auto"
    freeze_encoder: bool | None = None
    init_from: str | Path | None = None
    resume: str | Path | None = None
    compile: bool = False

    @property
    def chosen_options(self) -> dict[str, Any]:
        """The options, ours where none were given."""
        return dict(_OPTIONS.get(self.architecture, {}) if self.options is None else self.options)


def make_network(data: DataDescription, choice: NetworkChoice) -> tuple[Network, NetworkSpec]:
    """Build a network for the data, run it once on an empty batch, and fill it with what it starts from.

    Raises:
        UserError: It cannot be built, does not take chips of this size, or its weights cannot be had; or the data have
            a single class.
    """
    if len(data.classes) == 1 and choice.resume is None:
        raise UserError(
            f"{data.origin}: labels have one class ({data.classes.names[0]}), and 0 means unclassified and is never "
            "learnt; expected two classes or more. Give the background a value of its own: class_map=[…]."
        )
    normalization = choose_normalization(data, choice.normalize)
    if not any(normalization.used):
        raise UserError(f"{data.origin} has no band that is used; expected at least one. Run prepare.py again.")
    weights = choice.weights
    if choice.resume is not None and weights.trained == "none":  # whose bands are scaled as the data are
        weights = WeightsChoice()
    plan = prepare_weights(
        weights,
        choice.architecture,
        choice.encoder,
        data.bands,
        normalization,
        data.chip_size,
        dtype=data.dtype,
        options=choice.chosen_options,
    )
    counts = len(data.bands), len(data.classes)
    components = choose_components(data, choice, plan.pretrained)
    options = kept_options(choice.chosen_options) | ({ATTRIBUTE: components} if components else {})
    architecture = build_checked(choice.architecture, plan.encoder, *counts, data.chip_size, **options)
    apply_weights(architecture, plan)
    spec = NetworkSpec(
        architecture=choice.architecture,
        encoder=plan.encoder,
        options=options,
        bands=data.bands,
        normalization=plan.normalization if choice.normalize == "auto" else normalization,
        nodata=data.nodata,
        classes=data.classes,
        chip_size=data.chip_size,
        nodata_given=data.nodata_given,
        sides=data.sides,
        statistics=data.normalization,
    )
    network = Network(architecture, spec.normalization)
    if choice.resume is None:
        start = Start(plan.lines) if choice.init_from is None else start_from(network, spec, choice.init_from)
        for line in start.lines:
            log.info("%s", line)
        if choice.freeze_encoder and not plan.pretrained:
            _check_frozen(choice, start)
    if choice.freeze_encoder or (choice.freeze_encoder is None and plan.pretrained):
        freeze(architecture)
    if choice.compile:
        architecture.compile()
    return network, spec


def unheard_bands(network: Network, spec: NetworkSpec) -> list[str]:
    """Name the bands that are used and do not change what a network with a frozen encoder answers.

    Pretrained weights know nothing of a band that their sensor has not: its kernels begin at zero, and stay so where
    they do not learn. Nothing is named where all of the encoder learns, nor where a whitening that is yet to be
    computed will mix the bands.

    Args:
        network: Before its training.
        spec: What it is.
    """
    parameters = [p for name, p in network.architecture.named_parameters() if name.partition(".")[0] in ENCODER_PARTS]
    whitening = whitening_of(network.architecture)
    if all(parameter.requires_grad for parameter in parameters) or (whitening is not None and not whitening.fitted):
        return []
    width, height = spec.chip_size
    image = torch.randn(1, len(spec.bands), height, width, generator=torch.Generator().manual_seed(0))
    image.requires_grad_()
    was = network.training
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"):  # not compiled for this
        network.architecture.eval()
        answer = network.architecture(image)  # with its whitening and its branch, which forward() leaves out
        torch.autograd.backward(answer.square().sum(), inputs=[image])
        network.architecture.train(was)
    assert image.grad is not None
    heard = image.grad.flatten(2).any(2)[0].tolist()
    return [b.name for b, used, there in zip(spec.bands, spec.normalization.used, heard, strict=True) if used > there]


def _check_frozen(choice: NetworkChoice, start: Start) -> None:
    """Raise UserError where some of a frozen encoder would stay random."""
    if choice.init_from is None and choice.architecture in WITHOUT_ENCODER:
        raise UserError(
            f"freeze_encoder=true, but model={choice.architecture} has no encoder that published weights would fit, "
            "and what it has would stay random; leave freeze_encoder out, or start from a whole network with "
            "init_from=….ckpt."
        )
    if choice.init_from is None:
        raise UserError(
            "freeze_encoder=true, but the encoder's weights are random and would stay so; choose weights=… or "
            "init_from=…, or leave freeze_encoder out."
        )
    random = [name for name in start.left if name.partition(".")[0] in ENCODER_PARTS]
    if random:
        more = f" and {len(random) - 1} more of the encoder's tensors are" if len(random) > 1 else " is"
        raise UserError(
            f"freeze_encoder=true, but {random[0]}{more} not in init_from={choice.init_from} as needed "
            f"({start.left[random[0]]}) and would stay random; leave freeze_encoder out, or start from a checkpoint of "
            "such bands and model's keys."
        )


def choose_components(data: DataDescription, choice: NetworkChoice, pretrained: bool) -> int:
    """Choose how many whitened components take the bands' place, 0 for the bands themselves.

    Only ``normalize=whiten`` gives them, as many as there are bands, COMPONENTS at most: some scenes gain much, others
    lose (docs/results.md). Weights were trained with bands, which have to stay. A network that starts from a checkpoint
    or goes on is what that one is, with ``normalize=auto``.

    Raises:
        UserError: ``normalize=whiten`` with pretrained weights.
    """
    if choice.normalize not in ("auto", WHITEN):
        return 0
    if pretrained:
        if choice.normalize == WHITEN:
            raise UserError(
                f"normalize={WHITEN} mixes the bands, which pretrained weights want as they are; leave normalize=auto, "
                "or choose weights=none."
            )
        return 0
    most = min(COMPONENTS, sum(data.used))
    if choice.normalize == WHITEN:
        return most if most > 1 else 0
    origin = choice.init_from if choice.resume is None else choice.resume
    return min(most, components_of(origin)) if origin is not None else 0


def decorrelate(network: Network, data: SegmentationData) -> None:
    """Compute a network's whitening from its training chips, unless it has none or one from a checkpoint.

    Args:
        network: On any device.
        data: After its ``setup``.
    """
    whitening = whitening_of(network.architecture)
    if whitening is None or whitening.fitted:
        return
    known = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=network.scale.device)
    whitening.fit(network.normalize(s[None, :, :, None].to(known.device), known)[0, :, :, 0] for s in data.spectra())
    log.info("bands: whitened, %d components of the training chips' spectra", len(whitening.weight))


def check_crop(network: Network, spec: NetworkSpec, augmentation: Augmentation) -> None:
    """See that a network takes the parts of chips that the augmentation leaves; raises UserError if not."""
    width, height = augmentation.output_size(spec.chip_size)
    if (width, height) != spec.chip_size:
        problem = trial(network.architecture, torch.zeros(1, len(spec.bands), height, width))
        if problem is not None:
            raise UserError(
                f"augmentation.crop={augmentation.crop} leaves {width} × {height} px, which model={spec.architecture} "
                f"with encoder={spec.encoder} cannot take ({problem}); leave it out, or give a multiple of 32."
            )


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Raise UserError where a GPU's memory does not take a batch."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"batch_size={batch_size} is too large for the GPU's memory (or other programs take it); lower it, for "
            f"example to {max(1, batch_size // 2)}, or cut smaller windows out of the chips: augmentation.crop=…."
        ) from error


@contextmanager
def interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Let Ctrl-C within the context be KeyboardInterrupt, as it is elsewhere.

    Lightning ends the process instead, in an orderly way, and lets it ignore any further Ctrl-C: a notebook's kernel
    too.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def check_run(seed: int, trainer: Mapping[str, Any], *, keeping_last: str | None = None) -> None:
    """Check what Lightning would stumble over only when the training runs.

    Args:
        seed: Of everything random.
        trainer: Keys of the trainer.
        keeping_last: The key by which the last epoch is the one that counts; None where the best one is.

    Raises:
        UserError: The seed does not fit, a training would have no epoch or see no chip, or the numbers are of a kind
            that the network and its losses do not compute with.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed} does not fit; give a whole number from 0 to {2**32 - 1}.")
    epochs, every = trainer.get("max_epochs"), trainer.get("check_val_every_n_epoch", 1)
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise UserError(f"trainer.max_epochs={epochs} is no number of epochs; give a whole number of 1 or more.")
    if not isinstance(every, int) or not 1 <= every <= epochs:
        raise UserError(
            f"trainer.check_val_every_n_epoch={every} would leave the {epochs} epochs without a validation, and the "
            f"best checkpoint unknown; give 1 to {epochs}."
        )
    if keeping_last and epochs % every:
        raise UserError(
            f"trainer.check_val_every_n_epoch={every} would leave the last of {epochs} epochs without a validation, "
            f"and {keeping_last} keeps that one; give 1, or another number that {epochs} is a multiple of."
        )
    for key in ("limit_train_batches", "limit_val_batches"):
        if (limit := trainer.get(key)) is not None and not (isinstance(limit, int | float) and limit > 0):
            raise UserError(f"trainer.{key}={limit} leaves nothing; give a number above 0, or null for all.")
    if not isinstance(times := trainer.get("max_time"), str | Mapping | None):
        raise UserError(f"trainer.max_time={times} is no time; give days, hours, minutes and seconds: 00:00:05:00.")
    if isinstance(batches := trainer.get("accumulate_grad_batches", 1), int) and batches < 1:
        raise UserError(f"trainer.accumulate_grad_batches={batches} is no number of batches; give 1 or more.")
    if isinstance(clip := trainer.get("gradient_clip_val"), int | float) and not clip >= 0:
        raise UserError(f"trainer.gradient_clip_val={clip} is no length; give one above 0, or null for no clipping.")
    if (precision := trainer.get("precision")) not in PRECISIONS:
        raise UserError(f"trainer.precision={precision} is not known; choose one of: {', '.join(PRECISIONS)}.")


def choose_normalization(data: DataDescription, normalize: bool | str) -> Normalization:
    """Choose what is done to the bands' numbers.

    Args:
        data: The training data.
        normalize: ``auto``, ``whiten`` or true standardises by the data's own statistics; false only scales.

    Raises:
        UserError: There are no statistics, or there is no such choice.
    """
    if normalize in (True, "auto", WHITEN, "statistics"):
        if data.normalization is None:
            raise UserError(
                f"{data.origin} has no statistics of its bands (Normalize_Bands.csv); run prepare.py again, or train "
                "with normalize=false."
            )
        return data.normalization
    if normalize in (False, "none"):
        count = len(data.bands)
        return Normalization(data.used, data.scale, (0.0,) * count, (1.0,) * count)
    raise UserError(f"normalize={normalize} is not known; choose auto, whiten, true or false.")


def choose_class_weights(data: DataDescription, choice: bool | str | Sequence[float]) -> tuple[float, ...] | None:
    """Choose the classes' weights in the loss.

    Args:
        data: The training data.
        choice: true for the data folder's own, false for none, one of WEIGHTINGS, or a number per class.

    Raises:
        UserError: There is no such choice, or the numbers are not one per class.
    """
    if choice is False or choice is None:
        return None
    if choice is True:
        return data.weights
    if isinstance(choice, str):
        return class_weights(data.counts, choice)
    if not isinstance(choice, Sequence):
        raise UserError(f"class_weights={choice} is not known; choose true, false, {', '.join(WEIGHTINGS)}, or a list.")
    try:
        weights = tuple(float(weight) for weight in choice)
    except (TypeError, ValueError):
        weights = ()
    if len(weights) != len(data.classes) or not all(0 <= w < math.inf for w in weights) or not max(weights):
        raise UserError(
            f"class_weights={list(choice)} does not fit; expected {len(data.classes)} numbers of 0 and more, for "
            f"{', '.join(data.classes.names)}."
        )
    return weights


def choose_trainer_options(
    accelerator: str, devices: Any, precision: str, strategy: str = "auto", num_nodes: int = 1
) -> dict[str, Any]:
    """Choose what a trainer is told of its devices: those that are there, and the numbers they multiply fastest.

    Args:
        accelerator: As in :data:`src.models.precision.ACCELERATORS`.
        devices: A number, a list of device numbers, or ``auto``.
        precision: ``auto``, or a precision of Lightning's.
        strategy: ``auto``, ``ddp``, or another of Lightning's.
        num_nodes: Machines.

    Raises:
        UserError: There is no such accelerator, or there are not as many devices.
    """
    device = choose_device(accelerator)
    counted = str(devices).isdigit() and int(devices) > 0
    if not (counted or devices == "auto" or (isinstance(devices, list) and devices)):
        raise UserError(f"devices={devices} does not fit; give auto, a number of 1 or more, or a list of numbers.")
    if device.type != "cpu":
        devices = torch.cuda.device_count() if devices == "auto" and device.type == "cuda" else devices
        there = torch.cuda.device_count() if device.type == "cuda" else 1
        numbers = devices if isinstance(devices, list) else range(devices if isinstance(devices, int) else 1)
        if len(numbers) > there or max(numbers, default=0) >= there:
            raise UserError(
                f"devices={devices}, but this machine has {there} usable GPU{'s' * (there != 1)}; expected at most as "
                "many. Use devices=auto for all there are."
            )
    elif devices == "auto":
        devices = 1
    if precision == "auto":
        precision = "bf16-mixed" if prefers_bf16(device) else "32-true"
    # Synchronised batch norm exists on GPUs only.
    alone = {"sync_batchnorm": False} if device.type == "cpu" else {}
    kind = "gpu" if device.type != "cpu" else "cpu"
    chosen = distributed.strategy(strategy, devices, num_nodes)
    return {"accelerator": kind, "devices": devices, "precision": precision, "strategy": chosen, **alone}


def quiet_lightning() -> None:
    """Keep Lightning from telling what our own lines tell better, and all processes but the first from speaking."""
    for name in ("lightning.pytorch", "lightning.fabric", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    # Of 1 × 1 kernels, whose two layouts are the same.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    if not is_first():
        logging.getLogger().setLevel(logging.WARNING)
