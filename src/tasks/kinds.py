"""Do the values of a group's keys have the types that its class takes? Hydra knows only those of the common keys."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

from src.errors import UserError

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "null"}


def check_kinds(target: Callable[..., Any], values: Mapping[str, Any], name: str) -> None:
    """Compare values with the annotations of a class; what is not a plain type is left to the class itself.

    Args:
        target: Class or function that takes the values.
        values: By parameter.
        name: What to call them in an error: ``trainer``.

    Raises:
        UserError: A value has another type than its parameter takes.
    """
    function: Any = vars(target).get("__init__", target) if isinstance(target, type) else target
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # annotations that exist for type checkers only
        hints = {}
    for key, value in values.items():
        hint = hints.get(key, Any)
        if not _takes(hint, value):
            # Sorted: Python keeps one of Union[int, float] and Union[float, int], whichever it has met first.
            names = sorted({_name(kind) for kind in _kinds(hint)}, key=lambda name: (name == "null", name))
            expected = " or ".join(names)
            shown = str(value).lower() if isinstance(value, bool) else value
            raise UserError(f"{name}.{key}={shown} does not fit; expected {expected}. Give {name}.{key} such a value.")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _takes(hint: Any, value: Any) -> bool:
    return any(_takes_kind(kind, value) for kind in _kinds(hint))


def _takes_kind(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if kind not in _NAMES:
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _name(kind: Any) -> str:
    return _NAMES.get(kind) or " or ".join(str(choice) for choice in typing.get_args(kind))
