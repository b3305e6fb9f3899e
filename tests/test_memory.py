"""How processes take memory, told by how many pages the system has to find for them, and how much they may take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from src import cgroups, memory
from src.memory import LARGE_PAGES, TUNED, available_memory, keep_memory, peak_memory, use_large_pages

GLIBC = pytest.mark.skipif(sys.platform != "linux", reason="a matter of Linux's usual C library")
BLOCKS = """
import resource
from src.memory import give_back_memory, {call}
{call}()
import numpy as np
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(10_000_000)  # 80 MB, more than the C library keeps by itself
before = pages()
for _ in range(10):
    np.ones(10_000_000)
between = pages()
give_back_memory()
np.ones(10_000_000)
print(between - before, pages() - between)
"""


def pages_for_blocks(call: str, **variables: str) -> tuple[int, int]:
    """Take and free a large block in a process of its own; return the pages of ten, and of one after giving back."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith((LARGE_PAGES, *TUNED))}
    command = [sys.executable, "-c", BLOCKS.format(call=call)]
    run = subprocess.run(command, capture_output=True, text=True, env=clean | variables, check=True)
    ten, one = map(int, run.stdout.split())
    return ten, one


@GLIBC
def test_what_is_freed_is_kept_until_it_is_given_back() -> None:
    """Numpy asks for large pages by itself, 2 MB each; else there would be 20,000 for each block."""
    ten, one = pages_for_blocks("keep_memory")
    assert ten < 30
    assert one >= 30
    assert pages_for_blocks("use_large_pages")[0] > 300


@GLIBC
def test_whoever_has_chosen_otherwise_is_obeyed() -> None:
    assert pages_for_blocks("keep_memory", MALLOC_ARENA_MAX="2")[0] > 300
    assert pages_for_blocks("keep_memory", **{LARGE_PAGES: "1"})[0] > 300


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for_unless_somebody_has_chosen(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LARGE_PAGES, before or "")
    if before is None:
        monkeypatch.delenv(LARGE_PAGES)
    use_large_pages()
    assert os.environ[LARGE_PAGES] == after


def test_without_glibc_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_keeping", False)  # as tests of commands may have left it
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_memory()


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with 8 GB left, and the control groups that tests write."""
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 8_000_000_000}))
    monkeypatch.setattr(memory, "_keeping", False)
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.usefixtures("groups")
def test_without_groups_it_is_what_the_system_has_left() -> None:
    assert available_memory() == 8_000_000_000


@pytest.mark.parametrize(
    ("granted", "expected"), [("max", 8_000_000_000), ("4000000000", 3_500_000_000), ("400000000", 0)]
)
def test_a_container_has_what_its_group_leaves_of_its_limit(groups: Path, granted: str, expected: int) -> None:
    """What the group's files take could be had at once, and does not count."""
    stat = "anon 300000000\ninactive_file 500000000\n"
    write(groups / "cgroup", memory__max=granted, memory__current="1000000000", memory__stat=stat)
    assert available_memory() == expected


def test_a_job_s_group_of_either_version_counts(groups: Path) -> None:
    (groups / "own").write_text("9:memory:/slurm/job_7\n0::/x\n")
    job = groups / "cgroup/memory/slurm/job_7"
    write(job, memory__limit_in_bytes="2000000000", memory__usage_in_bytes="500000000")
    assert available_memory() == 1_500_000_000


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_a_peak_is_told_in_bytes(platform: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS it is counted in bytes, which were taken for kB."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrusage", lambda _: type("Usage", (), {"ru_maxrss": 7}))
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory() == 7 * unit


def test_without_unixs_count_the_peak_is_what_the_system_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert 0.5 < peak_memory() / psutil.Process().memory_info().rss < 2
    told = {"rss": 3, "peak_wset": 5}  # as on Windows
    monkeypatch.setattr(psutil, "Process", lambda: type("Own", (), {"memory_info": lambda: type("Memory", (), told)}))
    assert peak_memory() == 5


@GLIBC
def test_what_the_process_keeps_may_be_taken_again() -> None:
    code = """
import numpy as np
import psutil
from src import memory
memory.control_groups = lambda _: []
psutil.virtual_memory = lambda: type("Memory", (), {"available": 8_000_000_000})  # whatever others take meanwhile
memory.keep_memory()
before = memory.available_memory()
np.ones(40_000_000)
print(before, memory.available_memory())
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith((LARGE_PAGES, *TUNED))}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=True)
    before, after = map(int, run.stdout.split())
    assert after == pytest.approx(before + 320_000_000, abs=20_000_000)  # taken, freed and kept
