"""Jobs for a launcher of Hydra's, and what came of each, also of one whose process died."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from src.errors import UserError
from src.input_files import GEOTIFFS, find_files
from src.mapping.map_paths import maps_in

_FOLDER_FOR_EACH = {
    "hydra.sweep.subdir": "Number them: hydra.sweep.subdir='{}/${{hydra.job.num}}'",
    "output_dir": "Leave it out, and name the folder that holds theirs: hydra.sweep.dir={}",
    "data_dir": "Number them: data_dir='{}/${{hydra:job.num}}'",
}
"""How the runs of a grid get folders of their own, by the key that names what they write into."""


def check_launcher(launcher: Launcher) -> None:
    """See before anything is written that a launcher can work here; raises UserError where it cannot."""
    if type(launcher).__name__ == "SlurmLauncher" and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm finds no srun here; start it on a login node of the cluster, or take "
            "hydra/launcher=joblib on this machine."
        )


def check_places(runs: Iterable[DictConfig]) -> None:
    """See that no two runs of a grid write into one folder, or over one map; raises UserError where they do.

    Args:
        runs: What each is composed to. One whose ``output_dir``, ``output`` or, of ``prepare.py``, ``data_dir`` follows
            from Hydra's own keys (``${hydra:job.num}``) is taken to have a place of its own: they have their values
            only when it runs. One without any of them writes into the folder that Hydra makes for it.
    """
    files, folders = Counter[str](), Counter[tuple[str, str, str]]()
    for number, run in enumerate(runs):
        files.update(_given_files(run))
        key, given, folder = _place(run, number)
        if folder and "${hydra:" not in folder:
            folders[key, given, folder] += 1
    for file, number in files.items():
        if number > 1:
            raise UserError(
                f"output makes {number} runs write {file}, each over the one before; expected a file for each. Leave "
                "it out, and name the folder that holds theirs: hydra.sweep.dir=…"
            )
    for (key, given, _), number in folders.items():
        if number > 1:
            raise UserError(
                f"{key}={given} is given to {number} runs, of which each would put the one before aside or write over "
                f"it; expected a folder for each. {_FOLDER_FOR_EACH[key].format(given)}"
            )


def _place(run: DictConfig, number: int) -> tuple[str, str, str]:
    """Return the key that says which folder a run of a grid writes into, what it says, and the folder if there is one.

    Args:
        run: What it is composed to.
        number: The run's.
    """
    prepares = run.hydra.job.config_name == "prepare"
    key = "data_dir" if prepares else "output_dir"
    if prepares or given_path(run, key) or given_path(run, "output"):
        folder = given_path(run, key) or ""
        return key, folder, folder
    with read_write(run.hydra):
        run.hydra.job.num, run.hydra.job.id = number, str(number)  # as the launcher will
    given = given_path(run.hydra.sweep, "subdir") or ""
    return "hydra.sweep.subdir", given, os.path.join(given_path(run.hydra.sweep, "dir") or "", given)  # noqa: PTH118


def check_no_folder(trial: DictConfig) -> None:
    """See that a trial of a study writes where the study looks for it; raises UserError where it does not."""
    if folder := given_path(trial, "output_dir"):
        raise UserError(
            f"output_dir={folder} does not go with a study, whose trials report from folders of their own within the "
            "study's; expected none. Leave it out, and name the study's folder: hydra.sweep.dir=…"
        )


def given_path(run: DictConfig, key: str) -> str | None:
    """Return a run's path under a key, as it is written if Hydra's keys are in it; None where none is given."""
    plain = OmegaConf.to_container(run, resolve=False)
    assert isinstance(plain, dict)
    written = None if OmegaConf.is_missing(run, key) else plain.get(key)
    return written if written is None or "${hydra:" in written else os.path.normpath(run[key])


def _given_files(run: DictConfig) -> set[str]:
    """Return the files that a run's ``output`` names; for a folder of maps one for each scene."""
    output = given_path(run, "output")
    if output is None or "${hydra:" in output:
        return set()
    if "image" not in run or Path(output).suffix.lower() in GEOTIFFS:
        return {output}
    image = OmegaConf.to_object(run.image) if OmegaConf.is_config(run.image) else run.image
    try:
        scenes = find_files([str(path) for path in (image if isinstance(image, list) else [image])], "image")
    except UserError:  # which that run will tell
        return set()
    return {str(path) for path in maps_in(Path(output), scenes)}


class LetGo(Callback):
    """Lets go of what a run of a multirun held, before the next one begins in the same process.

    What a run failed with is kept to the end of the sweep, and its traceback holds the run's frames: data, network and
    the GPU's memory. A run that ended well leaves cycles, which Python collects when it likes. Of W&B there is one run
    in a process at a time, which Lightning's next logger would go on with.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Let go; Hydra has written the traceback into the run's log by now."""
        del config, kwargs
        if isinstance(job_return._return_value, Exception):
            _strip(job_return._return_value)
        gc.collect()
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()
        if (wandb := sys.modules.get("wandb")) and wandb.run:
            wandb.finish(exit_code=int(job_return.status is JobStatus.FAILED))


def let_go_after_each(context: HydraContext) -> None:
    """Let every run of a multirun end with :class:`LetGo`, after what else the user lets it end with."""
    context.callbacks.callbacks.insert(0, LetGo())  # at the end Hydra goes through them backwards


def _strip(error: BaseException | None) -> None:
    """Take the tracebacks from an error and from what it came of; all of them stay, for what is said of them."""
    stripped = set[int]()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in stripped:
            continue
        stripped.add(id(each))
        traceback.clear_frames(each.__traceback__)
        each.__traceback__ = None
        waiting += [each.__cause__, each.__context__]


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
