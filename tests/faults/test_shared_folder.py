"""One folder, many processes: every run once, the same numbers as one process's; who loses a run to
another leaves it alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from noisebench.cli import main
from noisebench.core.files import lock
from noisebench.errors import RunTaken
from noisebench.labels.manifest import read_manifest
from noisebench.runs import checkpoint
from noisebench.runs.checkpoint import RunOptions
from noisebench.runs.folder import RunFolder
from noisebench.runs.queue import QueuedRun, make_packs, select
from noisebench.runs.workspace import Workspace
from tests.unit.test_pack import agenda, carried_out, left
from tests.unit.test_runner import Desk

# Writes down what is done, one letter each, from any process: an epoch of a run, a manifest.
COUNTING = """
import os
from noisebench.metrics.dynamics import Dynamics
from noisebench.labels.manifest import Manifest

def note(letter):
    with open(os.environ["NOTES"], "ab", buffering=0) as file:
        file.write(letter)

add, write = Dynamics.add, Manifest.write

def counted_epoch(self, *arguments):
    note(b"e")
    return add(self, *arguments)

def counted_manifest(self, path, **options):
    written = write(self, path, **options)
    note(b"m" if written else b"-")
    return written

Dynamics.add, Manifest.write = counted_epoch, counted_manifest
"""
RUNS, EPOCHS, MANIFESTS = 8, 5, 4  # of the suite smoke


# So many commands at once, forked from a process that has imported what they need.
SEVERAL = """
import json, os, sys
from noisebench.cli import main
from noisebench.executors import local

local.fork_server()
pids = []
for words in json.loads(sys.argv[1]):
    if not (pid := os.fork()):
        code = main(words)
        sys.stdout.flush()
        os._exit(code)
    pids.append(pid)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
"""


def run_smoke(place: Path, *commands: list[str]) -> str:
    """The suite by so many commands at once; the letters of what they did."""
    place.mkdir(exist_ok=True)
    (place / "counting.py").write_text(COUNTING)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NOTES": str(place / "notes")}
    words = [
        "-C",
        str(place),
        "--plugin",
        str(place / "counting.py"),
        "run",
        "smoke",
        "--jobs",
        "1",
    ]
    script = [sys.executable, "-c", SEVERAL, json.dumps([[*words, *more] for more in commands])]
    done = subprocess.run(
        script, capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return (place / "notes").read_text()


def results_of(place: Path) -> dict[str, Any]:
    """What the runs left, but for durations, and the manifests."""
    folders = [RunFolder(path) for path in sorted((place / "runs").iterdir())]
    runs = {folder.path.name: (*left(folder), [line.rpartition(",")[0] for line in folder.history.read_text().splitlines()],
                               folder.record()["metrics"]) for folder in folders}  # fmt: skip
    return {**runs, **{path.name: path.read_bytes() for path in (place / "manifests").iterdir()}}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one command leaves."""
    place = tmp_path_factory.mktemp("straight")
    assert main(["-q", "-C", str(place), "run", "smoke", "--jobs", "1"]) == 0
    return results_of(place)


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param([[]] * 2, id="two of the whole"),
        pytest.param([[]] * 4, id="four of the whole", marks=pytest.mark.soak),
        pytest.param(
            [["--shard", f"{i}/4"] for i in range(1, 5)], id="four shards", marks=pytest.mark.soak
        ),
    ],
)
def test_several_at_once_do_every_run_once_as_one_does(
    commands: list[list[str]], straight: dict[str, Any], tmp_path: Path
) -> None:
    notes = run_smoke(tmp_path, *commands)
    assert (notes.count("e"), notes.count("m")) == (RUNS * EPOCHS, MANIFESTS)
    assert results_of(tmp_path) == straight
    assert not [
        path
        for path in tmp_path.rglob("*")
        if "claim" in path.name or path.suffix == ".part" or path.name == "error.json"
    ]


@pytest.mark.soak
def test_eight_with_kills_at_random_do_every_run_with_the_numbers_of_one(
    straight: dict[str, Any], tmp_path: Path
) -> None:
    """Whoever is killed, the same command goes on; what it did since its last checkpoint is done
    again, and nothing else differs.
    """
    from random import Random

    random = Random(0)
    command = [
        sys.executable,
        "-m",
        "noisebench",
        "-C",
        str(tmp_path),
        "-q",
        "run",
        "smoke",
        "--jobs",
        "1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while len(list(tmp_path.glob("runs/*/result.json"))) < RUNS:
        processes = [
            subprocess.Popen(
                command, stdout=subprocess.DEVNULL, env=environment, start_new_session=True
            )
            for _ in range(8)
        ]
        time.sleep(random.uniform(2, 12))
        for process in processes:
            os.killpg(
                process.pid, signal.SIGKILL
            ) if process.poll() is None and random.random() < 0.7 else None
            process.wait(timeout=300)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    assert results_of(tmp_path) == straight


def test_a_shard_is_the_same_runs_whatever_is_finished(tmp_path: Path) -> None:
    items = agenda(tmp_path, "smoke", epochs=1)
    before = select(items, None, "2/4")
    carried_out(tmp_path, items[:3])
    now = agenda(tmp_path, "smoke", epochs=1)
    keys = {item.run.key for item in select(now, None, "2/4")}
    assert [item.run.key for item in before] == [items[1].run.key, items[5].run.key] and keys == {
        items[5].run.key
    }
    shards = [item.run.key for number in range(1, 5) for item in select(now, "all", f"{number}/4")]
    assert sorted(shards) == sorted(item.run.key for item in items)


def test_a_shard_packs_as_the_whole_suite_does(tmp_path: Path) -> None:
    items = agenda(tmp_path, "quick")
    widths = {id(item): load.width for load in make_packs(items, items) for item in load.items}
    for number in (1, 50):
        shard = select(items, None, f"{number}/100")
        assert {
            id(item): load.width for load in make_packs(items, shard) for item in load.items
        } == {id(i): widths[id(i)] for i in shard}


# A process that trains elsewhere, and says its epochs.
TRAINING = """
import sys
from pathlib import Path
import torch
from noisebench.core.files import lock
from noisebench.runs import checkpoint
from noisebench.errors import RunTaken
from tests.unit.test_runner import Desk
torch.set_num_threads(1)
lock.HEARTBEAT, lock.LEASE, checkpoint._CHECKPOINT_EVERY = 0.05, 1.0, 0.1
lock.machine = lambda: "another"
desk = Desk(Path(sys.argv[1]))
try:
    desk.execute(desk.plan(changes={"epochs": 60}), checkpoint.RunOptions(on_epoch_end=lambda progress: print(progress.epoch, flush=True)))
except RunTaken as taken:
    print(taken, flush=True)
"""


@pytest.mark.soak
def test_a_run_of_a_suspended_machine_ends_elsewhere_and_who_wakes_leaves_it_alone(
    tmp_path: Path, monkeypatch
) -> None:
    straight, desk = Desk(tmp_path / "straight"), Desk(tmp_path / "shared")
    run = desk.plan(changes={"epochs": 60})
    straight.execute(run)
    other = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(tmp_path / "shared")],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    with other:
        assert other.stdout is not None
        while int(other.stdout.readline()) < 10:
            pass
        other.send_signal(signal.SIGSTOP)
        with pytest.raises(RunTaken, match="is being run by process"):
            desk.execute(run)
        monkeypatch.setattr(lock, "LEASE", 0.3)
        time.sleep(0.6)
        epochs: list[int] = []
        desk.execute(run, RunOptions(on_epoch_end=lambda progress: epochs.append(progress.epoch)))
        before = {
            path.name: (path.stat().st_mtime_ns, path.read_bytes())
            for path in desk.folder(run).path.iterdir()
        }
        other.send_signal(signal.SIGCONT)
        *_, last = other.stdout
    assert "was unlocked while this process did not respond; it stops writing there" in last
    assert 1 < epochs[0] <= 12 and left(desk.folder(run)) == left(straight.folder(run))
    assert {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in desk.folder(run).path.iterdir()
    } == before


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[QueuedRun]:
    """Four runs of a pack of eight places."""
    place = tmp_path_factory.mktemp("undisturbed")
    items = agenda(place, "smoke", seeds=[0])
    carried_out(place, items)
    return items


@pytest.mark.parametrize("anew", [False, True])
def test_a_run_of_a_pack_that_is_lost_leaves_the_others_as_they_were(
    anew: bool, undisturbed: list[QueuedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = agenda(tmp_path / "shared", "smoke", seeds=[0])
    if anew:
        carried_out(tmp_path / "shared", shared[1:2])
    monkeypatch.setattr(checkpoint.RunTimer, "checkpoint_due", lambda clock: True)
    lost, steps, epochs = shared[1].folder, iter(range(1_000_000)), 0

    def stop() -> bool:
        if next(steps) == 4 * len(shared):  # in the second of two epochs of three steps
            lost.claim.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
        return False

    def listen(progress: checkpoint.Progress) -> None:
        nonlocal epochs
        epochs += 1

    told = carried_out(
        tmp_path / "shared",
        shared,
        conduct=RunOptions(force=anew, should_stop=stop, on_epoch_end=listen),
    )
    assert isinstance(told[1], RunTaken) and "taken over by process 7 on elsewhere" in str(told[1])
    assert (
        epochs == 2 * len(shared) - 1
        and lost.result.exists() is anew
        and lost.claim.exists()
        and not lost.error.exists()
    )
    for number, (one, other) in enumerate(zip(undisturbed, shared, strict=True)):
        if number != 1:
            assert left(one.folder) == left(other.folder) and not other.folder.claim.exists()


def test_of_many_that_write_one_manifest_one_does_and_all_see_it_whole(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    manifest, path, ready, written = (
        desk.plan().manifest,
        tmp_path / "manifests" / "m.csv",
        threading.Barrier(8),
        [],
    )

    def keep() -> None:
        ready.wait()
        written.append(Workspace(tmp_path).keep(manifest, path))

    threads = [threading.Thread(target=keep) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == [False] * 7 + [True]
    assert read_manifest(path).sha256 == manifest.sha256 and [
        each.name for each in path.parent.iterdir()
    ] == ["m.csv"]


@pytest.mark.soak
def test_two_processes_bring_two_thousand_runs_to_their_end(tmp_path: Path) -> None:
    """By the command line, with stubs for epochs: no run is missing, failed or claimed still."""
    from tests.perf.simulate_scale import two_at_once

    two_at_once(tmp_path, 2000)
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 2000 and len(list((tmp_path / "manifests").iterdir())) == 200
    assert all(
        len(list(folder.iterdir())) == 6 and RunFolder(folder).status() == "done"
        for folder in folders
    )
