"""Write docs/reference/configuration.md: every key of every command and group, from the configurations themselves.

    python scripts/config_reference.py            # write
    python scripts/config_reference.py --check    # say whether it is up to date (exit code 1 if not)

What a key means stands in one place: beside it in its YAML, or else in the docstring of what takes it (a schema of
``src/tasks/schema.py``, a class of ours, of Lightning's or of segmentation-models-pytorch's).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from src.models.architectures import ARCHITECTURES  # noqa: E402  the checkout has to be found first
from src.models.weights import WeightsChoice  # noqa: E402
from src.tasks import schema  # noqa: E402

PAGE = ROOT / "docs/reference/configuration.md"
CONFIGS = ROOT / "configs"
GROUPS = (
    "datamodule",
    "model",
    "weights",
    "augmentation",
    "loss",
    "optimizer",
    "trainer",
    "callbacks",
    "logger",
    "paths",
)
DELTAS = ("experiment", "hparams_search")
"""Groups whose choices set keys of other groups."""
SECTIONS: dict[str, tuple[type, ...]] = {
    "prepare": (schema.PrepareConfig, schema.ChipConfig, schema.SplitConfig, schema.ClassRuleConfig),
    "train": (schema.TrainConfig,),
    "eval": (schema.EvalConfig,),
    "predict": (schema.PredictConfig,),
    "export": (schema.ExportConfig,),
}
PREFIXES: dict[type, str] = {
    schema.ChipConfig: "chip.",
    schema.SplitConfig: "split.",
    schema.ClassRuleConfig: "class_map[…].",
}
HEAD = """# Every key

Written by `python scripts/config_reference.py` from the configurations and the docstrings of what they build; a test
fails when it is stale. `python train.py --cfg job` prints all keys with the values that a command would use.

Write keys as `key=value`, choices of groups as `group=choice`, several runs with `-m` and commas. `null` is nothing,
`needed` has to be given. A group's choices are named before a value or a meaning that is not that of all of them:
“*scenes*: needed”. Two keys of Hydra's are useful everywhere: `hydra.run.dir=logs/train/mine` names a run's folder,
`hydra.verbose=true` logs more.
"""


@dataclass(frozen=True)
class Key:
    """A key, its value as YAML writes it, and what it means; no meaning where nobody has written one."""

    name: str
    value: str
    meaning: str


def described(text: str | None) -> dict[str, str]:
    """Return the entries of a docstring's ``Attributes`` or ``Args`` by name, each as one line."""
    found: dict[str, str] = {}
    name, base, inside = "", None, False
    for line in inspect.cleandoc(text or "").splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() in ("Attributes:", "Args:", "Arguments:"):
            inside, base = True, None
        elif inside and line.strip() and indent == 0:
            inside = False
        elif inside and line.strip():
            base = indent if base is None else base
            entry = re.match(r"(\w+)(?: \([^)]*\))?: ?(.*)", line.strip()) if indent <= base else None
            if entry:
                name = entry[1]
                found[name] = entry[2].strip()
            elif name:
                found[name] += " " + line.strip()
        elif name and found.get(name):
            name = ""  # what follows an empty line is detail
    return found


def sentence(text: str) -> str:
    """Shorten somebody else's description to its first sentence, without reStructuredText's marks."""
    plain = re.sub(r"\*\*|``|:\w+:`~?(?:\w+\.)*(\w+)`", r"\1", text).replace("`", "").strip()
    return (
        re.split(r"(?<=[a-z0-9)\]])(?<!e\.g)\. |(?<=[a-z0-9)]): | Default(?:s to|:)| Default is|, default is", plain)[0]
        .strip()
        .rstrip(".")
    )


def find(path: str) -> Any:
    """Import what a ``_target_`` names; None where its package is not installed."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError):
        return None


def meanings_of(target: Any) -> dict[str, str]:
    """Return what a class or function says of its parameters, in its own docstring or its constructor's."""
    if target is None:
        return {}
    texts = described(target.__doc__)
    if inspect.isclass(target):
        for parent in reversed(target.__mro__[:-1]):
            texts = {**described(parent.__doc__), **described(vars(parent).get("__init__", parent).__doc__), **texts}
    ours = getattr(target, "__module__", "").startswith("src.")
    for name, text in texts.items():
        if ours and (other := re.match(r"As in :class:`(\w+)`", text)):
            texts[name] = meanings_of(find(f"{target.__module__}.{other[1]}"))[name]
    return {name: text if ours else sentence(text) for name, text in texts.items()}


def comments(text: str) -> dict[str, str]:
    """Return the comment behind each key of a YAML, by the key's path."""
    found, path = {}, list[tuple[int, str]]()
    for line in text.splitlines():
        if entry := re.match(r"( *)([\w/]+):(?:\s|$)(.*)", line):
            indent = len(entry[1])
            path = [(n, name) for n, name in path if n < indent] + [(indent, entry[2])]
            if comment := re.search(r"(?:^|\s)# (.*)", entry[3]):
                found[".".join(name for _, name in path)] = comment[1]
    return found


def header(text: str) -> str:
    """Return the comment that opens a YAML, its commands as code, without the line that is for Hydra."""
    opening = re.match(r"(?:#.*\n)*", text)
    lines = [line[2:] for line in (opening[0] if opening else "").splitlines() if "@package" not in line]
    return " ".join(re.sub(r"(python \w+\.py .*)$", r"`\1`", line) for line in lines)


def shown(value: Any) -> str:
    """Write a value as the command line takes it."""
    if isinstance(value, Enum):
        return str(value.value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | dict):
        return str(yaml.safe_dump(value, default_flow_style=True, width=1000)).strip()
    return "needed" if value == "???" else str(value)


def schema_keys(kind: type) -> Iterator[Key]:
    """Yield the keys of a schema, those of schemas within it left out."""
    texts, prefix = described(kind.__doc__), PREFIXES.get(kind, "")
    for entry in dataclasses.fields(kind):
        if entry.name == "paths" or (kind is schema.PrepareConfig and entry.name in ("chip", "split")):
            continue
        group = kind is schema.TrainConfig and entry.name in GROUPS
        made = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
        default = "group" if group else shown(made)
        yield Key(prefix + entry.name, default, texts.get(entry.name, ""))


def group_keys(group: str, file: Path) -> list[Key]:
    """Return the keys of a group's choice; a choice that extends another has its own only."""
    text = file.read_text(encoding="utf-8")
    content = {key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "defaults"}
    everywhere = "@package _global_" in text
    told = {key if everywhere else f"{group}.{key}": words for key, words in comments(text).items()}
    return list(_keys(content if everywhere else {group: content}, "", {}, told))


def choice_keys(group: str, file: Path) -> dict[str, Key]:
    """Return all keys of a group's choice by name, also those of the choice that it extends."""
    found: dict[str, Key] = {}
    for base in bases(file):
        found |= choice_keys(group, file.with_stem(base))
    for key in group_keys(group, file):
        inherited = found[key.name].meaning if key.name in found else ""
        found[key.name] = Key(key.name, key.value, key.meaning or inherited)
    return found


def bases(file: Path) -> list[str]:
    """Name the choices of its group that a choice extends."""
    listed = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", [])
    return [base.partition("@")[0] for base in listed if isinstance(base, str)]


def _keys(node: Mapping[str, Any], path: str, texts: Mapping[str, str], told: Mapping[str, str]) -> Iterator[Key]:
    if "_target_" in node:
        texts = meanings_of(find(node["_target_"]))
    elif path == "model.":
        texts = meanings_of(ARCHITECTURES[node["name"]])
    elif path == "weights.":
        texts = meanings_of(WeightsChoice)
    elif not path:
        texts = described(schema.TrainConfig.__doc__)
    for name, value in node.items():
        key = path + name
        if name == "_target_" or key in ("model.name", "weights.kind"):
            continue
        if isinstance(value, dict) and value and name != "options":
            yield from _keys(value, f"{key}.", texts, told)
        else:
            yield Key(key, shown(value), together(texts.get(name, ""), told.get(key, "")))


def together(text: str, comment: str) -> str:
    """Join what takes a key says of it and the comment beside it, which may be all or a remark on other values."""
    if not comment or not text:
        return comment or text
    if re.match("null:", comment) and "None" in text:
        return text
    return f"{text.rstrip('.')} ({comment})" if re.match(r"or |null:", comment) else comment


def table(choices: Mapping[str, Mapping[str, Key]]) -> list[str]:
    """Lay keys out as Markdown: each once, with value and meaning in every choice that has it.

    Args:
        choices: The keys of each choice, by name.
    """
    rows = []
    for name in dict.fromkeys(name for keys in choices.values() for name in keys):
        values = {choice: _code(keys[name].value) for choice, keys in choices.items() if name in keys}
        meanings = {choice: _cell(keys[name].meaning) for choice, keys in choices.items() if name in keys}
        rows.append(f"| `{name}` | {by_choice(values, choices)} | {by_choice(meanings, values, '<br>')} |")
    return ["| key | value | meaning |", "|---|---|---|", *rows, ""] if rows else []


def by_choice(texts: Mapping[str, str], choices: Collection[str], between: str = "; ") -> str:
    """Write what each choice says: once where all choices say the same, else with the choices that say it in front.

    Args:
        texts: By choice; empty where one says nothing, which is no difference.
        choices: All that there are.
        between: What stands between two of them.
    """
    sayers: dict[str, list[str]] = {}
    for choice, text in texts.items():
        if text:
            sayers.setdefault(text.casefold().replace("`", ""), []).append(choice)
    silent = [choice for choice, text in texts.items() if not text]
    if len(sayers) == 1 and len(texts) == len(choices):
        return next(text for text in texts.values() if text)
    return between.join(f"{_named(who, choices, silent)}: {texts[who[0]]}" for who in sayers.values())


def _named(chosen: Sequence[str], choices: Collection[str], silent: Sequence[str]) -> str:
    """List choices, or those that are not among them where these are fewer."""
    others = [choice for choice in choices if choice not in {*chosen, *silent}]
    few = 0 < len(others) < len(chosen) / 2
    return ("all but " if few else "") + ", ".join(f"*{choice}*" for choice in (others if few else chosen))


def _code(value: str) -> str:
    return value if value in ("needed", "group") else f"`{value}`" if value else "empty"


def _cell(meaning: str) -> str:
    text = re.sub(r"\b([A-Z]+)_(?!\w)", r"\1", meaning)  # a reference of reStructuredText
    return re.sub(r"\bNone\b", "null", text.replace("``", "`")).replace("|", "\\|").rstrip(".")


def page() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for task, kinds in SECTIONS.items():
        keys = {key.name: key for kind in kinds for key in schema_keys(kind)}
        lines += [f"## python {task}.py", "", *table({task: keys})]
    for group in GROUPS:
        files = sorted((CONFIGS / group).glob("*.yaml"))
        lines += [f"## {group}", "", *_choices(files), "", *table({f.stem: choice_keys(group, f) for f in files})]
    for group in DELTAS:
        lines += [f"## {group}", "", "Choices set keys of other groups.", ""]
        lines += [*_choices(sorted(CONFIGS.glob(f"**/{group}/*.yaml"))), ""]
    return "\n".join([*lines, *_study()]).rstrip() + "\n"


def _choices(files: Sequence[Path]) -> list[str]:
    rows = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        extends = "".join(f" Extends `{base}`." for base in bases(file))
        rows.append(f"- `{file.parent.name}={file.stem}` ({file.relative_to(ROOT)}): {header(text)}{extends}")
    return rows


def _study() -> list[str]:
    texts = described(schema.StudySweeperConfig.__doc__)
    keys = {}
    for entry in dataclasses.fields(schema.StudySweeperConfig):
        if entry.name in texts:
            name = f"hydra.sweeper.{entry.name}"
            keys[name] = Key(name, shown(entry.default), texts[entry.name])
    return [
        "### Studies: hydra.sweeper",
        "",
        "With `hparams_search=optuna`, which sets some of them.",
        "",
        *table({"study": keys}),
    ]


def undescribed() -> list[str]:
    """Return the keys that nobody has described."""
    keys = [key for kinds in SECTIONS.values() for kind in kinds for key in schema_keys(kind)]
    keys += [key for group in GROUPS for file in (CONFIGS / group).glob("*.yaml") for key in group_keys(group, file)]
    return sorted({key.name for key in keys} - {key.name for key in keys if key.meaning})


def main() -> None:
    """Write the page, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is stale")
    check = parser.parse_args().check
    if missing := undescribed():
        sys.exit(f"These keys have no description beside them nor in what takes them: {', '.join(missing)}.")
    if not check:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")
        print(PAGE.relative_to(ROOT))
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE.relative_to(ROOT)} is stale; run python scripts/config_reference.py.")


if __name__ == "__main__":
    main()
