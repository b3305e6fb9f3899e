"""How processes take memory, told by how many pages the system has to find for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from src.memory import LARGE_PAGES, arrange_memory

BLOCKS = """
import resource
from src.memory import arrange_memory
arrange_memory({task!r})
import numpy as np
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(10_000_000)  # 80 MB, more than the C library keeps by itself
before = pages()
for _ in range(10):
    np.ones(10_000_000)
print(pages() - before)
"""


def pages_for_ten_blocks(task: str, **variables: str) -> int:
    """Take and free a large block ten times in a process of its own; return how many pages that took."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith((LARGE_PAGES, "MALLOC_"))}
    command = [sys.executable, "-c", BLOCKS.format(task=task)]
    run = subprocess.run(command, capture_output=True, text=True, env=clean | variables, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
@pytest.mark.parametrize("task", ["eval", "predict"])
def test_evaluation_and_mapping_keep_what_they_free(task: str) -> None:
    assert pages_for_ten_blocks(task) < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_whoever_has_chosen_otherwise_is_obeyed() -> None:
    """Numpy asks for large pages by itself, 2 MB each; else there would be 20,000 for each block."""
    given_back = pages_for_ten_blocks("predict", MALLOC_ARENA_MAX="2")
    assert given_back > 10 * pages_for_ten_blocks("predict")
    assert pages_for_ten_blocks("train") > 10 * pages_for_ten_blocks("predict")


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for_in_training_unless_somebody_has_chosen(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LARGE_PAGES, before or "")
    if before is None:
        monkeypatch.delenv(LARGE_PAGES)
    arrange_memory("train")
    assert os.environ[LARGE_PAGES] == after
