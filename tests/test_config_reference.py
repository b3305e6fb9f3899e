"""The page of all keys follows from the configurations, and every key there says what it means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from scripts import config_reference
from scripts.config_reference import CONFIGS, GROUPS, PAGE, Key, by_choice, comments, described, header, together


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


def row(key: str) -> str:
    """Return what the page says of a key."""
    (line,) = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{key}` |"))
    return line


def test_what_all_choices_say_is_said_once_and_else_who_says_it() -> None:
    choices = ["a", "b", "c", "d"]
    assert by_choice(dict.fromkeys(choices, "1"), choices) == "1"
    assert by_choice({"a": "1", "b": "2", "c": "1", "d": "2"}, choices) == "*a*, *c*: 1; *b*, *d*: 2"
    assert by_choice({"a": "1", "b": "1"}, choices) == "*a*, *b*: 1"
    assert by_choice({"a": "1", "b": "1", "c": "1"}, choices) == "all but *d*: 1"
    assert by_choice({"a": "How `fast`", "b": "how fast", "c": ""}, ["a", "b", "c"]) == "How `fast`"


def test_a_key_is_of_the_choices_that_have_it_and_means_what_they_say() -> None:
    """Needed was said without of what, keys of one model were all models', and one choice's meaning was another's."""
    for key, value in (
        ("datamodule.image", "*scenes*: needed"),
        ("datamodule.root", "*torchgeo*: needed"),
        ("weights.path", "*file*: needed"),
        ("model.detail", "*unet*: `32`"),
    ):
        assert row(key).startswith(f"| `{key}` | {value} | ")
    scale, white = (
        "*sentinel2_toa_resnet18*, *sentinel2_toa_resnet50*: divides the file's numbers",
        "*imagenet*: the file",
    )
    assert scale in row("weights.scale")
    assert white in row("weights.scale")
    assert "*segformer*: A number of convolution filters in segmentation blocks |" in row(
        "model.decoder_segmentation_channels"
    )
    assert "*deeplabv3*: Downsampling factor" in row("model.encoder_output_stride")


def test_a_choice_has_the_keys_of_the_one_that_it_extends() -> None:
    names = [path.stem for path in (CONFIGS / "trainer").glob("*.yaml")]
    keys = {name: config_reference.choice_keys("trainer", CONFIGS / f"trainer/{name}.yaml") for name in names}
    assert {keys[name]["trainer.strategy"].value for name in names if name != "ddp"} == {"auto"}
    assert keys["ddp"]["trainer.strategy"].value == "ddp"
    assert "*cpu*, *gpu*: `1`" in PAGE.read_text(encoding="utf-8")


def test_paths_of_the_page_do_not_depend_on_the_machine() -> None:
    assert str(Path.home()) not in PAGE.read_text(encoding="utf-8")
