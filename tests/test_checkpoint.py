from pathlib import Path

import pytest

from src.errors import UserError
from src.models.checkpoint import find_checkpoint


def run_folder(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_run_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    names = ["00003-val_iou_0.1637.ckpt", "00001-val_iou_0.1908.ckpt", "00009-val_iou_0.0902.ckpt", "last.ckpt"]
    assert find_checkpoint(run_folder(tmp_path, *names)).name == "00001-val_iou_0.1908.ckpt"


def test_the_checkpoints_may_lie_one_folder_deeper(tmp_path: Path) -> None:
    run_folder(tmp_path, "checkpoints/00001-val_iou_0.5000.ckpt", "checkpoints/00007-val_iou_0.5000.ckpt")
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints" / "00007-val_iou_0.5000.ckpt"


def test_without_validation_scores_it_is_the_last(tmp_path: Path) -> None:
    assert find_checkpoint(run_folder(tmp_path, "a.ckpt", "last.ckpt")).name == "last.ckpt"


def test_what_lightning_left_at_a_signal_of_slurm_s_is_no_result(tmp_path: Path) -> None:
    run_folder(tmp_path, "hpc_ckpt_1.ckpt", "checkpoints/00001-val_iou_0.5000.ckpt", "checkpoints/last.ckpt")
    assert find_checkpoint(tmp_path).name == "00001-val_iou_0.5000.ckpt"
    assert find_checkpoint(tmp_path / "hpc_ckpt_1.ckpt").name == "hpc_ckpt_1.ckpt"  # to whoever names it


def test_a_checkpoint_stands_for_itself(tmp_path: Path) -> None:
    path = run_folder(tmp_path, "a.ckpt") / "a.ckpt"
    assert find_checkpoint(path) == path == find_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "holds no checkpoint"), (("a.ckpt", "b.ckpt"), "holds 2 checkpoints without a val_iou in their names")],
)
def test_a_folder_that_does_not_say_which_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_checkpoint(run_folder(tmp_path, *names))


def test_no_such_path_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no checkpoint .*none\.ckpt; give the path"):
        find_checkpoint(tmp_path / "none.ckpt")
