"""What executors share: signals as a wish to stop, what becomes of jobs whose worker ended badly,
events in files, names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from noisebench.cli import main
from noisebench.core.signals import PatientSignals, StopSignals
from noisebench.errors import DataError
from noisebench.executors import local
from noisebench.executors.job import (
    MAX_LOST,
    Attempt,
    Event,
    EventFile,
    ExecutorOptions,
    Job,
    JobBatch,
    Submission,
    WorkerConfig,
    make_batches,
)
from noisebench.executors.local import LocalPool
from noisebench.executors.worker import work_on
from noisebench.experiments.suite import SuiteRun
from tests.unit.test_pack import agenda


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_a_wish_and_the_second_an_order(number: int) -> None:
    before = signal.getsignal(number)
    if before == signal.SIG_IGN:
        pytest.skip("the signal is ignored, as under nohup")
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        assert not signals.stopped
        os.kill(os.getpid(), number)
        assert signals.stopped
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.stopped
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_worker_is_patient_however_often_it_is_told(number: int) -> None:
    with PatientSignals() as signals:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert signals.stopped


def bundle(tmp_path: Path, count: int) -> JobBatch:
    jobs = (
        Job(
            number,
            SuiteRun({}, 0, 0),
            str(number),
            str(tmp_path / str(number)),
            {"title": f"run {number}"},
        )
        for number in range(count)
    )
    return JobBatch(tuple(jobs), 16, "name")


def heard(attempt: Attempt, number: int, kind: str) -> list[str]:
    return [event.kind for event in attempt.on_event(Event(number, kind, {}))]


def numbers(found: list[JobBatch]) -> list[list[int]]:
    return [[job.number for job in each.jobs] for each in found]


def test_what_a_worker_died_over_is_tried_in_halves_until_one_by_itself_has_failed(
    tmp_path: Path,
) -> None:
    attempt = Attempt(bundle(tmp_path, 4))
    assert heard(attempt, 1, "done") == ["done"]
    fate = attempt.died("it died")
    assert numbers(fate.retry) == [[0, 2], [3]] and fate.events == []
    assert all(
        each.started_before and each.name == "name" and each.width == 16 for each in fate.retry
    )
    alone = Attempt(fate.retry[1]).died("it died")
    assert [(event.number, event.kind) for event in alone.events] == [
        (3, "failed")
    ] and alone.retry == []
    assert json.loads((tmp_path / "3" / "error.json").read_text())["message"] == "it died"


def test_what_was_on_a_lost_machine_goes_on_elsewhere_so_many_times(tmp_path: Path) -> None:
    given = bundle(tmp_path, 2)
    for times in range(MAX_LOST):
        fate = Attempt(given).lost("it was lost")
        assert {event.kind for event in fate.events} == {"again"} and fate.retry[
            0
        ].machines_lost == times + 1
        given = fate.retry[0]
    last = Attempt(given).lost("it was lost")
    assert last.retry == [] and {event.kind for event in last.events} == {"failed"}
    assert "4 times" in (tmp_path / "0" / "error.json").read_text()


def test_a_run_that_its_lost_worker_still_holds_is_asked_for_again(tmp_path: Path) -> None:
    first, second = (
        Attempt(bundle(tmp_path, 1)),
        Attempt(Attempt(bundle(tmp_path, 1)).lost("").retry[0]),
    )
    assert heard(first, 0, "taken") == ["taken"] and not first.unfinished
    assert heard(second, 0, "taken") == [] and numbers(second.ended().retry) == [[0]]


def test_interruptions_are_said_only_when_all_is_stopped(tmp_path: Path) -> None:
    attempt = Attempt(bundle(tmp_path, 2))
    assert heard(attempt, 0, "interrupted") == [] and not attempt.answered
    assert [(event.number, event.kind) for event in attempt.stopped().events] == [
        (0, "interrupted"),
        (1, "interrupted"),
    ]
    assert heard(attempt, 1, "done") == ["done"] and numbers(attempt.ended().retry) == [[0]]


def test_events_come_whole_and_once_and_a_torn_one_costs_no_other(tmp_path: Path) -> None:
    written, read = EventFile(tmp_path / "0.events"), EventFile(tmp_path / "0.events")
    assert not written.started
    written.append("\n")
    assert read.read() == []
    written.append(Event(0, "done", {}).line())
    with (tmp_path / "0.events").open("a") as file:
        file.write('{"number": 1, "ki')
    assert [event.number for event in read.read()] == [0] and read.read() == []
    assert written.started, "a worker was at it before"
    written.append("\n")
    written.append(Event(2, "done", {}).line())
    assert [event.number for event in read.read()] == [2]


def test_a_worker_goes_on_where_the_events_of_its_bundle_end(tmp_path: Path) -> None:
    items = agenda(tmp_path, "smoke", epochs=1, seeds=[0])
    (whole,) = make_batches(items, items)
    bundle_file, events = tmp_path / "0.bundle", EventFile(tmp_path / "0.events")
    bundle_file.write_text(
        WorkerConfig(str(tmp_path), str(tmp_path), True, device="cpu").line() + whole.line()
    )
    for job in whole.jobs[1:]:
        events.append(Event(job.number, "done", {}).line())
    assert work_on(bundle_file, tmp_path / "0.events") == 0
    assert [path.parent.name for path in tmp_path.glob("runs/*/result.json")] == [
        Path(whole.jobs[0].folder).name
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--executor slrum", "--executor must be one of local, ray, slurm, got 'slrum'"),
        ("--address auto", "--address has no effect here: use it with --executor ray"),
        (
            "--cpus-per-run 2",
            "--cpus-per-run has no effect here: use it with --executor ray or slurm",
        ),
        ("--detach", "--detach has no effect here: use it with --executor slurm"),
        (
            "--executor ray --slurm qos=a",
            "--slurm has no effect here: use it with --executor slurm",
        ),
        (
            "--executor ray --gpus-per-run 1.5",
            "a share of one GPU (0.25) or a whole number",
        ),
        (
            "--executor ray --gpus-per-run 1 --device cpu",
            "--gpus-per-run has no effect with --device cpu",
        ),
        ("--executor ray --device cuda:1", "assigns the GPUs itself"),
        ("--executor slurm --device cuda", "--device cuda needs --gpus-per-run"),
        ("--executor ray --address 127.0.0.1:1", "no Ray cluster responds at 127.0.0.1:1"),
        ("--executor ray --address ray://head:10001", "--address must be auto or HOST:PORT"),
    ],
)
def test_what_an_executor_cannot_do_is_said_in_a_line(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(tmp_path), "run", "smoke", *words.split()]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_said_with_what_installs_it(
    name: str,
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in [*sys.modules]:
        if module.startswith(("noisebench.executors.ray", "noisebench.executors.slurm")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["-C", str(tmp_path), "run", "smoke", "--executor", name]) == 2
    assert (
        f"--executor {name} needs {package}: pip install 'noisebench[{name}]'"
        in capsys.readouterr().err
    )


DIES_IN_A_LINE = """
import json, os, signal, sys
sys.stdin.readline()
while line := sys.stdin.readline():
    numbers = [job["number"] for job in json.loads(line)["jobs"]]
    done = [json.dumps({"number": number, "kind": "done", "content": {}}) + "\\n" for number in numbers]
    if len(numbers) > 1:
        os.write(1, (done[0] + done[1][:DONE]).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.write(1, done[0].encode())
"""


@pytest.mark.parametrize("cut", [1, 14, 40])
def test_a_worker_killed_in_the_midst_of_a_line_costs_no_run(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "WORKER", ("-c", DIES_IN_A_LINE.replace("DONE", str(cut))))
    monkeypatch.setattr(local, "CAN_FORK", False)
    place = WorkerConfig(str(tmp_path), str(tmp_path), True, device="cpu")
    events = list(LocalPool(place, ExecutorOptions(1)).run([bundle(tmp_path, 3)]))
    assert sorted((event.number, event.kind) for event in events) == [
        (0, "done"),
        (1, "done"),
        (2, "done"),
    ]


def test_the_task_on_ray_returns_how_its_worker_ended(tmp_path: Path) -> None:
    from noisebench.executors.ray import run_worker

    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_worker(("-c", kill), {}, str(tmp_path), 0) == -signal.SIGKILL
    show = "import os, sys; sys.exit(os.environ['SET'] != 'here' or os.getcwd() != sys.argv[1])"
    assert run_worker(("-c", show, str(tmp_path)), {"SET": "here"}, str(tmp_path), 0) == 0
    with pytest.raises(RuntimeError, match="all nodes need the same paths"):
        run_worker(("-c", "pass"), {}, str(tmp_path / "missing"), 0)


def test_a_submission_that_is_damaged_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate(
        ["", "{}", "[]", "null", "{}\n{}", "{}\n[]", '{}\n{"jobs": 3}', '{}\n{"jobs": [']
    ):
        submission = Submission(tmp_path / str(number))
        submission.path.mkdir()
        submission.batch_file(0).write_text(content)
        with pytest.raises(DataError, match="is damaged"):
            submission.batch(0)
