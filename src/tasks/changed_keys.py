"""What a resumed run is given otherwise than the run that wrote its checkpoint: refused, kept, or announced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.models.checkpoint import part_of, read_checkpoint

KEPT = ("lr", "weight_decay", "encoder_lr", "options")
"""Keys of the optimiser that come out of the checkpoint, with its state."""
COUNTED = {
    "batch_size": "batch_size",
    "trainer.accumulate_grad_batches": "trainer.accumulate_grad_batches",
    "datamodule.min_steps": "datamodule.min_steps",
    "trainer.devices": "devices",
    "trainer.num_nodes": "num_nodes",
    "trainer.limit_train_batches": "trainer.limit_train_batches",
    "datamodule.windows": "datamodule.windows",
}
"""Keys that an epoch's number of steps follows from, by their place in the configuration."""
ALL = {"trainer.limit_train_batches": 1.0, "datamodule.windows": None}
"""Those of them that may be null, which is as many as there are, and what else says so."""


def started_with(checkpoint: Path) -> dict[str, Any]:
    """Return what a run began with, by keys of the configuration: ``init_from`` and ``freeze_encoder``.

    Args:
        checkpoint: Of that run.

    Returns:
        Whether its encoder was frozen is true or false; None where the checkpoint does not say.
    """
    return _start(part_of(read_checkpoint(checkpoint, weights=False), "config"))


def _start(config: Any) -> dict[str, Any]:
    config = _at(config, "network") or config  # a notebook's run has them there
    frozen, kind = _at(config, "freeze_encoder"), _at(config, "weights.kind")
    if frozen is None and kind is not None:
        frozen = kind != "none"
    return {"init_from": _at(config, "init_from"), "freeze_encoder": frozen}


def changed_keys(checkpoint: Path, config: Mapping[str, Any]) -> list[str]:
    """Compare a configuration with that of the run that is to be resumed.

    Args:
        checkpoint: Of that run, with its state.
        config: Of this one, as plain values.

    Returns:
        What becomes of keys that were changed, in lines.

    Raises:
        UserError: The optimiser is another one, which the checkpoint's state is not of; or one of the two trains on
            its validation chips, so that scores of one folder would not compare.
    """
    content = read_checkpoint(checkpoint, weights=False)
    before = part_of(content, "config")
    then, now = before.get("optimizer") or {}, config["optimizer"]
    if (name := then.get("name", now["name"])) != now["name"]:
        raise UserError(
            f"resume={checkpoint} was trained with optimizer={name}, this run has {now['name']}; expected the same. "
            f"Give optimizer={name} again, or start anew from its weights with init_from=…."
        )
    refit = before.get("refit"), config.get("refit")
    if None not in refit and refit[0] != refit[1]:
        was, is_now = (str(each).lower() for each in refit)
        raise UserError(
            f"resume={checkpoint} was trained with refit={was}, this run has refit={is_now}; expected the same, since "
            f"one of them learns from the chips that score the other. Give refit={was} again, or start anew from its "
            "weights with init_from=…."
        )
    kept = {key: then[key] for key in KEPT if key in then and key in now and then[key] != now[key]}
    if "lr" in kept:  # which a range test may have found
        kept["lr"] = content["optimizer_states"][0]["param_groups"][-1].get("initial_lr", kept["lr"])
    lines = []
    if kept:
        given = ", ".join(f"{_named(key)}={now[key]}" for key in kept)
        lines.append(
            f"CAUTION: {given}: without effect in a resumed run, which keeps its checkpoint's "
            f"{', '.join(f'{_named(key)}={value}' for key, value in kept.items())}; init_from=… takes others"
        )
    frozen = [_start(each)["freeze_encoder"] for each in (before, config)]
    if None not in frozen and frozen[0] != frozen[1]:
        lines.append(
            f"CAUTION: freeze_encoder={str(frozen[1]).lower()} (before: {str(frozen[0]).lower()}): the encoder "
            f"{'stays as it is' if frozen[1] else 'learns'} from here on"
        )
    if counted := list(_counted(before, config)):
        lines.append(
            f"CAUTION: {', '.join(counted)}: an epoch has another number of steps now; the learning rate goes on from "
            "the step that the checkpoint has reached, of as many as there are now"
        )
    return lines


def _named(key: str) -> str:
    return key if key == "lr" else f"optimizer.{key}"


def _counted(before: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    for place, name in COUNTED.items():
        then, now = _at(before, place), _at(config, place)
        known = None not in (then, now) or (place in ALL and _at(before, place.partition(".")[0]) is not None)
        counts = {_number(ALL.get(place) if value is None else value) for value in (then, now)}
        if known and "auto" not in (then, now) and len(counts) > 1:
            yield f"{name}={_shown(now)} (before: {_shown(then)})"


def _at(config: Any, place: str) -> Any:
    for key in place.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _number(value: Any) -> str:
    """Return how many there are where they are listed: devices=[1] and devices=1 take as many steps.

    As text, since a limit of 1 is one batch, of 1.0 all of them.
    """
    return str(len(value) if isinstance(value, list) else value)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
