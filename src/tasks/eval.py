"""``python eval.py``: score a checkpoint on the chips of a data folder or of a list."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.atomic import check_output_folder
from src.chips import LabelledChip
from src.datafolder import DATASET, ground_caution, read_data_folder, read_dataset, trained_images
from src.errors import UserError
from src.evaluation import check_fit, chip_exporter, chips_unlike_training, evaluate
from src.mapping.network_file import hashed
from src.mapping.trained_ground import TrainedGround
from src.models.checkpoint import TrainedOn, find_checkpoint, load_described
from src.models.network import Network
from src.models.precision import arrange_memory, choose_device, precision_name
from src.progress import progress
from src.quicklook import chip_picture
from src.report.evaluation import counted_once, evaluation_report
from src.report.examples import Extremes
from src.report.page import Report
from src.report.provenance import Run
from src.report.wording import THIN, counted
from src.run_folder import holds_training
from src.score_files import MEANINGS, check_same_kind, read_scores, write_score_files
from src.score_lines import format_scores
from src.scores import Evaluation
from src.spec import DatasetSpec, NetworkSpec, software_versions
from src.tables import Part, Sample, check_apart, list_name, listed_images, read_samples
from src.tasks.reporting import add_report
from src.tasks.schema import EvalConfig

log = logging.getLogger(__name__)

PREDICTIONS = "predictions"
"""Folder of the chips' predictions; the one of an earlier run is replaced."""
REPORT = "report.html"


@dataclass(frozen=True)
class Chips:
    """What is scored: the chips, what to call them, their list, and what describes them, None if nothing does."""

    samples: list[Sample]
    origin: str
    listed: Path
    spec: DatasetSpec | None


@dataclass(frozen=True)
class Scored:
    """What was scored, how it scored, chips to look at, the files that say so, and what speaks against the scores."""

    checkpoint: Path
    spec: NetworkSpec
    chips: Chips
    evaluation: Evaluation
    examples: Extremes
    files: list[tuple[Path, str]]
    caution: str | None = None

    def report(self, run: Run) -> Report:
        """Put all of it into a report."""
        return evaluation_report(
            run,
            self.evaluation,
            title=f"Scores on {counted(len(self.chips.samples), 'chip')}",
            data=self.chips.origin,
            spec=self.spec,
            checkpoint=self.checkpoint,
            examples=self.examples,
            files=self.files,
            caution=self.caution,
        )


def run(config: DictConfig) -> float:
    """Run the task; returns the mean IoU over all pixels."""
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, EvalConfig)
    output = Path(settings.output_dir or HydraConfig.get().runtime.output_dir)
    scored = score(settings, output)
    add_report(output / REPORT, "eval", config, scored.report)
    return scored.evaluation.pooled.mean_iou


def score(settings: EvalConfig, output: Path) -> Scored:
    """Score a checkpoint, write the files, say what they are.

    Args:
        settings: The command's keys.
        output: Folder for everything that is written; made if it is not there.

    Raises:
        UserError: Something that was given cannot be used; nothing has been written then.
    """
    check_output_folder(output)
    check_same_kind(output, "", of_map=False)
    check_own(output)
    device = choose_device(settings.accelerator)
    arrange_memory(device)
    checkpoint = find_checkpoint(settings.checkpoint)
    chips = find_chips(settings.data_dir, settings.csv, settings.split)
    if settings.export_predictions:
        check_replacing(output / PREDICTIONS, chips.samples)
    (network, said), digest = hashed(checkpoint, load_described)
    spec = said.spec
    if chips.spec is not None:
        check_fit(spec, chips.spec.bands, chips.spec.classes, chips.origin)
    log.info("Network  %s, %s", _describe(spec), checkpoint)
    log.info("Chips    %d, %s", len(chips.samples), chips.origin)
    cautions = [_training_caution(chips, said.trained_on), chips_unlike_training(spec, chips.samples, chips.spec)]
    told = [words for words in cautions if words]
    for words in told:
        log.warning("CAUTION: %s: %s", chips.origin, words)
    precision = precision_name(device, network)
    log.info("Device   %s, %s, %d chips at once", _device_name(device), precision, settings.batch_size)
    examples = Extremes(spec.classes)
    evaluation = _run_network(network, spec, chips, device, settings, output, examples)
    context = {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": digest,
        "chips": chips.origin,
        "chip_count": len(chips.samples),
        "pixels_of_several_chips": evaluation.shared,
        PREDICTIONS: settings.export_predictions,
        "device": str(device),
        "precision": precision,
        "versions": software_versions(),
    }
    shared = [line.replace(THIN, ",") for line in counted_once(evaluation)]  # as the table has it
    for line in ("", *format_scores(evaluation), *shared, ""):
        log.info(line)
    predictions = [output / PREDICTIONS] if settings.export_predictions else []
    if not predictions:
        remove_predictions(output, chips.samples)
    files = [*write_score_files(output, evaluation, context), *predictions]
    for path in files:
        log.info("%s", path)
    named = [(path, MEANINGS.get(path.name, "")) for path in files]
    return Scored(checkpoint, spec, chips, evaluation, examples, named, "; ".join(told) or None)


def _run_network(
    network: Network,
    spec: NetworkSpec,
    chips: Chips,
    device: torch.device,
    settings: EvalConfig,
    output: Path,
    examples: Extremes,
) -> Evaluation:
    """Score the chips with a progress bar; predictions are written if asked for, and the telling ones remembered."""
    with _predictions(output, settings.export_predictions) as folder:
        exporter = chip_exporter(folder, chips.samples, spec.classes, settings.mask_unclassified) if folder else None

        def export(chip: LabelledChip, values: npt.NDArray[np.uint8]) -> None:
            examples.add(Path(chip.info.path).name, partial(chip_picture, chip, spec.bands), chip.values, values)
            if exporter is not None:
                exporter(chip, values)

        with progress("Scoring", len(chips.samples), "chips") as advance:
            return evaluate(
                network,
                spec,
                chips.samples,
                device=device,
                data=chips.spec,
                batch_size=settings.batch_size,
                export=export,
                advance=advance,
            )


def find_chips(data_dir: str | None, csv: str | None, split: str) -> Chips:
    """Return the chips that ``data_dir`` and ``split``, or ``csv``, stand for.

    Raises:
        UserError: Not just one of both is given, the split has no such name, or there is no chip.
    """
    if (data_dir is None) == (csv is None):
        given = "Neither data_dir nor csv is given" if csv is None else "Both data_dir and csv are given"
        raise UserError(f"{given}; expected one of them. Add data_dir=… (a data folder) or csv=… (a list of chips).")
    if csv is not None:
        return _listed_chips(Path(csv))
    parts: dict[str, Part] = {part: part for part in get_args(Part)}
    if split not in parts:
        raise UserError(f"split={split} is no part of a data folder; expected one of {', '.join(parts)}.")
    folder, part = read_data_folder(str(data_dir)), parts[split]
    return Chips(folder.samples(part), f"{data_dir} ({split})", folder.path / list_name(part), folder.spec)


def _listed_chips(path: Path) -> Chips:
    samples = read_samples(path)
    if not samples:
        raise UserError(f"{path} lists no chip; expected at least one row below its header.")
    described = path.with_name(DATASET)
    return Chips(samples, str(path), path, read_dataset(described) if described.is_file() else None)


def _training_caution(chips: Chips, trained_on: TrainedOn) -> str | None:
    """Say if a network may have been trained on the chips or on ground that they show; None for no.

    Args:
        chips: What is scored.
        trained_on: What the checkpoint says it was trained on.

    Raises:
        UserError: It was trained on some of them.
    """
    folder, listed = chips.listed.parent, set(listed_images(chips.listed))
    data_dir = trained_on.folder
    here = data_dir is not None and data_dir.resolve() == folder.resolve()
    if trained_on.scenes or (data_dir is not None and data_dir.is_dir() and not here):
        return _elsewhere_caution(chips, TrainedGround.of(trained_on))
    if listed <= (trained := set(trained_images(folder))):
        return "these are training chips, and the scores of a network that was trained on them say nothing"
    if here:
        check_apart(chips.listed, folder / list_name("train"))
    if both := len(listed & trained):
        return f"{both} of them are training chips; the scores of a network that was trained on them say nothing"
    refit = trained_on.refit and here
    if refit and listed <= set(trained_images(folder, refit=True)):
        return "the network was trained on them (refit=true), so their scores say nothing; score split=test"
    return ground_caution(chips.listed, chips.samples, chips.spec, refit=refit)


def _elsewhere_caution(chips: Chips, trained: TrainedGround) -> str | None:
    """Say how many chips show ground that was trained on in another folder, or on scenes; None for none."""
    shown = trained.showing([sample.image for sample in chips.samples], chips.spec) if chips.spec is not None else 0
    if not shown:
        return None
    what = "windows of scenes" if trained.drawn else "chips of another data folder"
    count = f"{shown} of {len(chips.samples)} chips show" if shown > 1 else f"1 of {len(chips.samples)} chips shows"
    return f"{count} ground that the network was trained on ({what}); scores of what it has seen are too good"


def check_own(output: Path) -> None:
    """Refuse to put a report in the place of another command's.

    Raises:
        UserError: The folder is that of a training, or has a report without the scores of an evaluation.
    """
    training = holds_training(output)
    if training or ((output / REPORT).exists() and "checkpoint" not in read_scores(output / "scores.json")):
        whose = "the folder of a training" if training else f"a folder with another command's {REPORT}"
        raise UserError(
            f"{output} is {whose}, whose place the report of the scores would take; expected a folder of their own. "
            "Give another output_dir."
        )


def remove_predictions(output: Path, samples: Iterable[Sample]) -> None:
    """Remove the predictions of an earlier evaluation in a folder, which the new scores are not of.

    They stay where its scores do not tell of them, or where what is scored lies among them.
    """
    folder = output / PREDICTIONS
    if read_scores(output / "scores.json").get(PREDICTIONS) is not True or not folder.is_dir():
        return
    with suppress(UserError):
        check_replacing(folder, samples)
        shutil.rmtree(folder, ignore_errors=True)
        log.info("%s of an earlier evaluation is removed.", folder)


def check_replacing(folder: Path, samples: Iterable[Sample]) -> None:
    """Refuse to replace a folder that holds what is scored, as predictions that became labels.

    Raises:
        UserError: A chip's image or label lies in it.
    """
    one_of_each = {file.parent: file for sample in samples for file in (sample.image, sample.label)}
    for parent, file in one_of_each.items():
        if parent.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"export_predictions=true would replace {folder}, where {file.name} lies, which is scored; expected a "
                "folder without chips. Give another output_dir."
            )


@contextmanager
def _predictions(output: Path, wanted: bool) -> Iterator[Path | None]:
    """Give a folder beside ``predictions``; it takes its place when the block ends well, else it disappears."""
    if not wanted:
        yield None
        return
    partial, final = output / f".{PREDICTIONS}.partial", output / PREDICTIONS
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _describe(spec: NetworkSpec) -> str:
    return f"{spec.title}, {len(spec.bands)} bands, {len(spec.classes)} classes"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
