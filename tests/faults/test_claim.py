"""Claims, with real processes: one owner at a time, in a race too; the dead are succeeded, the
living are not; who lost writes no more.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noisebench.core.files import lock
from noisebench.core.files.lock import LockOwner, acquire, find_lock
from noisebench.errors import DataError, NoisebenchError, RunTaken
from noisebench.runs.folder import RunFolder

# A process that claims what a line names, says what came of it, and lets go of it at the next line.
# Its heart beats fast.
HOLDER = """
import sys
from pathlib import Path
from noisebench.core.files import atomic as storing, lock
from noisebench.errors import RunTaken
lock.HEARTBEAT, lock.LEASE = 0.05, 1.0
{before}
for line in sys.stdin:
    try:
        with lock.acquire(Path(line.strip())) as mine:
            print("held", flush=True)
            sys.stdin.readline()
            mine.check()
        print("released", flush=True)
    except RunTaken as taken:
        print("taken" if "is being run by" in str(taken) else f"lost: {{taken}}", flush=True)
"""
ELSEWHERE = "lock.machine = lambda: 'another'"
LINKLESS = """
def refuse(self, target):
    raise OSError(1, "no links here")
Path.hardlink_to = refuse
"""


class Other:
    """Another process that holds claims."""

    def __init__(self, before: str = "", command: tuple[str, ...] = (), **environment: str) -> None:
        self.process = subprocess.Popen(
            [*command, sys.executable, "-c", HOLDER.format(before=before)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
        )  # fmt: skip

    def tell(self, line: object = "") -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hears(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, line: object = "") -> str:
        self.tell(line)
        return self.hears()

    def die(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start() -> Iterator[Callable[..., Other]]:
    """Starts other processes, ends them after the test."""
    others: list[Other] = []

    def start(*arguments: str, **settings: object) -> Other:
        others.append(Other(*arguments, **settings))  # type: ignore[arg-type]
        return others[-1]

    yield start
    for other in others:
        with other.process:
            other.process.kill()


def left(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def is_taken(path: Path) -> bool:
    try:
        with acquire(path):
            return False
    except RunTaken:
        return True


def write(path: Path, **content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# One at a time


@pytest.mark.parametrize("before", ["", LINKLESS], ids=["links", "no links"])
def test_of_eight_at_once_one_holds_it(
    before: str, start: Callable[..., Other], tmp_path: Path, subtests: pytest.Subtests
) -> None:
    others = [start(before) for _ in range(8)]
    gone = start()
    gone.die()
    for dead in ("none", "a dead process", "one that died taking over from it"):
        with subtests.test(last_holder=dead):
            for number in range(12):
                path = tmp_path / dead / str(number) / "claim"
                if dead != "none":
                    write(path, **dead_holder(gone))
                if dead == "one that died taking over from it":
                    succession = f"claim.{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
                    write(path.parent / succession, **{**dead_holder(gone), "once": "2"})
                for other in others:
                    other.tell(path)
                answers = [other.hears() for other in others]
                assert sorted(answers) == ["held", *["taken"] * 7]
                winner = others[answers.index("held")]
                assert winner.ask() == "released" and left(path) == []


def dead_holder(gone: Other) -> dict[str, object]:
    return {
        "host": socket.gethostname(),
        "pid": gone.process.pid,
        "machine": lock.machine(),
        "began": 7,
    }


def test_a_claim_says_who_since_when_and_what_to_do(
    start: Callable[..., Other], tmp_path: Path
) -> None:
    other, path = start("", NOISEBENCH_JOB="job-7"), tmp_path / "run" / "claim"
    other.ask(path)
    with pytest.raises(RunTaken) as taken, acquire(path):
        pass
    message = str(taken.value)
    assert (
        f"is being run by process {other.process.pid} on {socket.gethostname()} (job job-7) "
        "since 20"
    ) in message
    assert f"delete {path}" in message and "\n" not in message
    assert RunFolder(path.parent).lock_owner().startswith(f"process {other.process.pid} on ")


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(DataError, match="cannot write"), acquire(tmp_path / "run" / "claim"):
        pass


# Whose owner is dead


def test_the_claim_of_a_killed_process_is_succeeded_at_once(
    start: Callable[..., Other], tmp_path: Path
) -> None:
    other, path = start(), tmp_path / "claim"
    other.ask(path)
    (tmp_path / ".resume.pt.x1.part").write_text("half")
    assert is_taken(path)
    other.die()
    with acquire(path):
        assert left(path) == ["claim"]  # with what the dead left half written swept away
    assert left(path) == []


def test_a_dead_process_that_nobody_buried_is_dead(
    start: Callable[..., Other], tmp_path: Path
) -> None:
    other, path = start(), tmp_path / "claim"
    other.ask(path)
    other.process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, other.process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_taken(path)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs /proc, which says when a process started"
)
def test_another_process_that_got_the_pid_of_a_dead_one_is_not_its_holder(
    start: Callable[..., Other], tmp_path: Path
) -> None:
    other, path = start(), tmp_path / "claim"
    other.ask(tmp_path / "other")
    content = json.loads((tmp_path / "other").read_text())
    write(path, **content)
    assert is_taken(path)
    write(path, **{**content, "began": content["began"] - 1})
    assert not is_taken(path)


def test_a_suspended_process_of_this_machine_keeps_its_claim(
    start: Callable[..., Other], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(lock, "LEASE", 0.2)
    other, path = start(), tmp_path / "claim"
    other.ask(path)
    other.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    assert is_taken(path)
    other.process.send_signal(signal.SIGCONT)
    assert other.ask() == "released"


@pytest.mark.parametrize(
    "text",
    [b"", b"[", b"[" * 5000, b"[1]", b'{"pid": -1}', b'{"pid": "x", "host": 3}', b"\xff\x00"],
    ids=repr,
)
def test_a_claim_that_cannot_be_read_is_somebodys_until_it_is_old(
    text: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "claim"
    path.write_bytes(text)
    assert is_taken(path)
    old = time.time() - lock.LEASE - 1
    os.utime(path, (old, old))
    assert not is_taken(path) and left(path) == []


# On another machine, or in another container


def test_a_heart_that_beats_keeps_a_claim_on_another_machine(
    start: Callable[..., Other], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(lock, "LEASE", 0.5)
    other, path = start(ELSEWHERE), tmp_path / "claim"
    other.ask(path)
    for _ in range(10):
        time.sleep(0.1)
        assert is_taken(path)
    assert other.ask() == "released"


def test_a_heart_that_stopped_is_succeeded_and_who_wakes_has_lost(
    start: Callable[..., Other], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(lock, "LEASE", 0.5)
    other, path = start(ELSEWHERE), tmp_path / "claim"
    other.ask(path)
    other.process.send_signal(signal.SIGSTOP)
    assert is_taken(path)
    time.sleep(0.7)
    with acquire(path) as mine:
        other.process.send_signal(signal.SIGCONT)
        assert other.ask().startswith(
            f"lost: {tmp_path} was taken over by process {os.getpid()} on "
        )
        mine.check()  # which did not remove what is not its own
    assert left(path) == []


def test_the_clock_is_the_file_systems(
    start: Callable[..., Other], tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "claim"
    write(path, host="elsewhere", pid=7, machine="another", began=7)
    monkeypatch.setattr(time, "time", lambda: 9e9)
    assert is_taken(path)
    for minutes, taken in ((9, True), (11, False)):
        then = (tmp_path / "claim").stat().st_mtime - 60 * minutes
        os.utime(path, (then, then))
        assert is_taken(path) is taken
        write(path, host="elsewhere", pid=7, machine="another", began=7)


def test_a_claim_that_was_deleted_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    with acquire(path) as mine:
        path.unlink()
        with pytest.raises(RunTaken, match="was unlocked"):
            mine.check()


@pytest.fixture(scope="module")
def container() -> tuple[str, ...]:
    """A command that runs another in a namespace of processes of its own, as a container does."""
    command = ("unshare", "--fork", "--pid", "--kill-child")
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs unshare, and the right to make a namespace of processes")
    return command


def test_two_containers_of_one_host_name_may_have_the_same_pid(
    container, start: Callable[..., Other], tmp_path: Path
) -> None:
    one, two = start("", command=container), start("", command=container)
    path = tmp_path / "claim"
    assert one.ask(path) == "held"
    content = json.loads(path.read_text())
    assert (content["pid"], content["host"]) == (1, socket.gethostname())
    # though there is no such process among its own, or it is itself
    assert two.ask(path) == "taken" and is_taken(path)
    assert one.ask() == "released" and two.ask(path) == "held"


# The same job


def test_a_later_attempt_of_the_same_job_succeeds_the_one_before(
    start: Callable[..., Other], tmp_path: Path
) -> None:
    path = tmp_path / "claim"
    before, other = start(NOISEBENCH_JOB="a"), start(NOISEBENCH_JOB="b")
    after, nameless = start(NOISEBENCH_JOB="a"), start(NOISEBENCH_JOB="")
    assert before.ask(path) == "held"
    assert (other.ask(path), nameless.ask(path)) == ("taken", "taken")
    assert (
        after.ask(path) == "held" and before.ask().startswith("lost") and after.ask() == "released"
    )


def test_two_attempts_without_a_name_are_not_the_same_job(
    start: Callable[..., Other], tmp_path: Path
) -> None:
    one, two = start(NOISEBENCH_JOB=""), start(NOISEBENCH_JOB="")
    assert (one.ask(tmp_path / "claim"), two.ask(tmp_path / "claim")) == ("held", "taken")


def test_a_process_does_not_succeed_itself(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NOISEBENCH_JOB", "a")
    with acquire(tmp_path / "claim"):
        assert is_taken(tmp_path / "claim")


# What the folder makes of it


def test_who_lost_a_run_writes_no_more_into_it(tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked() as folder:
        folder.write(folder.config, b"mine")
        write(folder.claim, host="elsewhere", pid=7)
        for act in (
            lambda: folder.write_json(folder.result, {}),
            lambda: folder.write_error({}, "kind", "message"),
            lambda: folder.write_history([{"epoch": 1}]),
            lambda: folder.write(folder.config, b"lost"),
        ):
            with pytest.raises(RunTaken, match="taken over by process 7 on elsewhere"):
                act()
    assert (
        left(folder.claim) == ["claim", "config.yaml"]
        and (tmp_path / "config.yaml").read_text() == "mine"
    )


def test_a_failure_is_not_noted_where_another_is_at_the_run_or_has_finished_it(
    start: Callable[..., Other], tmp_path: Path
) -> None:
    folder, other = RunFolder(tmp_path / "run"), start()
    other.ask(folder.claim)
    folder.note_failure({}, "WorkerDied", "out of memory?")
    assert not folder.error.exists()
    other.die()
    folder.result.write_text('{"schema": 99}')
    folder.note_failure({}, "WorkerDied", "out of memory?")
    assert not folder.error.exists()
    folder.result.unlink()
    folder.note_failure({}, "WorkerDied", "out of memory?")
    assert folder.failure()["message"] == "out of memory?" and not folder.claim.exists()


def test_a_server_whose_answer_was_lost_has_given_the_claim(tmp_path: Path, monkeypatch) -> None:
    """NFS asks again where no answer came, and is told that the name exists: by its own first
    question.
    """
    link = Path.hardlink_to

    def linked_but_unheard(self: Path, target: Path) -> None:
        link(self, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(Path, "hardlink_to", linked_but_unheard)
    with acquire(tmp_path / "claim") as mine:
        mine.check()
    assert left(tmp_path / "claim") == []


def test_a_holder_reads_what_it_wrote() -> None:
    here = LockOwner.here()
    assert LockOwner.read(here.content()) == here and not here.is_expired(1e9, 1.0)
    assert here.pid == os.getpid() and (here.started > 0 or not sys.platform.startswith("linux"))


# A process that claims and lets go without pause. The lock is the oracle: the kernel frees it when
# its process dies, and not before.
RUNNER = """
import fcntl, sys
from pathlib import Path
from noisebench.core.files import lock
from noisebench.errors import RunTaken
path, oracle = Path(sys.argv[1]), open(sys.argv[2], "a")
while True:
    try:
        with lock.acquire(path) as mine:
            try:
                fcntl.flock(oracle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                print("two hold it", flush=True)
            mine.check()
            print("held", flush=True)
            fcntl.flock(oracle, fcntl.LOCK_UN)
    except RunTaken as taken:
        if "is being run by" not in str(taken):
            print(f"lost: {taken}", flush=True)
"""


@pytest.mark.skipif(
    sys.platform == "win32", reason="needs flock, which is let go when its process dies"
)
@pytest.mark.parametrize("kills", [15, pytest.param(1000, marks=pytest.mark.soak)])
def test_whoever_is_killed_whenever_never_do_two_hold_a_claim(kills: int, tmp_path: Path) -> None:
    from random import Random

    random, path, log = Random(0), tmp_path / "run" / "claim", tmp_path / "log"
    command = [sys.executable, "-c", RUNNER, str(path), str(tmp_path / "oracle")]
    with log.open("w") as output:
        processes = [subprocess.Popen(command, stdout=output) for _ in range(6)]
        for _ in range(kills):
            time.sleep(random.uniform(0.05, 0.15))
            victim = random.randrange(len(processes))
            processes[victim].kill()
            processes[victim].wait()
            processes[victim] = subprocess.Popen(command, stdout=output)
        time.sleep(0.5)
        for process in processes:
            process.kill()
            process.wait()
    words = log.read_text().splitlines()
    assert set(words) == {"held"} and len(words) > kills
    with acquire(path):
        assert left(path) == ["claim"]
    assert left(path) == []


def test_errors_of_claims_are_the_users(tmp_path: Path) -> None:
    assert issubclass(RunTaken, NoisebenchError) and find_lock(tmp_path / "claim") is None
