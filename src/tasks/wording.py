"""What Hydra's and OmegaConf's errors say, in our words: what was given, what was expected, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable

Match = re.Match[str]

_KINDS = {
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
    "valid bool": "true or false",
    "not Optional": "a value",
}
"""OmegaConf's words for types, and ours."""


def reworded(task: str, text: str) -> str:
    """Return an error of Hydra's or OmegaConf's in our words; the text itself where we have none.

    Args:
        task: ``prepare``, ``train``, ``eval`` or ``predict``.
        text: The error's message with that of its cause.
    """
    for pattern, words in _WORDINGS:
        if found := re.search(pattern, text, re.DOTALL):
            return words(task, found)
    return text


def _no_key(task: str, found: Match) -> str:
    near = re.search(r"Did you mean: (.*?)\?", found.string)
    hint = f"did you mean {near[1]}?" if near else f"python {task}.py --help lists the keys."
    return f"{found[1]} is not a key of {task}.py, nor of the choices made; {hint}"


def _wrong_kind(_: str, found: Match) -> str:
    kind = _KINDS.get(found[3], found[3])
    return f"{found[1]}={found[2]} does not fit; expected {kind}. Give {found[1]} such a value."


def _no_choice(_: str, found: Match) -> str:
    return f"{found[1]}={found[2]} does not exist; choose one of: {found[3]}."


def _no_config(_: str, found: Match) -> str:
    names = ", ".join(found[3].split("Config search path")[0].split())
    return f"{found[1]}={found[2]} does not exist; choose one of: {names}."


def _unclear(_: str, found: Match) -> str:
    key, _, value = found[1].partition("=")
    return f"{found[1]} cannot be understood; expected key=value. Put the value in quotes: \"{key}='{value}'\"."


_WORDINGS: tuple[tuple[str, Callable[[str, Match], str]], ...] = (
    (r"Could not override '([^']+)'", _no_key),
    (r"Error merging override (\S+?)=(\S*).*?(?:converted to|Expected) (\w+)", _wrong_kind),
    (r"Error merging override (\S+?)=(\S*).*?expected one of \[(.*?)\]", _no_choice),
    (r"Error merging override (\S+?)=(\S*).*?(valid bool|not Optional)", _wrong_kind),
    (r"Error when parsing index: \d+, string: (.*?) out of \[", _unclear),
    (r"Could not find '([^']+)/([^'/]+)'.*?Available options in '[^']+':(.*)", _no_config),
)
