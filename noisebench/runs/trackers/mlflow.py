"""MLflow: the server that MLFLOW_TRACKING_URI names, else a database in the workspace."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from .base import PROJECT, Ending, Epochs, Numbers, RunInfo, TrackerConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

_STATUS: dict[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# how the URIs of this machine begin; `databricks` is one too, elsewhere
_HERE = ("file:", "sqlite:", "/", ".")
_MOST = 1000  # numbers that a server takes at once


def connect(config: TrackerConfig) -> _Tracker:
    """The experiment is found or made at once, so that a server that is not there is noticed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    local = not uri or (config.offline and not uri.startswith(_HERE))
    if local:
        import sqlalchemy  # noqa: F401  said now where it is missing; mlflow-skinny does without

        config.workspace.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{config.workspace.resolve() / 'mlflow.db'}"
    artifacts = (config.workspace.resolve() / "mlartifacts").as_uri() if local else None
    client = MlflowClient(tracking_uri=uri)
    where = f"mlflow ui --backend-store-uri {uri}" if local else uri
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name, artifacts)
    return _Tracker(client, str(experiment), where)


class _Tracker:
    def __init__(self, client: MlflowClient, experiment: str, where: str) -> None:
        self._client, self._experiment, self.where = client, experiment, where

    def start(self, facts: RunInfo, known: str | None) -> _Page:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        if known:
            try:
                self._client.update_run(known, status="RUNNING")
                losses = self._client.get_metric_history(known, "loss")
                return _Page(self._client, known, max((m.step for m in losses), default=0))
            except MlflowException:
                pass  # deleted, or of another server: the run gets another
        run = self._client.create_run(
            self._experiment, run_name=facts.name, tags={"mlflow.note.content": facts.title}
        ).info.run_id
        self._client.log_batch(
            run, params=[Param(key, str(value)) for key, value in facts.config.items()]
        )
        return _Page(self._client, run, 0)


class _Page:
    def __init__(self, client: MlflowClient, identity: str, held: int) -> None:
        self._client, self.identity, self.held = client, identity, held

    def log(self, epochs: Epochs) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [
            Metric(name, number, now, epoch)
            for epoch, numbers in epochs
            for name, number in numbers.items()
        ]
        for begin in range(0, len(metrics), _MOST):
            self._client.log_batch(self.identity, metrics=metrics[begin : begin + _MOST])

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        self.log([(epoch, numbers)])
        self._client.set_terminated(self.identity, _STATUS[ending])
