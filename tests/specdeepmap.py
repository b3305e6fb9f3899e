"""Checkpoints as SpecDeepMap writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

BANDS, MEAN, STD = 3, [0.1, 0.2, 0.3], [0.5, 2.0, 4.0]


class Justo(nn.Module):
    """The published network in SpecDeepMap's layer names, to compare with."""

    def __init__(self, outputs: int, bands: int = BANDS) -> None:
        super().__init__()
        sizes = {"enc_{}1": (bands, 6), "enc_{}2": (6, 12), "dec_{}1": (12, 6), "dec_{}2": (6, outputs)}
        for name, (first, last) in sizes.items():
            self.add_module(name.format("conv"), nn.Conv2d(first, last, 3, padding=1))
            self.add_module(name.format("bn"), nn.BatchNorm2d(last))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = dict(self.named_children())
        for stage in ("enc_{}1", "enc_{}2"):
            x = torch.relu(parts[stage.format("bn")](parts[stage.format("conv")](x)))
            x = nn.functional.max_pool2d(x, 2)
        for stage in ("dec_{}1", "dec_{}2"):
            x = nn.functional.interpolate(x, scale_factor=2)
            x = parts[stage.format("bn")](parts[stage.format("conv")](x))
            x = torch.relu(x) if "1" in stage else x
        return x


def foreign(
    path: Path,
    network: nn.Module,
    architecture: str,
    *,
    bands: int = BANDS,
    values: Sequence[int] = (5, 9, 200),
    **changes: Any,
) -> Path:
    """Write what SpecDeepMap's trainer writes, with the objects that it leaves in it."""
    outputs = dict(enumerate((0, *values)))
    chips = pd.DataFrame({"image": ["images/a.tif"], "mask": ["labels/a.tif"]})
    mean, std = ((numbers * bands)[:bands] for numbers in (MEAN, STD))
    flips = v2.Compose([v2.RandomRotation(45), v2.RandomHorizontalFlip(p=0.5)])
    parameters = {
        "architecture": architecture,
        "backbone": None,
        "in_channels": bands,
        "classes": len(outputs),
        "class_values": list(values),
        "forward_mapping": {value: index for index, value in outputs.items()},
        "reverse_mapping": outputs,
        "img_x": 32,
        "img_y": 64,
        "scaler": 10_000,
        "preprocess": transforms.Compose([transforms.Normalize(mean=mean, std=std)]),
        "remove_background_class": "Yes",
        "lr": 0.001,
        "transform": flips,
        "train_data": chips,
    }
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    content = {"state_dict": state, "hyper_parameters": parameters | changes, "epoch": 49, "optimizer_states": []}
    torch.save(content, path)
    return path
