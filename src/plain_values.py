"""Plain values: what a checkpoint may hold, so that reading one runs nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return a value without NumPy's numbers and arrays and without path objects, at any depth.

    They stand for plain numbers, lists and texts, and notebooks are full of them; but in a checkpoint they are code to
    be run. Anything else is returned as it is.
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        inner = map(plain, value)
        return list(inner) if isinstance(value, list) else tuple(inner)
    return value


def make_plain(settings: Any, *names: str) -> None:
    """Make the named fields of a frozen dataclass plain, in its ``__post_init__``."""
    for name in names:
        object.__setattr__(settings, name, plain(getattr(settings, name)))
