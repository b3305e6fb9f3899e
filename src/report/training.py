"""The report of a training: how it went epoch by epoch, and how good its best checkpoint is on validation chips."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from src.datamodules.batches import Batch
from src.labels import IGNORE, ClassTable
from src.models.network import Network, most_likely
from src.models.precision import autocast, place
from src.quicklook import rgb_bands, stretch
from src.report.blocks import Chart, Charts
from src.report.charts import Curve, chart, curves_figure
from src.report.examples import Extremes, example_section
from src.report.page import Report, Section
from src.report.provenance import Run, closing_sections, described_network
from src.report.scores import score_sections, score_sentences
from src.report.wording import decimal
from src.scores import Evaluation, Scores
from src.spec import NetworkSpec

MOST_CHIPS = 64
"""Validation chips that the best and worst are chosen from: a report takes seconds."""
MOST_CURVES = 12
"""Classes whose curves can still be told apart."""
_OF_CLASS = "val_iou_of/"
_BEST, _LAST = "Best checkpoint", "Last checkpoint"
"""What the checkpoint is called whose scores the report tells."""

History = Sequence[Mapping[str, float]]
"""Numbers of each epoch by name, with ``epoch`` among them; a number that an epoch lacks is left out."""


def training_report(
    run: Run,
    scores: Scores,
    history: History,
    *,
    spec: NetworkSpec,
    checkpoint: Path,
    data: str,
    examples: Extremes,
    refit: bool = False,
    last: bool = False,
    files: Sequence[tuple[Path, str]],
) -> Report:
    """Put a training into a report.

    Args:
        run: What was run.
        scores: The checkpoint's on the validation chips.
        history: Every epoch's numbers.
        spec: The network.
        checkpoint: The best one, or the last.
        data: What it was trained on, in words.
        examples: Validation chips to show.
        refit: Whether it was trained on the validation chips too.
        last: Whether it is the last epoch's, since no best one was kept.
        files: What the run wrote, each with what it is.
    """
    evaluation = Evaluation(spec.classes, scores)
    best = None if refit or last else _best(history)  # the last epoch needs no mark
    marked = best["epoch"] if best else None
    return Report(
        kind="Training",
        title=f"Training of {spec.title}",
        subtitle=f"{data} · {run.when}",
        lead=(_REFIT if refit else _course(history, last=last), *score_sentences(evaluation)),
        sections=(
            Section("Epoch by epoch", (Charts(tuple(_charts(history, spec.classes, marked))),)),
            *score_sections(evaluation),
            example_section(examples),
            *closing_sections(
                run, files, *described_network(spec, _LAST if last else _BEST, checkpoint), ("Data", data)
            ),
        ),
    )


def read_history(path: Path) -> list[dict[str, float]]:
    """Read ``metrics.csv``; what is no number is left out. Without the file (another logger) there is no history."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: number for name, text in row.items() if (number := _number(text)) is not None}
            for row in csv.DictReader(file)
        ]


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


@torch.inference_mode()
def validation_examples(
    network: Network, spec: NetworkSpec, batches: Iterable[Batch], device: torch.device, most: int = MOST_CHIPS
) -> Extremes:
    """Map validation chips with a trained network and keep the best and the worst.

    Args:
        network: The network; it is moved to the device.
        spec: What it is.
        batches: Validation chips.
        device: Where to compute.
        most: Chips to look at, the first ones; at least a batch.
    """
    place(network, device).eval()
    examples, seen = Extremes(spec.classes), 0
    for batch in batches:
        with autocast(device):
            logits = network(batch.image.to(device), batch.valid.to(device))
        # Chips that were kept in a GPU's memory come from there.
        here = batch._replace(image=batch.image.cpu(), valid=batch.valid.cpu(), target=batch.target.cpu())
        found = torch.where(here.valid, most_likely(logits).cpu().to(torch.uint8), IGNORE).numpy()
        for position, name in enumerate(batch.names):
            target, mapped = (spec.classes.decode(x[position]) for x in (here.target.numpy(), found))
            examples.add(name, partial(_photograph, here, position, spec), target, mapped)
        seen += len(batch.names)
        if seen >= most:
            break
    return examples


def _photograph(batch: Batch, position: int, spec: NetworkSpec) -> npt.NDArray[np.uint8]:
    return stretch(batch.image[position].numpy()[list(rgb_bands(spec.bands))], batch.valid[position].numpy())


def _best(history: History) -> Mapping[str, float] | None:
    scored = [row for row in history if "val_iou" in row]
    return max(scored, key=lambda row: row["val_iou"]) if scored else None


_REFIT = (
    "The validation chips were trained on too (refit=true), and the last epoch was kept: the scores below tell how "
    "well the network remembers, not how good it is. Scores on test chips (eval.py) do."
)


def _course(history: History, *, last: bool) -> str:
    best = _best(history)
    if best is None:
        return "No epoch was recorded."
    learnt = f", {decimal(best['train_iou'])} on the training chips" if "train_iou" in best else ""
    shown = (
        "The scores below are the last epoch’s on these chips: no other’s checkpoint was kept."
        if last
        else "The scores below are that epoch’s on these chips. They chose the epoch, so they flatter a little; scores "
        "on test chips (eval.py) do not."
    )
    return (
        f"Of {len(history)} epochs, number {best['epoch']:.0f} (counted from 0) is the best: its mean IoU on the "
        f"validation chips is {decimal(best['val_iou'])}{learnt}. {shown}"
    )


def _charts(history: History, classes: ClassTable, marked: float | None) -> Iterable[Chart]:
    """Draw an epoch's numbers over all epochs; ``marked`` is the best one, None where it was not kept."""
    final = history[-1] if history else {}
    for name, title in (("iou", "Mean IoU"), ("loss", "Loss")):
        curves = [
            _curve(history, f"train_{name}", "training"),
            _curve(history, f"val_{name}", "validation", second=True),
        ]
        last = ", ".join(f"{curve.name} {decimal(curve.y[-1])}" for curve in curves if curve.y)
        figure = curves_figure(curves, ylabel=title, marked=marked, loss=name == "loss")
        yield chart(figure, name, f"{title} by epoch; in the last one {last}", f"{title} by epoch")
    chosen = list(zip(classes.distinct_names, classes.colors, strict=True))[:MOST_CURVES]
    curves = [_curve(history, _OF_CLASS + name, name, color=color) for name, color in chosen]
    last = ", ".join(f"{curve.name} {decimal(curve.y[-1])}" for curve in curves if curve.y)
    figure = curves_figure(curves, ylabel="IoU", marked=marked)
    which = "each class" if len(chosen) == len(classes) else f"{len(chosen)} of the {len(classes)} classes"
    yield chart(figure, "classes", f"IoU of {which} by epoch; in the last one {last}", f"IoU of {which}, validation")
    figure = curves_figure([_curve(history, "lr", "rate")], ylabel="learning rate")
    yield chart(figure, "rate", f"Learning rate by epoch, {final.get('lr', math.nan):.2g} in the last", "Learning rate")


def _curve(history: History, column: str, name: str, *, second: bool = False, color: str | None = None) -> Curve:
    rows = [(row["epoch"], row[column]) for row in history if column in row]
    return Curve(name, [x for x, _ in rows], [y for _, y in rows], second, color)
