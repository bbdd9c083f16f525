"""Experiment trackers: a tracker receives a run's settings once, its metrics after each epoch, and
its final metrics. Trackers never change or stop a run: a tracker that fails is disabled.

The package of a tracker is imported by its `connect_...(config) -> Tracker`, not by this module. It
is installed by the extra of the same name.
"""

from __future__ import annotations

import contextvars
import io
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..core.files.atomic import write_text
from ..core.files.schema import check_form
from ..core.files.untrusted import read_json
from ..errors import ConfigError, DataError, RunFailed, UnknownName

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ..experiments.resolve import RunConfig
    from .folder import RunFolder

# project or experiment name, unless the tracker's own settings set another one
_PROJECT = "noisebench"
_NO_NUMBERS = ("epoch", "seconds")  # logged as the step; depends on the machine
# seconds between two writes to a tracker; a write may take longer than a short epoch
_EVERY = 5.0
_EVENTS = ".noisebench"  # suffix of TensorBoard's file
_WANDB_EXIT_CODE = {"finished": 0, "failed": 1, "interrupted": 130}
_MLFLOW_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# prefixes of URIs on this machine; `databricks` is a remote one
_MLFLOW_LOCAL = ("file:", "sqlite:", "/", ".")
_MLFLOW_MOST = 1000  # metrics that a server accepts in one request
_TRACKIO_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
Ending = Literal["finished", "failed", "interrupted"]
Numbers = dict[str, float]
Epochs = list[tuple[int, Numbers]]


@dataclass(frozen=True)
class TrackerConfig:
    """Where a tracker may write. offline: open no connection, whatever its own settings say."""

    workspace: Path
    offline: bool = False


@dataclass(frozen=True)
class RunInfo:
    """A run before it starts. name: of its directory; config: flat, without None."""

    name: str
    title: str
    folder: Path
    config: dict[str, str | int | float | bool]


class TrackerRun(Protocol):
    """One run in one tracker. identity: the tracker's id of the run; held: the number of epochs
    that the tracker has already.
    """

    identity: str
    held: int

    def log(self, epochs: Epochs) -> None: ...

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        """Close the run. epoch: the last one; numbers: final metrics, empty unless it finished."""


@dataclass(frozen=True)
class Tracker:
    """A connected tracker. where: location of the metrics or the command that shows them, for
    users; start: opens the run with this id if the tracker still has it, else a new one.
    """

    where: str
    start: Callable[[RunInfo, str | None], TrackerRun]


def epoch_numbers(line: dict[str, Any]) -> Numbers:
    """The metrics in a line of metrics.csv, without missing ones."""
    return {
        name: float(value)
        for name, value in line.items()
        if name not in _NO_NUMBERS and value is not None
    }


def final_numbers(record: dict[str, Any]) -> Numbers:
    """The metrics of a record, named `final/...`; the best epoch on test is marked optimistic."""
    metrics = record["metrics"]
    test_acc, test = metrics["test_acc"], metrics["test"]
    named = {
        "test_acc_last": test_acc["last"],
        "test_acc_mean_last10": test_acc["mean_last10"],
        "test_acc_at_noisy_val": test_acc["at_noisy_val"],
        "test_acc_best_optimistic": test_acc["best"],
        "nll": test["nll"],
        "ece": test["ece"],
        "memorised": metrics["memorised"],
        "detection_auroc": metrics["train"]["detection"]["auroc"],
    }
    return {f"final/{name}": float(value) for name, value in named.items() if value is not None}


@dataclass
class _LoggedRun:
    """A run in each tracker, by tracker name; its last epoch; the epochs not yet logged; the time
    of the last write.
    """

    runs: dict[str, TrackerRun] = field(default_factory=dict)
    epoch: int = 0
    waiting: Epochs = field(default_factory=list)
    logged_at: float = field(default_factory=time.monotonic)


class RunLogger(AbstractContextManager["RunLogger"]):
    """Logs any number of concurrent runs to every tracker.

    Use it in `with`: runs that are open at the end are closed as failed if a RunFailed ended it,
    else as interrupted. If a tracker raises an error, `warn` is called once and the tracker is
    disabled.
    """

    def __init__(self, trackers: dict[str, Tracker], warn: Callable[[str], object]) -> None:
        self._trackers, self._warn = dict(trackers), warn
        self._open: dict[Path, _LoggedRun] = {}

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        failed = kind is not None and issubclass(kind, RunFailed)
        for path in list(self._open):
            self._close(path, "failed" if failed else "interrupted")

    def log(self, run: RunConfig, folder: RunFolder, lines: list[dict[str, Any]]) -> None:
        """Log new lines of metrics.csv. Epochs logged before are skipped: repeating an epoch after
        a resume gives the same metrics.
        """
        if not self._trackers:
            return
        if folder.path not in self._open:
            self._open[folder.path] = self._start(run, folder, resumed=len(lines) > 1)
        logged = self._open[folder.path]
        for line in lines:
            if line["epoch"] > logged.epoch:
                logged.epoch = line["epoch"]
                logged.waiting.append((logged.epoch, epoch_numbers(line)))
        if time.monotonic() - logged.logged_at > _EVERY:
            self._flush(logged)

    def finish(self, folder: RunFolder) -> None:
        """Log the final metrics of a finished run; does nothing for a run that was not trained
        now.
        """
        if folder.path in self._open:
            self._close(folder.path, "finished", final_numbers(folder.record()))

    def fail(self, folder: RunFolder) -> None:
        """Mark a run as failed."""
        if folder.path in self._open:
            self._close(folder.path, "failed")

    def _start(self, run: RunConfig, folder: RunFolder, *, resumed: bool) -> _LoggedRun:
        """Start the run in every tracker; a resumed run continues under the id of its earlier
        session. Settings are flat: `loss`, `noise`, `recipe.lr`, `key` ...; empty ones are omitted.
        """
        known: dict[str, str] = {}
        if resumed:
            with suppress(OSError, ValueError):
                content = read_json(folder.trackers)
                check_form(content, dict[str, str])
                known = dict(content)
        facts = {"key": run.key, **run.facts, "nominal_rate": run.manifest.meta["nominal_rate"]}
        for part in ("recipe", "init"):
            facts |= {f"{part}.{name}": value for name, value in facts.pop(part, {}).items()}
        config = {
            name: value
            for name, value in facts.items()
            if value not in (None, "") and name not in ("versions", "title")
        }
        info = RunInfo(folder.path.name, run.title, folder.path, config)
        logged = _LoggedRun()
        for name, tracker in list(self._trackers.items()):
            with self._guarded(name):
                logged.runs[name] = tracker.start(info, known.get(name))
        identities = {name: tracked.identity for name, tracked in logged.runs.items()}
        try:
            write_text(folder.trackers, json.dumps({**known, **identities}, indent=1) + "\n")
        except DataError as error:
            self._warn(f"{error}; if this run is interrupted, trackers will show a new run")
        return logged

    def _flush(self, logged: _LoggedRun) -> None:
        """Log the waiting epochs, except those that a tracker has from an earlier session."""
        for name, run in list(logged.runs.items()):
            with self._guarded(name):
                run.log([(epoch, numbers) for epoch, numbers in logged.waiting if epoch > run.held])
        logged.waiting, logged.logged_at = [], time.monotonic()

    def _close(self, path: Path, ending: Ending, numbers: Numbers | None = None) -> None:
        logged = self._open[path]
        self._flush(logged)
        for name, run in list(logged.runs.items()):
            with self._guarded(name):
                run.finish(ending, logged.epoch, numbers or {})
        del self._open[path]

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Sends a tracker's output to stderr; an error of its library, its server or the disk
        disables the tracker and does not stop the training.
        """
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            self._trackers.pop(name, None)
            for logged in self._open.values():
                logged.runs.pop(name, None)
            message = (
                f"{name} failed and is disabled, training continues: "
                f"{type(error).__name__}: {error}"
            )
            self._warn(message.splitlines()[0])


def connect_tensorboard(config: TrackerConfig) -> Tracker:
    """Writes an event file to each run directory; `tensorboard --logdir runs` shows all runs."""
    import tensorboard.summary.writer.record_writer  # noqa: F401  raises an error now if missing

    where = f"tensorboard --logdir {config.workspace / 'runs'}"
    return Tracker(where, lambda info, identity: _TensorboardRun(info))


class _TensorboardRun:
    """One file with all epochs; a new session replaces the file of the last one.

    Written record by record, since TensorBoard's own writer is a thread that would not report a
    full disk. TensorBoard stores float32.
    """

    held = 0

    def __init__(self, info: RunInfo) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        for older in info.folder.glob(f"events.out.tfevents.*{_EVENTS}"):
            older.unlink()
        self.identity = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}{_EVENTS}"
        self._records = RecordWriter((info.folder / self.identity).open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(summary=hparams_pb(info.config, trial_id=info.name))

    def log(self, epochs: Epochs) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for epoch, numbers in epochs:
            values = [
                Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()
            ]
            self._write(step=epoch, summary=Summary(value=values))
        self._records.flush()

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        self.log([(epoch, numbers)])
        self._records.close()

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())


def connect_wandb(config: TrackerConfig) -> Tracker:
    """Weights & Biases: online with an API key; offline, in the workspace, with WANDB_MODE=offline,
    `--offline` or without a key; `wandb sync` uploads offline runs. Never prompts for a key and
    does not check that the server is reachable.
    """
    if config.offline:
        # it would report over the network, offline or not
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    folder = Path(os.environ.get("WANDB_DIR") or config.workspace)
    mode = where = os.environ.get("WANDB_MODE") or "online"
    if mode == "online" and (config.offline or not wandb.login(prompt=False, verify=False)):
        mode = "offline"
    if mode == "offline":
        path = folder / "wandb"
        where = f"offline in {path}: wandb sync {path / 'offline-run-*'}"

    def start(info: RunInfo, identity: str | None) -> _WandbRun:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=info.name,
            notes=info.title,
            config=info.config,
            dir=folder.resolve(),  # its service process has another working directory
            mode=mode,
            id=identity,
            resume="allow" if identity else None,
            reinit="create_new",  # a suite has several runs open
            settings=wandb.Settings(silent=True, console="off"),
        )
        return _WandbRun(run, run.starting_step - 1 if run.resumed else 0)

    return Tracker(where, start)


class _WandbRun:
    """A run of Weights & Biases."""

    def __init__(self, run: Any, held: int) -> None:
        self._run, self.identity, self.held = run, run.id, held

    def log(self, epochs: Epochs) -> None:
        for epoch, numbers in epochs:
            self._run.log(numbers, step=epoch)

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        self._run.summary.update(numbers)
        self._run.finish(exit_code=_WANDB_EXIT_CODE[ending])


def connect_trackio(config: TrackerConfig) -> Tracker:
    """Trackio: the Space or server set by its environment variables, else a database in the
    workspace. One directory per process: Trackio reads the environment once, when it is imported.
    """
    os.environ.setdefault("TRACKIO_DIR", str(config.workspace.resolve() / "trackio"))
    if config.offline:
        # else it requests the name of the logged-in user from the Hub
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        for name in _TRACKIO_REMOTE:
            os.environ.pop(name, None)
    import trackio
    from trackio.utils import TRACKIO_DIR

    remote = next((os.environ[name] for name in _TRACKIO_REMOTE if os.environ.get(name)), None)
    show = f"TRACKIO_DIR={TRACKIO_DIR} trackio show --project {_PROJECT}"

    def start(info: RunInfo, identity: str | None) -> _TrackioRun:
        resume = "allow" if identity else "never"
        init = partial(trackio.init, config=info.config, resume=resume, embed=False)
        with redirect_stdout(io.StringIO()):  # several lines per run; problems are warnings
            # in a new context, else it would end the run started before
            run = contextvars.Context().run(init, _PROJECT, info.name)
        # it continues counting from the run's last step
        return _TrackioRun(run, max(0, run._next_step - 1))

    return Tracker(remote or show, start)


class _TrackioRun(_WandbRun):
    """A run of Trackio, which has the interface of Weights & Biases except for its end."""

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        if numbers:
            self.log([(epoch, numbers)])
        with redirect_stdout(io.StringIO()):
            self._run.finish()


def connect_mlflow(config: TrackerConfig) -> Tracker:
    """MLflow: the server set by MLFLOW_TRACKING_URI, else a database in the workspace. The
    experiment is looked up or created at once, so that an unreachable server is an error now.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    where = uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    artifacts = None
    if not uri or (config.offline and not uri.startswith(_MLFLOW_LOCAL)):
        import sqlalchemy  # noqa: F401  raises an error now if missing, as with mlflow-skinny

        config.workspace.mkdir(parents=True, exist_ok=True)
        folder = config.workspace.resolve()
        uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlartifacts").as_uri()
        where = f"mlflow ui --backend-store-uri {uri}"
    client = MlflowClient(tracking_uri=uri)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
    known = client.get_experiment_by_name(name)
    experiment = str(known.experiment_id if known else client.create_experiment(name, artifacts))
    return Tracker(where, partial(_MlflowRun, client, experiment))


class _MlflowRun:
    """The run with this id, or a new one if the id is deleted or belongs to another server."""

    def __init__(
        self, client: MlflowClient, experiment: str, info: RunInfo, identity: str | None
    ) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        self._client, self.identity, self.held = client, identity or "", 0
        if identity:
            with suppress(MlflowException):
                client.update_run(identity, status="RUNNING")
                losses = client.get_metric_history(identity, "loss")
                self.held = max((metric.step for metric in losses), default=0)
                return
        tags = {"mlflow.note.content": info.title}
        run = client.create_run(experiment, run_name=info.name, tags=tags)
        self.identity = run.info.run_id
        parameters = [Param(key, str(value)) for key, value in info.config.items()]
        client.log_batch(self.identity, params=parameters)

    def log(self, epochs: Epochs) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [
            Metric(name, number, now, epoch)
            for epoch, numbers in epochs
            for name, number in numbers.items()
        ]
        for begin in range(0, len(metrics), _MLFLOW_MOST):
            self._client.log_batch(self.identity, metrics=metrics[begin : begin + _MLFLOW_MOST])

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        self.log([(epoch, numbers)])
        self._client.set_terminated(self.identity, _MLFLOW_STATUS[ending])


@dataclass(frozen=True)
class Kind:
    """An available tracker. settings: the environment variables that it reads."""

    name: str
    summary: str
    connect: Callable[[TrackerConfig], Tracker]
    settings: tuple[str, ...] = ()


TRACKERS = {
    kind.name: kind
    for kind in (
        Kind("tensorboard", "an event file in each run directory", connect_tensorboard),
        Kind(
            "wandb",
            "Weights & Biases; without a key, offline in wandb/",
            connect_wandb,
            ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"),
        ),
        Kind(
            "mlflow",
            "MLflow server; without one, mlflow.db",
            connect_mlflow,
            ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
        ),
        Kind(
            "trackio",
            "Trackio Space or server; without one, trackio/",
            connect_trackio,
            ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"),
        ),
    )
}


def known_trackers(names: Iterable[str]) -> list[str]:
    """The names without duplicates. Raises UnknownName."""
    for name in names:
        if name not in TRACKERS:
            raise UnknownName("tracker", name, TRACKERS, "trackers")
    return list(dict.fromkeys(names))


def connect(name: str, config: TrackerConfig) -> Tracker:
    """Connect a tracker. Raises ConfigError if its package is missing, or if it fails."""
    try:
        return TRACKERS[name].connect(config)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--log-to {name} needs {(error.name or name).partition('.')[0]}: pip "
            f"install 'noisebench[{name}]'"
        ) from None
    except Exception as error:
        # any error of its server or settings: better now than after hours of training
        raise ConfigError(
            f"--log-to {name} cannot start: {type(error).__name__}: {error}".splitlines()[0]
        ) from error
