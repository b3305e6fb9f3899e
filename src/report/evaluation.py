"""The report of an evaluation: how good a checkpoint is on chips, and which of them it maps best and worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.report.examples import Extremes, example_section
from src.report.page import Report
from src.report.provenance import Run, closing_sections, described_network
from src.report.scores import score_sections, score_sentences
from src.report.wording import grouped
from src.scores import Evaluation
from src.spec import NetworkSpec


def evaluation_report(
    run: Run,
    evaluation: Evaluation,
    *,
    spec: NetworkSpec,
    title: str,
    checkpoint: Path,
    data: str,
    examples: Extremes,
    files: Sequence[tuple[Path, str]],
    caution: str | None = None,
) -> Report:
    """Put an evaluation into a report.

    Args:
        run: What was run.
        evaluation: The scores.
        spec: The network.
        title: What was scored, in a few words: ``Scores on 18 test chips``.
        checkpoint: The scored checkpoint.
        data: Where the chips are from.
        examples: Chips to show.
        files: What the run wrote, each with what it is.
        caution: Why the scores may be too good or too low to be believed; None for no reason.
    """
    return Report(
        kind="Evaluation",
        title=title,
        subtitle=f"{data} · {checkpoint.name} · {run.when}",
        lead=(*score_sentences(evaluation), *counted_once(evaluation), *([f"Note: {caution}"] if caution else [])),
        sections=(
            *score_sections(evaluation),
            example_section(examples),
            *closing_sections(run, files, *described_network(spec, "Checkpoint", checkpoint), ("Data", data)),
        ),
    )


def counted_once(evaluation: Evaluation) -> tuple[str, ...]:
    """Say how many pixels several chips show, and in which they count; nothing where chips do not overlap."""
    if not evaluation.shared:
        return ()
    shared, total = grouped(evaluation.shared), grouped(evaluation.pooled.support.sum())
    return (
        f"Several chips show {shared} of the {total} labelled pixels: over all pixels each counts once, in the chip "
        "whose centre is nearest.",
    )
