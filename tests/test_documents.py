"""Every command that README and docs print is one that the command line takes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TASK = re.compile(r"(?:python|torchrun .*?) ?(?:prepare|train|eval|predict|export)\.py [^`\n|#\"]*")


def commands() -> list[str]:
    """Return every call of a task that stands whole in a document (an ellipsis stands for what the reader fills in)."""
    texts = (_in_one_line(path.read_text(encoding="utf-8")) for path in DOCUMENTS)
    found = {match.strip() for text in texts for match in TASK.findall(text)}
    return sorted(line for line in found if "…" not in line and "..." not in line)


def _in_one_line(text: str) -> str:
    """Join commands that go on in the next line: in blocks after a backslash, in running text until the code ends."""
    text = re.sub(r"\\\n\s*", "", text)
    return re.sub(r"`python [^`]*`", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)


def _first_of(argument: str) -> str:
    """Take the first value of a sweep's list: --cfg shows one run."""
    if "=glob(" in argument:
        return argument.split("=", 1)[0] + "=one.tif"
    return argument if re.search(r"[\[({]", argument) else argument.split(",", 1)[0]


@pytest.mark.parametrize("line", commands())
def test_a_printed_command_composes(line: str, tmp_path: Path) -> None:
    script, *arguments = shlex.split(re.sub(r"^.*?(?=\w+\.py )", "", line))
    shown = [] if {"--help", "--cfg"} & set(arguments) else ["--cfg", "job"]
    result = subprocess.run(
        [sys.executable, str(ROOT / script), *(_first_of(a) for a in arguments if a != "-m"), *shown],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in DOCUMENTS:
        for line in re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert (line[0] or line[1]) in targets, f"{path.name} names make {line}"
