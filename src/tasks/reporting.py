"""How a command's run gets its report, and what happens when the report cannot be made."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.passwords import hide_passwords
from src.report.page import Report, write_report
from src.report.provenance import Run
from src.spec import git_revision, software_versions

log = logging.getLogger(__name__)


def add_report(path: Path, task: str, config: DictConfig, make: Callable[[Run], Report]) -> Path | None:
    """Write a run's report and name it, after everything else of the run is whole.

    A run that succeeded stays so: what goes wrong here is a warning with its reason, not an error, and no report is
    named. With ``hydra.verbose=true`` the log has the traceback.

    Args:
        path: Where the report goes.
        task: Which command runs.
        config: Its composed configuration.
        make: Makes the report, told what was run.

    Returns:
        The path, None if there is no report.
    """
    try:
        write_report(path, make(current_run(task, config)))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning(
            "There is no report (%s); all files named above are whole. Please tell us, with the traceback that "
            "hydra.verbose=true logs.",
            reason,
        )
        log.debug("The report's traceback", exc_info=True)
        return None
    log.info("%s", path)
    return path


@contextmanager
def cautions() -> Iterator[list[str]]:
    """Collect what is warned of within the context, line by line: whoever reads the report has to know it, too."""
    said: list[str] = []
    ours, keeper = logging.getLogger("src"), _Keeper(said)
    ours.addHandler(keeper)
    try:
        yield said
    finally:
        ours.removeHandler(keeper)


class _Keeper(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's message."""
        self._said.append(record.getMessage())


def current_run(task: str, config: DictConfig) -> Run:
    """Describe the run that Hydra is in, without the passwords that its settings have."""
    hydra = HydraConfig.get()
    given = (words for words in hydra.overrides.hydra if not words.startswith("hydra.mode="))
    words = hide_passwords(["python", f"{task}.py", *hydra.overrides.task, *given])
    settings = hide_passwords(OmegaConf.to_container(config, resolve=True))
    return Run(
        command=shlex.join(words),
        config=OmegaConf.to_yaml(OmegaConf.create(settings)).rstrip(),
        finished=datetime.now().astimezone(),
        versions=software_versions(),
        revision=git_revision(),
    )
