"""Experiment trackers: a tracker gets a run's facts once, its numbers by epoch, and its final
numbers at the end. Nothing here changes a run or ends one: a tracker that fails is dropped.

A tracker's package is imported by its `connect_...(config) -> Tracker`, not by this module. The
extra that installs the package has the tracker's name.
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
from ..experiments.resolve import RunConfig
from .folder import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient

# what the runs are filed under, unless a tracker's own settings name something else
_PROJECT = "noisebench"
_NO_NUMBERS = ("epoch", "seconds")  # the step, and a fact of the machine
# seconds between two writes to a tracker, which take longer than an epoch of a small network
_EVERY = 5.0
_EVENTS = ".noisebench"  # how the name of TensorBoard's file ends
_WANDB_EXIT_CODE = {"finished": 0, "failed": 1, "interrupted": 130}
_MLFLOW_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# how the URIs of this machine begin; `databricks` is one too, elsewhere
_MLFLOW_LOCAL = ("file:", "sqlite:", "/", ".")
_MLFLOW_MOST = 1000  # numbers that a server takes at once
_TRACKIO_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
Ending = Literal["finished", "failed", "interrupted"]
Numbers = dict[str, float]
Epochs = list[tuple[int, Numbers]]


@dataclass(frozen=True)
class TrackerConfig:
    """Where a tracker may write. offline: it opens no connection, whatever its own settings say."""

    workspace: Path
    offline: bool = False


@dataclass(frozen=True)
class RunInfo:
    """A run before it starts. name: its folder's; config: flat, without None."""

    name: str
    title: str
    folder: Path
    config: dict[str, str | int | float | bool]


class TrackerRun(Protocol):
    """One run in one tracker. identity: by which the tracker finds it again; held: the number of
    epochs that it has already.
    """

    identity: str
    held: int

    def log(self, epochs: Epochs) -> None: ...

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        """Close it. epoch: the last one; numbers: the final ones, of a run that finished."""


@dataclass(frozen=True)
class Tracker:
    """A tracker that is ready. where: what shows the numbers and where they are, for a person;
    start: opens a run, the one of this identity if the tracker still has it, else a new one.
    """

    where: str
    start: Callable[[RunInfo, str | None], TrackerRun]


def epoch_numbers(line: dict[str, Any]) -> Numbers:
    """The numbers of a line of metrics.csv, without missing ones."""
    return {
        name: float(value)
        for name, value in line.items()
        if name not in _NO_NUMBERS and value is not None
    }


def final_numbers(record: dict[str, Any]) -> Numbers:
    """The metrics of a record under `final/`; the best epoch on test is called optimistic."""
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
    """A run in the trackers, by their names; its last epoch; the epochs that were not logged yet,
    and when the others were.
    """

    runs: dict[str, TrackerRun] = field(default_factory=dict)
    epoch: int = 0
    waiting: Epochs = field(default_factory=list)
    logged_at: float = field(default_factory=time.monotonic)


class RunLogger(AbstractContextManager["RunLogger"]):
    """Logs any number of runs at once to every tracker.

    Inside `with`: a run that is open at its end was interrupted, or failed where that ended it. Of
    a tracker that throws `warn` is called, once, and it is dropped.
    """

    def __init__(self, trackers: dict[str, Tracker], warn: Callable[[str], object]) -> None:
        self._trackers, self._warn = dict(trackers), warn
        self._open: dict[Path, _LoggedRun] = {}

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        failed = kind is not None and issubclass(kind, RunFailed)
        for path in list(self._open):
            self._close(path, "failed" if failed else "interrupted")

    def log(self, run: RunConfig, folder: RunFolder, lines: list[dict[str, Any]]) -> None:
        """Log new lines of metrics.csv; an epoch that is trained again has the same numbers."""
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
        """A run is complete; nothing happens to one that was complete before."""
        if folder.path in self._open:
            self._close(folder.path, "finished", final_numbers(folder.record()))

    def fail(self, folder: RunFolder) -> None:
        """A run has failed."""
        if folder.path in self._open:
            self._close(folder.path, "failed")

    def _start(self, run: RunConfig, folder: RunFolder, *, resumed: bool) -> _LoggedRun:
        """The run in every tracker: the same one as in an earlier session, if it is resumed. Its
        settings are flat: `loss`, `noise`, `recipe.lr`, `key` ..., without empty ones.
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
            self._warn(f"{error}; if this run is interrupted, trackers will see another one")
        return logged

    def _flush(self, logged: _LoggedRun) -> None:
        """Log the epochs that wait, but for those that a tracker has from an earlier session."""
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
        """What a tracker prints goes to stderr; whatever a library, a server or a full disk throws
        costs the tracker, not the training.
        """
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            self._trackers.pop(name, None)
            for logged in self._open.values():
                logged.runs.pop(name, None)
            message = (
                f"{name} failed and logs no more, training goes on: {type(error).__name__}: {error}"
            )
            self._warn(message.splitlines()[0])


def connect_tensorboard(config: TrackerConfig) -> Tracker:
    """An event file in the run's folder, so that `tensorboard --logdir runs` shows every run by its
    name.
    """
    import tensorboard.summary.writer.record_writer  # noqa: F401  an error now if it is missing

    where = f"tensorboard --logdir {config.workspace / 'runs'}"
    return Tracker(where, lambda info, identity: _TensorboardRun(info))


class _TensorboardRun:
    """A file for every session, with all epochs; that of the session before is deleted.

    Written record by record, since TensorBoard's own writer is a thread that would keep a full disk
    to itself. Numbers are float32 there.
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
    """Weights & Biases: online with a key, else offline in the workspace, from where `wandb sync`
    takes it. It asks for nothing: no person for a key, and no server whether it is there. Offline
    by WANDB_MODE, where noisebench is, or without a key.
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
            dir=folder.resolve(),  # its service has a working folder of its own
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
    """The Space or server that Trackio's environment names, else a database in the workspace. One
    folder a process, since Trackio reads its environment once, when it is imported.
    """
    os.environ.setdefault("TRACKIO_DIR", str(config.workspace.resolve() / "trackio"))
    if config.offline:
        # or it asks the Hub for the name of the user who is logged in
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
        with redirect_stdout(io.StringIO()):  # several lines a run; what goes wrong is a warning
            # in a context of its own, or it would end the run that was started before
            run = contextvars.Context().run(init, _PROJECT, info.name)
        # it counts on from the last step that the run has
        return _TrackioRun(run, max(0, run._next_step - 1))

    return Tracker(remote or show, start)


class _TrackioRun(_WandbRun):
    """Trackio's runs are used as those of Weights & Biases, but for their ends."""

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        if numbers:
            self.log([(epoch, numbers)])
        with redirect_stdout(io.StringIO()):
            self._run.finish()


def connect_mlflow(config: TrackerConfig) -> Tracker:
    """The server that MLFLOW_TRACKING_URI names, else a database in the workspace. The experiment
    is looked up or created at once, so that a server that is not there is noticed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    where = uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    artifacts = None
    if not uri or (config.offline and not uri.startswith(_MLFLOW_LOCAL)):
        import sqlalchemy  # noqa: F401  an error now if it is missing; mlflow-skinny does without

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
    """The run of an identity, unless it is deleted or of another server: then a new one."""

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
    """One tracker. settings: the environment variables that it reads."""

    name: str
    summary: str
    connect: Callable[[TrackerConfig], Tracker]
    settings: tuple[str, ...] = ()


TRACKERS = {
    kind.name: kind
    for kind in (
        Kind("tensorboard", "an event file in each run's folder", connect_tensorboard),
        Kind(
            "wandb",
            "Weights & Biases; without a key offline in wandb/",
            connect_wandb,
            ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"),
        ),
        Kind(
            "mlflow",
            "a server; without one mlflow.db",
            connect_mlflow,
            ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
        ),
        Kind(
            "trackio",
            "a Space or a server; without one trackio/",
            connect_trackio,
            ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"),
        ),
    )
}


def known_trackers(names: Iterable[str]) -> list[str]:
    """Each once. Raises UnknownName."""
    for name in names:
        if name not in TRACKERS:
            raise UnknownName("tracker", name, TRACKERS, "trackers")
    return list(dict.fromkeys(names))


def connect(name: str, config: TrackerConfig) -> Tracker:
    """A tracker that is ready. Raises ConfigError where its package or anything else it needs is
    missing.
    """
    try:
        return TRACKERS[name].connect(config)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--log-to {name} needs {(error.name or name).partition('.')[0]}: pip "
            f"install 'noisebench[{name}]'"
        ) from None
    except Exception as error:
        # whatever a server or a setting makes it throw: better now than after hours of training
        raise ConfigError(
            f"--log-to {name} cannot begin: {type(error).__name__}: {error}".splitlines()[0]
        ) from error
