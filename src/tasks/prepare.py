"""``python prepare.py``: from the composed configuration to a data folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from src.class_map import ClassRule
from src.class_names import read_named
from src.errors import UserError
from src.preparation.assembly import FILES, OVERVIEW
from src.preparation.prepare import prepare_folder
from src.preparation.settings import Preparation
from src.raster.write import Compression
from src.report.page import Report
from src.report.preparation import preparation_report
from src.report.provenance import Run
from src.tasks.reporting import add_report, cautions
from src.tasks.schema import ClassRuleConfig, PrepareConfig

REPORT = "overview.html"
"""The report, in the data folder. A training or an evaluation in the same folder has a ``report.html``."""


def run(config: DictConfig) -> None:
    """Prepare a data folder; one that is there already keeps its report."""
    given: PrepareConfig = OmegaConf.to_object(config)  # type: ignore[assignment]  # it is what the schema says
    with cautions() as said:
        summary = prepare_folder(settings(given), given.data_dir, overwrite=given.overwrite).summary
    if summary is None:
        return
    folder = Path(given.data_dir)
    (folder / REPORT).unlink(missing_ok=True)  # it is that of the folder before
    files = [(folder / name, what) for name, what in FILES.items()]
    picture = folder / OVERVIEW

    def make(run: Run) -> Report:
        return preparation_report(run, folder, picture, summary=summary, cautions=said, files=files)

    add_report(folder / REPORT, "prepare", config, make)


def settings(given: PrepareConfig) -> Preparation:
    """Turn the configuration into plain typed settings; raises UserError where a value is of the wrong kind."""
    split = given.split
    return Preparation(
        image=_paths("image", given.image),
        label=_paths("label", given.label),
        chip_size=_pair("chip.size", given.chip.size),
        chip_step=_pair("chip.step", given.chip.step),
        min_coverage=given.chip.min_coverage,
        compress=cast(Compression, given.chip.compress),  # Preparation checks it
        shares=(split.train, split.validation, split.test),
        strategy=split.strategy.value,
        buffer=split.buffer,
        block=split.block,
        split_raster=None if split.raster is None else _paths("split.raster", split.raster),
        split_values=_part_values(split.values),
        seed=given.seed,
        scaler=given.scaler,
        nodata=given.nodata,
        class_map=None if given.class_map is None else tuple(class_rule(rule) for rule in given.class_map),
        min_class_share=given.min_class_share,
        class_names=read_named("class_names", given.class_names),
        class_colors=read_named("class_colors", given.class_colors),
        label_field=given.label_field,
        label_layer=given.label_layer,
    )


def _paths(key: str, value: Any) -> str | tuple[str, ...]:
    listed = [str(path) if type(path) is int else path for path in (value if isinstance(value, list) else [value])]
    if all(isinstance(path, str) for path in listed):  # a folder may be called 2021
        return tuple(listed) if isinstance(value, list) else listed[0]
    raise UserError(f"{key}={value} is no path; give a path, a list of paths ({key}=[a.tif,b.tif]), or a glob.")


def _pair(key: str, value: Any) -> tuple[int, int]:
    numbers = value if isinstance(value, list) else [value, value]
    if len(numbers) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise UserError(f"{key}={value} is no size; give whole pixels ({key}=256) or [x,y] ({key}=[256,128]).")
    return numbers[0], numbers[1]


def _part_values(values: Any) -> tuple[int | None, int | None, int | None]:
    known = isinstance(values, list) and len(values) == 3
    if not known or any(isinstance(v, bool) or not (v is None or isinstance(v, int)) for v in values):
        raise UserError(
            f"split.values={values} does not fit; list the values of training, validation and test in split.raster, "
            "null for a part that it does not have: split.values=[1,null,2]."
        )
    return values[0], values[1], values[2]


def class_rule(rule: ClassRuleConfig) -> ClassRule:
    """Turn an entry of ``class_map`` into a rule; raises UserError if it merges something else than classes."""
    return ClassRule.from_entry(asdict(rule))
