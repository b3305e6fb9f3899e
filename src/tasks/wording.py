"""What errors say, in our words and in one line: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import TypeGuard

from hydra.errors import HydraException

from src.errors import UserError
from src.foreign_text import shown
from src.tasks import schema
from src.tasks.schema import SCHEMAS

Match = re.Match[str]

_DISK = {
    errno.ENOSPC: "the disk is full; free some space or write elsewhere",
    errno.EDQUOT: "your quota is used up; free some space or write elsewhere",
    errno.EROFS: "the folder is read-only; write elsewhere",
    errno.EEXIST: "there is a file of that name; write elsewhere",
    errno.ENOTDIR: "a part of the path is a file, not a folder; write elsewhere",
    errno.EISDIR: "it is a folder, not a file; give a file",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.EPERM: "not permitted; write elsewhere or have the permission changed",
    errno.EACCES: "permission denied; write elsewhere or have the permission changed",
}

_SMALLER = {
    "prepare": "Give a smaller chip.size.",
    "train": "Give a smaller batch_size, or chips of a smaller size.",
    "eval": "Give a smaller batch_size.",
    "predict": "Give a smaller window or batch_size.",
}
"""What each command needs less memory with."""

GO_ON = {
    "prepare": "Nothing was changed; the same command starts anew.",
    "train": "What the last checkpoint has is kept; add resume=last to go on from there.",
    "eval": "Nothing was changed; the same command starts anew.",
    "predict": "The strips that are finished are kept; the same command goes on from there.",
    "export": "Nothing was changed; the same command starts anew.",
}
"""What to do after Ctrl-C."""

_KINDS = {
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
    "valid bool": "true or false",
    "not Optional": "a value",
    "ListConfig": "a list",
}
"""OmegaConf's words for types, and ours."""

ELSEWHERE = {
    "architecture": "model",
    "chip_size": "chip.size",
    "ckpt": "checkpoint",
    "encoder_name": "encoder",
    "encoder_weights": "weights",
    "epochs": "trainer.max_epochs",
    "gpus": "devices",
    "learning_rate": "lr",
    "max_epochs": "trainer.max_epochs",
    "model.encoder": "encoder",
    "model.encoder_name": "encoder",
    "model.encoder_weights": "weights",
    "num_workers": "datamodule.workers",
    "patch_size": "chip.size",
    "patience": "callbacks.early_stopping.patience",
    "stride": "chip.step",
    "tile_size": "chip.size",
    "trainer.gpus": "devices",
    "workers": "datamodule.workers",
}
"""What keys are called in other programs, or where they lie there, and their names here."""


def explain(task: str, error: Exception) -> str:
    """Put an error into one line: what was given, what was expected, what to do."""
    return shown(re.sub(r"\s+", " ", _explanation(task, error)).strip())


def _explanation(task: str, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        said = (str(error) or "no more to be had").split(". ")[0].strip()
        return f"The memory is not enough ({said}). {_SMALLER.get(task, '')}"
    if _is_system_error(error):
        return f"{error.filename or 'A file'} cannot be read or written: {_DISK.get(error.errno or 0, error.strerror)}."
    text = " ".join(str(part) for part in (error, error.__cause__) if part)
    return reworded(task, text)


def is_out_of_memory(error: Exception) -> bool:
    """Tell PyTorch's two ways to say that there is no more memory, on a GPU and on the CPU, from its other errors."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate memory" in str(error)


def is_hydras(error: ValueError) -> bool:
    """Tell the mistakes on a command line that Hydra raises as ValueErrors from all others."""
    return str(error).startswith(("Config group override must be", "Only one of --run,", "The --resolve flag"))


def is_unknown(error: Exception) -> bool:
    """Tell whether an error of the operating system is none that a user can do something about."""
    return _is_system_error(error) and error.errno not in _DISK and not isinstance(error, FileNotFoundError)


def _is_system_error(error: Exception) -> TypeGuard[OSError]:
    """Tell an error of the operating system from Hydra's missing configs, which are OSErrors too."""
    return isinstance(error, OSError) and not isinstance(error, HydraException)


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
    inner = re.search(r"Key '([^']+)' not in", found.string)
    whole = re.search(r"full_key: (\S+)", found.string)
    if inner and whole and not whole[1].startswith(found[1].partition(".")[0]):  # in a list or a mapping
        near = re.search(r"Did you mean: '(.*?)'\?", found.string)
        hint = f"did you mean {near[1]}?" if near else f"python {task}.py --help lists the keys."
        return f"{found[1]} has an entry with the key {inner[1]}, which there is not; {hint}"
    keys = [entry.name for entry in fields(SCHEMAS[task])]
    known = ELSEWHERE.get(found[1], "")
    near = re.search(r"Did you mean: (.*?)\?", found.string)
    guess = known if known.partition(".")[0] in keys else near[1] if near else _nearest(found[1], keys)
    hint = f"did you mean {guess}?" if guess else f"python {task}.py --help lists the keys."
    return f"{found[1]} is not a key of {task}.py, nor of the choices made; {hint}"


def _nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that was probably meant, if any comes near."""
    return next(iter(difflib.get_close_matches(name, list(names), 1, 0.7)), None)


def _wrong_kind(_: str, found: Match) -> str:
    kind = _KINDS.get(found[3], found[3])
    return f"{found[1]}={found[2]} does not fit; expected {kind}. Give {found[1]} such a value."


def _no_text(task: str, found: Match) -> str:
    key = found[3]
    if key != found[1]:  # OmegaConf looks for a key below one that holds a text
        return f"{found[1]} is not a key of {task}.py: {key} is one, and takes a text. Give {key}=…"
    return f"{key}={found[2]} does not fit; expected a text. Give {key} such a value."


def _keys_of_its_own(_: str, found: Match) -> str:
    kind = getattr(schema, found[3], None)
    names = [f"{found[1]}.{entry.name}" for entry in fields(kind)] if is_dataclass(kind) else []
    has = f" ({', '.join(names)})" if names else ""
    return f"{found[1]}={found[2]} does not fit; {found[1]} has keys of its own{has}. Give the one that is meant."


def _no_choice(_: str, found: Match) -> str:
    return f"{found[1]}={found[2]} does not exist; choose one of: {found[3]}."


def _no_config(_: str, found: Match) -> str:
    names = found[3].split("Config search path")[0].split()
    guess = _nearest(found[2], names)
    hint = f"did you mean {guess}? There are: " if guess else "choose one of: "
    return f"{found[1]}={found[2]} does not exist; {hint}{', '.join(names)}."


def _unclear(_: str, found: Match) -> str:
    key, _, value = found[1].partition("=")
    return f"{found[1]} cannot be understood; expected key=value. Put the value in quotes: \"{key}='{value}'\"."


def _null_choice(task: str, found: Match) -> str:
    given = {"NoneType": "null", "bool": "true or false"}.get(found[1], "a number")
    return (
        f"A group is given as {given}; expected the name of one of its choices, which python {task}.py --help lists "
        "(null may be a key of a group, as in logger.tensorboard=null). Choose one, or leave the group out."
    )


def _one_question(_: str, __: Match) -> str:
    return (
        "More than one of -m, --cfg, --info and --shell-completion is given; expected one: --cfg and --info show a "
        "single run. Leave -m out, and give each key one value."
    )


def _nothing_to_resolve(task: str, _: Match) -> str:
    return f"--resolve is given alone; expected --cfg with it. Give both: python {task}.py --cfg job --resolve."


def _no_listed_config(_: str, found: Match) -> str:
    return f"{found[1]} has no choice {found[2]}; expected one of the files in configs/{found[1]}. Give {found[1]}=…"


def _no_option(task: str, found: Match) -> str:
    return f"{found[1]} is no option; expected key=value, or an option that python {task}.py --hydra-help lists."


def _no_choice_of_option(_: str, found: Match) -> str:
    return f"{found[1]} {found[2]} does not exist; choose one of: {found[3].replace(chr(39), '')}."


def _option_alone(task: str, found: Match) -> str:
    return f"{found[1]} is given without its value; expected one. python {task}.py --hydra-help says what it takes."


_WORDINGS: tuple[tuple[str, Callable[[str, Match], str]], ...] = (
    (r"Could not override '([^']+)'", _no_key),
    (r"Error merging override (\S+?)=(\S*).*?(?:converted to|Expected) (\w+)", _wrong_kind),
    (r"Error merging override (\S+?)=(\S*).*?expected one of \[(.*?)\]", _no_choice),
    (r"Error merging override (\S+?)=(\S*).*?(valid bool|not Optional)", _wrong_kind),
    (r"Error when parsing index: \d+, string: (.*?) out of \[", _unclear),
    (r"Error merging override (\S+?)=(\S*).*?is not a (ListConfig)", _wrong_kind),
    (r"Error merging override (\S+?)=(\S*).*?is not a subclass of (\w+)", _keys_of_its_own),
    (r"Error merging override (\S+?)=(\S*).*?incompatible container types.*?object_type=(\w+)", _keys_of_its_own),
    (r"Error merging override (\S+?)=(\S*).*?Cannot convert '\w+' to string.*?full_key: (\S+)", _no_text),
    (r"^(?:unrecognized arguments: |ambiguous option: )(\S+)", _no_option),
    (r"^argument ([\w-]+)\S*: invalid choice: '?(.*?)'? \(choose from (.*)\)", _no_choice_of_option),
    (r"^argument ([\w-]+)\S*: expected one argument", _option_alone),
    (r"^Config group override must be a string.*?Got (\w+)", _null_choice),
    (r"^Only one of --run, --multirun", _one_question),
    (r"^The --resolve flag", _nothing_to_resolve),
    (r"Could not find '([^']+)/([^'/]+)'.*?Available options in '[^']+':(.*)", _no_config),
    (r"Could not load '([^']+)/([^'/]+)'", _no_listed_config),
)
