"""A sweep in MLflow: a run for the sweep, and a nested run for each trial, each written once."""

import time
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from forecasting.registry import Registry
from trainer.settings import SweepSettings
from trainer.sweep_record import TrialRecord

SWEEP_TAG, TRIAL_TAG = "glucast.sweep", "glucast.trial"
ENDED = ("FINISHED", "FAILED")


class Tracking:
    """Writes a sweep to the registry's MLflow; what is there already is not written again.

    Every method raises RegistryUnavailable where it does not answer.
    """

    def __init__(self, registry: Registry, key: str) -> None:
        self.registry, self.key = registry, key
        self.client = registry.client
        self.parent: str | None = None

    def begin(self, settings: SweepSettings) -> None:
        """The sweep's own run; that of an equal sweep that was cut off is gone on with."""
        with self.registry.answering():
            found = self._runs(f"tags.`{SWEEP_TAG}` = '{self.key}'")
            run = found[0] if found else self._create(settings.name, {SWEEP_TAG: self.key})
            self.parent = run.info.run_id
            if not found:
                self.client.log_dict(self.parent, settings.model_dump(mode="json"), "settings.json")
            self.client.update_run(self.parent, "RUNNING")

    def end(self, status: str, board: Path | None = None) -> None:
        """Close the sweep's run; status is MLflow's: FINISHED, FAILED or KILLED."""
        if self.parent is None:
            return
        with self.registry.answering():
            if board is not None:
                self.client.log_artifact(self.parent, str(board))
            self.client.set_terminated(self.parent, status)

    def trial(self, record: TrialRecord) -> str:
        """The id of a trial's nested run: settings, losses by epoch, scores, and the bundle of a finished one."""
        with self.registry.answering():
            found = self._runs(
                f"tags.`{TRIAL_TAG}` = '{record.key}' and tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.parent}'"
            )
            whole = [run for run in found if run.info.status in ENDED and run.data.tags["status"] == record.status]
            if whole:
                return str(whole[0].info.run_id)
            for run in found:  # cut off while it was written, or of a try before
                self.client.delete_run(run.info.run_id)
            return self._write(record)

    def _write(self, record: TrialRecord) -> str:
        run = self._create(record.name, {TRIAL_TAG: record.key, MLFLOW_PARENT_RUN_ID: str(self.parent)})
        run_id = str(run.info.run_id)
        self.client.log_batch(run_id, _metrics(record), _params(record), _tags(record))
        self.client.log_dict(run_id, record.model_dump(mode="json", exclude={"folder"}), "report.json")
        if record.folder is not None:
            self.client.log_artifacts(run_id, str(record.folder), "bundle")
        self.client.set_terminated(run_id, "FAILED" if record.status == "failed" else "FINISHED")
        return run_id

    def _create(self, name: str, tags: dict[str, str]) -> Run:
        return self.client.create_run(self.registry.experiment_id(), tags={MLFLOW_RUN_NAME: name, **tags})

    def _runs(self, where: str) -> list[Run]:
        return list(self.client.search_runs([self.registry.experiment_id()], where))


def _params(record: TrialRecord) -> list[Param]:
    names = ("student", "teacher", "teacher_weight", "learning_rate", "seed")
    values: dict[str, Any] = {"patient": record.target} | {name: getattr(record, name) for name in names}
    return [Param(name, str(value) or "none") for name, value in values.items()]


def _metrics(record: TrialRecord) -> list[Metric]:
    now = int(1000 * time.time())
    losses = [Metric("validation_loss", loss, now, epoch) for epoch, loss in enumerate(record.losses, 1)]
    scores = [
        Metric(f"validation_{name}_{horizon}", float(scores[name]), now, len(record.losses))
        for horizon, scores in record.validation.items()
        for name in ("rmse", "mae")
    ]
    return [*losses, *scores, Metric("seconds", record.seconds, now, 0)]


def _tags(record: TrialRecord) -> list[RunTag]:
    return [RunTag("status", record.status), *([RunTag("error", record.error[:500])] if record.error else [])]
