"""What is written describes itself, and damage is one line."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from src.bands import Band, Normalization
from src.errors import UserError
from src.labels import ClassTable
from src.spec import DatasetSpec, NetworkSpec, SceneSpec, git_revision, software_versions

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


def test_nan_is_a_string_in_json_and_equal_to_itself() -> None:
    """NaN is no JSON, and as a number it made a run differ from itself; older files hold it bare."""
    data, network = replace(DATASET, nodata=math.nan).to_dict(), replace(NETWORK, nodata=math.nan).to_dict()
    json.dumps([data, network], allow_nan=False)
    for written in (data, data | {"nodata": math.nan}):
        assert DatasetSpec.from_dict(written, "d").to_dict() == data
    for written in (network, network | {"nodata": math.nan}):
        assert NetworkSpec.from_dict(written, "c").to_dict() == network


def test_who_gave_the_nodata_value_is_kept_and_older_files_do_not_say() -> None:
    assert not DATASET.nodata_given
    assert replace(DATASET, config={"nodata": 0.0}).nodata_given
    given = replace(NETWORK, nodata=0.0, nodata_given=True).to_dict()
    assert NetworkSpec.from_dict(given, "c").nodata_given
    del given["nodata_given"]
    assert not NetworkSpec.from_dict(given, "c").nodata_given


def test_the_revision_is_that_of_the_first_time_that_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each checkpoint of a training asked git, and later ones named code that never ran."""
    said = itertools.count()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=f"{next(said)}\n"))
    git_revision.cache_clear()
    try:
        assert [git_revision(), git_revision()] == ["0", "0"]
    finally:
        git_revision.cache_clear()


def test_whoever_asks_for_the_versions_gets_their_own() -> None:
    before = software_versions()
    before.clear()
    assert software_versions().keys() > {"python", "torch"}
