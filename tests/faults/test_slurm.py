"""Runs on Slurm by submitit: its local cluster with real signals, and Slurm's commands played by
scripts that start real jobs.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import stat
import time
from pathlib import Path

import pytest

from noisebench.cli import main
from noisebench.errors import ConfigError
from noisebench.executors.job import ExecutorOptions
from noisebench.executors.slurm import read_settings
from tests.support.suites import ancestors, finish, numbers, start, under_way, wait_until, workspace

pytest.importorskip("submitit", reason="needs submitit: pip install 'noisebench[slurm]'")
LOCAL = ("--executor", "slurm", "--slurm", "cluster=local")


def events_of(root: Path) -> list[str]:
    """Each bundle's events so far."""
    return [path.read_text() for path in sorted(root.glob("runs/.jobs/*/*.events"))]


def epochs(text: str) -> list[int]:
    """The epochs of the progress events, in order."""
    lines = [json.loads(line) for line in text.splitlines() if line]
    return [line["content"]["epoch"] for line in lines if line["kind"] == "progress"]


def workers(root: Path) -> list[int]:
    """The processes that have a run."""
    return [json.loads((folder / "claim").read_text())["pid"] for folder in under_way(root)]


def test_a_preempted_job_saves_is_queued_again_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    there, here = (workspace(tmp_path / place, 30, methods="[el]") for place in ("there", "here"))
    suite = start(there, *LOCAL)
    wait_until(lambda: any(len(epochs(text)) > 2 for text in events_of(there)), suite)
    worker = workers(there)[0]
    task = list(ancestors(worker))[1]
    for pid in (worker, task):  # Slurm warns every process of a job's step, first of them or not
        os.kill(pid, signal.SIGUSR2)
    wait_until(
        lambda: any(
            "\n\n" in text and len(epochs(text.rpartition("\n\n")[2])) for text in events_of(there)
        ),
        suite,
    )
    again = next(text for text in events_of(there) if "\n\n" in text)
    out, err = finish(suite, 120)
    assert suite.returncode == 0, err
    before, after = (epochs(part) for part in again.rsplit("\n\n", 1))
    assert after[0] == before[-1] + 1 > 2, "it resumed"
    assert out.startswith("digits, of which 400") and " failed" not in err
    assert main(["-q", "-C", str(here), "run", "tiny", "--jobs", "1"]) == 0
    assert numbers(there) == numbers(here) and len(numbers(there)) == 1
    assert not list(there.glob("runs/.jobs/*")), "nothing is kept of a submission that is done"


@pytest.mark.soak
def test_interrupted_jobs_save_and_stay_ended(tmp_path: Path) -> None:
    root = workspace(tmp_path / "there", 2000)
    suite = start(root, *LOCAL)
    wait_until(
        lambda: len(under_way(root)) == 2 and all(epochs(text) for text in events_of(root)), suite
    )
    suite.send_signal(signal.SIGINT)
    out, err = finish(suite, 60)
    assert (suite.returncode, out) == (130, ""), err
    assert len(list(root.glob("runs/*/resume.pt"))) == 2 and not under_way(root)
    time.sleep(1)
    assert not under_way(root), "none was queued again"


def detach(root: Path) -> str:
    """What the command says; its pipes stay open in submitit's processes, which outlive it."""
    suite = start(root, *LOCAL, "--detach")
    assert suite.wait(60) == 0 and suite.stdout and suite.stderr
    with suite.stdout, suite.stderr:
        return suite.stderr.readline()


@pytest.mark.soak
def test_detached_jobs_are_watched_and_not_submitted_twice(tmp_path: Path) -> None:
    root = workspace(tmp_path / "there", 30, methods="[el]")
    assert detach(root).startswith("1 run submitted;")
    until = time.monotonic() + 60
    while not under_way(root) and time.monotonic() < until:
        time.sleep(0.02)
    worker = workers(root)[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        assert detach(root).startswith("0 runs submitted, 1 was already;")
    finally:
        os.kill(worker, signal.SIGCONT)
    watching = start(root, *LOCAL)
    out, err = finish(watching)
    assert watching.returncode == 0 and "n = 1; seed 0" in out, err
    assert len(numbers(root)) == 1 and not list(root.glob("runs/.jobs/*"))


SBATCH = """\
#!/bin/bash
cp "$1" "$SLURM_FAKE/script.sh"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for task in $(seq 0 $last); do
  SLURM_JOB_ID=$((100 + task)) SLURM_ARRAY_JOB_ID=100 SLURM_ARRAY_TASK_ID=$task setsid bash "$1" >/dev/null 2>&1 </dev/null &
done
echo "Submitted batch job 100"
"""
SRUN = """\
#!/bin/bash
while [[ "$1" == -* ]]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
"""
SACCT = (
    "#!/bin/bash\necho 'JobID|State|NodeList'\nfor task in 0 1; do echo \"100_$task|$(cat "
    '$SLURM_FAKE/state)|node1"; done\n'
)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands, played; the folder of the script that was submitted last, and of what sacct
    says.
    """
    place = tmp_path / "slurm"
    place.mkdir()
    for name, text in {
        "sbatch": SBATCH,
        "srun": SRUN,
        "sacct": SACCT,
        "scancel": "#!/bin/bash\n",
    }.items():
        (place / name).write_text(text)
        (place / name).chmod(stat.S_IRWXU)
    (place / "state").write_text("RUNNING")
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_FAKE", str(place))
    return place


WISHES = (
    "--slurm",
    "partition=gpu",
    "--slurm",
    "time=1-2",
    "--slurm",
    "mem=8G",
    "--slurm",
    "reservation=lab",
)


@pytest.mark.soak
def test_the_runs_of_an_array_job_are_done(slurm: Path, tmp_path: Path) -> None:
    root = workspace(tmp_path / "there", 1)
    suite = start(root, "--executor", "slurm", *WISHES, "--jobs", "2", "--cpus-per-run", "1")
    _, err = finish(suite, 120)
    assert suite.returncode == 0, err
    assert len(numbers(root)) == 2


@pytest.mark.soak
def test_what_slurm_cancelled_is_not_begun_again(slurm: Path, tmp_path: Path) -> None:
    (slurm / "sbatch").write_text("#!/bin/bash\necho 'Submitted batch job 100'\n")
    (slurm / "state").write_text("CANCELLED by 1000")
    suite = start(workspace(tmp_path / "there", 1), "--executor", "slurm")
    _, err = finish(suite, 120)
    assert suite.returncode == 3 and "2 runs" in err


def test_what_sbatch_is_asked_for_and_what_it_refuses_is_said_in_a_line(
    slurm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refusal = "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1"
    (slurm / "sbatch").write_text(f'#!/bin/bash\ncp "$1" "$SLURM_FAKE/script.sh"\n{refusal}\n')
    root = workspace(tmp_path / "there", 1)
    assert (
        main(
            [
                "-C",
                str(root),
                "run",
                "tiny",
                "--executor",
                "slurm",
                *WISHES,
                "--jobs",
                "2",
                "--cpus-per-run",
                "1",
            ]
        )
        == 2
    )
    out, err = capfd.readouterr()
    assert out == "" and "invalid partition specified: gpu" in err.splitlines()[-1]
    assert not list(root.glob("runs/.jobs/*"))
    asked = [
        line.removeprefix("#SBATCH --")
        for line in (slurm / "script.sh").read_text().splitlines()
        if line.startswith("#SBATCH")
    ]
    assert {
        "array=0-1%2",
        "partition=gpu",
        "time=1560",
        "mem=8G",
        "reservation=lab",
        "cpus-per-task=1",
        "requeue",
        "signal=USR2@90",
    } <= set(asked)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:01", 91),
        ("2:00:00", 120),
        ("1-0", 1440),
        ("1-2:30", 1590),
        ("1-00:00:01", 1441),
    ],
)
def test_times_are_read_as_slurm_reads_them(text: str, minutes: int) -> None:
    assert read_settings(ExecutorOptions(slurm=(f"time={text}",)))[1]["timeout_min"] == minutes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("partition",), "--slurm must be KEY=VALUE"), (("time=soon",), "--slurm time must be minutes"), (("time=0",), "must be above 0"),
        (("cpus-per-task=4",), "is set by --cpus-per-run"), (("qos=a", "--qos=b"), "given twice: a and b"),
        (("cluster=lsf",), "cluster must be one of slurm, local"), (("signal_delay_s=x",), "whole number of seconds"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_said_in_a_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(ExecutorOptions(slurm=words))


def test_half_a_gpu_is_not_slurms_to_give() -> None:
    with pytest.raises(ConfigError, match="whole number for --gpus-per-run"):
        read_settings(ExecutorOptions(gpus=0.5))


def test_what_is_submitted_holds_words_alone() -> None:
    from noisebench.executors.slurm import Command

    command = pickle.loads(pickle.dumps(Command(("sh", "-c", "exit 7"))))
    assert command.__getstate__() == {"words": ("sh", "-c", "exit 7")} and command() == 7
    assert command.checkpoint().function.words == command.words


def test_a_worker_that_is_told_before_it_can_listen_is_begun_again(tmp_path: Path) -> None:
    from noisebench.executors.slurm import Command

    script = 'test -e "$0" && exit 0; touch "$0"; kill -USR2 $$'
    assert Command(("sh", "-c", script, str(tmp_path / "told")))() == 0
