"""MLflow: the server that MLFLOW_TRACKING_URI names, else a database in the workspace."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from .base import PROJECT, Ending, Epochs, Numbers, RunInfo, Tracker, TrackerConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

_STATUS: dict[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# how the URIs of this machine begin; `databricks` is one too, elsewhere
_HERE = ("file:", "sqlite:", "/", ".")
_MOST = 1000  # numbers that a server takes at once


def connect(config: TrackerConfig) -> Tracker:
    """The experiment is found or made at once, so that a server that is not there is noticed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    local = not uri or (config.offline and not uri.startswith(_HERE))
    if local:
        import sqlalchemy  # noqa: F401  an error now if it is missing; mlflow-skinny does without

        config.workspace.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{config.workspace.resolve() / 'mlflow.db'}"
    artifacts = (config.workspace.resolve() / "mlartifacts").as_uri() if local else None
    client = MlflowClient(tracking_uri=uri)
    where = f"mlflow ui --backend-store-uri {uri}" if local else uri
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name, artifacts)
    return Tracker(where, partial(_start, client, str(experiment)))


def _start(client: MlflowClient, experiment: str, facts: RunInfo, identity: str | None) -> _Run:
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    if identity:
        try:
            client.update_run(identity, status="RUNNING")
            losses = client.get_metric_history(identity, "loss")
            return _Run(client, identity, max((m.step for m in losses), default=0))
        except MlflowException:
            pass  # deleted, or of another server: the run gets another
    tags = {"mlflow.note.content": facts.title}
    run = client.create_run(experiment, run_name=facts.name, tags=tags).info.run_id
    client.log_batch(run, params=[Param(key, str(value)) for key, value in facts.config.items()])
    return _Run(client, run, 0)


class _Run:
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
