"""Workers that are forked from one process: isolated as if each had been started by itself, and
none outlives its command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from noisebench.cli import main
from noisebench.executors import local
from noisebench.executors.job import WorkerConfig
from noisebench.runs.folder import RunFolder
from tests.support.kills import children
from tests.support.suites import finish, numbers, start, under_way, wait_until, workspace

pytestmark = pytest.mark.skipif(not local.CAN_FORK, reason="workers are forked on Linux only")

# In a worker, something happens in the third step of the runs of seeds above 0.
MISHAPS = """
import os, signal, sys

if "torch" in sys.modules and os.getpid() != {parent}:
    import torch
    from noisebench.training.step import TrainingStep
    from tests.support.suites import ancestors

    make_step = TrainingStep.run

    def step_with_mishap(self):
        if (self.state.epoch, self.state.step) == (0, 2):
            worker, waiting, server = list(ancestors(os.getpid()))[:3]
            {mishaps}
        make_step(self)

    TrainingStep.run = step_with_mishap
"""


def plugin(place: Path, mishaps: str) -> tuple[str, str]:
    """The option that loads it. mishaps: one line of code."""
    file = place / "mishaps.py"
    file.write_text(MISHAPS.format(parent=os.getpid(), mishaps=mishaps))
    return "--plugin", str(file)


def outcomes(root: Path) -> dict[int, str]:
    """The status of each seed's run."""
    folders = [RunFolder(path) for path in root.glob("runs/*")]
    return {folder.about()["seed"]: folder.status() for folder in folders}


def failures(root: Path) -> list[str]:
    return [RunFolder(path.parent).failure()["message"] for path in root.glob("runs/*/error.json")]


def test_a_killed_worker_fails_its_run_alone_whatever_it_printed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where the process that waits for it is killed with it."""
    local.fork_server()
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    monkeypatch.setenv("SET_LATER", "äöü \udcff")  # not UTF-8
    root = workspace(tmp_path / "suite", 1, range(4), "[ce]")
    report = (
        "print(repr((os.environ['SET_LATER'], torch.get_num_threads(), os.getcwd())), flush=True)"
    )
    noise = """os.write(1, b'{"number": 0, "kind": "done", "content": {}}\\n')"""
    kills = "[os.kill(pid, 9) for pid in {1: [worker], 2: [waiting, worker]}.get(self.state.task.seed, [])]"
    words = plugin(tmp_path, f"{report}; {noise}; {kills}")
    monkeypatch.chdir(tmp_path)
    assert main(["-q", "-C", str(root), *words, "run", "tiny", "--jobs", "1"]) == 3
    out, err = capfd.readouterr()
    assert outcomes(root) == {0: "done", 1: "failed", 2: "failed", 3: "done"}
    assert (
        all("its worker process died (SIGKILL)" in message for message in failures(root))
        and len(failures(root)) == 2
    )
    assert (
        err.count(repr(("äöü \udcff", 2, str(tmp_path)))) >= 2
        and "SET_LATER" not in out
        and '"kind"' not in out
    )


def test_memory_limits_hold_and_a_killed_server_is_done_without_bit_for_bit(tmp_path: Path) -> None:
    """Seed 0 asks for more than `ulimit -v` leaves it, seed 1 kills the process that forks workers:
    seed 2 has one that was started.
    """
    root, straight = (
        workspace(tmp_path / name, 2, seeds, "[el]")
        for name, seeds in (("suite", range(3)), ("straight", [2]))
    )
    mishaps = "[[torch.empty, 8 << 30], [os.kill, server, 9], []][self.state.task.seed]"
    words = plugin(
        tmp_path,
        f"call = {mishaps}; call and call[0](*call[1:]); self.state.task.seed == 1 "
        "and os.kill(worker, 9)",
    )
    # this process has torch too
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * 4 + (3 << 20)
    suite = start(root, "--jobs", "1", before=words, kilobytes=limit)
    _, err = finish(suite)
    assert suite.returncode == 3 and outcomes(root) == {0: "failed", 1: "failed", 2: "done"}, err
    assert (
        "out of memory" in err
        and "its worker process died (SIGKILL)" in err
        and "Traceback" not in err
    )
    assert main(["-q", "-C", str(straight), "run", "tiny", "--jobs", "1"]) == 0
    (run,) = numbers(straight)
    assert numbers(root) == {run: numbers(straight)[run]}


def left_behind(mark: str) -> list[int]:
    """Processes that began with this in their environment, and have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(
    ("kill", "code"),
    [
        (lambda process: os.killpg(process.pid, signal.SIGINT), 130),
        (lambda process: process.kill(), -signal.SIGKILL),
    ],
    ids=["Ctrl-C in a terminal", "SIGKILL"],
)
def test_a_command_that_ends_leaves_checkpoints_and_no_process(
    kill: Callable[[subprocess.Popen[str]], Any],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mark = f"NOISEBENCH_TEST_MARK={tmp_path}"
    monkeypatch.setenv(*mark.split("="))
    root = workspace(tmp_path / "suite", 2000, methods="[el]")
    suite = start(root, "--jobs", "1", start_new_session=True)
    wait_until(lambda: list(root.glob("runs/*/metrics.csv")), suite)
    kill(suite)
    out, err = finish(suite)  # their pipes are closed
    until = time.monotonic() + 60
    while left_behind(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert left_behind(mark) == [] and (suite.returncode, out) == (code, "")
    assert [len(list(root.glob(f"runs/*/{name}"))) for name in ("resume.pt", "result.json")] == [
        1,
        0,
    ] and not under_way(root)
    assert "Traceback" not in err and (
        code < 0 or err.splitlines()[-1] == ("error: interrupted; the same command resumes")
    )


def test_a_server_that_was_killed_says_so_and_leaves_no_file_open() -> None:
    server = local.ForkServer()
    os.kill(server.pid, signal.SIGKILL)
    before = sorted(Path("/proc/self/fd").iterdir())
    for _ in range(2):
        with pytest.raises(OSError, match=r"Broken pipe|has died|reset"):
            server.fork({"LONG": "x" * 200_000})
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    server.close()


def test_a_worker_whose_command_was_killed_as_it_began_ends_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before it was told anything, or half."""
    place = WorkerConfig("", "", True).line()
    for told in ("", place[:20], place, place + '{"jobs": ['):
        worker = local.fork_server().fork(os.environ)
        worker.stdin.write(told)
        worker.stdin.close()
        assert (worker.stdout.read(), worker.wait()) == ("", 0)
        worker.stdout.close()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(os, "fdopen", _killed)
        local.fork_server().fork(os.environ)
    until = time.monotonic() + 60
    while children(local.fork_server().pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert capfd.readouterr() == ("", "")


def _killed(*arguments: object, **options: object) -> None:
    raise OSError("killed")


def test_where_a_forked_worker_cannot_be_watched_one_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under Linux before 5.3."""

    def refused(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refused)
    root = workspace(tmp_path / "suite", 1, [0], "[ce]")
    assert main(["-q", "-C", str(root), "run", "tiny", "--jobs", "2"]) == 0
    assert outcomes(root) == {0: "done"}
