"""What was copied in part, changed on the disk, or made under a clock that runs backwards: named,
mended or made again, never believed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noisebench.cli import main
from noisebench.core.files import lock
from noisebench.errors import DataError, Interrupted, NoisebenchError, RunFailed
from noisebench.experiments.command import repro_command
from noisebench.experiments.resolve import RunConfig
from noisebench.labels.build import LabelRequest
from noisebench.runs import checkpoint
from noisebench.runs.checkpoint import RunOptions
from noisebench.runs.folder import RunFolder
from noisebench.training.step import TrainingStep
from noisebench.training.trainer import Trainer
from tests.support.suites import left, workspace
from tests.unit.test_pack import agenda, carried_out
from tests.unit.test_runner import Desk

FILES = ("metrics.csv", "dynamics.npz", "predictions.npz", "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("finished"))
    desk.execute(desk.plan())
    return desk


@pytest.fixture
def copied(finished: Desk, tmp_path: Path) -> Desk:
    """A finished run in a folder of its own."""
    shutil.copytree(finished.workspace.root, tmp_path / "copy")
    return Desk(tmp_path / "copy")


def halve(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


# Checkpoints


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, RunConfig, bytes]:
    """Of two networks and a memory of every example, in the midst of an epoch."""
    desk, steps = Desk(tmp_path_factory.mktemp("interrupted")), iter(range(1000))
    run = desk.plan(strategy="elr_plus", changes={"epochs": 2, "batch_size": 512})
    with pytest.raises(Interrupted):
        desk.execute(run, RunOptions(should_stop=lambda: next(steps) >= 4))
    return desk, run, desk.folder(run).resume.read_bytes()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    at=st.floats(0, 1, exclude_max=True),
    what=st.sampled_from(["cut", "changed", "more"]),
    bit=st.integers(0, 7),
)
def test_a_checkpoint_that_is_not_as_it_was_written_is_not_resumed(
    at: float, what: str, bit: int, interrupted: tuple[Desk, RunConfig, bytes]
) -> None:
    """A changed number in the midst of it too, which torch would read without a word."""
    desk, run, saved = interrupted
    place, damaged = int(at * len(saved)), bytearray(saved)
    damaged[place] ^= 1 << bit
    content = {"cut": saved[:place], "changed": bytes(damaged), "more": saved + saved[: place + 1]}[
        what
    ]
    with pytest.raises(
        NoisebenchError,
        match=r"resume.pt cannot be resumed \(it is damaged.*: "
        r"delete it, or use --no-resume",
    ):
        checkpoint.load_state(desk.folder(run), content, torch.device("cpu"))


def test_a_damaged_checkpoint_is_the_users_to_delete(
    interrupted: tuple[Desk, RunConfig, bytes], tmp_path: Path
) -> None:
    desk, run, saved = interrupted
    straight = Desk(tmp_path / "straight")
    straight.execute(run)
    folder = desk.folder(run)
    halve(folder.resume)
    with pytest.raises(NoisebenchError, match="--no-resume"):
        desk.execute(run)
    assert folder.status() == "resume" and not folder.claim.exists()
    folder.resume.write_bytes(saved)
    desk.execute(run)
    assert folder.weights.read_bytes() == straight.folder(run).weights.read_bytes()


# Run folders


@pytest.mark.parametrize("name", FILES)
def test_a_finished_run_whose_file_was_copied_in_part_keeps_its_numbers_and_gives_no_others(
    name: str, copied: Desk
) -> None:
    folder = copied.folder(copied.plan())
    halve(folder.path / name)
    readers: dict[str, Callable[[], object]] = {
        "metrics.csv": folder.read_history,
        "dynamics.npz": folder.read_dynamics,
        "predictions.npz": folder.read_arrays,
        "model.safetensors": lambda: main(
            ["-C", str(copied.workspace.root), "evaluate", folder.path.name, "--eval-on", "digits"]
        ),
    }
    if name == "model.safetensors":
        assert readers[name]() == 2
    else:
        with pytest.raises(
            DataError,
            match=f"{name} does not have the checksum in result.json",
        ):
            readers[name]()
    assert (
        main(["-C", str(copied.workspace.root), "report"]) == 0
        and folder.record()["metrics"]["train"]["n"] == 1297
    )
    for other in set(readers) - {name, "model.safetensors"}:
        readers[other]()


@pytest.mark.parametrize("name", ["result.json", "error.json"])
def test_a_record_that_was_copied_in_part_makes_the_run_unfinished(
    name: str, copied: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied.plan()
    folder, before = copied.folder(run), left(copied.workspace.root)
    if name == "error.json":
        folder.write_error(run.facts, "kind", "message")
        folder.result.unlink()
    halve(folder.path / name)
    assert folder.status() == "damaged"
    assert main(["-C", str(copied.workspace.root), "report"]) == 2
    assert f"{name} is damaged" in capsys.readouterr().err
    copied.execute(run)
    assert left(copied.workspace.root) == before


def test_a_suite_runs_again_whatever_has_no_valid_record(tmp_path: Path) -> None:
    items = agenda(tmp_path, "smoke", epochs=1)
    carried_out(tmp_path, items)
    records = [json.loads(item.folder.result.read_text()) for item in items]
    record, about = records[0], items[0].run.facts
    failure = {"schema": 1, "about": about, "type": "kind", "message": "it failed", "traceback": ""}
    damaged = ["", "{}", "[]", "null", "3", '"text"', "\x00", json.dumps(record)[:600], json.dumps({**record, "seed": "0"}),
               json.dumps({**record, "schema": 0}), json.dumps({**record, "metrics": []}), json.dumps({**record, "expected": {}}),
               *(json.dumps({**failure, **wrong}) for wrong in ({"about": []}, {"message": None}, {"schema": "1"}))]  # fmt: skip
    for name in ("result.json", "error.json"):
        folder = items[0].folder
        for content in damaged:
            folder.result.unlink(missing_ok=True)
            (folder.path / name).write_text(content)
            assert folder.status() == "damaged", (name, content)
            folder.error.unlink(missing_ok=True)
    for item, content in zip(items, damaged[7:], strict=False):
        item.folder.result.write_text(content)
    assert [item.status for item in agenda(tmp_path, "smoke", epochs=1)] == ["damaged"] * len(items)
    for item, content in zip(items, records, strict=True):
        item.folder.result.write_text(json.dumps(content))
    for item, content in zip(items[:2], (about, {}), strict=True):
        item.folder.result.unlink()
        item.folder.error.write_text(json.dumps({**failure, "about": content}))
    items[2].folder.result.write_text(json.dumps({**records[2], "schema": 2}))
    found = [(item.status, item.reason) for item in agenda(tmp_path, "smoke", epochs=1)]
    assert found[:2] == [("failed: retry", "it failed")] * 2
    assert {status for status, _ in found[2:]} == {"done"}, (
        "a newer version's record is not replaced"
    )


def test_of_a_finished_run_whose_record_says_little_train_says_what_it_can(
    copied: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied.folder(copied.plan())
    record = json.loads(folder.result.read_text())
    for name in ("environment", "images_per_second", "files"):
        del record[name]
    record["metrics"] = {"test_acc": {"last": 0.5}}
    folder.result.write_text(json.dumps(record))
    assert (
        main(
            [
                "-C",
                str(copied.workspace.root),
                *shlex.split(repro_command(folder.about()).command)[1:],
            ]
        )
        == 0
    )
    assert "test accuracy 50.00 %" in capsys.readouterr().out


def test_a_folder_without_its_record_is_no_finished_run(
    finished: Desk, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """However many of its files were copied before."""
    for missing in range(1, 16):
        with subtests.test(missing=missing):
            shutil.copytree(finished.workspace.root, tmp_path / str(missing))
            copied = Desk(tmp_path / str(missing))
            run = copied.plan()
            folder, before = copied.folder(run), left(copied.workspace.root)
            folder.result.unlink()
            for number, name in enumerate(FILES):
                if missing >> number & 1:
                    (folder.path / name).unlink()
                else:
                    halve(folder.path / name)
            assert (
                folder.status() == "run"
                and main(["-C", str(copied.workspace.root), "evaluate", folder.path.name]) == 2
            )
            if missing in (1, 15):
                copied.execute(run)
                assert left(copied.workspace.root) == before


def test_a_claim_that_was_copied_along_is_nobodys_after_a_while(
    copied: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever wrote it runs on another machine, in another folder: what it says there is heard of
    here no more.
    """
    run = copied.plan()
    folder = copied.folder(run)
    folder.result.unlink()
    folder.claim.write_text(
        '{"host": "elsewhere", "pid": 7, "machine": "another", "began": 1, '
        '"job": "", "since": "", "once": "x"}\n'
    )
    with pytest.raises(
        DataError,
        match=r"process 7 on elsewhere, last update 0 s ago; .*; if "
        r"you know that it has ended, delete",
    ):
        copied.execute(run)
    os.utime(folder.claim, (time.time() - lock.LEASE - 1,) * 2)
    copied.execute(run)
    assert folder.status() == "done" and not folder.claim.exists()


def test_what_the_dead_left_of_finished_runs_is_tidied_away_and_what_the_living_have_is_not(
    tmp_path: Path,
) -> None:
    place = workspace(tmp_path / "place", epochs=1, methods="[ce, el, gce]")
    assert main(["-q", "-C", str(place), "run", "tiny"]) == 0
    before = set(place.rglob("*"))
    finished, at_work, unfinished = sorted(place.glob("runs/*"))
    for folder in (finished, at_work, unfinished):
        (folder / "claim").write_text(
            '{"host": "elsewhere", "pid": 7, "machine": "another", "began": 1}'
        )
        (folder / "resume.pt").write_bytes(b"half of one")
    for folder in (finished, unfinished):
        os.utime(folder / "claim", (time.time() - lock.LEASE - 1,) * 2)
    halve(unfinished / "result.json")
    for folder in map(RunFolder, (finished, at_work, unfinished)):
        folder.clean_up()
    assert set(place.rglob("*")) - before == {
        folder / name for folder in (at_work, unfinished) for name in ("claim", "resume.pt")
    }


# The clock


def test_a_clock_set_back_changes_nothing_but_dates(
    finished: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time that it is asked it says an hour less."""
    hours = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 2e9 - 3600 * next(hours))
    monkeypatch.setattr(checkpoint.RunTimer, "checkpoint_due", lambda clock: True)
    desk = Desk(tmp_path)
    record = desk.execute(desk.plan())
    assert 0 < record["seconds"] < 60 and record["images_per_second"] > 0
    assert (
        desk.folder(desk.plan()).weights.read_bytes()
        == finished.folder(finished.plan()).weights.read_bytes()
    )


def test_a_claim_from_the_future_is_kept_from_others_and_taken_from_the_dead(copied: Desk) -> None:
    """The clock was set back after it was written: nobody knows how long it has been silent, but of
    this machine's processes who lives.
    """
    run = copied.plan()
    folder = copied.folder(run)
    folder.result.unlink()
    dead = subprocess.run([sys.executable, "-c", ("from noisebench.core.files.lock import LockOwner; "
                                                 "print(LockOwner.here().content().decode())")],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    for owner in ('{"host": "elsewhere", "pid": 7, "machine": "another", "began": 1}', dead):
        folder.claim.write_text(owner + "\n")
        os.utime(folder.claim, (time.time() + 86_400,) * 2)
        if owner == dead:
            copied.execute(run)
        else:
            with pytest.raises(DataError, match="last update 0 s ago"):
                copied.execute(run)
    assert folder.status() == "done" and not folder.claim.exists()


def test_the_next_checkpoint_is_due_by_what_the_last_one_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = checkpoint.RunTimer(0.0)
    for took, least in ((0.0, 30), (0.1, 30), (0.5, 30), (2.6, 130), (60.0, 3000), (0.6, 30)):
        with clock.checkpoint():
            now += took
        now += least - 0.01
        assert not clock.checkpoint_due()
        now += 0.02
        assert clock.checkpoint_due()


# The epochs, while they are trained


def test_one_can_watch_the_epochs_in_a_file_that_grows(tmp_path: Path) -> None:
    desk, seen = Desk(tmp_path), list[str]()
    run = desk.plan(changes={"epochs": 4})
    history = desk.folder(run).history
    with ExitStack() as watching:
        files: list[IO[str]] = []

        def listen(progress: checkpoint.Progress) -> None:
            files.extend([watching.enter_context(history.open())] if not files else [])
            seen.append(files[0].read())

        with pytest.raises(Interrupted):
            desk.execute(run, RunOptions(on_epoch_end=listen, should_stop=lambda: len(seen) == 2))
        assert [text.count("\n") for text in seen] == [2, 1], (
            "the header with the first epoch, then a line an epoch"
        )
        assert history.read_text() == "".join(seen)
        with history.open("a") as file:
            file.write("2,of an epoch that is in no checkp")
        files.clear()
        desk.execute(run, RunOptions(on_epoch_end=listen))
    assert "".join(seen[2:]) == history.read_text() and [
        row["epoch"] for row in desk.folder(run).read_history()
    ] == [1, 2, 3, 4]
    finished, during = history.read_bytes(), set[bytes]()
    desk.execute(
        run,
        RunOptions(
            force=True, resume=False, on_epoch_end=lambda progress: during.add(history.read_bytes())
        ),
    )
    assert during == {finished} and desk.folder(run).read_history(), (
        "a finished run's stays until there is a new one"
    )


# Memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more of it"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4 bytes."
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_run_without_memory_fails_says_so_and_goes_on(
    error: Exception, finished: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    run = desk.plan()
    make, steps = TrainingStep.run, iter(range(10**6))

    def step(self: TrainingStep) -> None:
        if next(steps) == 50:
            raise error
        make(self)

    monkeypatch.setattr(checkpoint.RunTimer, "checkpoint_due", lambda clock: True)
    monkeypatch.setattr(TrainingStep, "run", step)
    with pytest.raises(
        RunFailed,
        match=r"failed: out of memory: the same command resumes from "
        r"the last checkpoint; train --accumulate N",
    ):
        desk.execute(run)
    assert desk.folder(run).status() == "failed" and desk.folder(run).resume.exists()
    desk.execute(run)
    assert next(steps) < 50 + 3 * run.recipe.epochs * 41, "it began anew"
    assert desk.folder(run).weights.read_bytes() == finished.folder(run).weights.read_bytes()


def test_another_failure_is_not_resumed(desk_of: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.RunTimer, "checkpoint_due", lambda clock: True)
    monkeypatch.setattr(Trainer, "end_training", lambda self: 1 / 0)
    run = desk_of.plan()
    with pytest.raises(RunFailed, match="ZeroDivisionError: division by zero"):
        desk_of.execute(run)
    assert not desk_of.folder(run).resume.exists()


@pytest.fixture
def desk_of(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# Real file systems


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own, with mount's options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"needs to mount a tmpfs, which is not allowed here: {made.stderr.strip()}")
        return place

    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite on a disk with room."""
    place = workspace(
        tmp_path_factory.mktemp("suite") / "place", epochs=2, methods="[ce, elr_plus]"
    )
    assert run_tiny(place) == 0
    return place


def run_tiny(place: Path) -> int:
    return main(["-q", "-C", str(place), "run", "tiny", "--jobs", "2"])


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
@pytest.mark.parametrize(
    "kilobytes", [400, *(pytest.param(size, marks=pytest.mark.soak) for size in (20, 60, 200, 800))]
)
def test_a_suite_on_a_full_disk_ends_with_a_line_and_goes_on_with_room(
    kilobytes: int,
    suite: Path,
    small_disk: Callable[[str], Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    place = small_disk(f"size={kilobytes}k")
    shutil.copy(suite / "benchmarks.yaml", place)
    code, (_, err) = run_tiny(place), capfd.readouterr()
    assert code in (2, 3) and "Traceback" not in err and "No space left on device" in err, err
    assert {RunFolder(path).status() for path in place.glob("runs/*")} <= {
        "done",
        "failed",
        "resume",
        "run",
    }
    subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)
    assert run_tiny(place) == 0
    assert left(place) == left(suite)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_read_only_folder_is_read_and_never_written(
    finished: Desk, small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Someone's results on a medium that cannot be written: all that reads works, all that writes
    says so in a line.
    """
    place = small_disk("size=100m")
    shutil.copytree(finished.workspace.root, place, dirs_exist_ok=True)
    manifest = "digits-sym0.4-s0.csv"
    finished.workspace.make(finished.dataset, LabelRequest("symmetric(rate=0.4)"))[0].write(
        place / "manifests" / manifest
    )
    before = left(place)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    run = next((place / "runs").iterdir()).name
    train = [
        "train",
        "--manifest",
        str(place / "manifests" / manifest),
        "--epochs",
        "3",
        "--precision",
        "fp32",
    ]
    for command in (
        ["report"],
        ["list", "runs"],
        ["list", "manifests"],
        ["evaluate", run],
        ["evaluate", run, "--verify"],
        train,
    ):
        assert main(["-C", str(place), *command]) == 0, (command, capsys.readouterr().err)
    capsys.readouterr()
    for command in (
        ["corrupt", "digits", "--sym", "0.2"],
        [*train, "--seed", "1"],
        [*train, "--force"],
        ["report", "-o", str(place / "x.html")],
    ):
        assert main(["-C", str(place), *command]) == 2, command
        assert "Read-only file system" in capsys.readouterr().err.splitlines()[-1]
    assert left(place) == before
