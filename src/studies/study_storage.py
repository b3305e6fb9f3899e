"""Where studies stand: databases, and the file that tells a run which trial it is."""

from __future__ import annotations

import json
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from src.atomic import write_text
from src.errors import UserError
from src.passwords import hide_passwords

RETRIES = 2
"""How often a trial whose process was killed is put back; then it counts as failed."""

FILE = "trial.json"

_OPENINGS = 30
"""How often a new database is opened: each time in vain another process has made one more of its dozen tables."""
_MEANWHILE = ("already exists", "UNIQUE constraint failed", "duplicate key value")
"""What SQLite and PostgreSQL say of a table or a row that another process has made since one looked for it."""

_CELL = ("grid_id", "search_space")
"""Where Optuna's grid writes down which of its cells a trial is."""


@dataclass(frozen=True)
class TrialPlace:
    """Where a trial stands; lies in its run's folder as ``trial.json``."""

    storage: str
    study: str
    trial: int

    def write(self, folder: Path) -> None:
        """Write it into a run's folder."""
        write_text(folder / FILE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> TrialPlace | None:
        """Read it from a run's folder; None where the run is no trial."""
        path = folder / FILE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def connect(url: str, grace: int | None = None, patience: int = 60) -> RDBStorage:
    """Open a study's database, making it where there is none.

    Args:
        url: SQLAlchemy's address of it, as ``sqlite:///study.db`` or ``postgresql://user@host/database``.
        grace: Seconds without a sign of life after which a trial is taken from its process; None gives no signs.
        patience: Seconds to wait for a SQLite file that another process writes to.

    Raises:
        UserError: The address is none, its driver is not installed, or the database cannot be used.
    """
    try:
        address = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        shown = hide_passwords(url)
        raise UserError(f"{shown} is no storage of a study; expected sqlite:///FILE or postgresql://…") from error
    is_file = address.drivername.startswith("sqlite")
    if is_file and address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        with database_errors(url), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = _opened(
                lambda: RDBStorage(
                    url,
                    engine_kwargs={"connect_args": {"timeout": patience}} if is_file else None,
                    heartbeat_interval=None if grace is None else max(1, grace // 4),
                    grace_period=grace,
                    heartbeat_stale_trial_callback=put_back,
                )
            )
        if is_file:
            _lock_at_once(storage.engine)
        return storage
    except ImportError as error:
        raise UserError(
            f"{hide_passwords(url)} needs a database driver that is not installed; sqlite:// and postgresql:// need no "
            "more than make install."
        ) from error
    except RuntimeError as error:  # tables of another Optuna
        raise _unusable(url, str(error).splitlines()[0]) from error


def _opened(opening: Callable[[], RDBStorage]) -> RDBStorage:
    """Open a database whose tables other processes may be making just now."""
    for _ in range(_OPENINGS - 1):
        try:
            return opening()
        except sqlalchemy.exc.DBAPIError as error:
            if not any(sign in str(error.orig) for sign in _MEANWHILE):
                raise
        time.sleep(0.1)  # the other one does not wait, so it gets ahead
    return opening()


def disconnect(storage: RDBStorage) -> None:
    """Close a study's database, as far as this thread has opened it."""
    storage.remove_session()
    storage.engine.dispose()


def _lock_at_once(engine: sqlalchemy.Engine) -> None:
    """Let SQLite lock the file before a transaction reads.

    Else two processes that ask for one waiting trial both read that it waits, and both run it: SQLite has no locks of
    rows, which Optuna counts on.
    """

    @sqlalchemy.event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before know nothing of it


def put_back(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue the parameters of a trial that was lost anew, unless that was done often enough.

    Of a grid it keeps its cell: else the grid would give the trial another one, and believe that one done.
    """
    cell = {key: trial.system_attrs[key] for key in _CELL if key in trial.system_attrs}
    lost = [*trial.system_attrs.get("repeats", []), trial.number]
    if len(lost) <= RETRIES:
        study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                system_attrs={"repeats": lost, **cell},
            )
        )


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Turn what a database says into one line."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        reason = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
        raise _unusable(url, reason) from error


def _unusable(url: str, reason: str) -> UserError:
    remedies = {"locked": "another process holds it: wait, or end it", "full": "free some space, and go on"}
    remedy = next((words for sign, words in remedies.items() if sign in reason), "give one that can be reached")
    return UserError(f"The study's storage {hide_passwords(url)} cannot be used ({reason}); {remedy}.")
