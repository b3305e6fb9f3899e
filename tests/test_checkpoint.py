from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from src.callbacks.checkpoints import BestCheckpoints
from src.errors import UserError
from src.models.checkpoint import LAST, Description, TrainedOn, find_checkpoint, part_of, read_checkpoint


def trained_on(path: Path) -> TrainedOn:
    return Description(None, part_of(read_checkpoint(path, weights=False), "config")).trained_on


def run_folder(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_run_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    names = ["00003-val_iou_0.1637.ckpt", "00001-val_iou_0.1908.ckpt", "00009-val_iou_0.0902.ckpt", "last.ckpt"]
    assert find_checkpoint(run_folder(tmp_path, *names)).name == "00001-val_iou_0.1908.ckpt"


def test_the_checkpoints_may_lie_one_folder_deeper(tmp_path: Path) -> None:
    run_folder(tmp_path, "checkpoints/00001-val_iou_0.4000.ckpt", "checkpoints/00007-val_iou_0.5000.ckpt")
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints" / "00007-val_iou_0.5000.ckpt"


def test_of_equal_names_it_is_the_one_that_scored_best_and_the_first_that_did(tmp_path: Path) -> None:
    """A name has four decimals: the later one was taken, and train.py had reported another."""
    for epoch, right in enumerate((50_001, 50_002, 50_002, 50_000)):
        content = {"state_dict": {}, "val_matrix": [[right, 100_000 - right], [0, 0]]}
        torch.save(content, tmp_path / f"{epoch:05d}-val_iou_0.5000.ckpt")
    (tmp_path / "00009-val_iou_0.5000.ckpt").touch()  # which cannot be read
    torch.save({"state_dict": {}, "val_matrix": [[math.inf]]}, tmp_path / "00010-val_iou_0.5000.ckpt")
    torch.save({"state_dict": {}, "val_matrix": [9]}, tmp_path / "00011-val_iou_0.5000.ckpt")
    assert find_checkpoint(tmp_path).name == "00001-val_iou_0.5000.ckpt"


def test_the_best_has_the_name_by_which_it_is_found() -> None:
    name = BestCheckpoints("here").format_checkpoint_name({"epoch": torch.tensor(26), "val_iou": torch.tensor(0.71154)})
    assert Path(name).name == "00026-val_iou_0.7115.ckpt"
    assert BestCheckpoints.CHECKPOINT_NAME_LAST + BestCheckpoints.FILE_EXTENSION == LAST


@pytest.mark.parametrize("old", [False, True])
def test_a_description_needs_no_weights(tmp_path: Path, old: bool) -> None:
    """A resumed run read them four times; PyTorch's files of old have no part that could stay on the disk."""
    content = {"state_dict": {"a": torch.ones(3)}, "hyper_parameters": {"config": {"data_dir": "x", "refit": True}}}
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not old)
    assert read_checkpoint(tmp_path / "a.ckpt", weights=False)["state_dict"]["a"].tolist() == [1, 1, 1]
    assert trained_on(tmp_path / "a.ckpt") == TrainedOn(Path("x"), True)


@pytest.mark.parametrize("parameters", [None, 1, {}, {"config": None}, {"config": {"data_dir": 1, "refit": True}}])
def test_a_checkpoint_that_does_not_say_what_it_was_trained_on(tmp_path: Path, parameters: object) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": parameters}, tmp_path / "a.ckpt")
    assert trained_on(tmp_path / "a.ckpt") == TrainedOn()


def test_what_was_trained_on_is_what_the_data_were_read_from() -> None:
    """A data_dir beside scenes was taken for it, and one of the datamodule's own was not seen."""
    own = {"_target_": "src.datamodules.chips.ChipData", "data_dir": "own"}
    scenes = {"_target_": "src.datamodules.scenes.SceneData", "image": ["a.tif", "b.tif"], "class_map": [{"value": 1}]}
    assert TrainedOn.of({"data_dir": "top"}) == TrainedOn(Path("top"))
    assert TrainedOn.of({"data_dir": "top", "datamodule": own, "refit": True}) == TrainedOn(Path("own"), True)
    expected = TrainedOn(scenes=("a.tif", "b.tif"), class_map=[{"value": 1}])
    assert TrainedOn.of({"data_dir": "top", "datamodule": scenes}) == expected
    assert TrainedOn.of({"datamodule": scenes | {"image": "a.tif", "class_map": None}}) == TrainedOn(scenes=("a.tif",))
    assert (
        TrainedOn.of({"data_dir": "x", "datamodule": {"_target_": "src.datamodules.torchgeo.TorchGeoData"}})
        == TrainedOn()
    )


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
