"""The defaults that people rely on, as numbers and words of their own: no constructor is asked what they are."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.test_run_places import composed

TRAIN = {
    "freeze_encoder": None,  # which freezes pretrained ones
    "encoder": "resnet18",
    "class_weights": True,
    "normalize": "auto",
    "accelerator": "auto",
    "devices": "auto",
    "trainer.max_epochs": 50,
    "batch_size": 16,
    "lr": 0.003,
    "lr_finder": False,
    "seed": 42,
    "resume": None,
    "init_from": None,
    "callbacks.early_stopping.patience": 20,
}
EVAL = {"split": "test", "export_predictions": False, "mask_unclassified": True, "output_dir": None}
PREDICT = {
    "label": None,
    "output": None,
    "overlap": 20,
    "window": None,
    "blend": "cosine",
    "vector": False,
    "probabilities": False,
}
GROUPS = {
    "datamodule": "chips",
    "model": "unet",
    "weights": "none",
    "augmentation": "flips_and_rotations",
    "loss": "cross_entropy",
    "trainer": "default",
}


@pytest.mark.parametrize(("task", "expected"), [("train", TRAIN), ("eval", EVAL), ("predict", PREDICT)])
def test_a_command_s_defaults_are_those_that_were_promised(task: str, expected: dict[str, Any]) -> None:
    config = composed(task)
    assert {key: OmegaConf.select(config, key, throw_on_missing=True) for key in expected} == expected
    if task == "train":
        choices = config.hydra.runtime.choices
        assert {group: choices[group] for group in GROUPS} == GROUPS
