"""Trackers: what was logged reads back offline, a resumed run goes on, a tracker that fails costs
no run, and none changes one.

TensorBoard and a tracker of our own are tested by `make test`; wandb, mlflow and trackio, whose
imports take seconds, by `make soak`.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from noisebench.cli import main
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.trackers import (
    TRACKERS,
    Kind,
    RunInfo,
    RunLogger,
    TrackerConfig,
    connect,
    epoch_numbers,
    final_numbers,
)
from noisebench.training.step import TrainingStep
from tests.unit.test_runner import Desk

TRAIN = (
    "--offline",
    "train",
    "digits",
    "--sym",
    "0.4",
    "--precision",
    "fp32",
    "--loss",
    "el",
    "--val-fraction",
    "0.1",
)
SET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "WANDB_ERROR_REPORTING": "false",
    "HF_HUB_OFFLINE": "1",
}


@dataclass
class Logged:
    """What a tracker has of one run."""

    name: str
    config: dict[str, Any]
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)

    def add(self, epoch: int, name: str, value: float) -> None:
        numbers = self.final if name.startswith("final/") else self.epochs.setdefault(epoch, {})
        assert name not in numbers, f"{name} of epoch {epoch} was logged twice"
        numbers[name] = value


def from_tensorboard(place: Path) -> list[Logged]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = []
    for path in sorted((place / "runs").glob("*/events.out.tfevents.*")):
        events = EventAccumulator(str(path)).Reload()
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        hparams = HParamsPluginData.FromString(content).session_start_info.hparams
        logged = Logged(
            path.parent.name,
            {key: getattr(value, value.WhichOneof("kind")) for key, value in hparams.items()},
        )
        for tag in events.Tags()["scalars"]:
            for scalar in events.Scalars(tag):
                logged.add(scalar.step, tag, scalar.value)
        found.append(logged)
    return found


def wandb_records(raw: bytes) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log of blocks, a header of seven bytes before each
    fragment.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    at, part = 7, b""
    while at + 7 <= len(raw):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
        _, size, kind = struct.unpack_from("<IHB", raw, at)
        part, at = part + raw[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last fragment
            yield Record.FromString(part)
            part = b""


def whole(path: Path) -> list[Any]:
    """The records of a .wandb file once it is complete: now and then wandb's service still writes
    when a run has finished.
    """
    for _ in range(200):
        records = list(wandb_records(path.read_bytes()))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end")


def from_wandb(place: Path) -> list[Logged]:
    """The last file of each run: what `wandb sync` sends under one identity."""
    found: dict[str, Logged] = {}
    for path in sorted(
        (place / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns
    ):
        for record in whole(path):
            if record.HasField("run"):
                config = {
                    item.key: json.loads(item.value_json)
                    for item in record.run.config.update
                    if item.key != "_wandb"
                }
                logged = found[record.run.run_id] = Logged(record.run.display_name, config)
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_"):
                    logged.add(record.history.step.num, name, json.loads(item.value_json))
            for item in record.summary.update:
                name = item.key or "/".join(item.nested_key)
                if name.startswith("final/"):
                    logged.final[name] = json.loads(item.value_json)
    return list(found.values())


def from_mlflow(place: Path) -> list[Logged]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    found = []
    for run in client.search_runs([client.get_experiment_by_name("noisebench").experiment_id]):
        assert run.info.status == "FINISHED"
        logged = Logged(run.info.run_name, run.data.params)
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                logged.add(metric.step, name, metric.value)
        found.append(logged)
    return found


def from_trackio(place: Path) -> list[Logged]:
    from trackio.sqlite_storage import SQLiteStorage

    found = []
    for path in sorted((place / "runs").glob("*/trackers.json")):
        name, identity = path.parent.name, json.loads(path.read_text())["trackio"]
        config = SQLiteStorage.get_run_config("noisebench", name, run_id=identity)
        logged = Logged(
            name, {key: value for key, value in config.items() if not key.startswith("_")}
        )
        for log in SQLiteStorage.get_logs("noisebench", name, run_id=identity):
            for key, value in log.items():
                if key not in ("step", "timestamp"):
                    logged.add(log["step"], key, value)
        found.append(logged)
    return found


READERS: dict[str, Callable[[Path], list[Logged]]] = {
    "tensorboard": from_tensorboard,
    "wandb": from_wandb,
    "mlflow": from_mlflow,
    "trackio": from_trackio,
}
AS_STORED: dict[str, Callable[[Any], Any]] = {"mlflow": str}
CLOSE = {"tensorboard": 1e-6}  # it stores float32


@pytest.fixture
def place(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE")
    for name, value in SET.items():
        monkeypatch.setenv(name, value)  # as noisebench would, but taken back
    # read once a process
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path_factory.getbasetemp() / "trackio"))
    return tmp_path


@pytest.fixture(scope="session")
def mlflow_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow's, which takes seconds to make."""
    root = tmp_path_factory.mktemp("mlflow")
    connect("mlflow", TrackerConfig(root, offline=True))
    return root / "mlflow.db"


def or_soak(name: str) -> Any:
    return name if name == "tensorboard" else pytest.param(name, marks=pytest.mark.soak)


@pytest.fixture(params=map(or_soak, TRACKERS))
def tracker(request: pytest.FixtureRequest, place: Path) -> str:
    """Each tracker whose extra is installed."""
    pytest.importorskip(request.param, reason=f"needs pip install 'noisebench[{request.param}]'")
    if request.param == "mlflow":
        shutil.copy(request.getfixturevalue("mlflow_db"), place)
    return request.param


def lines_of(folder: RunFolder) -> dict[int, dict[str, float]]:
    """metrics.csv as it should have been logged."""
    with (folder.path / "metrics.csv").open() as file:
        rows = [
            {name: float(value) if value else None for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
    return {int(row["epoch"] or 0): epoch_numbers(row) for row in rows}


def close(numbers: dict[str, float], tracker: str) -> Any:
    return pytest.approx(numbers, rel=CLOSE.get(tracker, 0), abs=0)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def crash() -> None:
    raise ValueError("crash")


def in_step(steps: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens in that step; an epoch has 19."""
    count, inner = itertools.count(1), TrainingStep.run

    def make_step(self: TrainingStep) -> None:
        if next(count) == steps:
            act()
        inner(self)

    monkeypatch.setattr(TrainingStep, "run", make_step)


def test_every_tracker_has_a_reader_here_and_an_extra() -> None:
    import tomllib

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(READERS) == set(TRACKERS) <= set(extras)


def test_what_was_logged_reads_back(tracker: str, place: Path) -> None:
    """The numbers of every epoch, the final ones, and the settings."""
    assert main([*TRAIN, "--epochs", "3", "--log-to", tracker]) == 0
    (logged,), (folder,) = READERS[tracker](place), run_folders([place])
    assert logged.name == folder.path.name and list(logged.epochs) == [1, 2, 3]
    for epoch, numbers in lines_of(folder).items():
        assert logged.epochs[epoch] == close(numbers, tracker)
    assert set(logged.epochs[1]) == {
        "lr",
        "loss",
        "train_recorded",
        "train_clean",
        "memorised",
        "val_recorded",
        "test_acc",
    }
    assert logged.final == close(final_numbers(folder.record()), tracker)
    stored, record = AS_STORED.get(tracker, lambda value: value), folder.record()
    expected = {
        "key": record["key"], "loss": "el(eps=0.4)", "strategy": "standard", "method": "el", "model": "mlp", "dataset": "digits",
        "noise": "symmetric(rate=0.4)", "nominal_rate": 0.4, "realised_rate": record["noise"]["realised_rate"], "noise_seed": 0,
        "recipe_name": "digits", "recipe.epochs": 3, "recipe.lr": 0.1, "recipe.schedule": "cosine", "recipe.nesterov": True,
        "seed": 0, "precision": "fp32", "oracle": True,
    }  # fmt: skip
    assert {key: logged.config[key] for key in expected} == {
        key: stored(value) for key, value in expected.items()
    }


def test_a_resumed_run_goes_on_where_it_was_logged(
    tracker: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*TRAIN, "--epochs", "4", "--log-to", tracker]
    with monkeypatch.context() as patch:
        in_step(50, ctrl_c, patch)
        assert main(command) == 130
    (folder,) = run_folders([place])
    before = json.loads(folder.trackers.read_text())
    assert main(command) == 0
    (logged,) = READERS[tracker](place)
    assert [
        logged.epochs[epoch] == close(numbers, tracker)
        for epoch, numbers in lines_of(folder).items()
    ] == [True] * 4
    assert logged.final and (
        tracker == "tensorboard" or json.loads(folder.trackers.read_text()) == before
    )


def test_a_run_that_began_without_a_tracker_is_logged_whole(
    tracker: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_step(50, ctrl_c, patch)
        assert main([*TRAIN, "--epochs", "3"]) == 130
    assert main([*TRAIN, "--epochs", "3", "--log-to", tracker]) == 0
    assert list(READERS[tracker](place)[0].epochs) == [1, 2, 3]


def test_a_run_that_is_forced_begins_another_page(tracker: str, place: Path) -> None:
    for more in ([], ["--force"]):
        assert main([*TRAIN, "--epochs", "2", "--log-to", tracker, *more]) == 0
    logged = READERS[tracker](place)
    assert len(logged) == (2 if tracker in ("wandb", "mlflow") else 1) and all(
        list(each.epochs) == [1, 2] for each in logged
    )


def test_numbers_that_are_none_are_taken(tracker: str, place: Path) -> None:
    folder = place / "runs" / "odd"
    folder.mkdir(parents=True)
    page = connect(tracker, TrackerConfig(place, offline=True)).start(
        RunInfo("odd", "odd numbers", folder, {"loss": "ce"}), None
    )
    (folder / "trackers.json").write_text(json.dumps({tracker: page.identity}))
    page.log([(1, {"loss": float("nan"), "lr": float("inf"), "test_acc": 0.5})])
    page.finish("finished", 1, {"final/nll": float("nan")})
    assert READERS[tracker](place)[0].epochs[1]["test_acc"] == 0.5


@pytest.mark.parametrize(
    "names",
    [["tensorboard"], pytest.param(list(TRACKERS), marks=pytest.mark.soak)],
    ids=["tensorboard", "all"],
)
def test_no_tracker_changes_a_run(names: list[str], place: Path) -> None:
    names = [name for name in names if find_spec(name)]
    logging = [word for name in names for word in ("--log-to", name)]
    assert (
        main(["-C", "plain", *TRAIN, "--epochs", "2"]) == 0
        and main(["-C", "logged", *TRAIN, "--epochs", "2", *logging]) == 0
    )
    (plain,), (logged,) = run_folders([place / "plain"]), run_folders([place / "logged"])
    assert plain.record()["key"] == logged.record()["key"] and plain.path.name == logged.path.name
    for name in ("weights", "predictions"):
        assert getattr(plain, name).read_bytes() == getattr(logged, name).read_bytes()
    assert all(READERS[name](place / "logged") for name in names) and {
        p.name for p in plain.path.iterdir()
    }.isdisjoint({"trackers.json"})


SUITE = """\
version: 1
suites:
  tiny:
    defaults: {dataset: digits, epochs: 2, precision: fp32, seeds: [0, 1]}
    matrix: {noise: [symmetric(rate=0.4)], strategy: [standard, coteaching]}
"""


def test_a_suite_logs_every_run_once(tracker: str, place: Path) -> None:
    Path("tiny.yaml").write_text(SUITE)
    command = ["-q", "--offline", "run", "tiny.yaml", "--jobs", "2", "--log-to", tracker]
    for _ in range(2):  # the second time all is finished
        assert main(command) == 0
        logged = {each.name: each for each in READERS[tracker](place)}
        assert len(logged) == len(READERS[tracker](place)) == 4
    for folder in run_folders([place]):
        assert logged[folder.path.name].epochs == {
            epoch: close(numbers, tracker) for epoch, numbers in lines_of(folder).items()
        }
        assert logged[folder.path.name].final == close(final_numbers(folder.record()), tracker)


@pytest.mark.soak
@pytest.mark.parametrize("tracker", ["mlflow"], indirect=True)
def test_a_suite_that_was_stopped_goes_on_in_its_pages(tracker: str, place: Path) -> None:
    Path("tiny.yaml").write_text(
        SUITE.replace("epochs: 2", "epochs: 60").replace(", coteaching", "")
    )
    command = [
        sys.executable,
        "-m",
        "noisebench",
        "--offline",
        "run",
        "tiny.yaml",
        "--jobs",
        "1",
        "--log-to",
        "mlflow",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not list(place.glob("runs/*/trackers.json")):
        signal.sigtimedwait([], 0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    subprocess.run(command, check=True, capture_output=True)
    logged = from_mlflow(place)
    assert len(logged) == 2 and all(list(each.epochs) == list(range(1, 61)) for each in logged)


@pytest.mark.soak
def test_several_trackers_stay_in_the_workspace_and_off_stdout(place: Path) -> None:
    for name in TRACKERS:
        pytest.importorskip(name)
    home, scrubbed = (
        place / "home",
        ("TRACKIO_DIR", "NETRC", "HF_HOME", "HF_TOKEN", "XDG_CACHE_HOME", *SET),
    )
    environment = {key: value for key, value in os.environ.items() if key not in scrubbed} | {
        "HOME": str(home)
    }
    logging = [word for name in TRACKERS for word in ("--log-to", name)]
    command = [
        sys.executable,
        "-m",
        "noisebench",
        "-C",
        "work",
        *TRAIN,
        "--epochs",
        "2",
        "--json",
        *logging,
    ]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["epochs"] == 2, done.stderr
    assert all(f"logging to {name}: " in done.stderr for name in TRACKERS)
    work = {path.name for path in (place / "work").iterdir()}
    assert work == {"manifests", "runs", "wandb", "mlflow.db", "trackio"} and {
        p.name for p in place.iterdir()
    } <= {"home", "work"}
    assert len(json.loads(next((place / "work").glob("runs/*/trackers.json")).read_text())) == 4


# What goes wrong, with a tracker that we break.


class Broken:
    """A tracker that throws from the second time on that it is told something; its pages say what
    they were told.
    """

    def __init__(self, where: str = "nowhere") -> None:
        self.where, self.identity, self.held, self.told, self.breaks = where, "1", 0, [], True

    def start(self, facts: RunInfo, known: str | None) -> Broken:
        return self

    def log(self, epochs: list[tuple[int, dict[str, float]]]) -> None:
        self.told += [epoch for epoch, _ in epochs]
        print("chatter")
        if self.breaks and len(self.told) > 1:
            raise OSError("no space left\non the device")

    def finish(self, ending: str, epoch: int, numbers: dict[str, float]) -> None:
        self.told.append(ending)


@pytest.fixture
def broken(place: Path, monkeypatch: pytest.MonkeyPatch) -> Broken:
    """`--log-to broken`, told every epoch at once."""
    made = Broken()
    monkeypatch.setitem(TRACKERS, "broken", Kind("broken", "", lambda place: made))
    monkeypatch.setattr("noisebench.runs.trackers._EVERY", 0.0)
    return made


def test_a_tracker_that_fails_is_said_once_and_costs_nothing(
    broken: Broken, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="needs pip install 'noisebench[tensorboard]'")
    assert (
        main([*TRAIN, "--epochs", "4", "--json", "--log-to", "broken", "--log-to", "tensorboard"])
        == 0
    )
    out, err = capfd.readouterr()
    assert (
        err.count(
            "warning: broken failed and is disabled, training continues: OSError: no space left\n"
        )
        == 1
    )
    assert broken.told == [1, 2] and json.loads(out)["epochs"] == 4 and "chatter" in err
    assert list(from_tensorboard(place)[0].epochs) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("act", "code", "told"),
    [(str, 0, [1, 2, "finished"]), (crash, 3, [1, "failed"]), (ctrl_c, 130, [1, "interrupted"])],
)
def test_a_page_ends_as_its_run_does(
    act: Callable[[], None],
    code: int,
    told: list[object],
    broken: Broken,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken.breaks = False
    in_step(30, act, monkeypatch)
    assert main([*TRAIN, "--epochs", "2", "--log-to", "broken"]) == code
    assert broken.told == told


def test_an_epoch_that_is_trained_again_is_not_told_again(broken: Broken, place: Path) -> None:
    desk, broken.breaks = Desk(place), False
    run = desk.plan()
    lines = [{"epoch": epoch, "loss": 1.0} for epoch in (1, 2, 3)]
    with RunLogger({"broken": broken}, print) as logbook:
        # a worker died after two epochs
        for part in (lines[:1], lines[1:2], lines[:1], lines[:2], lines[2:]):
            logbook.log(run, desk.folder(run), part)
    assert [each for each in broken.told if each != "interrupted"] == [1, 2, 3]


def test_an_unknown_tracker_says_what_is_near(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "digits", "--sym", "0.4", "--log-to", "tensorbord", "--dry-run"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown tracker 'tensorbord': did you mean "
        "'tensorboard'? (noisebench list trackers)\n"
    )


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_said_before_training(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name, *(each for each in sys.modules if each.startswith(f"{name}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    assert main([*TRAIN, "--epochs", "1", "--log-to", name]) == 2
    assert capsys.readouterr().err == (
        f"error: --log-to {name} needs {name}: pip install 'noisebench[{name}]'\n"
    )
    assert not list(place.iterdir())


@pytest.mark.soak
def test_a_server_that_is_not_there_is_said_before_training(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main([*TRAIN[1:], "--epochs", "1", "--log-to", "mlflow"]) == 2
    assert (
        "error: --log-to mlflow cannot begin: MlflowException" in capsys.readouterr().err
        and not list(place.iterdir())
    )


def test_offline_no_tracker_heeds_a_server(
    tracker: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "WANDB_MODE": "online",
        "WANDB_API_KEY": "0" * 40,
        "TRACKIO_SPACE_ID": "a/b",
    }
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *anything: pytest.fail("it asked for an address")
    )
    assert main([*TRAIN, "--epochs", "1", "--log-to", tracker]) == 0
    assert READERS[tracker](place)[0].final


@pytest.mark.soak
@pytest.mark.parametrize(
    ("uri", "own"),
    [("databricks", True), ("https://example.org", True), ("sqlite:///mlflow.db", False)],
)
@pytest.mark.parametrize("tracker", ["mlflow"], indirect=True)
def test_offline_mlflow_heeds_what_is_on_this_machine(
    uri: str, own: bool, tracker: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    expected = f"mlflow ui --backend-store-uri sqlite:///{place / 'mlflow.db'}" if own else uri
    assert connect(tracker, TrackerConfig(place, offline=True)).where == expected


@pytest.mark.soak
def test_wandb_without_a_key_asks_for_none(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb").teardown()  # it remembers the key that another test had
    monkeypatch.setenv("NETRC", str(place / "none"))
    monkeypatch.setattr("builtins.input", lambda *anything: pytest.fail("it asked"))
    assert main([*TRAIN[1:], "--epochs", "1", "--log-to", "wandb"]) == 0
    assert (
        "logging to wandb: offline in wandb: wandb sync wandb/offline-run-*\n"
        in capsys.readouterr().err
    )


def test_help_and_lists_load_no_tracker(place: Path) -> None:
    """Nor torch."""
    calls = (
        "assert main(['--help']) == main(['train', '--help']) == main(['list', 'trackers']) == 0"
    )
    script = (
        "import sys\nfrom noisebench.cli import "
        f"main\n{calls}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.splitlines()[-1].split()) & {*TRACKERS, "torch"}
