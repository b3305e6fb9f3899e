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

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
AROUND = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
"""Whose links and targets have to be there, too; their commands are a developer's."""
TASK = re.compile(r"(?:python|torchrun[^`|]*?) (?:prepare|train|eval|predict|export)\.py [^`\n|]*")
SCRIPT = re.compile(r"python scripts/(\w+)\.py")

COMPOSED = {
    r"trainer=ddp": "tests/test_train.py::test_two_processes_learn_from_the_same_batches_what_one_does",
    r"predict\.py.* devices=4": "tests/test_mapping.py::test_two_processes_give_the_same_bytes_as_one",
    r"submitit_local": "tests/test_sweep.py::test_submitit_runs_a_grid_in_processes_of_its_own",
    r"submitit_slurm": "tests/test_sweep.py::test_the_batch_script_for_slurm_asks_for_what_was_given_and_runs",
    r"postgresql:": "tests/test_study_postgres.py::"
    "test_processes_share_a_study_in_postgresql_and_the_trial_of_a_killed_one_is_not_lost",
}
"""Commands that need devices, a cluster or a database are composed only (``--cfg job``), and where such ones run."""

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
"""What makes a command quick; nothing of it changes which code runs, but that a CPU takes a GPU's place."""
SMALLER = {
    r"train\.py(?!.*(model=(?!unet\b)|encoder_depth|experiment=|weights=|datamodule=torchgeo))": [
        "model.encoder_depth=3",
        "model.decoder_channels=[32,16,8]",
    ],
    r"hparams_search=": ["hydra.sweeper.n_trials=1", "encoder=resnet18"],
    r"datamodule=scenes|L8Biome": ["datamodule.size=32"],
    r"experiment=fine_tune": ["optimizer.epochs=20"],
}
"""The same for some: shallow U-Nets have less to compute, to save and to export."""
DATA = {
    r"train\.py(?!.*(data_dir=|datamodule=|experiment=|--)).*LANDSAT": "data_dir=data/landsat",
    r"train\.py(?!.*(data_dir=|datamodule=|experiment=|--))": "data_dir=data/mine",
}
"""What a command is told where the document leaves to the reader which data it is for."""


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
        """Whether it needs what is not here."""
        return any(re.search(pattern, self.line) for pattern in COMPOSED)

    @property
    def asks(self) -> bool:
        """Whether it only asks something."""
        return bool({"--help", "--info", "--cfg", "-h"} & set(self.arguments))

    def call(self) -> list[str]:
        """Return the arguments with which the test calls it."""
        if self.asks:
            return self.arguments
        data = next(([words] for pattern, words in DATA.items() if re.search(pattern, self.line)), [])
        if self.composed_only:
            return [*(_first_of(a) for a in self.arguments if a != "-m"), *data, "--cfg", "job"]
        # Of a grid the first two runs: all values of its last key, the first of the others.
        swept = [
            a for a in self.arguments if _first_of(a) != a and "glob(" not in a and "hparams_search=" not in self.line
        ]
        arguments = [*(_first_of(a) if a in swept[:-1] else a for a in self.arguments), *data]
        smaller = [*SMALL[self.task], *data]
        smaller += [a for pattern, more in SMALLER.items() if re.search(pattern, self.line) for a in more]
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
    _python(["-m", "tests.desk", str(folder)], folder)
    return folder


FIRST = {
    "prepare": [
        "image=scene.tif label=labels.tif data_dir=data/mine",
        "image=enmap.tif label=enmap_labels.tif data_dir=data/enmap",
        "image=data/landsat.tif label=data/landsat_labels.tif data_dir=data/landsat",
    ],
    "train": [
        "data_dir=data/mine hydra.run.dir=logs/train/mine",
        "data_dir=data/enmap model=compact_unet hydra.run.dir=logs/train/enmap",
        "datamodule=scenes datamodule.image=west.tif datamodule.label=west_labels.tif hydra.run.dir=logs/train/west",
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
    texts = (path.read_text(encoding="utf-8") for path in DOCUMENTS)
    line = next(
        found[1]
        for text in texts
        if (found := re.search(r"^python scripts/import_specdeepmap\.py (.*)", text, re.MULTILINE))
    )
    _python([str(ROOT / "scripts/import_specdeepmap.py"), *shlex.split(line)], desk)
    # What differs in the order of its arguments only is run once.
    calls = {_key(command): command for task in FIRST for command in needed + printed if command.task == task}
    answers = dict(zip(calls, _run(list(calls.values()), desk), strict=True))
    for command in needed:
        code, words = answers[_key(command)]
        assert code == 0, f"{command.line}: {words}"
    return {command.line: answers[_key(command)] for command in printed}


def environment(folder: Path) -> dict[str, str]:
    """Return what tells a command that a folder is its home and holds what a download would leave."""
    return {
        "SPECDEEPMAP_ROOT": str(folder),
        "HF_HOME": str(folder / "caches" / "huggingface"),
        "TORCH_HOME": str(folder / "caches" / "torch"),
        "HF_HUB_OFFLINE": "1",
    }


def _key(command: Command) -> tuple[str, ...]:
    return command.task, *sorted(command.call())


def _run(commands: list[Command], folder: Path) -> list[tuple[int, str]]:
    calls = json.dumps([(command.task, command.call()) for command in commands])
    answers: list[tuple[int, str]] = json.loads(_python(["-m", "tests.command_runner"], folder, calls).splitlines()[-1])
    return answers


def _python(arguments: list[str], folder: Path, given: str = "") -> str:
    """Run a module or script of the project in a folder that is its home, and return what it printed."""
    result = subprocess.run(
        [sys.executable, *arguments],
        input=given,
        cwd=folder,
        env=os.environ | environment(folder) | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.line)
def test_a_printed_command_works(command: Command, outcomes: dict[str, tuple[int, str]]) -> None:
    code, words = outcomes[command.line]
    assert code == 0, f"{command.call()}: {words}"


def test_printed_commands_are_run_for_real_but_those_that_need_a_cluster() -> None:
    whole = commands()
    composed = [command for command in whole if command.composed_only]
    assert len(whole) >= 80
    assert len(composed) <= len(whole) * 0.15
    for pattern, place in COMPOSED.items():
        assert any(re.search(pattern, command.line) for command in composed), f"no document has {pattern} any more"
        path, name = place.split("::")
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


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
    for path in DOCUMENTS + AROUND:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in DOCUMENTS + AROUND:
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
