"""The page of all keys follows from the configurations, and every key there says what it means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from scripts import config_reference
from scripts.config_reference import CONFIGS, GROUPS, PAGE, Key, comments, described, header, together


def test_the_page_is_what_the_configurations_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == config_reference.page(), "run python scripts/config_reference.py"


def test_no_key_is_without_a_description() -> None:
    assert config_reference.undescribed() == []


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_and_every_key_of_a_group_is_on_the_page(group: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for file in (CONFIGS / group).glob("*.yaml"):
        assert f"`{group}={file.stem}`" in text
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        for key in content if "@package" not in file.read_text(encoding="utf-8") else ():
            if key not in ("_target_", "defaults", "name", "kind") and not isinstance(content[key], dict):
                assert f"| `{group}.{key}` |" in text


def test_there_is_no_group_that_the_page_forgets() -> None:
    hidden = {"help", "hydra_logging", "job_logging", *config_reference.DELTAS}
    assert {path.parent.name for path in CONFIGS.glob("*/*.yaml")} - hidden == set(GROUPS)


def test_a_docstrings_entries_are_read_over_several_lines() -> None:
    text = """Do it.

    Args:
        first: One
            and more.
        second (int): Two.

    Returns:
        third: Not an argument.
    """
    assert described(text) == {"first": "One and more.", "second": "Two."}


def test_comments_are_found_by_the_path_of_their_key() -> None:
    assert comments("a:\n  b: '#0f0'  # green\n  c: 1\nd: 2 # two") == {"a.b": "green", "d": "two"}


def test_a_headers_command_becomes_code() -> None:
    assert header("# @package _global_\n# Try it: python train.py lr=1\n\na: 1\n") == "Try it: `python train.py lr=1`"


def test_a_remark_on_other_values_is_added_to_the_description() -> None:
    assert together("How fast.", "or slow") == "How fast (or slow)"
    assert together("How fast.", "at 1 as fast as light") == "at 1 as fast as light"
    assert re.search("slow", str(Key("a", "1", together("", "slow"))))


def test_paths_of_the_page_do_not_depend_on_the_machine() -> None:
    assert str(Path.home()) not in PAGE.read_text(encoding="utf-8")
