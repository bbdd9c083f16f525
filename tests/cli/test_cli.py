"""The command line as users meet it: the main job end to end, what it prints, and every way to get
it wrong.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from noisebench.cli import main
from noisebench.training.step import TrainingStep
from tests.contracts.test_surface import OPTIONS

# One thread each: processes that share the cores with two threads each wait for one another for
# minutes.
ENVIRONMENT = {
    key: value for key, value in os.environ.items() if not key.startswith("NOISEBENCH_")
} | {"OMP_NUM_THREADS": "1"}
SHORT = ("--epochs", "2")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """The JSON document of a command that must succeed."""
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def files(place: Path) -> set[str]:
    """All but the bytecode of plugins."""
    return {
        path.relative_to(place).as_posix()
        for path in place.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_noisebench_alone_prints_its_help_and_every_command_has_one(
    capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    code, out, err = call(capsys)
    assert (
        (code, err) == (0, "")
        and all(re.search(rf"\b{name} ", out) for name in OPTIONS)
        and out == call(capsys, "--help")[1]
    )
    for name, options in OPTIONS.items():
        with subtests.test(name):
            code, out, err = call(capsys, name, "--help")
            assert (code, err) == (0, "") and f" {name} [OPTIONS]" in out.splitlines()[0]
            assert {option for option in options.split() if option not in out} <= HIDDEN
    code, out, err = call(capsys, "-q")
    assert (code, out) == (2, "") and "Missing command" in err and err.count("\n") == 1


def test_the_main_job_runs_end_to_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = answer(capsys, "corrupt", "digits", "--sym", "0.4")
    trained = [
        answer(capsys, "train", "--loss", "el", "--eps", "0.4", *SHORT, "--seed", str(seed))
        for seed in (0, 1)
    ]
    evaluated = answer(capsys, "evaluate", trained[0]["run"])[0]
    reported = answer(capsys, "report")
    assert made["nominal_rate"] == 0.4 and (place / made["manifest"]).exists()
    assert evaluated["test"]["top1"] == trained[0]["test_acc"]["last"]
    assert reported["cells"][0]["values"] == {
        "0": trained[0]["test_acc"]["last"],
        "1": trained[1]["test_acc"]["last"],
    }


def suite_file(*lines: str) -> str:
    """A suite file with one suite."""
    return "\n    ".join(["version: 1\nsuites:\n  one:", *lines]) + "\n"


def test_json_answers_have_the_promised_keys(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = answer(capsys, "corrupt", "digits", "--asym", "0.2")
    assert set(made) == {
        "manifest", "dataset", "noise", "n", "num_classes", "nominal_rate", "realised_rate", "per_class_rate", "noise_seed", "sha256",
    }  # fmt: skip
    trained = answer(capsys, "train", *SHORT)
    assert set(trained) == {
        "run",
        "key",
        "test_acc",
        "memorised",
        "epochs",
        "seconds",
        "images_per_second",
        "oracle",
    }
    assert set(trained["test_acc"]) == {"last", "mean_last10", "best"}
    assert {row["name"] for row in answer(capsys, "list", "methods")} >= {
        "ce",
        "lsr",
        "bootstrap",
        "forward",
        "sl",
        "mae",
        "gce",
        "el",
    }


HIDDEN = {"--scale", "--crop-pct", "--eval-on", "--img-size"}  # older spellings
LISTS = (
    "losses noises strategies methods datasets models recipes suites metrics trackers "
    "manifests runs env"
)


def test_every_list_has_names(
    place: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    for kind in LISTS.split():
        with subtests.test(kind):
            rows = answer(capsys, "list", kind)
            assert all(row["name"] for row in rows) and (rows or kind in ("manifests", "runs"))
            assert call(capsys, "list", kind)[0] == 0


def test_one_damaged_file_does_not_hide_the_others_in_a_list(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "corrupt", "digits", "--sym", "0.2")
    min((finished / "runs").iterdir()).joinpath("result.json").write_text("{")
    (finished / "manifests" / "digits-sym0.2-s0.csv").write_text("x")
    assert [row["status"] for row in answer(capsys, "list", "runs")] == ["damaged", "done"]
    assert [row["dataset"] for row in answer(capsys, "list", "manifests")] == ["damaged", "digits"]


def test_list_shows_one_in_full(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "list", "losses", "sl")
    assert code == 0
    for part in (
        "sce(alpha=0.1, beta=1.0, A=-9.21)",
        "Wang et al. 2019",
        "alpha: number in [0, 1e6]",
        "cifar100: sce(alpha=6, beta=0.1)",
    ):
        assert part in out


def test_corrupt_says_what_the_number_means(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, err = call(capsys, "corrupt", "cifar10", "--asym", "0.4")
    for part in (
        "40.00 %",
        "20.00 % of all",
        "mostly one-way",
        "truck",
        "automobile",
        "manifests/cifar10-asym0.4-s0.csv",
    ):
        assert part in out
    assert "written" in err


def test_corrupt_again_changes_nothing_and_another_one_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("corrupt", "digits", "--sym", "0.4", "--out", "mine.csv")
    call(capsys, *arguments)
    before = (place / "mine.csv").stat().st_mtime_ns
    assert (
        "unchanged" in call(capsys, *arguments)[2]
        and (place / "mine.csv").stat().st_mtime_ns == before
    )
    code, _, err = call(capsys, *arguments, "--noise-seed", "1")
    assert (
        code == 2
        and "has other labels" in err
        and (place / "mine.csv").stat().st_mtime_ns == before
    )
    assert call(capsys, *arguments, "--noise-seed", "1", "--force")[0] == 0


def test_train_takes_what_corrupt_wrote_last_and_says_which(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "corrupt", "digits", "--sym", "0.2")
    call(capsys, "corrupt", "digits", "--pair", "0.3")
    (place / "s.yaml").write_text(
        suite_file(
            "defaults: {dataset: digits, noise: symmetric(rate=0.5), epochs: 1}",
            "matrix: {method: [ce]}",
        )
    )
    assert (
        call(capsys, "train", "digits", "--sym", "0.6", *SHORT)[0]
        == call(capsys, "run", "s.yaml", "--jobs", "1")[0]
        == 0
    )
    code, _, err = call(capsys, "train", *SHORT)
    assert (
        code == 0
        and (
            "newest manifest: training on manifests/digits-pair0.3-s0.csv: "
            "digits, pairflip(rate=0.3)"
        )
        in err
    )


def test_train_without_a_manifest_takes_the_embedded_digits_and_says_so(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "train", *SHORT)
    assert (
        code == 0
        and (
            "no manifest found: training on manifests/digits-sym0.4-s0.csv: digits, "
            "symmetric(rate=0.4)"
        )
        in err
    )


def test_a_finished_run_is_not_run_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = answer(capsys, "train", *SHORT)
    code, out, err = call(capsys, "train", *SHORT, "--json")
    assert code == 0 and json.loads(out) == first and "is finished already" in err
    again = answer(capsys, "train", *SHORT, "--force")
    assert again["test_acc"] == first["test_acc"] and again["seconds"] != first["seconds"]


def test_parameters_of_the_loss_are_options(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = answer(
        capsys,
        "train",
        "digits",
        "--sym",
        "0.4",
        "--loss",
        "lsr(el)",
        "--eps",
        "0.25",
        "--alpha=0.2",
        "--dry-run",
    )
    assert plan["loss"] == "lsr(el(eps=0.25), alpha=0.2)"
    assert answer(capsys, "train", "--loss", "rce", "--A", "-4", "--dry-run")["loss"] == "rce(A=-4)"
    assert (
        answer(capsys, "train", "--method", "sl", "--A", "-4", "--dry-run")["loss"]
        == "sce(alpha=0.1, beta=1, A=-4)"
    )


def test_a_dry_run_lists_every_run_with_status_and_reason_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "train", "--dry-run")[0] == 0
    code, out, _ = call(capsys, "run", "smoke", "--dry-run")
    *runs, last = out.splitlines()
    assert (
        code == 0
        and len(runs) == 8
        and all(re.match(r"run +\S+ on digits, .*: new$", line) for line in runs)
    )
    assert last.startswith(
        "8 runs: 8 run; 8 to run, 8 of them in 1 pack, trained as one network; estimated runtime: "
    )
    assert files(place) == set()


def test_a_suite_runs_skips_what_is_done_and_ends_with_its_table(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "run", "smoke", "--jobs", "2")
    assert (
        code == 0 and "8/8 runs" in err and re.search(r"^ el +\d\d\.\d\d ± \d+\.\d\d†", out, re.M)
    )
    code, again, err = call(capsys, "run", "smoke")
    assert code == 0 and "nothing to do, all 8 runs are finished" in err and again == out


def test_a_failure_fails_its_cell_alone_with_exit_3_and_stands_in_the_table(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run fails as it trains, and one before: its checkpoint is damaged."""
    run = Path(
        answer(
            capsys,
            "train",
            "digits",
            "--sym",
            "0.4",
            "--method",
            "gce",
            "--epochs",
            "1",
            "--dry-run",
        )["run"]
    )
    run.mkdir(parents=True)
    (run / "resume.pt").write_bytes(b"x")
    (place / "s.yaml").write_text(
        suite_file(
            "defaults: {dataset: digits, epochs: 1}",
            "matrix: {noise: [symmetric(rate=0.4)], method: [ce, mae, gce]}",
            "override: [{match: {method: ce}, set: {lr: 1.0e+30}}]",
        )
    )
    code, out, err = call(capsys, "run", "s.yaml", "--jobs", "1")
    assert (
        code == 3 and "ce on digits" in err and "the cost became" in err and "2 runs failed" in err
    )
    assert "resume.pt cannot be resumed" in err
    assert (
        re.search(r"ce +✗1", out)
        and re.search(r"gce +✗1", out)
        and re.search(r"mae +\d\d\.\d\d", out)
    )
    assert call(capsys, "report")[1] == out
    assert call(capsys, "run", "s.yaml", "--dry-run")[1].count("failed: retry ") == 2


def test_report_writes_every_format_by_suffix(
    finished: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    starts = {
        "t.md": "**digits, mlp",
        "t.csv": "dataset,model,recipe",
        "t.json": "{",
        "t.html": "<!doctype",
        "t.tex": "% needs",
    }
    for name, start in starts.items():
        with subtests.test(name):
            assert call(capsys, "report", "-o", name)[0] == 0 and (
                finished / name
            ).read_text().startswith(start)
    assert call(capsys, "report", "--format", "md")[1] == (finished / "t.md").read_text()


def test_report_appends_to_githubs_summary(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished / "summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(finished / "summary.md"))
    call(capsys, "report")
    assert (finished / "summary.md").read_text().startswith("before\n**digits, mlp")


def test_a_plugin_brings_a_loss_in_one_file(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = place / "mine.py"
    plugin.write_text(
        "import noisebench as nb\n\nprint('hello')\n\n@nb.register_loss\ndef test_root(log_p, "
        "power=0.5):\n"
        '    """1 - p^power."""\n    return -(power * log_p).expm1()\n'
    )
    trained = answer(
        capsys, "--plugin", str(plugin), "train", "--loss", "test_root", "--power", "0.3", *SHORT
    )
    assert "test_root-power=0.3" in trained["run"]
    assert "1 - p^power" in call(capsys, "--plugin", str(plugin), "list", "losses", "test_root")[1]


def test_without_a_terminal_there_is_no_colour_and_nothing_is_cut(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    for arguments in ("list losses", "corrupt cifar100 --sym 0.4", "list noises asymmetric"):
        with subtests.test(arguments):
            code, out, err = call(capsys, *arguments.split())
            assert code == 0 and "\x1b" not in out + err and "…" not in out


def test_a_reader_that_leaves_is_no_error(place: Path) -> None:
    command = f"{sys.executable} -m noisebench list losses --json | head -c 10"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.stderr == ""


@contextmanager
def watching(pattern: str, act: Callable[[Path], object]) -> Iterator[None]:
    """Act once, as soon as a file of this pattern is there."""
    left = threading.Event()

    def watch() -> None:
        while not left.is_set():
            if found := sorted(Path().glob(pattern)):
                return act(found[0])
            left.wait(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def test_ctrl_c_saves_and_the_same_command_ends_as_if_nothing_had_been(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", "digits", "--sym", "0.4", "--epochs", "4")
    steps, make_step = count(1), TrainingStep.run

    def make_step_or_stop(self: TrainingStep) -> None:
        if next(steps) == 30:  # of the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        make_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "run", make_step_or_stop)
        code, out, err = call(capsys, *command)
    assert (
        (code, out) == (130, "") and "the same command resumes it" in err and "Traceback" not in err
    )
    resumed, straight = answer(capsys, *command), answer(capsys, "-C", "other", *command)
    assert (resumed["key"], resumed["test_acc"], resumed["memorised"]) == (
        straight["key"],
        straight["test_acc"],
        straight["memorised"],
    )


LONG = (  # two runs that are not packed
    "defaults: {dataset: digits, subset: 300, epochs: 60, precision: fp32}",
    "matrix: {noise: [symmetric(rate=0.4)], method: [ce, coteaching]}",
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_suite_resumes(
    number: int, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "s.yaml").write_text(suite_file(*LONG))
    # a signal that comes too late fails this test alone
    before = signal.signal(number, lambda *_: None)
    try:
        with watching("runs/*/config.yaml", lambda _: os.kill(os.getpid(), number)):
            code, _, err = call(capsys, "run", "s.yaml", "--jobs", "1")
    finally:
        signal.signal(number, before)
    assert code == 130 and "the same command resumes" in err and "Traceback" not in err
    assert (
        not list(place.glob("runs/*/claim"))
        and list(place.glob("runs/*/resume.pt"))
        and not list(place.glob("runs/*/error.json"))
    )
    assert (
        call(capsys, "run", "s.yaml", "--jobs", "1")[0] == 0
        and len(list(place.glob("runs/*/result.json"))) == 2
    )


def test_a_worker_stopped_alone_is_replaced_and_its_runs_go_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "s.yaml").write_text(suite_file(*LONG))

    def stop(claim: Path) -> None:
        time.sleep(0.1)
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(json.loads(claim.read_text())["pid"], signal.SIGTERM)

    with watching("runs/*/claim", stop):
        code, _, err = call(capsys, "run", "s.yaml", "--jobs", "1")
    assert code == 0, err
    assert len(list(place.glob("runs/*/result.json"))) == 2 and not list(
        place.glob("runs/*/error.json")
    )


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "noisebench", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def wait_for(pattern: str, process: subprocess.Popen[str]) -> Path:
    """The first file of this pattern that a process writes."""
    while not (found := sorted(Path().glob(pattern))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return found[0]


def test_a_parent_that_dies_leaves_runs_that_resume(place: Path) -> None:
    (place / "s.yaml").write_text(suite_file(*LONG))
    process = start("run", "s.yaml", "--jobs", "1")
    claim = wait_for("runs/*/claim", process)
    process.kill()
    process.communicate()
    for _ in range(300):
        if not claim.exists():
            break
        time.sleep(0.1)
    assert not claim.exists() and not list(place.glob("runs/*/error.json"))
    assert list(place.glob("runs/*/resume.pt")) or list(place.glob("runs/*/result.json"))


@pytest.mark.soak
@pytest.mark.parametrize(
    "arguments", ["train digits --sym 0.4 --epochs 100", "run s.yaml --jobs 1"]
)
def test_ctrl_c_at_a_terminal_reaches_every_process_and_the_same_command_resumes(
    arguments: str, place: Path
) -> None:
    """A terminal sends it to the whole process group."""
    (place / "s.yaml").write_text(suite_file(*LONG))
    process = start(*arguments.split())
    wait_for("runs/*/config.yaml", process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command" in err and "Traceback" not in err
    again = start(*arguments.split())
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err


def test_force_keeps_the_result_until_there_is_a_new_one(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = answer(capsys, "train", *SHORT)
    claim = finished / first["run"] / "claim"
    claim.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getppid()}))
    code, _, err = call(capsys, "train", *SHORT, "--force")
    assert code == 2 and "is being run by process" in err
    claim.unlink()
    assert answer(capsys, "train", *SHORT)["key"] == first["key"]


MISTAKES = [
    (["corrupt", "digits", "--sym", "1"], "rate must be a number in [0, 1)"),
    (["corrupt", "digits", "--sym", "-0.1"], "rate must be a number in [0, 1)"),
    (["corrupt", "digits", "--sym", "nan"], "rate must be a number in [0, 1)"),
    (["corrupt", "digits", "--sym", "many"], "Invalid value for '--sym'"),
    (["corrupt", "digits", "--sym", "0.1", "--asym", "0.2"], "name one noise only"),
    (["corrupt", "digits"], "name a noise"),
    (["corrupt", "digit", "--sym", "0.1"], "did you mean 'digits'"),
    (["corrupt", "no.npz", "--sym", "0.1"], "no.npz does not exist"),
    (["corrupt", "digits", "--noise", "symetric(rate=0.1)"], "did you mean 'symmetric'"),
    (["corrupt", "digits", "--noise", "symmetric(0.1"], "was never closed"),
    (
        ["corrupt", "digits", "--noise", "symmetric(rate=0.1, eps=2)"],
        "symmetric has no parameter 'eps'",
    ),
    (
        ["corrupt", "digits", "--asym", "0.1", "--map", "cifar"],
        "unknown asymmetric map 'cifar': did you mean 'cifar10'",
    ),
    (
        ["corrupt", "digits", "--asym", "0.1", "--map", "block5-next"],
        "is for 100 classes, the data have 10",
    ),
    (
        ["corrupt", "digits", "--sym", "0.1", "--map", "digits"],
        "--map has an effect with --asym only",
    ),
    (
        ["corrupt", "digits", "--pair", "0.1", "--inclusive"],
        "--inclusive has an effect with --sym only",
    ),
    (
        ["corrupt", "digits", "--noise", "pairflip(rate=0.1)", "--bernoulli"],
        "in --noise write exact=False",
    ),
    (
        ["corrupt", "digits", "--sym", "0.1", "--noise-seed", "-1"],
        "a seed must be a whole number from 0",
    ),
    (
        ["corrupt", "digits", "--sym", "0.1", "--out", "labels.txt"],
        "--out must end in .csv, .csv.gz or .parquet",
    ),
    (["corrupt", "digits", "--sym", "0.1", "-C", "."], "-C is a global option"),
    (["corrupt", "digits", "--syn", "0.1"], "No such option: --syn"),
    (["corrupt", "empty.npz", "--sym", "0.1"], "may be truncated"),
    (["--offline", "corrupt", "mnist", "--sym", "0.1"], "put mnist.npz there"),
    (["train", "--loss", "gcee"], "unknown loss 'gcee': did you mean 'gce'"),
    (
        ["train", "--loss", "gce", "--eps", "0.4"],
        "loss 'gce(q=0.7)' has no parameter 'eps' (it has q, k)",
    ),
    (
        ["train", "--loss", "gce + el(eps=0.1) + 2*gce(q=1)", "--q", "0.4"],
        "--q: 2 terms of the loss have this parameter",
    ),
    (["train", "--loss", "gce", "--q", "2"], "q must be a number in (0, 1]"),
    (["train", "--loss", "gce", "--q"], "--q needs a value"),
    (["train", "--epoch", "3"], "did you mean --epochs"),
    (["train", "--epochs", "0"], "epochs must be at least 1"),
    (["train", "--lr", "nan"], "lr must be at least 0"),
    (["train", "--lr", "inf"], "lr must be at least 0 and finite"),
    (["train", "--clip", "inf"], "clip must be at least 0 and finite"),
    (
        ["train", "--batch-size", "2147483648"],
        "batch_size must be at least 1 and below 2147483648, got 2147483648",
    ),
    (["train", "--epochs", "1" + 30 * "0"], "at least 1 and below 2147483648, got 1000"),
    (["train", "--schedule", "linear"], "schedule must be constant, cosine or step(40, 80)"),
    (["train", "--strategy", "co"], "unknown strategy 'co'"),
    (
        ["train", "--strategy", "bootstrap(kind='medium')"],
        "kind must be one of 'hard', 'soft'",
    ),
    (["train", "--model", "cnn9"], "did you mean 'cnn8'"),
    (["train", "--model", "timm:resnet188"], "unknown timm model 'resnet188'"),
    (["train", "--model", "timm:inception_v3"], "does not support 8x8 images"),
    (["train", "--recipe", "ape"], "did you mean 'apl'"),
    (["train", "--method", "el", "--loss", "ce"], "give --method, or --loss and --strategy"),
    (["train", "--method", "ell"], "did you mean 'el'"),
    (["train", "--precision", "fp16"], "precision must be one of auto, fp32, bf16"),
    (["train", "--device", "nowhere"], "device 'nowhere' is not available"),
    (["train", "--seed", "-1"], "a seed must be a whole number from 0"),
    (["train", "--sym", "0.4"], "a noise needs a data set"),
    (["train", "cifar10"], "name a noise"),
    (["train", "digits", "cifar10"], "train uses one data set"),
    (["train", "--noise-seed", "3"], "--noise-seed has an effect with a noise only"),
    (["train", "--manifest", "no.csv"], "no such manifest: no.csv"),
    (["train", "--manifest", "empty.csv"], "empty.csv is empty"),
    (["train", "--manifest", "cut.csv"], "damaged or was edited"),
    (["train", "--manifest", "good.csv", "--sym", "0.2"], "give a noise or a --manifest, not both"),
    (["train", "cifar100", "--manifest", "good.csv"], "the manifest is for other data"),
    (["--plugin", "no.py", "list", "losses"], "plugin no.py: the file does not exist"),
    (["--plugin", "broken.py", "list", "losses"], "broken.py cannot be loaded: ZeroDivisionError"),
    (["--plugin", "quits.py", "list", "losses"], "quits.py cannot be loaded: SystemExit: 0"),
    (
        ["corrupt", "digits", "--sym", "0.4", "--out", "b\udcff.csv"],
        "--out must be a path in UTF-8, got 'b\\udcff.csv'",
    ),
    (["evaluate", "nothing"], "no run matches 'nothing'"),
    (["report"], "no runs in"),
    (["report", "nowhere"], "nowhere does not exist"),
    (["report", "--format", "pdf"], "--format is one of table, md, csv, json, html, latex, junit"),
    (["report", "-o", "table.pdf"], "--out must end in .md, .csv"),
    (["run", "quik"], "did you mean 'quick'"),
    (["run", "no.yaml"], "no.yaml cannot be read"),
    (["run", "twice.yaml"], "twice.yaml:4:44: duplicate key 'epochs'"),
    (["run", "shape.yaml"], "metric 'lst': did you mean 'last'"),
    (["run", "none.yaml"], "none.yaml contains no suite"),
    (["train", "--loss", "gce", "--q", "0.4", "--q", "0.5"], "--q is given twice"),
    (
        ["train", "--loss", "backward(ce, T=[[0.5, 0.5], [0.5, 0.5]])"],
        "T has 2 classes, the data 10",
    ),
    (
        ["run", "quick", "--executor", "cloud"],
        "--executor must be one of local, ray, slurm, got 'cloud'",
    ),
    (
        [
            "train",
            "digits",
            "--subset=99",
            "--sym=0.4",
            "--batch-size=99",
            "--accumulate=60",
            "--loss",
            "el(eps=estimated)",
        ],
        "a batch of 49 have no examples",
    ),
    (["run", "quick", "--rerun", "some"], "--rerun must be one of failed, stale, all"),
    (["list", "loses"], "did you mean 'losses'"),
    (["list", "losses", "gcee"], "did you mean 'gce'"),
    (["corupt", "digits"], "Did you mean 'corrupt'"),
]


@pytest.fixture
def wrong_files(place: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Files that are empty, cut, broken or of other data, and one good manifest."""
    call(capsys, "corrupt", "digits", "--sym", "0.4", "--out", "good.csv")
    (place / "manifests" / "current").unlink()
    (place / "manifests").rmdir()
    (place / "empty.csv").touch()
    (place / "empty.npz").touch()
    (place / "cut.csv").write_bytes((place / "good.csv").read_bytes()[:-5])
    (place / "broken.py").write_text("1 / 0\n")
    (place / "quits.py").write_text("raise SystemExit(0)\n")
    matrix = "    matrix: {noise: [symmetric(rate=0.4)], method: [ce]}\n"
    (place / "twice.yaml").write_text(
        "version: 1\nsuites:\n  a:\n    defaults: {epochs: 1, "
        f"dataset: digits, epochs: 2}}\n{matrix}"
    )
    (place / "shape.yaml").write_text(
        f"version: 1\nsuites:\n  a:\n    defaults: {{dataset: digits}}\n{matrix}    report: "
        "{metric: lst}\n"
    )
    (place / "none.yaml").write_text("version: 1\nsuites: {}\n")
    return place


def test_a_mistake_is_one_line_exit_2_and_leaves_no_file(
    wrong_files: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    before = files(wrong_files)
    for arguments, message in MISTAKES:
        with subtests.test(ascii(" ".join(arguments))):  # xdist sends no surrogates
            code, out, err = call(capsys, *arguments)
            assert code == 2 and out == ""
            assert message in err and err.startswith("error: ") and err.count("\n") == 1
            assert files(wrong_files) == before


def test_a_manifest_of_other_data_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(1297) % 10
    images = np.zeros((1297, 8, 8), np.uint8)
    np.savez(
        place / "other.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:10],
        test_labels=labels[:10],
    )
    call(capsys, "corrupt", "digits", "--sym", "0.4")
    code, _, err = call(
        capsys, "train", str(place / "other.npz"), "--manifest", "manifests/digits-sym0.4-s0.csv"
    )
    assert code == 2 and "the manifest is for other data" in err


def test_a_bug_is_exit_1_with_the_traceback_behind_v(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noisebench.runs.workspace.Workspace.make", lambda *anything: 1 / 0)
    code, _, err = call(capsys, "corrupt", "digits", "--sym", "0.4")
    assert code == 1 and err == (
        "error: a bug in noisebench: ZeroDivisionError: division by zero "
        "(rerun with -v for the traceback)\n"
    )
    assert "Traceback" in call(capsys, "-v", "corrupt", "digits", "--sym", "0.4")[2]


def test_a_folder_that_cannot_be_written_is_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "manifests").write_text("a file where a folder should be")
    code, _, err = call(capsys, "corrupt", "digits", "--sym", "0.4")
    assert code == 2 and err.startswith("error: cannot write manifests/")


def test_quiet_is_quiet_and_the_data_still_come(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "-q", "train", *SHORT)
    assert code == 0 and err == "" and "test accuracy" in out


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_leads_nowhere_and_no_file_takes_its_number(
    place: Path, closed: str
) -> None:
    command = f'"{sys.executable}" -m noisebench -C w corrupt digits --sym 0.1 --json {closed}'
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0 and bool(done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    assert (place / "w" / "manifests" / "digits-sym0.1-s0.csv").read_bytes().count(b"\n") > 1297


def test_a_terminal_that_lacks_a_letter_gets_it_written_out(place: Path) -> None:
    command = [sys.executable, "-m", "noisebench", "list", "noises"]
    done = subprocess.run(
        command, capture_output=True, check=False, env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0 and b"symmetric" in done.stdout and b"\\u2500" in done.stdout


def test_the_workspace_may_be_elsewhere(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call(capsys, "-C", "one", "corrupt", "digits", "--sym", "0.2")
    monkeypatch.setenv("NOISEBENCH_WORKSPACE", "two")
    call(capsys, "corrupt", "digits", "--sym", "0.2")
    assert call(capsys, "-C", "one", "train", *SHORT)[0] == 0
    assert {name.partition("/")[0] for name in files(place)} == {"one", "two"}
    assert (place / "one" / "runs").is_dir() and not (place / "two" / "runs").exists()


@pytest.mark.soak
def test_the_real_cifar10_trains_through_the_whole_chain(
    place: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(real_data / "cifar10.npz") as archive:
        small = {name: archive[name][:500] for name in archive.files}
    np.savez(place / "cifar500.npz", **small)
    options = (
        "--sym",
        "0.2",
        "--method",
        "el",
        "--model",
        "cnn8",
        "--epochs",
        "4",
        "--lr",
        "0.05",
        "--crop",
        "4",
        "--hflip",
    )
    trained = answer(capsys, "train", "cifar500.npz", *options)
    assert trained["test_acc"]["best"] > 0.15  # chance is 0.1
    assert answer(capsys, "evaluate", trained["run"])[0]["test"]["n"] == 500
