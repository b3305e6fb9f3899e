"""What ``-m`` starts: a grid that ends with a table of its runs, or a study whose trials are runs.

A study's space is written and read as hydra-optuna-sweeper has it. The loop is our own, because that sweeper can
neither mark a trial as pruned, nor count what a study has, nor share it, nor tell a killed trial from one that runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from src.errors import UserError
from src.tasks.grid_table import conclude
from src.tasks.launching import check_launcher, check_places, launch, let_go_after_each


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper, which runs every combination, with a table at the end of which run came to what."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives, and keep what the launcher returns."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        check_launcher(self.launcher)
        let_go_after_each(hydra_context)
        self.launcher = self.keeper = _Keeper(self.launcher)
        self.task, self.folder = config.hydra.job.config_name, Path(config.hydra.sweep.dir)

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run all of them, and say what came of each."""
        self._check(arguments)
        try:
            super().sweep(arguments)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"What the runs have finished is kept, in {self.folder}.") from error
        conclude(self.task, self.keeper.kept, self.folder)
        return self.keeper.kept

    def _check(self, arguments: Sequence[str]) -> None:
        """See before anything is written that all runs compose, and that no two of them write into one folder."""
        assert self.config is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        (jobs,) = self.split_arguments(overrides, None)
        check_places(loader.load_sweep_config(self.config, list(job)) for job in jobs)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: all runs were composed before the first one began."""


class _Keeper(Launcher):
    """Keeps what another launcher returns. Its caller gets nothing to look at, and so goes on after a failed run."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher, self.kept = launcher, list[JobReturn]()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Do nothing: the other one is set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Launch, and keep."""
        self.kept += launch(self.launcher, job_overrides, initial_job_idx)
        return []


class StudySweeper(Sweeper):
    """Runs trials until the study has as many as it shall have; see :class:`src.tasks.schema.StudySweeperConfig`."""

    def __init__(
        self,
        sampler: DictConfig,
        storage: str | None,
        study_name: str | None,
        n_trials: int,
        n_jobs: int,
        grace: int,
        params: DictConfig | None,
    ) -> None:
        self.sampler, self.params = sampler, params
        self.storage, self.study_name = storage, study_name
        self.n_trials, self.n_jobs, self.grace = n_trials, n_jobs, grace

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives; with the joblib launcher, as many workers as trials at a time."""
        self.context, self.composed = hydra_context, config
        self.folder = Path(config.hydra.sweep.dir)
        let_go_after_each(hydra_context)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )
        joblib = getattr(self.launcher, "joblib", {})
        if joblib.get("n_jobs") == -1:  # joblib divides the cores' threads by this number
            joblib["n_jobs"] = self.n_jobs

    def sweep(self, arguments: list[str]) -> None:
        """Run what is missing of the study, and say what came of all of it."""
        # Here, so that only studies wait for Optuna and the database to be imported.
        from src.tasks.trials import run_study  # noqa: PLC0415

        for key in ("storage", "study_name"):
            if not getattr(self, key):
                raise UserError(f"hydra.sweeper.{key} is empty; a study needs one, to be found again.")
        for key in ("n_trials", "n_jobs", "grace"):
            if (number := getattr(self, key)) < 1:
                raise UserError(f"hydra.sweeper.{key}={number} does not fit; expected a whole number of 1 and more.")
        check_launcher(self.launcher)
        params = [] if self.params is None else [f"{key!s}={value}" for key, value in self.params.items()]
        run_study(self, [*params, *arguments])
