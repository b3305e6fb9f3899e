"""Data folders, checkpoints and exported networks of every format that was released load, and give their old answers.

``tests/formats/<version>/`` holds what that version's commands wrote: ``data/``, ``network.ckpt`` (trained on it, with
the confusion matrix of its validation chips) and ``network.onnx`` (exported from it). Who raises ``FORMAT`` adds one.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from src.bands import Band
from src.datafolder import read_data_folder
from src.datamodules.batches import collate
from src.datamodules.chips import ChipData
from src.errors import UserError
from src.labels import IGNORE
from src.models.checkpoint import load_network, read_checkpoint
from src.models.network import Network
from src.models.restart import check_resumable
from src.scores import confusion_matrix
from src.spec import FORMAT
from src.tables import PARTS

FORMATS = Path(__file__).parent / "formats"
RELEASED = sorted(FORMATS.iterdir())


def validated(network: Network, data: ChipData) -> np.ndarray:
    """Score a network on the validation chips, as a confusion matrix."""
    source = data.source("validation")
    batch = collate([source[number] for number in range(len(source))])
    with torch.inference_mode():
        predicted = network(batch.image, batch.valid).argmax(1)
    target = torch.where(batch.valid, batch.target, IGNORE)
    return confusion_matrix(target, predicted, len(data.describe().classes)).numpy()


def test_the_present_format_is_among_them() -> None:
    assert [folder.name for folder in RELEASED] == [str(number) for number in range(1, FORMAT + 1)]


@pytest.mark.parametrize("folder", RELEASED, ids=lambda folder: folder.name)
def test_a_data_folder_loads(folder: Path) -> None:
    data = read_data_folder(folder / "data")
    assert [len(data.samples(part)) for part in PARTS] == [7, 4, 1]
    assert data.spec.classes.names == ("water", "heath", "town")
    assert data.spec.classes.values == (1, 2, 9)
    assert data.spec.bands == tuple(Band(f"band {number}") for number in range(1, 5))
    assert data.spec.chip_size == (16, 16)
    assert sum(data.train_counts) == 7 * 16 * 16
    assert len(data.normalization()) == 4


@pytest.mark.parametrize("name", ["network.ckpt", "network.onnx"])
@pytest.mark.parametrize("folder", RELEASED, ids=lambda folder: folder.name)
def test_a_network_loads_and_gives_its_old_answers(folder: Path, name: str) -> None:
    content = read_checkpoint(folder / "network.ckpt")
    network, spec = load_network(folder / name)
    assert spec.classes.names == ("water", "heath", "town")
    found = validated(network, ChipData(folder / "data"))
    assert found.sum() == 4 * 16 * 16
    # Another processor may round a few pixels otherwise.
    assert np.abs(found - np.array(content["val_matrix"])).sum() <= 4


@pytest.mark.parametrize("folder", RELEASED, ids=lambda folder: folder.name)
def test_a_training_can_go_on(folder: Path) -> None:
    path = folder / "network.ckpt"
    _, spec = load_network(path)
    assert check_resumable(path, spec, 9) == 2


def test_newer_ones_are_refused_with_what_to_do(tmp_path: Path) -> None:
    newest = RELEASED[-1]
    remedy = rf"has format {FORMAT + 1}, this version reads up to {FORMAT}; update SpecDeepMap"
    content = read_checkpoint(newest / "network.ckpt")
    content["hyper_parameters"]["spec"]["format"] = FORMAT + 1
    torch.save(content, tmp_path / "newer.ckpt")
    with pytest.raises(UserError, match=remedy):
        load_network(tmp_path / "newer.ckpt")
    shutil.copytree(newest / "data", tmp_path / "data")
    description = tmp_path / "data/dataset.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"format": FORMAT + 1}))
    with pytest.raises(UserError, match=remedy):
        read_data_folder(tmp_path / "data")
    exported = (newest / "network.onnx").read_bytes()
    newer = re.sub(rb'"format": \d', b'"format": %d' % (FORMAT + 1), exported)
    assert newer != exported
    (tmp_path / "newer.onnx").write_bytes(newer)
    with pytest.raises(UserError, match=remedy):
        load_network(tmp_path / "newer.onnx")
