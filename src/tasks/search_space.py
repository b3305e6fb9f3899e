"""What a study searches, between Hydra's words for it and Optuna's."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
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
UNSET = "unset"
"""Stands for the value of a key that is not there."""


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
    check_searches(space)
    return space, list(fixed.values())


def check_searches(space: Mapping[str, BaseDistribution]) -> None:
    """Raise UserError where a space is empty."""
    if not space:
        raise UserError(
            "There is nothing to search: every key has one value. Give some as lr=interval(0.001,0.01) or "
            "encoder=resnet18,resnet34, or in hydra.sweeper.params."
        )


def assignments(params: Mapping[str, Any]) -> list[str]:
    """Write a trial's parameters as overrides."""
    return [f"{key}={'null' if value is None else value}" for key, value in params.items()]


def probes(space: Mapping[str, BaseDistribution]) -> Iterator[dict[str, Any]]:
    """Give parameters in which every choice of the space occurs once, to see that all of them compose."""
    values = {
        key: list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low]  # type: ignore[attr-defined]
        for key, d in space.items()
    }
    for i in range(max(map(len, values.values()))):
        yield {key: choices[i % len(choices)] for key, choices in values.items()}


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
    nowhere = (*NO_SAY, *map(_place, space))
    return {key: value for key, value in sorted(_leaves(plain, "")) if not _is_of(key, nowhere)}


def given_in_groups(loader: ConfigLoader, tried: Sequence[tuple[Mapping[str, Any], DictConfig]]) -> dict[str, Any]:
    """Tell what stands below searched groups beside what their choices say: it has a say in every trial's value.

    Args:
        loader: Hydra's.
        tried: Parameters in which every choice of the space occurs, each with the configuration that comes of them.

    Returns:
        By dotted key and as it is written, what the command line, an experiment or the search's own file gives.
    """
    given: dict[str, Any] = {}
    for params, composed in tried:
        choices = {key: value for key, value in params.items() if loader.get_group_options(_group(key))}
        elsewhere = [word for word in composed.hydra.overrides.hydra if word.startswith("hydra.searchpath=")]
        words = [*elsewhere, *assignments(choices)]
        plain = loader.load_configuration(composed.hydra.job.config_name, words, RunMode.RUN)
        nowhere = (*NO_SAY, *map(_place, params.keys() - choices.keys()))
        for place in map(_place, choices):
            before, now = _written_below(plain, place), _written_below(composed, place)
            pairs = {key: (before.get(key, UNSET), now.get(key, UNSET)) for key in before | now}
            given |= {key: new for key, (old, new) in pairs.items() if new != old and not _is_of(key, nowhere)}
    return given


def _written_below(config: DictConfig, place: str) -> dict[str, Any]:
    node = OmegaConf.select(config, place)
    return dict(_leaves(OmegaConf.to_container(node, resolve=False), place)) if OmegaConf.is_dict(node) else {}


def _group(key: str) -> str:
    """Return the group that a key of the space chooses of, if it is one."""
    return key.lstrip("+").split("@")[0]


def _place(key: str) -> str:
    """Return where a key of the space stands in the configuration, or what it chooses."""
    return _group(key).replace("/", ".")


def _is_of(key: str, places: Sequence[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


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
