"""Passwords in addresses are hidden wherever settings are written down, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from src import run_folder
from src.bands import Band, Normalization
from src.labels import ClassTable
from src.models.checkpoint import hyper_parameters
from src.passwords import hide_passwords
from src.spec import NetworkSpec
from src.tasks.reporting import current_run

URL = "postgresql://me:SECRET@db/studies"
HIDDEN = "postgresql://me:***@db/studies"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"hydra.sweeper.storage={URL}", f"hydra.sweeper.storage={HIDDEN}"),
        ("mysql+pymysql://me:SE/CR:ET@db:3306/x", "mysql+pymysql://me:***@db:3306/x"),
        ("https://me@firm.org:SEC@RET@host:5000/a?b=c@d", "https://me@firm.org:***@host:5000/a?b=c@d"),
        ("redis://:SECRET@host", "redis://:***@host"),
        ("image=[http://h:80/a.tif,/vsicurl/https://u:SECRET@h/b.tif]", "image=[http://h:80/a.tif,/vsicurl/https://u:***@h/b.tif]"),
        ("postgresql://me:12345@db/x", "postgresql://me:***@db/x"),
        ("postgresql://me:1234/5@db/x", "postgresql://me:***@db/x"),
        ("postgresql://me:12?3@db/x", "postgresql://me:***@db/x"),
    ],
)  # fmt: skip
def test_a_password_in_an_address_is_hidden(text: str, expected: str) -> None:
    assert hide_passwords(text) == expected
    assert hide_passwords(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@db/studies",
        "http://host:8080/map.tif by me@home",
        "sqlite:////data/me:you@home/study.db",
        "C:/data/a@b.tif",
        "me:you@host",
    ],
)
def test_addresses_without_a_password_stay(text: str) -> None:
    assert hide_passwords(text) == text


def test_structures_keep_everything_else() -> None:
    config = {"a": [URL, 1, None], "b": {"c": (URL, 0.5)}, URL: True}
    assert hide_passwords(config) == {"a": [HIDDEN, 1, None], "b": {"c": (HIDDEN, 0.5)}, URL: True}
    assert config["a"] == [URL, 1, None]


def test_a_report_shows_no_password_of_its_command_nor_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial's report had the storage's, and that of MLFLOW_TRACKING_URI in its whole configuration."""
    hydra = {"overrides": {"task": [f"data_dir={URL}"], "hydra": [f"hydra.sweeper.storage={URL}", "hydra.mode=RUN"]}}
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create(hydra))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:SECRET@mlflow.org")
    run = current_run("train", OmegaConf.create({"logger": {"tracking_uri": "${oc.env:MLFLOW_TRACKING_URI}"}}))
    assert run.command == f"python train.py 'data_dir={HIDDEN}' 'hydra.sweeper.storage={HIDDEN}'"
    assert run.config == "logger:\n  tracking_uri: https://me:***@mlflow.org"


def test_neither_run_json_nor_a_checkpoint_has_a_password(tmp_path: Path) -> None:
    config: dict[str, Any] = {"logger": {"tracking_uri": URL}}
    run_folder.describe(tmp_path, config, [f"logger.mlflow.tracking_uri={URL}"])
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["command"][-1] == f"logger.mlflow.tracking_uri={HIDDEN}"
    spec = NetworkSpec(
        "unet", "resnet18", {}, (Band("a"),), Normalization.identity(1), 0, ClassTable.build([1, 2]), (32, 32)
    )
    assert written["config"] == hyper_parameters(spec, config)["config"] == {"logger": {"tracking_uri": HIDDEN}}
