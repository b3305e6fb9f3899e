"""Every command that README and docs print does what it says: it is run, on small files of the documents' names."""

from __future__ import annotations

import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyogrio.raw
import pytest

from scripts.make_scene import make_scene

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TASK = re.compile(r"(?:python|torchrun[^`|]*?) (?:prepare|train|eval|predict|export)\.py [^`\n|]*")
SCRIPT = re.compile(r"python scripts/(\w+)\.py")

COMPOSED = {
    r"trainer=gpu|accelerator=gpu": "needs a GPU",
    r"\bdevices=\d|num_nodes=": "needs several GPUs or machines; tests/test_train.py has two CPU processes",
    r"submitit_slurm|partition=": "needs SLURM",
    r"submitit_local|launcher=joblib": "starts processes; run in tests/test_sweep.py",
    r"postgresql:": "needs a database; run in tests/test_study_postgres.py",
    r"weights=(imagenet|sentinel2|torchgeo|file)": "needs published weights; run in tests/test_pretrained.py",
    r"experiment=demo": "needs the demo's scene; run by make demo and make sweep",
    r"experiment=(havel|indian_pines|enmap_potsdam)": "needs the benchmark's scenes; run by scripts/benchmark.py",
    r"experiment=fine_tune": "needs published weights; its parts are run in tests/test_pretrained.py",
    r"datamodule=torchgeo": "needs a data set of torchgeo's; run in tests/test_datamodules.py",
    r"tu-convnext_tiny|resnet50": "too large for a test",
    r"trainer=ddp": "starts processes; run in tests/test_train.py",
    r"imported\.ckpt": "needs a checkpoint of SpecDeepMap's; run in tests/test_import_specdeepmap.py",
}
"""Commands that are only composed (``--cfg job``), by what in them asks for it, and why."""

SCRIPTS = {
    "bench": "make bench",
    "bench_predict": "make bench",
    "benchmark": "tests/test_benchmark.py",
    "config_reference": "tests/test_config_reference.py",
    "demo_data": "tests/test_demo_data.py",
    "demo_picture": "tests/test_demo_picture.py",
    "draw_explanations": "this file",
    "encoders": "tests/test_encoders.py",
    "import_specdeepmap": "tests/test_import_specdeepmap.py",
    "tutorial_pictures": "by hand, after make demo",
}
"""Where the scripts that documents name are run."""

SMALL = {
    "prepare": ["chip.size=32", "chip.step=32", "chip.min_coverage=5"],
    "train": [
        "trainer.max_epochs=1",
        "batch_size=4",
        "trainer.limit_train_batches=1",
        "trainer.limit_val_batches=1",
        "trainer.accelerator=cpu",
        "callbacks.pictures=null",
        "logger.tensorboard=null",
    ],
    "eval": ["accelerator=cpu"],
    "predict": ["accelerator=cpu", "window=64"],
    "export": ["chips=1"],
}
"""What makes a command quick; nothing of it changes which code runs."""
LIGHT = ["model.encoder_depth=3", "model.decoder_channels=[32,16,8]"]
"""The same for U-Nets: a shallow one has less to compute, to save and to export."""
TRIAL = ["hydra.sweeper.n_trials=1", "encoder=resnet18"]
"""The same for a study."""


@dataclass(frozen=True)
class Command:
    """A call of a task as a document prints it."""

    line: str

    @property
    def task(self) -> str:
        """Which one."""
        return re.search(r"(\w+)\.py ", self.line)[1]  # type: ignore[index]

    @property
    def arguments(self) -> list[str]:
        """Its arguments, as the shell would hand them over."""
        return shlex.split(self.line.split(".py ", 1)[1])

    @property
    def composed_only(self) -> bool:
        """Whether it is on the list of those that cannot be run here, or only asks."""
        asks = {"--help", "--info", "--cfg", "-h"} & set(self.arguments)
        return bool(asks) or any(re.search(pattern, self.line) for pattern in COMPOSED)

    def call(self) -> list[str]:
        """Return the arguments with which the test calls it."""
        if self.composed_only:
            shown = [] if {"--help", "--cfg", "--info"} & set(self.arguments) else ["--cfg", "job"]
            return [*(_first_of(argument) for argument in self.arguments if argument != "-m"), *shown]
        # Of a grid the first two runs: all values of its last key, the first of the others.
        swept = [
            a for a in self.arguments if _first_of(a) != a and "glob(" not in a and "hparams_search=" not in self.line
        ]
        arguments = [_first_of(a) if a in swept[:-1] else a for a in self.arguments]
        smaller = [*SMALL[self.task], *(TRIAL if "hparams_search=" in self.line else [])]
        smaller += ["datamodule.size=32"] if "datamodule=scenes" in self.line else []
        if self.task == "train" and not re.search(r"encoder_depth|model=(?!unet\b)|experiment=", self.line):
            smaller += LIGHT
        keys = {argument.split("=")[0] for argument in smaller}
        return [*(argument for argument in arguments if argument.split("=")[0] not in keys), *smaller]


def _first_of(argument: str) -> str:
    """Take the first value of a sweep's list: --cfg shows one run."""
    if "=glob(" in argument:
        return argument.split("=", 1)[0] + "=one.tif"
    return argument if re.search(r"[\[({]", argument) else argument.split(",", 1)[0]


def text_of(path: Path) -> str:
    """A document with lines that a backslash continues, or that break within a code span, put together."""
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    return re.sub(r"`python [^`]*`", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)


def commands() -> list[Command]:
    """Return every call of a task that stands whole in a document (an ellipsis stands for what the reader fills in)."""
    found = {match for path in DOCUMENTS for match in TASK.findall(text_of(path))}
    lines = {re.sub(r"\s+# .*", "", line).strip() for line in found}
    # The quote that ends a line is that of a command around it: sbatch --wrap "python train.py …".
    lines = {line.removesuffix('"') if line.count('"') % 2 else line for line in lines}
    left_out = re.compile(r"…|\.\.\.|--shell-completion")
    return [Command(line) for line in sorted(lines) if not left_out.search(line)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documents speak of."""
    folder = tmp_path_factory.mktemp("desk")
    scene = make_scene(folder, name="scene", width=256, height=224, bands=13, seed=1, polygons=True)
    assert scene.polygons is not None
    scene.image.rename(folder / "scene.tif")
    scene.label.rename(folder / "labels.tif")
    meta, _, geometry, values = pyogrio.raw.read(scene.polygons)
    kind = {"crs": meta["crs"], "geometry_type": meta["geometry_type"]}
    pyogrio.raw.write(folder / "fields.gpkg", geometry, values, fields=["crop"], **kind)
    enmap = make_scene(folder, name="enmap", width=160, height=128, bands=30, seed=2)
    enmap.image.rename(folder / "enmap.tif")
    enmap.label.rename(folder / "enmap_labels.tif")
    (folder / "scenes").mkdir()
    for name in ("one", "two"):
        make_scene(folder / "scenes", name=name, width=64, height=64, bands=13, seed=3).label.unlink()
    return folder


FIRST = {
    "prepare": [
        "image=scene.tif label=labels.tif data_dir=data/mine",
        "image=enmap.tif label=enmap_labels.tif data_dir=data/enmap",
    ],
    "train": [
        "data_dir=data/mine hydra.run.dir=logs/train/mine",
        "data_dir=data/enmap model=compact_unet hydra.run.dir=logs/train/enmap",
    ],
    "export": ["checkpoint=logs/train/mine output=model.onnx"],
    "eval": [],
    "predict": [],
}
"""What the documents' commands build on, in the order in which the commands build on each other."""


@pytest.fixture(scope="module")
def outcomes(desk: Path) -> dict[str, tuple[int, str]]:
    """Run all commands, those that others build on first; the exit code and last words of each, by line."""
    needed = [Command(f"python {task}.py {line}") for task, lines in FIRST.items() for line in lines]
    printed = commands()
    # What differs in the order of its arguments only is run once.
    calls = {_key(command): command for task in FIRST for command in needed + printed if command.task == task}
    answers = dict(zip(calls, _run(list(calls.values()), desk), strict=True))
    for command in needed:
        code, words = answers[_key(command)]
        assert code == 0, f"{command.line}: {words}"
    return {command.line: answers[_key(command)] for command in printed}


def _key(command: Command) -> tuple[str, ...]:
    return command.task, *sorted(command.call())


def _run(commands: list[Command], folder: Path) -> list[tuple[int, str]]:
    logs = f"paths.logs={folder / 'logs'}"
    calls = [(c.task, c.call() if "--help" in c.arguments else [*c.call(), logs]) for c in commands]
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests/command_runner.py")],
        input=json.dumps(calls),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers: list[tuple[int, str]] = json.loads(result.stdout.splitlines()[-1])
    return answers


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.line)
def test_a_printed_command_works(command: Command, outcomes: dict[str, tuple[int, str]]) -> None:
    code, words = outcomes[command.line]
    assert code == 0, f"{command.call()}: {words}"


def test_most_printed_commands_are_run_for_real() -> None:
    whole = commands()
    assert sum(not command.composed_only for command in whole) >= 20
    for pattern in COMPOSED:
        assert any(re.search(pattern, command.line) for command in whole), f"no document has {pattern} any more"


def test_the_commands_left_behind_what_the_documents_say(desk: Path, outcomes: dict[str, tuple[int, str]]) -> None:
    assert outcomes
    for name in ("data/mine/overview.png", "logs/train/mine/report.html", "maps/mine.tif", "maps/mine.qlr"):
        assert (desk / name).is_file(), name


@pytest.mark.parametrize("name", sorted({name for path in DOCUMENTS for name in SCRIPT.findall(text_of(path))}))
def test_a_script_that_documents_name_exists_and_is_run_somewhere(name: str) -> None:
    assert (ROOT / f"scripts/{name}.py").is_file()
    assert name in SCRIPTS, f"say in SCRIPTS where scripts/{name}.py is run"
    where = SCRIPTS[name]
    if where.startswith("tests/"):
        assert name in (ROOT / where).read_text(encoding="utf-8")


def test_the_python_that_documents_print_runs(
    desk: Path, outcomes: dict[str, tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcomes
    monkeypatch.chdir(desk)
    snippets = [code for path in DOCUMENTS for code in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)]
    assert snippets
    for number, code in enumerate(snippets):
        script = desk / f"snippet_{number}.py"
        script.write_text(code)
        runpy.run_path(str(script))


def test_bash_completes_choices_and_keys() -> None:
    for line, words in (("model=u", {"model=unet", "model=upernet"}), ("trainer.max_", {"trainer.max_epochs="})):
        typed = f"python train.py {line}"
        result = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), "--shell-completion", "query=bash"],
            env=os.environ | {"COMP_LINE": typed, "COMP_POINT": str(len(typed))},
            capture_output=True,
            text=True,
            check=True,
        )
        assert words <= set(result.stdout.split())


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


def test_make_help_names_every_target_within_eighty_columns() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", text, re.MULTILINE)
    assert phony is not None
    for target in phony[1].replace("\\\n", " ").split():
        assert f"\n  make {target} " in "\n" + shown or target == "FORCE"
    assert max(map(len, shown.splitlines())) <= 80


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "fonts.googleapis" not in (tmp_path / "site/index.html").read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in DOCUMENTS[1:]:
        assert path.relative_to(ROOT / "docs").as_posix() in text


def test_the_drawings_are_those_of_the_script(tmp_path: Path) -> None:
    """By their colours in order: how numbers are written differs between matplotlib's releases."""
    from scripts import draw_explanations

    draw_explanations.main(tmp_path)
    drawn, stand = (
        {path.name: re.findall(r"fill: (#[0-9a-f]{6})", path.read_text()) for path in sorted(folder.glob("*.svg"))}
        for folder in (tmp_path, draw_explanations.IMAGES)
    )
    for name in ("windows.svg", "scores.svg"):
        assert drawn[name] == stand[name]
        assert len(drawn[name]) > 10
    # Which of two equally good splits is found hangs on the order in which a processor adds.
    assert set(drawn["splits.svg"]) == set(stand["splits.svg"])
    assert len(drawn["splits.svg"]) == len(stand["splits.svg"])


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("configs/**/experiment/*.yaml")), ids=lambda path: str(path.relative_to(ROOT / "configs"))
)
def test_an_experiment_opens_with_its_command_how_long_it_takes_and_its_score(path: Path) -> None:
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    header = " ".join(line.lstrip("# ") for line in lines)
    group = path.relative_to(ROOT / "configs").parts[0]
    task = "train" if group == "experiment" else group
    assert re.search(rf"python {task}\.py experiment={path.stem}\b", header)
    assert re.search(r"\d (s|min|minutes)\b", header)
    if task in ("train", "predict"):
        assert re.search(r"mean IoU (of )?0\.\d{3}|no score of theirs", header)
