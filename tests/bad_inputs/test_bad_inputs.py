"""Every odd input either works or ends in one line that names it and the remedy, and leaves no new file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bad_inputs.cases import CASES, CUT, TINY, Case, make_scene
from tests.commands import files, run


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene, its data folder and a checkpoint, all as they should be."""
    folder = tmp_path_factory.mktemp("good")
    make_scene(folder)
    for task, arguments in (("prepare", CUT), ("train", ("data_dir=d", *TINY))):
        result = run(task, *arguments, cwd=folder)
        assert result.code == 0, result.err
    shutil.copy(next(folder.glob("run/checkpoints/*val_iou*.ckpt")), folder / "good.ckpt")
    shutil.rmtree(folder / "run")
    shutil.rmtree(folder / "logs")
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.task}: {case.name}")
def test_an_odd_input_works_or_ends_in_one_line(case: Case, good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(good, folder)
    case.setup(folder)
    before = files(folder)
    result = run(case.task, *case.arguments, cwd=folder)
    assert not (folder / "ran").exists(), "code from a file was run"
    if case.words is None:
        assert result.code == 0, result.out + result.err
        assert result.lines == []
        assert case.left is not None
        case.left(folder)
        return
    line = result.error
    assert line.startswith(f"{case.task}.py: error: ")
    for words in case.words:
        assert words in line
    assert files(folder) == before
