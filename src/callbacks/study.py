"""A training that is a trial of a study: it reports its validation IoU and ends when Optuna's pruner sees no hope."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import optuna
import sqlalchemy
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage

from src.studies.study_storage import TrialPlace, connect, disconnect

log = logging.getLogger(__name__)


class StudyReport(L.Callback):
    """Reports ``val_iou`` after every epoch to the study whose trial this run is; does nothing in other runs.

    Hopeless runs stop as early stopping stops them, with their checkpoints, and the trial is marked.

    Args:
        folder: The run's folder.
        pruner: Decides from the values that all trials have reported; None lets every trial finish.
    """

    def __init__(self, folder: str, pruner: optuna.pruners.BasePruner | None = None) -> None:
        self.folder, self.pruner = Path(folder), pruner
        self._study: optuna.Study | None = None
        self._database: RDBStorage | None = None
        self._id = -1

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the trial; only the first process talks to the study."""
        del pl_module
        place = TrialPlace.read(self.folder) if trainer.is_global_zero else None
        if place is not None:
            self._database = connect(place.storage)
            self._study = optuna.load_study(
                study_name=place.study, storage=self._database, pruner=self.pruner or optuna.pruners.NopPruner()
            )
            self._id = self._study._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, place.trial)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the study's database."""
        del trainer, pl_module, stage
        if self._database is not None:
            disconnect(self._database)
        self._study = self._database = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the epoch; if it is hopeless, let all processes stop after it."""
        del pl_module
        hopeless = False
        if self._study is not None and not trainer.sanity_checking:
            try:
                hopeless = self._report(trainer.current_epoch, float(trainer.callback_metrics["val_iou"]))
            except (OptunaError, sqlalchemy.exc.SQLAlchemyError) as error:
                log.warning("Epoch %d could not be reported to the study: %s", trainer.current_epoch, error)
        if trainer.strategy.broadcast(hopeless):
            trainer.should_stop = True

    def _report(self, epoch: int, value: float) -> bool:
        assert self._study is not None
        storage = self._study._storage
        storage.set_trial_intermediate_value(self._id, epoch, value)
        if not self._study.pruner.prune(self._study, storage.get_trial(self._id)):
            return False
        storage.set_trial_user_attr(self._id, "pruned", f"after epoch {epoch}")
        log.info("Pruned after epoch %d: IoU %.4f is behind the study's other trials.", epoch, value)
        return True
