"""A run is its own continuation, whatever its data are."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from src.errors import UserError
from src.models.restart import check_resumable, start_from
from tests.mapping_scenes import make_trained


def test_a_run_on_data_with_nan_as_nodata_can_be_resumed(tmp_path: Path) -> None:
    """NaN is not equal to itself, and the run was refused as one of other data; older checkpoints hold it as it is."""
    mapper = make_trained(tmp_path)
    spec = replace(mapper.spec, nodata=math.nan)
    content = torch.load(mapper.checkpoint, weights_only=True) | {"optimizer_states": [], "epoch": 0}
    for nodata in (math.nan, "nan"):
        content["hyper_parameters"]["spec"]["nodata"] = nodata
        torch.save(content, mapper.checkpoint)
        assert check_resumable(mapper.checkpoint, spec, 2) == 1
    with pytest.raises(UserError, match=r"was trained with nodata value nan, this run has 0\.0"):
        check_resumable(mapper.checkpoint, replace(spec, nodata=0.0), 2)


@pytest.mark.parametrize("epoch", [None, "x", math.inf])
def test_a_checkpoint_without_its_epoch_is_refused_in_one_line(tmp_path: Path, epoch: object) -> None:
    mapper = make_trained(tmp_path)
    content = torch.load(mapper.checkpoint, weights_only=True) | {"optimizer_states": [], "epoch": epoch}
    torch.save(content, mapper.checkpoint)
    with pytest.raises(UserError, match="does not say which epoch it is of"):
        check_resumable(mapper.checkpoint, mapper.spec, 2)


def test_nothing_starts_from_weights_that_are_no_numbers(tmp_path: Path) -> None:
    """The training then ended with a loss that is no number, as if its learning rate were at fault."""
    mapper = make_trained(tmp_path)
    content = torch.load(mapper.checkpoint, weights_only=True)
    name = next(name for name in content["state_dict"] if name.endswith("weight"))
    content["state_dict"][name].fill_(math.nan)
    torch.save(content, mapper.checkpoint)
    with pytest.raises(UserError, match=r"init_from=.*has values that are no numbers"):
        start_from(mapper.network, mapper.spec, str(mapper.checkpoint))
