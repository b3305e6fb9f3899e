"""The loop of a study in one process: claim trials, let the launcher run them, tell what came of them."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from src.errors import UserError
from src.models.architectures import WITHOUT_ENCODER
from src.studies.study import Search, Terms
from src.studies.study_report import conclude
from src.studies.study_storage import TrialPlace, database_errors
from src.tasks.launching import check_no_folder, launch
from src.tasks.search_space import (
    assignments,
    check_searches,
    command,
    given_in_groups,
    grid,
    probes,
    read_space,
    settings,
)
from src.tasks.wording import explain

if TYPE_CHECKING:
    from src.tasks.sweeper import StudySweeper

log = logging.getLogger(__name__)

SAMPLERS = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")

SAME_ERRORS = 5
"""Trials that fail alike before any succeeds, after which a process stops: the next would fail too."""


def run_study(sweeper: StudySweeper, arguments: Sequence[str]) -> None:
    """Run what is missing of a study, and print and write what came of all of it.

    Args:
        sweeper: With its launcher, and what the user chose.
        arguments: Overrides of the search space and of the command line.

    Raises:
        UserError: There is nothing to search, the storage cannot be used, or trial after trial fails alike.
    """
    space, fixed = read_space(arguments)
    terms = find_terms(sweeper, space, fixed)
    assert sweeper.storage is not None
    is_new = not sweeper.folder.exists()
    with database_errors(sweeper.storage):
        try:
            search = open_study(sweeper, terms)
        except UserError:
            if is_new:
                shutil.rmtree(sweeper.folder, ignore_errors=True)
            raise
        with closing(search):
            log.info("Study %s: %d of %d trials to do", search.name, search.missing(), search.total)
            try:
                _work(sweeper, search, fixed)
            except KeyboardInterrupt as error:
                raise KeyboardInterrupt(
                    f"The study {search.name} has {len(search.ended())} of {search.total} trials; the same command "
                    "goes on with it, beginning with what was interrupted."
                ) from error
            conclude(search, sweeper.folder, lambda params: command(params, fixed, sweeper.folder / "best"))


def find_terms(sweeper: StudySweeper, space: Mapping[str, BaseDistribution], fixed: Sequence[str]) -> Terms:
    """Say what a study searches and what is fixed, once every choice of its space has been composed.

    Raises:
        UserError: One does not compose, or would be no trial; or there is nothing to search.
    """
    loader = sweeper.context.config_loader
    tried = [
        (params, loader.load_sweep_config(sweeper.composed, [*assignments(params), *fixed])) for params in probes(space)
    ]
    for _, trial in tried:
        check_no_folder(trial)
        check_no_refit(trial)
    given = given_in_groups(loader, tried)
    space = _without_idle_encoder(space, [OmegaConf.select(trial, "model.name") for _, trial in tried])
    return Terms(space, settings(sweeper.composed, space) | given)


def check_no_refit(trial: DictConfig) -> None:
    """See that a trial is scored on chips that it does not train on; raises UserError where it is not."""
    if trial.refit:
        raise UserError(
            "refit=true does not go with a study, whose trials would be scored on chips that they have trained on; "
            "expected refit=false. Search with it, then train the best trial once more with refit=true."
        )


def _without_idle_encoder(
    space: Mapping[str, BaseDistribution], models: Sequence[str]
) -> Mapping[str, BaseDistribution]:
    """Take the encoder out of a space where none of its models has one."""
    if "encoder" not in space or not WITHOUT_ENCODER.keys() >= set(models):
        return space
    log.info("encoder is not searched: model=%s has none", ", ".join(dict.fromkeys(models)))
    rest = {key: distribution for key, distribution in space.items() if key != "encoder"}
    check_searches(rest)
    return rest


def open_study(sweeper: StudySweeper, terms: Terms) -> Search:
    """Begin a study or join one that stands, with the sampler that was chosen."""
    config = sweeper.sampler
    if "CmaEs" in config._target_ and find_spec("cmaes") is None:  # Optuna would notice at the second trial
        raise UserError(
            "hydra/sweeper/sampler=cmaes needs a package that is not installed here; get it: pip install cmaes, or "
            "choose another one: tpe, gp, random, grid."
        )
    cells = grid(terms.space) if "GridSampler" in config._target_ else None

    def sampler(begun: bool) -> BaseSampler:
        # The seed of a grid only orders its cells, and all who share them have to order them alike.
        as_asked = begun or cells is not None or "seed" not in config
        seeded = config if as_asked else OmegaConf.merge(config, {"seed": None})
        made: Any = instantiate(seeded, _execution_whitelist_=SAMPLERS)
        return made(cells) if isinstance(made, partial) else made  # type: ignore[no-any-return]

    total = sweeper.n_trials if cells is None else min(sweeper.n_trials, math.prod(map(len, cells.values())))
    assert sweeper.storage is not None
    assert sweeper.study_name is not None
    return Search(sweeper.storage, sweeper.study_name, sampler, terms, total, sweeper.grace)


def _work(sweeper: StudySweeper, search: Search, fixed: Sequence[str]) -> None:
    errors: set[str] = set()
    failed = 0
    while (trials := search.claim(sweeper.n_jobs)) or search.await_others():
        if not trials:
            continue
        with search.alive(trials):
            outcomes = _launch(sweeper, search, trials, fixed)
        for trial, outcome in zip(trials, outcomes, strict=True):
            error = explain("train", outcome) if isinstance(outcome, Exception) else ""
            state = search.tell(trial, outcome if isinstance(outcome, float) else UserError(error))
            _announce(search, trial, state, outcome, error)
            errors.add(error.replace(str(sweeper.folder / str(trial.number)), ""))
            failed += bool(error)
        if failed >= SAME_ERRORS and len(errors) == 1:
            raise UserError(f"All of {failed} trials failed alike, so the sweep stops. {error}")


def _launch(
    sweeper: StudySweeper, search: Search, trials: Sequence[Trial], fixed: Sequence[str]
) -> list[float | Exception]:
    """Let the launcher run trials; returns for each its validation IoU or what it failed with."""
    jobs = []
    for trial in trials:
        folder = sweeper.folder / str(trial.number)
        TrialPlace(search.url, search.name, trial.number).write(folder)
        trial.set_user_attr("folder", str(folder))
        jobs.append([*fixed, *assignments(trial.params), f"hydra.sweep.subdir={trial.number}"])
    return [_outcome(result) for result in launch(sweeper.launcher, jobs, trials[0].number)]


def _outcome(result: JobReturn) -> float | Exception:
    """Return a trial's validation IoU, or whatever it failed with."""
    value = result._return_value  # return_value would print a line for one that failed, and raise
    if isinstance(value, Exception):
        return value.with_traceback(None)
    try:
        value = float(value)
    except (TypeError, ValueError) as error:
        return error.with_traceback(None)
    return UserError("Its validation IoU is no number.") if math.isnan(value) else value


def _announce(search: Search, trial: Trial, state: TrialState, outcome: float | Exception, error: str) -> None:
    done = f"trial {trial.number}, {len(search.counted())} of {search.total}"
    if state is TrialState.FAIL:
        log.warning("%s: failed: %s", done, error)
    elif isinstance(outcome, float):
        log.info("%s: validation IoU %.4f%s", done, outcome, ", pruned" if state is TrialState.PRUNED else "")
