"""What is written describes itself, and damage is one line."""

from __future__ import annotations

import json

import pytest

from src.bands import Band, Normalization
from src.errors import UserError
from src.labels import ClassTable
from src.spec import DatasetSpec, NetworkSpec, SceneSpec

DATASET = DatasetSpec(
    scenes=(SceneSpec("s", "/data/s.tif", 10, 20, None, (1, 0, 0, 0, -1, 0)),),
    bands=(Band("red", 665.0), Band("dead", None, bad=True)),
    used=(True, False),
    nodata=-1.5,
    dtype="float32",
    chip_size=(3, 4),
    chip_step=(5, 6),
    classes=ClassTable.build([1, 9]),
    split={"strategy": "balanced"},
    scaler=None,
    seed=1,
)
NETWORK = NetworkSpec(
    "unet", "resnet18", {}, DATASET.bands, Normalization.identity(2), None, DATASET.classes, (3, 4), overlap=10.0
)


def test_specs_survive_json() -> None:
    assert DatasetSpec.from_dict(json.loads(json.dumps(DATASET.to_dict())), "d") == DATASET
    assert NetworkSpec.from_dict(json.loads(json.dumps(NETWORK.to_dict())), "c") == NETWORK


@pytest.mark.parametrize("key", ["bands", "classes", "chip_size", "nodata", "scenes", "split"])
def test_a_missing_entry_is_named(key: str) -> None:
    content = DATASET.to_dict()
    del content[key]
    with pytest.raises(UserError, match=rf"here\.json is not a whole dataset\.json \(KeyError\('{key}'\)\)"):
        DatasetSpec.from_dict(content, "here.json")


def test_other_formats_are_refused() -> None:
    with pytest.raises(UserError, match="has format 2, this version reads up to 1"):
        DatasetSpec.from_dict(DATASET.to_dict() | {"format": 2}, "d")
    with pytest.raises(UserError, match="has no format version"):
        NetworkSpec.from_dict({}, "c")
