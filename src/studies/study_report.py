"""What a study came to: a table of its trials, the best one and how to repeat it, and a page with Optuna's plots."""

from __future__ import annotations

import html
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import optuna.visualization as plots
from optuna.trial import FrozenTrial, TrialState

from src.atomic import write_text
from src.errors import UserError
from src.models.checkpoint import find_checkpoint
from src.passwords import hide_passwords
from src.studies.study import Search
from src.text_table import lay_out, write_csv

log = logging.getLogger(__name__)

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "runs",
    TrialState.WAITING: "waits",
}

AXES = {"History": "trial", "Validation IoU by epoch": "epoch"}
"""What stands on the horizontal axes of plots over whole numbers."""

STYLE = """body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:1100px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin:2rem 0 .5rem}code{background:#f2f2f2;padding:.1em .3em}
pre{background:#f2f2f2;padding:.6rem;white-space:pre-wrap;word-break:break-word}
.wide{overflow-x:auto}.wide>div{min-width:40rem}table{border-collapse:collapse}table{font-size:.9rem}
th,td{padding:.25rem .6rem;text-align:left;white-space:nowrap}
th{border-bottom:1px solid #888}td{border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}
tr.best{background:#e6f4ea;font-weight:600}td.why{white-space:normal;min-width:9rem}"""


def conclude(search: Search, folder: Path, repeat: Callable[[Mapping[str, Any]], str]) -> Path:
    """Print a study's trials and its best one, and write ``study.html`` and ``trials.csv``.

    Args:
        search: The study.
        folder: Where the page goes.
        repeat: Writes the command that trains once more with a trial's parameters.

    Returns:
        The page.

    Raises:
        UserError: No trial has come to an end.
    """
    study = search.study
    for line in table(study):
        log.info("%s", line)
    head, lines = rows(study, str)
    write_csv(folder / "trials.csv", [*head[:-1], "reason"], lines)
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    running = sum(trial.state is TrialState.RUNNING for trial in trials)
    if running:
        log.info("%d trials still run in other processes; the last to end reports the whole study.", running)
    elif not complete:
        errors = [trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs]
        raise UserError(
            f"None of the {len(trials)} trials of the study {search.name} came to an end, so there is no best one. "
            + (f"The last one failed with: {errors[-1]}" if errors else "Prune less: callbacks.study.pruner=null.")
        )
    facts = best_facts(study.best_trial, repeat) if complete else {}
    page = folder / "study.html"
    write_text(page, render(search, facts))
    closer = f"optuna-dashboard {hide_passwords(search.url)}"
    for name, value in {**facts, "plots": str(page), "look closer": closer}.items():
        log.info("%-12s %s", name, value)
    return page


def best_facts(best: FrozenTrial, repeat: Callable[[Mapping[str, Any]], str]) -> dict[str, str]:
    """Name the best trial, its folder, its checkpoint and the command that repeats it, passwords left out."""
    folder = best.user_attrs.get("folder", "")
    try:
        checkpoint = str(find_checkpoint(folder))
    except UserError:
        checkpoint = f"none in {folder}"
    return {
        "best": f"trial {best.number}, validation IoU {best.value:.4f}",
        "folder": folder,
        "checkpoint": checkpoint,
        "repeat it": hide_passwords(repeat(best.params)),
    }


def rows(study: optuna.Study, write: Callable[[Any], str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Lay out the trials: the head, and for each trial its number, validation IoU, state, parameters and failure.

    Args:
        study: The study.
        write: Writes a parameter's value; None rounds for people.
    """
    write = write or _rounded
    trials = study.get_trials(deepcopy=False)
    again = {number: trial.number for trial in trials for number in trial.system_attrs.get("repeats", [])[-1:]}
    names = sorted({name for trial in trials for name in trial.params})
    lines = []
    for trial in trials:
        state = f"lost, again as {again[trial.number]}" if trial.number in again else STATES[trial.state]
        values = [write(trial.params.get(name, "–")) for name in names]
        why = trial.user_attrs.get("error") or trial.user_attrs.get("surplus") or trial.user_attrs.get("pruned", "")
        score = "–" if trial.value is None else f"{trial.value:.4f}"
        lines.append([str(trial.number), score, state, *values, why])
    return ["trial", "val IoU", "state", *names, ""], lines


def table(study: optuna.Study) -> list[str]:
    """Write the trials as lines of text."""
    return lay_out(*rows(study))


def render(search: Search, facts: Mapping[str, str]) -> str:
    """Write the page: facts, trials and Optuna's plots, with nothing that it would have to fetch."""
    study = search.study
    best = str(study.best_trial.number) if facts else None
    head, lines = rows(study)
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr{' class=best' if line[0] == best else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in line[:-1])
        + f"<td class=why>{html.escape(line[-1])}</td></tr>"
        for line in lines
    )
    summary = "".join(
        f"<p>{name}: {html.escape(value)}</p>" if name != "repeat it" else f"<pre>{html.escape(value)}</pre>"
        for name, value in facts.items()
    )
    title = f"Study {html.escape(search.name)}"
    figures = "".join(f"<h2>{name}</h2><div class=wide><div>{plot}</div></div>" for name, plot in draw(study).items())
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width'><title>{title}</title><style>{STYLE}</style></head>"
        f"<body><h1>{title}</h1>{summary}<h2>Trials</h2><div class=wide><table><tr>{cells}</tr>{body}</table></div>"
        f"{figures}</body></html>\n"
    )


def draw(study: optuna.Study) -> dict[str, str]:
    """Draw Optuna's plots as pieces of a page; the first brings plotly's code with it."""
    trials = study.get_trials(deepcopy=False)
    values = {trial.value for trial in trials if trial.state is TrialState.COMPLETE}
    figures: dict[str, Callable[[], Any]] = {}
    if values:
        figures["History"] = lambda: plots.plot_optimization_history(study, target_name="validation IoU")
    if any(trial.intermediate_values for trial in trials):
        figures["Validation IoU by epoch"] = lambda: plots.plot_intermediate_values(study)
    if len(values) > 1:  # what matters cannot be told from one value
        figures["Importance"] = lambda: plots.plot_param_importances(study, target_name="validation IoU")
        figures["Parallel coordinates"] = lambda: plots.plot_parallel_coordinate(study, target_name="validation IoU")
    pieces: dict[str, str] = {}
    for name, make in figures.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            figure = make()
        figure.update_layout(title=None, height=440, margin={"t": 40, "l": 70, "r": 40}, template="plotly_white")
        if name in AXES:  # numbers of things have no fractions; what Optuna calls them is not what they are
            highest = max(max(trial.number, *trial.intermediate_values, 0) for trial in trials)
            figure.update_xaxes(title=AXES[name], tickformat="d", dtick=1 if highest < 20 else None)
            figure.update_yaxes(title="validation IoU", rangemode="tozero")
            figure.update_layout(showlegend=True)
        pieces[name] = figure.to_html(full_html=False, include_plotlyjs=not pieces)
    return pieces


def _rounded(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
