"""The rules of the house that no other check knows."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = ("prepare.py", "train.py", "eval.py", "predict.py", "export.py")
CODE = sorted([*ROOT.glob("*.py"), *ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/**/*.py")])


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of everything that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module.split(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield node.lineno, str(name.value).split(".")[0]


def pinned() -> dict[str, list[str]]:
    """Versions that the lock holds, by package; more than one where Pythons differ."""
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", lock_text(), re.MULTILINE):
        versions.setdefault(name, []).append(version)
    return versions


def lock_text() -> str:
    return (ROOT / "requirements.lock").read_text(encoding="utf-8")


def dependencies() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]


def test_hydra_and_omegaconf_stop_at_the_tasks() -> None:
    below = [path for path in CODE if path.is_relative_to(ROOT / "src") and ROOT / "src/tasks" not in path.parents]
    assert below
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in below
        for line, name in imported(path)
        if name in {"hydra", "omegaconf"}
    ]
    assert not found


def test_nothing_below_the_tasks_imports_the_tasks() -> None:
    below = [path for path in CODE if path.is_relative_to(ROOT / "src") and ROOT / "src/tasks" not in path.parents]
    found = [path.name for path in below if re.search(r"^\s*(from|import) src\.tasks", path.read_text(), re.MULTILINE)]
    assert not found


def test_only_raster_and_vector_use_rasterio() -> None:
    users = {path.relative_to(ROOT).as_posix() for path in CODE for _, name in imported(path) if name == "rasterio"}
    outside = {user for user in users if user.startswith("src/") and not user.startswith("src/raster/")}
    assert outside == {"src/vector.py"}


def test_commands_can_be_imported_where_there_is_no_unix() -> None:
    """predict.py began with an import of ``resource``, and named SIGKILL, which Windows has not."""
    code = f"""
import asyncio  # as it is here; on Windows it does without them by itself
import importlib, os, signal, sys
for module in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[module] = None
for name in ("SIGKILL", "SIGALRM", "SIGPIPE", "pthread_sigmask", "pthread_kill"):
    delattr(signal, name)
for name in {{"pread", "pwrite", "posix_fallocate", "sched_getaffinity"}} & set(dir(os)):
    delattr(os, name)
for command in {[Path(name).stem for name in ENTRY_POINTS]}:
    importlib.import_module("src.tasks." + command)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


UNIX_ONLY = {
    "os": {
        *(
            "chown",
            "fork",
            "getegid",
            "geteuid",
            "getgid",
            "getloadavg",
            "getpgid",
            "getuid",
            "killpg",
            "mkfifo",
            "nice",
        ),
        *("posix_fadvise", "posix_fallocate", "pread", "preadv", "pwrite", "pwritev", "sched_getaffinity"),
        *("sched_setaffinity", "setsid", "statvfs", "sysconf", "uname"),
        "open",  # translates line ends in what is written, unless told not to
    },
    "signal": {
        *("SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGSTOP", "SIGUSR1", "SIGUSR2", "alarm", "pthread_kill"),
        *("pthread_sigmask", "setitimer", "sigwait"),
    },
}


def test_what_only_unix_has_is_asked_for_first() -> None:
    """Mapping used os.pwrite, and a map could not be made on Windows."""
    asked = re.compile(r"(?:hasattr|getattr)\((\w+), \"\w+\"")  # a system that has one of them has all
    found = []
    for path in (path for path in CODE if path.is_relative_to(ROOT / "src")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                library, name = node.value.id, node.attr
                if name in UNIX_ONLY.get(library, ()) and library not in asked.findall(text):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {library}.{name}")
    assert not found


def test_nothing_is_named_utils() -> None:
    vague = re.compile(r"utils?|helpers?|common|misc")
    names = {path: path.relative_to(ROOT).with_suffix("").parts for path in CODE}
    assert not [path for path, parts in names.items() if any(vague.fullmatch(part) for part in parts)]


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_entry_points_are_a_few_lines(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < 20


def test_every_dependency_has_its_reason_in_the_line_above() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for wanted in dependencies():
        number = next(n for n, line in enumerate(lines) if re.match(rf'    "{wanted.name}[^a-z-]', line))
        assert lines[number - 1].startswith("    # "), wanted


def test_every_exception_from_warnings_as_errors_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text.split("filterwarnings = [", 1)[1].split("\n]", 1)[0]
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    exceptions = [number for number, line in enumerate(lines) if "ignore" in line and not line.startswith("#")]
    assert not [lines[number] for number in exceptions if not lines[number - 1].startswith("# ")]


def test_the_lock_holds_every_dependency_within_its_bounds() -> None:
    versions = pinned()
    outside = [
        str(wanted)
        for wanted in dependencies()
        if not versions.get(wanted.name)
        or not all(wanted.specifier.contains(version, prereleases=True) for version in versions[wanted.name])
    ]
    assert not outside, f"run `make lock`: {outside}"


def test_the_lock_has_a_hash_for_every_package_and_no_address() -> None:
    entries = re.split(r"^(?=[a-z0-9])", lock_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    assert not [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links|^/", lock_text(), re.MULTILINE)


def test_the_lock_has_no_local_build_of_torch() -> None:
    assert not [version for version in pinned()["torch"] + pinned()["torchvision"] if "+" in version]


@pytest.mark.parametrize(
    "target",
    ["help", "install", "lock", "lint", "format", "types", "test", "demo", "sweep", "tensorboard", "bench", "audit"],
)
def test_make_knows_the_target_and_explains_it(target: str) -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  make {target} +\S", listed, re.MULTILINE)


def test_ci_runs_what_people_run() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").rstrip().endswith("make test")


STEPS = {
    "scripts/demo_data.py": "data/demo/train_image.tif",
    "prepare.py experiment=demo": "data/demo/chips/dataset.json",
    "train.py experiment=demo": "logs/train/demo/last.ckpt",
    "eval.py experiment=demo": "logs/eval/demo/scores.csv",
    "predict.py experiment=demo": "logs/predict/demo/map.tif",
    "scripts/demo_picture.py": "logs/demo/map.png",
}
"""The demo's commands as people type them, in order, and a file that each leaves unless it is there."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose Python only notes its commands in ``ran`` and makes their files."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    cases = "".join(
        f'  "{step}") [ -e {made} ] || {{ mkdir -p $(dirname {made}); touch {made}; }};;\n'
        for step, made in STEPS.items()
    )
    python.write_text(f'#!/bin/sh\necho "$*" >> ran\ncase "$*" in\n{cases}esac\n')
    python.chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    return tmp_path


def demo(checkout: Path) -> list[str]:
    """Run ``make demo`` and return the commands that it ran."""
    (checkout / "ran").unlink(missing_ok=True)
    # Without the make that may be running these tests: it hands its flags down.
    inherited = ("MAKE", "MFLAGS", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(inherited)}
    subprocess.run(["make", "demo"], cwd=checkout, env=environment, capture_output=True, check=True)
    return (checkout / "ran").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("version", "found"), [("3.10", "Python 3.10"), ("3.15", "Python 3.15"), ("", "no Python that starts")]
)
def test_a_python_that_the_lock_does_not_fit_is_refused_in_one_line(tmp_path: Path, version: str, found: str) -> None:
    """Newer ones ended in pip's many lines on a package that has no wheel for them."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n[ $1 = -c ] && echo {version}\n")
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "install", f"PYTHON={python}"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    line, *rest = run.stderr.splitlines()
    assert line.startswith(f"{python} is {found}; expected Python 3.11 to 3.14, which requirements.lock has")
    assert line.endswith("make install PYTHON=python3.13")
    assert all(other.startswith("make: ***") for other in rest)
    assert not (tmp_path / ".venv").exists()


def test_pythons_that_are_tested_can_be_installed_on() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    tested, installable = (
        re.findall(rf"^{name} .?= (.*)", text, re.MULTILINE)[0].split() for name in ("PYTHONS", "INSTALLABLE")
    )
    assert set(tested) <= set(installable)


def test_demo_runs_the_commands_that_people_type_in_order(checkout: Path) -> None:
    assert demo(checkout) == list(STEPS)


def test_a_second_demo_trains_and_maps_nothing(checkout: Path) -> None:
    demo(checkout)
    assert demo(checkout) == ["scripts/demo_data.py", "prepare.py experiment=demo", "scripts/demo_picture.py"]


def test_new_chips_are_trained_on(checkout: Path) -> None:
    demo(checkout)
    later = (checkout / "logs/predict/demo/.done").stat().st_mtime + 10
    os.utime(checkout / "data/demo/chips/dataset.json", (later, later))
    assert demo(checkout) == list(STEPS)


def test_a_deleted_map_is_drawn_again_without_training(checkout: Path) -> None:
    demo(checkout)
    shutil.rmtree(checkout / "logs/predict/demo")
    assert demo(checkout) == [step for step in STEPS if not step.startswith(("train", "eval"))]
