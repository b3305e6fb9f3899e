"""Which process of a training speaks and writes; told by the environment, so before there is a training."""

from __future__ import annotations

import os
from collections.abc import Mapping

from src.errors import UserError

ALONE = "RANK"
"""The process's number among all of a training, where torchrun has started it; then nothing else counts."""
TOGETHER = ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Numbers of which one is above 0 in all processes but the first: by hand or by Lightning, SLURM, LSF."""


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell the first process of a training, or the only one, from the others.

    Args:
        environment: Variables by which whoever starts processes tells them their numbers.

    Raises:
        UserError: One of them is no number, which Lightning does not take either.
    """
    numbers = _numbers(environment)
    return numbers.get(ALONE, max(numbers.values(), default=0)) == 0


def numbered(environment: Mapping[str, str] = os.environ) -> str:
    """Name the variables by which a process is not the first, as ``NODE_RANK=1``."""
    return ", ".join(f"{name}={number}" for name, number in _numbers(environment).items() if number)


def _numbers(environment: Mapping[str, str]) -> dict[str, int]:
    return {name: _number(name, environment[name]) for name in (ALONE, *TOGETHER) if name in environment}


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise UserError(
            f"The environment has {name}={value!r}, which is no process's number; expected 0, 1, 2 and on. Unset it: "
            f"unset {name}."
        )
    return int(value)
