"""Going on from a checkpoint: the same run (resume) or another one that starts from its weights (init_from)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from src.errors import UserError
from src.models.checkpoint import LAST, PREFIX, find_checkpoint, read_checkpoint, read_spec
from src.models.correspondence import in_our_order, other_blocks
from src.models.network import Network
from src.models.pretrained import check_numbers
from src.models.whitening import ATTRIBUTE
from src.run_folder import is_set_aside
from src.spec import NetworkSpec

_DESCRIBES = {
    "architecture": "model",
    "encoder": "encoder",
    "options": "the model's keys",
    "bands": "bands",
    "classes": "classes",
    "chip_size": "chip size",
    "normalization": "normalisation",
    "nodata": "nodata value",
}
"""Keys of a spec that have to be the same in a resumed run, and what to call them."""


@dataclass(frozen=True)
class Start:
    """What a network has started from.

    Attributes:
        lines: What was taken and what was not, in words.
        left: Names of the architecture's tensors that were not taken, and why.
    """

    lines: tuple[str, ...]
    left: Mapping[str, str] = field(default_factory=dict)


def find_resumable(resume: str, runs: Path, own: Path, *, named: bool = False) -> Path | None:
    """Find the checkpoint that ``resume=`` means.

    Args:
        resume: A checkpoint, a run's folder, or ``last`` for the run that was trained last.
        runs: Folder of all training runs, for ``last``.
        own: The run's own folder; ``last`` looks there first.
        named: Whether the user has chosen that folder. Then ``last`` means this run and no other, and one that has no
            checkpoint yet has to begin: the same command starts a run and, after a break, goes on with it.

    Returns:
        The checkpoint; None for a run that has to begin.

    Raises:
        UserError: There is none.
    """
    if resume != "last":
        path = Path(resume)
        found = [path / LAST, path / "checkpoints" / LAST] if path.is_dir() else []
        return next((file for file in found if file.is_file()), None) or find_checkpoint(path)
    if (own / "checkpoints" / LAST).is_file():
        return own / "checkpoints" / LAST
    if named:
        return None
    those = (file for file in runs.glob(f"**/checkpoints/{LAST}") if not is_set_aside(file.parent.parent))
    candidates = sorted(those, key=lambda file: file.stat().st_mtime)
    if not candidates:
        raise UserError(
            f"resume=last finds no {LAST} under {runs}; give the path of a checkpoint, or leave resume out."
        )
    return candidates[-1]


def run_folder(checkpoint: Path) -> Path:
    """Return the folder of the run that wrote a checkpoint."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def check_resumable(path: Path, spec: NetworkSpec, epochs: int, *, finished: bool = False) -> int:
    """See that a checkpoint belongs to the run that is to be resumed.

    Args:
        path: The checkpoint.
        spec: The network that was just configured.
        epochs: ``trainer.max_epochs``.
        finished: Whether the run may have trained all its epochs already.

    Returns:
        The number of the first epoch that is not finished; ``epochs`` and more where nothing is left to train.

    Raises:
        UserError: It is of another network or other data, has nothing to resume, or has finished.
    """
    content = read_checkpoint(path, weights=False)
    then, now = read_spec(content, path).to_dict(), spec.to_dict()
    for key, name in _DESCRIBES.items():
        if then[key] != now[key]:
            raise UserError(
                f"resume={path} was trained with {name} {_short(then[key])}, this run has {_short(now[key])}; expected "
                "the same. Give the run's own choices again, or start anew from its weights with init_from=…."
            )
    if "optimizer_states" not in content:
        raise UserError(f"resume={path} holds weights only, nothing to resume; start from them with init_from={path}.")
    trained = content.get("epoch")
    if not isinstance(trained, int):
        raise UserError(f"resume={path} does not say which epoch it is of; expected a .ckpt that train.py wrote.")
    epoch = trained + ("train_counts" not in content)  # they are of an epoch that is not finished
    if epoch >= epochs and not finished:
        raise UserError(f"resume={path} has trained all its {epoch} epochs; raise trainer.max_epochs={epochs}.")
    return epoch


def start_from(network: Network, spec: NetworkSpec, path: str | Path) -> Start:
    """Take over a checkpoint's weights as far as they fit; bands, classes and normalisation stay the new network's.

    Blocks that would look another distance than they have learnt to are not taken.

    Args:
        network: The network to fill.
        spec: What it is.
        path: Checkpoint or run folder.

    Raises:
        UserError: It is a checkpoint of another architecture or encoder, or its weights are no numbers.
    """
    file = find_checkpoint(path)
    content = read_checkpoint(file)
    before = read_spec(content, file)
    if (before.architecture, before.encoder) != (spec.architecture, spec.encoder):
        raise UserError(
            f"init_from={file} is {before.title}, this network is {spec.title}; "
            f"add model={before.architecture} encoder={before.encoder}."
        )
    prefix = f"{PREFIX}architecture."
    given = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    own = network.architecture.state_dict()
    others = other_blocks(before, spec, network.architecture)
    left = {name: reason for name in own if (reason := _misfit(name, given.get(name), own[name], others))}
    fitting = {k: v for k, v in given.items() if k in own and k not in left}
    check_numbers(fitting, f"init_from={file}")
    ours, moved, odd = in_our_order(fitting, before, spec)
    network.architecture.load_state_dict(own | ours)
    kept = "normalisation by this data" if spec.normalization == spec.statistics else "normalisation as configured"
    lines = ["; ".join([f"weights: {len(fitting)} of {len(own)} tensors from {file}", *moved, kept])]
    if odd:
        lines.append(f"CAUTION: init_from={file} is of something else: {'; '.join(odd)}.")
    unlike = {next((block for block in others if name.startswith(block)), name): why for name, why in left.items()}
    lines += [f"  not taken: {name.removesuffix('.')} ({why})" for name, why in unlike.items()]
    return Start(tuple(lines), left)


def components_of(path: str | Path) -> int:
    """Return how many whitened components a checkpoint's network takes, 0 if it takes bands.

    Args:
        path: Checkpoint or run folder.

    Raises:
        UserError: It cannot be read.
    """
    file = find_checkpoint(path)
    return int(read_spec(read_checkpoint(file, weights=False), file).options.get(ATTRIBUTE, 0))


def _misfit(name: str, given: torch.Tensor | None, own: torch.Tensor, others: Mapping[str, str]) -> str | None:
    if given is None:
        return "not in the checkpoint"
    if given.shape != own.shape:
        return f"{_shape(given)} there, {_shape(own)} here"
    return next((reason for block, reason in others.items() if name.startswith(block)), None)


def _shape(tensor: torch.Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "scalar"


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        told = ("value", "name", "color") if "value" in value[0] else ("name",)
        return "[" + ", ".join(" ".join(str(row.get(key)) for key in told) for row in value) + "]"
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
