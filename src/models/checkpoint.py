"""Checkpoints: data that describe themselves. Nothing in one is ever run."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.atomic import whole_file
from src.errors import UserError
from src.models.network import Network, build_network
from src.passwords import hide_passwords
from src.plain_values import plain
from src.scores import Scores
from src.spec import NetworkSpec, git_revision, software_versions

PREFIX = "network."
"""Where a checkpoint's state dict keeps the :class:`Network` (the attribute of the LightningModule)."""
UNFINISHED = ".partial"
"""Suffix of a checkpoint that is being written: never one by which a checkpoint is found."""
_OF_LIGHTNING = "hpc_ckpt_"
"""How checkpoints begin that Lightning has left beside ours at a signal of SLURM's: of any step, and never scored."""
ONNX = ".onnx"
"""Suffix of an exported network."""
LAST = "last.ckpt"
"""Name of a training's last checkpoint."""
SCORED = "{epoch:05d}-val_iou_{val_iou:.4f}"
"""How Lightning names the others, which it keeps by the score itself: ``00026-val_iou_0.7115``."""
_SCORE = re.compile(r"val_iou_(\d+(?:\.\d+)?)")
VAL_MATRIX = "val_matrix"
_WITHOUT_FOLDER = ("src.datamodules.scenes", "src.datamodules.torchgeo")
"""Where data come from that are in no data folder, whatever ``data_dir`` says beside."""
"""Where a checkpoint has the confusion matrix of its validation."""


@dataclass(frozen=True)
class TrainedOn:
    """What a checkpoint says it was trained on, as its training's settings have it.

    Attributes:
        folder: The data folder; None where there is none, or nobody knows.
        refit: Whether the validation chips were trained on too.
        scenes: The images that windows were drawn from without chips (``datamodule=scenes``).
        class_map: What merged their labels' classes; None for nothing.
    """

    folder: Path | None = None
    refit: bool = False
    scenes: tuple[str, ...] = ()
    class_map: Any = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TrainedOn:
        """Read it from a composed configuration, which anybody may have written."""
        given = config.get("datamodule")
        data: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        if not str(data.get("_target_", "")).startswith(_WITHOUT_FOLDER):
            folder = data.get("data_dir", config.get("data_dir"))
            if isinstance(folder, str):
                return cls(Path(folder), config.get("refit") is True)
        images = data.get("image")
        listed = images if isinstance(images, list | tuple) else [images] * isinstance(images, str)
        return cls(scenes=tuple(map(str, listed)), class_map=data.get("class_map"))


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself, beside its weights. Anybody may have made it.

    Attributes:
        spec: Its network.
        config: The composed configuration of its training; empty where it has none, as an exported network.
        versions: Of the software that trained it; likewise.
    """

    spec: NetworkSpec
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained_on(self) -> TrainedOn:
        """What it was trained on."""
        return TrainedOn.of(self.config)


def hyper_parameters(spec: NetworkSpec, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint says of itself: spec, composed config without passwords, versions, git revision."""
    return {
        "spec": plain(spec.to_dict()),
        "config": hide_passwords(plain(config)),
        "versions": software_versions(),
        "revision": git_revision(),
    }


def find_checkpoint(path: str | Path) -> Path:
    """Return a checkpoint's path, given that path or a run's folder.

    In a folder (or its direct subfolders) it is the checkpoint with the highest validation IoU, of equal ones the
    earliest, as train.py says; where no name has one it is ``last.ckpt``, or the only checkpoint there.

    Raises:
        UserError: There is no such file or folder, or no checkpoint in the folder.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(
            f"There is no checkpoint {path}; give the path of a .ckpt that train.py wrote, or of the folder of its run."
        )
    found = next((files for depth in ("*.ckpt", "*/*.ckpt") if (files := _checkpoints(path, depth))), [])
    scored = {file: float(match[1]) for file in found if (match := _SCORE.search(file.name))}
    if scored:
        best = [file for file, score in scored.items() if score == max(scored.values())]
        return best[0] if len(best) == 1 else max(best, key=_score)
    last = [file for file in found if file.name == LAST] or found
    if len(last) != 1:
        what = "no checkpoint" if not found else f"{len(found)} checkpoints without a val_iou in their names"
        raise UserError(f"{path} holds {what}; expected the folder of a run of train.py. Give the path of a .ckpt.")
    return last[0]


def _checkpoints(folder: Path, pattern: str) -> list[Path]:
    return sorted(file for file in folder.glob(pattern) if not file.name.startswith(_OF_LIGHTNING))


def _score(file: Path) -> float:
    """Return the validation IoU that a checkpoint was kept by, which its name has rounded; -1 if it does not say."""
    with suppress(UserError):
        if (scores := validation_scores(read_checkpoint(file, weights=False))) is not None:
            return float(np.float32(scores.mean_iou))  # in which Lightning compares
    return -1.0


def validation_scores(content: Mapping[str, Any]) -> Scores | None:
    """Return the scores of a checkpoint's validation, None where its content has none."""
    try:
        matrix = np.array(content[VAL_MATRIX], np.int64)
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    return Scores(matrix) if matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] else None


def read_checkpoint(path: str | Path, *, weights: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running anything that stands in it.

    Args:
        path: A checkpoint or the folder of a run; see :func:`find_checkpoint`.
        weights: Whether the tensors' numbers are wanted; else they stay on the disk, where the file's kind allows it.

    Raises:
        UserError: There is no such file; it is no checkpoint; it holds more than plain data.
    """
    path = find_checkpoint(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks about a foreign pickle; our error says what counts
            content = _load(path, weights=weights)
    except Exception as error:  # torch.load raises whatever the bytes provoke
        raise UserError(
            f"{path} cannot be read as a checkpoint of plain data; expected a .ckpt that train.py wrote. One from "
            "SpecDeepMap itself is converted by scripts/import_specdeepmap.py."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path} holds no state_dict; expected a .ckpt that train.py wrote.")
    odd = [k for k, v in content["state_dict"].items() if not (isinstance(k, str) and isinstance(v, torch.Tensor))]
    if odd:
        raise UserError(
            f"{path} has no tensor under {odd[0]!r} of its state_dict; expected a .ckpt that train.py wrote."
        )
    return content


def _load(path: Path, *, weights: bool) -> Any:
    if not weights:
        with suppress(RuntimeError):  # the file is of PyTorch's old kind, or its disk takes no mapping
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(path, map_location="cpu", weights_only=True)


def part_of(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what a checkpoint's content says of itself under a name (``spec``, ``config``, ``versions``), or nothing.

    Anybody may have made it: what is no mapping is nothing.
    """
    parameters = content.get("hyper_parameters")
    part = parameters.get(name) if isinstance(parameters, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def read_spec(content: Mapping[str, Any], origin: str | Path) -> NetworkSpec:
    """Return the spec of a checkpoint's content; raises UserError if there is none that this version reads."""
    if not (row := part_of(content, "spec")):
        raise UserError(f"{origin} does not describe its network; expected a .ckpt that train.py wrote.")
    return NetworkSpec.from_dict(row, str(origin))


def load_network(path: str | Path) -> tuple[Network, NetworkSpec]:
    """Rebuild a trained network like :func:`load_described`, and return what it is."""
    network, said = load_described(path)
    return network, said.spec


def load_described(path: str | Path) -> tuple[Network, Description]:
    """Rebuild a trained network on the CPU in eval mode, in one reading of its file; downloads nothing.

    Args:
        path: A checkpoint, the folder of a run (see :func:`find_checkpoint`), or a file that export.py wrote.

    Raises:
        UserError: The checkpoint cannot be read, its weights do not fit the network that it describes, or are no
            numbers.
    """
    path = find_checkpoint(path)
    if path.suffix.lower() == ONNX:
        # Here, so that only who has such a file waits for its libraries.
        from src.models.onnx_file import load_onnx  # noqa: PLC0415

        network, spec = load_onnx(path)
        return network, Description(spec)
    content = read_checkpoint(path)
    spec = read_spec(content, path)
    network = build_network(spec)
    state = {k.removeprefix(PREFIX): v for k, v in content["state_dict"].items() if k.startswith(PREFIX)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path} describes {spec.title}, but its weights are of another network; "
            "give a checkpoint as train.py wrote it."
        ) from error
    if not all(value.isfinite().all() for value in network.state_dict().values()):
        raise UserError(
            f"{path} has weights that are no numbers (NaN or infinite), so every answer would be wrong; expected those "
            "of a training that went well. Take another checkpoint, or train with a lower lr."
        )
    return network.eval(), Description(spec, part_of(content, "config"), part_of(content, "versions"))


def save_network(path: str | Path, network: Network, spec: NetworkSpec, config: Mapping[str, Any]) -> None:
    """Write a network as a checkpoint that eval, predict and ``init_from`` take (no optimiser to resume)."""
    content = {
        "state_dict": {PREFIX + key: value for key, value in network.state_dict().items()},
        "hyper_parameters": hyper_parameters(spec, config),
    }
    write_checkpoint(path, content)


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all, also if the process is killed or the power fails meanwhile.

    Raises:
        UserError: There is no room for it, the folder cannot be written to, or it holds what :func:`read_checkpoint`
            refuses.
    """
    try:
        with whole_file(path, UNFINISHED) as partial:
            with partial.open("wb") as file:
                torch.save(dict(content), file)
                file.flush()
                os.fsync(file.fileno())
            if odd := torch.serialization.get_unsafe_globals_in_checkpoint(partial):
                raise UserError(
                    f"{path} would hold {', '.join(sorted(odd))}, and nothing could read it; expected plain numbers, "
                    "texts, lists, dicts and tensors. Give the training such values, and callbacks with such a state."
                )
    except (OSError, RuntimeError) as error:  # PyTorch's writer may hide what the system has said
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no more could be written"
        raise UserError(
            f"{path} cannot be written ({reason}); expected room for a checkpoint. What stood there before is kept: "
            "free some space, and go on with resume=last."
        ) from error
