"""What a study searches, between Hydra's words for it and Optuna's."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl, create_optuna_distribution_from_override
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution

from src.errors import UserError
from src.tasks.command_line import quoted

NO_SAY = (
    *("hydra", "paths", "output_dir", "logger", "accelerator", "devices", "num_nodes", "compile", "threads"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.log_every_n_steps"),
    *("datamodule.workers", "datamodule.cache", "callbacks.study", "callbacks.progress", "callbacks.pictures"),
)
"""Keys without a say in a trial's value: a study goes on elsewhere, and with other devices."""


def read_space(arguments: Sequence[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """Part overrides into what is searched and what is fixed; the last word on a key counts.

    Raises:
        UserError: Nothing is searched, or the values of a key cannot be.
    """
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = str(override.input_line)
            continue
        try:
            space[key] = create_optuna_distribution_from_override(override)
        except (ValueError, NotImplementedError, AssertionError) as error:
            raise UserError(
                f"{override.input_line} cannot be searched ({error}); expected a,b or choice(a,b), "
                "range(1,9) or interval(0.001,0.01), the lower number first."
            ) from error
    if not space:
        raise UserError(
            "There is nothing to search: every key has one value. Give some as lr=interval(0.001,0.01) or "
            "encoder=resnet18,resnet34, or in hydra.sweeper.params."
        )
    return space, list(fixed.values())


def assignments(params: Mapping[str, Any]) -> list[str]:
    """Write a trial's parameters as overrides."""
    return [f"{key}={'null' if value is None else value}" for key, value in params.items()]


def probes(space: Mapping[str, BaseDistribution]) -> Iterator[list[str]]:
    """Give overrides in which every choice of the space occurs once, to see that all of them compose."""
    values = {
        key: list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low]  # type: ignore[attr-defined]
        for key, d in space.items()
    }
    for i in range(max(map(len, values.values()))):
        yield assignments({key: choices[i % len(choices)] for key, choices in values.items()})


def grid(space: Mapping[str, BaseDistribution]) -> dict[str, list[Any]]:
    """List the values of each key for a grid; raises UserError where there is no end of them."""
    try:
        return {key: list(OptunaSweeperImpl._to_grid_sampler_choices(d)) for key, d in space.items()}
    except ValueError as error:
        endless = [key for key, d in space.items() if getattr(d, "step", 1) is None]
        raise UserError(f"{', '.join(endless)} has no end of values; a grid needs choice(…) or range(…).") from error


def settings(config: DictConfig, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Flatten the composed config to what else decides on a trial's value, as plain JSON by dotted key."""
    with_hydra = OmegaConf.to_container(config, resolve=False)
    assert isinstance(with_hydra, dict)
    task = OmegaConf.create({key: value for key, value in with_hydra.items() if key not in ("hydra", "logger")})
    plain = OmegaConf.to_container(task, resolve=True)
    searched = {key.lstrip("+").split("@")[0].replace("/", ".") for key in space}
    return {
        key: value
        for key, value in sorted(_leaves(plain, ""))
        if not any(key == name or key.startswith(f"{name}.") for name in (*NO_SAY, *searched))
    }


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, json.loads(json.dumps(node))


def command(params: Mapping[str, Any], fixed: Sequence[str], folder: Path) -> str:
    """Write the command that trains once more with a trial's parameters, into a folder of its own."""
    kept = [word for word in fixed if not word.lstrip("+~").startswith("hydra")]
    words = [*kept, *assignments(params), f"hydra.run.dir={quoted(str(folder))}"]
    return "python train.py " + " ".join(shlex.quote(word) for word in words)
