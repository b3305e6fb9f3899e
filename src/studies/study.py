"""An Optuna study that outlives its processes, that several of them can work, and that keeps to one question.

A study stands in a database. Each process claims trials, gives a sign of life while it runs them, and tells what came
of them. A trial whose process was killed gives no more signs: after the grace period whoever comes next marks it
failed and puts the same parameters back into the queue.
"""

from __future__ import annotations

import datetime
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import (
    DuplicatedStudyError,
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState

from src.errors import UserError
from src.passwords import hide_passwords
from src.studies.study_storage import connect, database_errors, disconnect, put_back

log = logging.getLogger(__name__)

TERMS = "terms"
"""The study's attribute that holds its terms. In one piece: whoever reads between two would find them to be others."""
BEGINNING = 5.0
"""Seconds that whoever begins a study has to write its terms, before another one writes them."""


@dataclass(frozen=True)
class Terms:
    """What makes the values of two trials comparable.

    Attributes:
        space: What is searched.
        fixed: Everything else that has a say in the value, by dotted key.
    """

    space: Mapping[str, BaseDistribution]
    fixed: Mapping[str, Any] = field(default_factory=dict)


class Search:
    """A study, as one of the processes that work it sees it.

    Args:
        url: Where it stands; see :func:`connect`.
        name: Its name there.
        sampler: Makes Optuna's sampler, from whether this process begins the study. Only then may it be seeded as
            the user asks: two processes with one seed would try the same parameters.
        terms: What is searched, and what is fixed.
        total: Trials that the study shall have, over all processes and restarts.
        grace: Seconds without a sign of life after which a trial is taken from its process.
        patience: Seconds to wait for a SQLite file that another process writes to.

    Raises:
        UserError: The storage cannot be used, or its study of that name has other terms.
    """

    def __init__(
        self,
        url: str,
        name: str,
        sampler: Callable[[bool], optuna.samplers.BaseSampler],
        terms: Terms,
        total: int,
        grace: int = 60,
        patience: int = 60,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.url, self.name, self.terms, self.total, self.grace = url, name, terms, total, grace
        self.storage = connect(url, grace, patience)
        try:
            with database_errors(url):
                self._open(sampler)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database."""
        disconnect(self.storage)

    def _open(self, sampler: Callable[[bool], optuna.samplers.BaseSampler]) -> None:
        try:
            optuna.create_study(storage=self.storage, study_name=self.name, direction="maximize")
            begun = True
        except DuplicatedStudyError:
            begun = False
        self.study = optuna.load_study(study_name=self.name, storage=self.storage, sampler=sampler(begun))
        self._agree(begun)

    def _agree(self, begun: bool) -> None:
        """Write the terms into a new study; refuse one that was begun with others."""
        terms = {
            "space": {key: written(distribution) for key, distribution in self.terms.space.items()},
            "fixed": dict(self.terms.fixed),
        }
        stands = {} if begun else self._standing_terms()
        if stands.get("space", terms["space"]) != terms["space"]:
            difference = "searches " + _differences(stands["space"], terms["space"], " in ", "nowhere")
        elif stands.get("fixed", terms["fixed"]) != terms["fixed"]:
            difference = "has " + _differences(stands["fixed"], terms["fixed"], "=", "unset")
        elif stands == terms:
            return
        elif begun or not self._has_trials():  # whoever began it was killed before it had written them all
            self.study.set_user_attr(TERMS, terms)
            return
        else:
            difference = "was not begun by train.py"
        raise UserError(
            f"The study {self.name} in {hide_passwords(self.url)} {difference}; its trials would not compare. Give "
            "this one a name of its own: hydra.sweeper.study_name=…"
        )

    def _standing_terms(self) -> dict[str, Any]:
        """Read the terms of a study; where nothing stands, whoever began it may be about to write them."""
        until = time.monotonic() + BEGINNING
        while not (stands := self.study.user_attrs) and not self._has_trials() and time.monotonic() < until:
            time.sleep(0.1)
        apart = {key: stands[key] for key in ("space", "fixed") if key in stands}  # as studies of before have them
        return dict(stands.get(TERMS, apart))

    def _has_trials(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False))

    def counted(self) -> list[FrozenTrial]:
        """List the trials that count: running or finished, and neither put back nor one too many."""
        trials = self.study.get_trials(deepcopy=False)
        repeated = {number for trial in trials for number in trial.system_attrs.get("repeats", [])}
        return [
            trial
            for trial in trials
            if trial.state != TrialState.WAITING and trial.number not in repeated and "surplus" not in trial.user_attrs
        ]

    def ended(self) -> list[FrozenTrial]:
        """List the trials that count and run no more."""
        return [trial for trial in self.counted() if trial.state.is_finished()]

    def missing(self) -> int:
        """Count the trials that nobody has run or is running."""
        return max(0, self.total - len(self.counted()))

    def claim(self, most: int) -> list[Trial]:
        """Take up to ``most`` trials that nobody else has; parameters are chosen, signs of life begin."""
        self.reclaim()
        trials: list[Trial] = []
        while len(trials) < most and self.missing():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")  # alive() gives the signs
                trial = self.study.ask(dict(self.terms.space))
            self.storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr("process", f"{socket.gethostname()}:{os.getpid()}")
            if sum(other.number < trial.number for other in self.counted()) >= self.total:
                trial.set_user_attr("surplus", "another process took the last trial at the same moment")
                self._tell(trial, TrialState.FAIL)
                break
            trials.append(trial)
        return trials

    def reclaim(self) -> None:
        """Put trials back into the queue whose process gives no signs of life."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self.study)
        # One whose process was killed before its first sign of life is none that Optuna looks for.
        before = datetime.datetime.now() - datetime.timedelta(seconds=self.grace)  # noqa: DTZ005  # as Optuna writes it
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "process" not in trial.user_attrs and trial.datetime_start and trial.datetime_start < before:
                self._give_up(trial)

    def await_others(self) -> bool:
        """Wait until other processes' trials are finished or are put back, for a grace period at most.

        Returns:
            Whether there is something to do again. Where nothing is and trials still run, their processes live.
        """
        until = time.monotonic() + self.grace + 1
        while self._running() and time.monotonic() < until:
            time.sleep(min(1.0, self.grace / 10))
            self.reclaim()
        return self.missing() > 0

    def _running(self) -> bool:
        return any(trial.state == TrialState.RUNNING for trial in self.counted())

    @contextmanager
    def alive(self, trials: Sequence[Trial]) -> Iterator[None]:
        """Give signs of life for trials while the block runs; if it is interrupted, put them back at once."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(max(1, self.grace // 4)):
                for trial in trials:
                    try:
                        self.storage.record_heartbeat(trial._trial_id)
                    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
                        log.warning("No sign of life could be given for trial %d: %s", trial.number, error)
            self.storage.remove_session()  # this thread's own

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            for trial in trials:
                self._give_up(self.storage.get_trial(trial._trial_id))
            raise
        finally:
            stop.set()
            thread.join()

    def _give_up(self, trial: FrozenTrial) -> None:
        """Fail a trial that nobody runs any more, and queue it anew."""
        try:
            self._tell(trial.number, TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):  # somebody was quicker
            return
        put_back(self.study, trial)

    def tell(self, trial: Trial, outcome: float | Exception) -> TrialState:
        """Write down what became of a trial.

        Args:
            trial: One that :meth:`claim` gave.
            outcome: Its validation IoU, or what it failed with.

        Returns:
            How it now stands in the study: what other processes made of it, if they took it over.
        """
        stands = self.storage.get_trial(trial._trial_id)
        if stands.state.is_finished():
            log.warning("Trial %d was taken over by another process; its result here is dropped.", trial.number)
            return stands.state
        if isinstance(outcome, Exception):
            trial.set_user_attr("error", " ".join(str(outcome).split()) or type(outcome).__name__)
            state = TrialState.FAIL
        else:
            state = TrialState.PRUNED if stands.user_attrs.get("pruned") else TrialState.COMPLETE
        self._tell(trial, state, outcome if state is TrialState.COMPLETE else None)  # type: ignore[arg-type]
        return state

    def _tell(self, trial: Trial | int, state: TrialState, value: float | None = None) -> None:
        """Write down how a trial ended, whatever the sampler says to it: Optuna writes it down all the same.

        A grid that is exhausted wants to end an optimisation loop, and there is none. Of the trial of a process that
        was killed before it had a cell, it asks for that cell.
        """
        try:
            self.study.tell(trial, value, state)
        except (RuntimeError, KeyError) as error:
            if "Study.stop" not in str(error) and error.args != ("grid_id",):
                raise


def written(distribution: BaseDistribution) -> str:
    """Write the values that a parameter can take."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(str(choice) for choice in distribution.choices)
    log_scale = " (log)" if getattr(distribution, "log", False) else ""
    step = getattr(distribution, "step", None)
    steps = f" in steps of {step}" if step and not log_scale else ""
    return f"{distribution.low} to {distribution.high}{steps}{log_scale}"  # type: ignore[attr-defined]


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], sign: str, nothing: str) -> str:
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    told = [f"{key}{sign}{before.get(key, nothing)}, here {now.get(key, nothing)}" for key in changed[:3]]
    return "; ".join(told) + ("; …" if len(changed) > 3 else "")
