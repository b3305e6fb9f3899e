"""Jobs for a launcher of Hydra's, and what came of each, also of one whose process died."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from src.errors import UserError


def check_launcher(launcher: Launcher) -> None:
    """See before anything is written that a launcher can work here; raises UserError where it cannot."""
    if type(launcher).__name__ == "SlurmLauncher" and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm finds no srun here; start it on a login node of the cluster, or take "
            "hydra/launcher=joblib on this machine."
        )


def launch(launcher: Launcher, jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Let a launcher run jobs.

    Args:
        launcher: Hydra's, set up.
        jobs: The overrides of each.
        first: The first one's number.

    Returns:
        What came of each. One whose process died (the kernel or the cluster took its memory) has failed like one that
        raised; launchers themselves would say nothing of the others then.
    """
    try:
        with _submitit_tells_of_each() if "submitit" in type(launcher).__module__ else nullcontext():
            returned = list(launcher.launch(jobs, initial_job_idx=first))
    except Exception as error:  # noqa: BLE001  # joblib ends all its workers with one that died
        returned = [_failed(error) for _ in jobs]
    for job, result in zip(jobs, returned, strict=True):
        result.overrides = result.overrides or [word for word in job if not word.startswith("hydra.")]
    return returned


def _failed(error: Exception) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=error)


@contextmanager
def _submitit_tells_of_each() -> Iterator[None]:
    """Let a job that died give a failed result; the launcher would raise it, and the rest would run on unheard."""
    # Here, since few sweeps need it.
    from submitit import Job  # noqa: PLC0415
    from submitit.core.utils import UncompletedJobError  # noqa: PLC0415

    results = Job.results

    def patient(job: Job[Any]) -> list[Any]:
        try:
            return results(job)
        except UncompletedJobError:  # FailedJobError is one, with a whole traceback as its text
            state = "" if job.state == "FINISHED" else f" ({job.state})"
            return [_failed(UserError(f"Its job {job.job_id} died{state}; see {job.paths.stderr}."))]

    Job.results = patient  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Job.results = results  # type: ignore[method-assign]
