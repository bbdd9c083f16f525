"""Several processes are one run: what they learn is what one process learns, they stop together,
and none is left waiting.
"""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from noisebench.cli import main
from noisebench.datasets import Images
from noisebench.errors import ConfigError
from noisebench.experiments.resolve import RunConfig
from noisebench.runs.checkpoint import RunOptions, RunState, save
from noisebench.runs.folder import RunFolder
from noisebench.runs.session import RunSession
from noisebench.training.distributed.process_group import device_of
from noisebench.training.distributed.processes import (
    ParallelConfig,
    RankInfo,
    SingleProcess,
    check_spread,
    cut,
    rank_info,
)
from noisebench.training.parallel import has_batch_norm, synchronised
from noisebench.training.trainer import Trainer
from tests.contracts.test_strategies import TEXTS
from tests.support.ranks_worker import trained

ROOT = Path(__file__).parents[2]
# float32 sums of other parts in another order: measured 1e-8 to 6e-5 after 2 to 4 epochs; a wrong
# gradient is off by more than 1e-2.
CLOSE = {"rtol": 1e-3, "atol": 2e-4}
# a lesson is 300 steps of Adam, after which a rounding is a different mentor
CHAOTIC = "mentornet(kind='data_driven')"

Case = dict[str, Any]
PAIR: dict[str, Case] = {
    "plain": {},
    "two-networks": {"strategy": "coteaching(rate=0.33)"},
    "memory": {"strategy": "elr(lam=1, beta=0.9)"},
    "own-parameters": {"strategy": "sop"},
    "mixed-images": {"strategy": "mixup"},
    "asked-and-stacked": {"strategy": "dividemix(warmup=0.34)"},
    "stacked-views": {"strategy": "gjs", "crop": 1, "flip": True},
    "penalty": {"loss": "ce + l1(1e-4)"},
    "few-left": {"batch_size": 23, "clip": 0.1},  # the last batch is of three
    "unused-layer": {"change": "spare"},
    "layers": {"freeze": 1, "layer_decay": 0.5, "strategy": "sop"},
    "in-parts": {"accumulate": 3, "loss": "ce + l1(1e-4)"},
    "in-parts-mixed": {"accumulate": 2, "strategy": "mixup", "loss": "ce + l1(1e-4)"},
    "in-parts-two-networks": {
        "accumulate": 3,
        "strategy": "coteaching(rate=0.33)",
        "batch_size": 23,
    },
}
IN_TEST = (
    "memory",
    "asked-and-stacked",
    "few-left",
    "unused-layer",
    "layers",
    "in-parts-two-networks",
)
APART: dict[str, Case] = {
    "batch-norm": {"model": "cnn4", "batch_size": 64},
    # the last batch is everybody's, with different masks
    "dropout": {"change": "dropout", "batch_size": 23, "strategy": "elr"},
}
SOAK: dict[str, Case] = {
    **{
        f"strategy{number}": {"strategy": text, "epochs": 4}
        for number, text in enumerate(TEXTS)
        if text != CHAOTIC
    },
    "mentor": {"strategy": CHAOTIC, "epochs": 1},
    "in-parts-asked": {
        "accumulate": 2,
        "strategy": "dividemix(warmup=0.34)",
        "loss": "ce + l1(1e-4)",
    },
    "few-left-asked": {"batch_size": 23, "strategy": "dividemix(warmup=0.34)"},
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    known = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))
    }
    return {
        **known,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        **more,
    }


def seat_of(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun would say to one of so many processes on this machine."""
    shared = {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), **shared}


class Processes:
    """Groups of processes, forked from one that has imported torch."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def codes(self, size: int, environment: Mapping[str, str], **group: Any) -> list[int]:
        """Exit codes of a group, once all have ended. group: as ranks_worker takes it."""
        assert self._server.stdin and self._server.stdout
        seats = [
            {**seat_of(rank, size, port), **environment}
            for port in [free_port()]
            for rank in range(size)
        ]
        self._server.stdin.write(json.dumps({"seats": seats, **group}) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def trained(
        self, size: int, cases: Mapping[str, Case], out: Path
    ) -> list[dict[str, dict[str, np.ndarray]]]:
        """Of each process what each case left."""
        assert self.codes(size, {}, cases=cases, out=str(out)) == [0] * size
        return [
            {name: dict(np.load(out / f"{name}-{rank}.npz")) for name in cases}
            for rank in range(size)
        ]

    def command(self, place: Path, arguments: list[str], victims: str, mishap: str) -> Outcome:
        """What a command of two left that something happened to."""
        words, output = [*PLUGIN, "-C", str(place), *arguments], place / "output"
        codes = self.codes(
            2, {"VICTIMS": victims, "MISHAP": mishap}, arguments=words, output=str(output)
        )
        return Outcome(place, max(codes), "", output.read_text(), codes)


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    command = [sys.executable, "-m", "tests.support.ranks_worker"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield Processes(server)


def assert_close(several: dict[str, np.ndarray], one: dict[str, np.ndarray]) -> None:
    assert several.keys() == one.keys()
    for name, value in one.items():
        np.testing.assert_allclose(several[name], value, **CLOSE, err_msg=name)


def in_one(digits: Images, case: Case) -> dict[str, np.ndarray]:
    """The case in one process and one part."""
    return trained(digits, SingleProcess(), {**case, "accumulate": 1})


def assert_alike(found: list[dict[str, dict[str, np.ndarray]]]) -> None:
    """The same weights, memories and momenta in all processes, bit for bit."""
    for name, first in found[0].items():
        assert all(
            np.array_equal(other[name][key], value, equal_nan=True)
            for other in found
            for key, value in first.items()
        ), name


@pytest.mark.parametrize(
    "names",
    [pytest.param(IN_TEST, id="some"), pytest.param(tuple(PAIR), id="all", marks=pytest.mark.soak)],
)
def test_two_processes_learn_what_one_learns_unless_there_is_batch_norm(
    names: tuple[str, ...],
    processes: Processes,
    tmp_path: Path,
    digits: Images,
    subtests: pytest.Subtests,
) -> None:
    cases = {name: PAIR[name] for name in names}
    found = processes.trained(2, {**cases, **APART}, tmp_path)
    assert_alike(found)
    for name, case in cases.items():
        with subtests.test(case=name):
            assert_close(found[0][name], in_one(digits, case))
    assert (
        abs(found[0]["batch-norm"]["loss"] - in_one(digits, APART["batch-norm"])["loss"]).max()
        > 1e-3
    )


@pytest.mark.soak
@pytest.mark.parametrize("size", [2, 3])
def test_every_strategy_learns_in_several_processes_what_it_learns_in_one(
    size: int, processes: Processes, tmp_path: Path, digits: Images, subtests: pytest.Subtests
) -> None:
    found = processes.trained(size, SOAK, tmp_path)
    for name, case in SOAK.items():
        with subtests.test(case=case["strategy"]):
            assert_close(found[0][name], in_one(digits, case))
    assert_alike(found)


def test_a_batch_in_parts_teaches_what_it_teaches_at_once(
    digits: Images, subtests: pytest.Subtests
) -> None:
    strategies = [{"strategy": text, "epochs": 1 if text == CHAOTIC else 2} for text in TEXTS]
    for case in ({"loss": "ce + l1(1e-4)"}, *strategies):
        with subtests.test(**case):
            whole, parts = (
                trained(digits, SingleProcess(), {**case, "batch_size": 60, "accumulate": count})
                for count in (1, 3)
            )
            assert_close(parts, whole)


def test_the_parts_of_a_strategy_that_looks_at_all_forget_their_first_pass(
    make_trainer: Callable[..., Trainer],
) -> None:
    """Two passes, of which batch norm's statistics and dropout's masks know one."""
    at_once, in_parts = (
        make_trainer(strategy="elr", model="cnn4", spread=ParallelConfig(accumulate=k))
        for k in (1, 2)
    )
    for trainer in (at_once, in_parts):
        trainer.training_step.run()
    counts = [
        trainer.networks[0].state_dict()["body.1.num_batches_tracked"].item()
        for trainer in (at_once, in_parts)
    ]
    assert counts == [1, 2]


@pytest.mark.parametrize(("n", "count"), [(10, 3), (2, 2), (7, 1), (64, 5)])
def test_rows_are_cut_evenly_and_none_is_left_out(n: int, count: int) -> None:
    parts = cut(n, count)
    sizes = [part.stop - part.start for part in parts]
    assert [place for part in parts for place in range(n)[part]] == list(range(n)) and max(
        sizes
    ) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("batch", "size", "spread", "message"),
    [
        (
            4,
            8,
            {},
            "8 processes cannot share batches of 4, each needs 2 examples: at most 2 "
            "processes, or a larger --batch-size",
        ),
        (
            3,
            2,
            {},
            "2 processes cannot share batches of 3, each needs 2 examples: use a larger "
            "--batch-size",
        ),
        (
            32,
            1,
            {"accumulate": 33},
            "--accumulate 33: parts of a batch of 32 have no examples: at most 32",
        ),
        (
            32,
            4,
            {"accumulate": 5},
            "--accumulate 5: parts of a batch of 32 have fewer than 2 "
            "examples in each of 4 processes: at most 4",
        ),
        (
            32,
            1,
            {"sync_bn": True},
            "--sync-bn has no effect in a single process: use torchrun --nproc-per-node=2",
        ),
    ],
)
def test_a_spread_that_a_batch_does_not_allow_is_refused(
    batch: int, size: int, spread: Case, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_spread(batch, ParallelConfig(SingleProcess(0, size), **spread))
    assert str(refused.value).startswith(message)


def test_parts_of_one_example_are_refused_where_there_is_batch_norm(
    make_trainer: Callable[..., Trainer],
) -> None:
    assert make_trainer(model="mlp", spread=ParallelConfig(accumulate=32)).spread.parts(32) == cut(
        32, 32
    )
    with pytest.raises(
        ConfigError, match="parts of a batch of 32 have fewer than 2 examples: at most 16"
    ):
        make_trainer(model="cnn4", spread=ParallelConfig(accumulate=17))


def test_batch_norm_is_synchronised_on_gpus_and_where_there_is_some(
    make_trainer: Callable[..., Trainer],
) -> None:
    plain, normed = (make_trainer(model=model).networks[0] for model in ("mlp", "cnn4"))
    assert [has_batch_norm(network) for network in (plain, normed)] == [False, True]
    with pytest.raises(
        ConfigError, match="--sync-bn has no effect on mlp, which has no batch norm"
    ):
        synchronised(plain, "mlp", torch.device("cuda"))
    with pytest.raises(ConfigError, match="--sync-bn needs GPUs"):
        synchronised(normed, "cnn4", torch.device("cpu"))


@pytest.mark.soak  # what torch imports to do it takes seconds
def test_synchronised_batch_norm_has_the_parameters_of_its_own(
    make_trainer: Callable[..., Trainer],
) -> None:
    network = make_trainer(model="cnn4").networks[0]
    names = list(network.state_dict())
    assert list(synchronised(network, "cnn4", torch.device("cuda")).state_dict()) == names


@pytest.mark.parametrize(
    ("name", "seat"),
    [
        ("cuda:1", RankInfo(1, 2, 1, 2)),
        ("mps", RankInfo(0, 2, 0, 2)),
        ("cuda", RankInfo(0, 99, 0, 99)),
    ],
)
def test_a_device_that_is_not_there_for_each_is_refused(name: str, seat: RankInfo) -> None:
    with pytest.raises(
        ConfigError,
        match=r"each uses its own GPU|99 processes on this "
        r"machine and \d+ GPU",
    ):
        device_of(name, seat)


@pytest.fixture
def seated(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """This process as one of two."""

    def sit(rank: int) -> None:
        for name, value in seat_of(rank, 2, free_port()).items():
            monkeypatch.setenv(name, value)

    return sit


@pytest.mark.parametrize(
    "command",
    [
        ["run", "quick"],
        ["evaluate", "runs"],
        ["report"],
        ["corrupt", "digits", "--sym", "0.4"],
        ["list", "losses"],
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_commands_of_one_process_are_refused_once(
    command: list[str], rank: int, seated: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    seated(rank)
    assert main(command) == 2
    said = (
        "error: torchrun started 2 processes, but only train can use several: start noisebench "
        f"{command[0]} without torchrun\n"
    )
    assert capsys.readouterr().err == (said if rank == 0 else "")


@pytest.mark.parametrize("rank", [0, 1])
def test_what_would_be_run_is_said_once(
    rank: int, seated: Callable[[int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seated(rank)
    assert main(["-C", str(tmp_path), "train", "digits", "--sym", "0.4", "--dry-run"]) == 0
    assert bool(capsys.readouterr().out) == (rank == 0) and not any(tmp_path.iterdir())
    assert (
        main(
            [
                "-C",
                str(tmp_path),
                "train",
                "digits",
                "--sym",
                "0.4",
                "--dry-run",
                "--batch-size",
                "3",
            ]
        )
        == 2
    )
    assert capsys.readouterr().err.startswith("error: 2 processes cannot share") == (rank == 0)


def test_one_process_of_torchrun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seat_of(0, 1, free_port()).items():
        monkeypatch.setenv(name, value)
    assert rank_info() == RankInfo()


def test_a_run_that_began_in_a_pack_is_not_spread(
    tmp_path: Path, make_trainer: Callable[..., Trainer]
) -> None:
    trainer, folder = make_trainer(spread=ParallelConfig(accumulate=2)), RunFolder(tmp_path)
    run, images = cast(RunConfig, None), cast(Images, None)
    save(folder, trainer, RunState(pack_width=16))
    with pytest.raises(
        ConfigError,
        match="started in a pack with other runs: resume it in one process without "
        "--accumulate, or restart it with --no-resume",
    ):
        RunSession(run, images, folder, RunOptions(), trainer)


# Whole runs, as torchrun starts them.
RUN = ["train", "digits", "--sym", "0.4", "--epochs", "4", "--device", "cpu", "--precision", "fp32"]


PLUGIN = ("--plugin", str(ROOT / "tests" / "support" / "mishap.py"))


class Outcome:
    """Of a command of several processes: what it said and left."""

    def __init__(
        self, place: Path, code: int, out: str, said: str, codes: list[int] | None = None
    ) -> None:
        self.code, self.out, self.said = code, out, said
        self.errors = [line for line in said.splitlines() if line.startswith("error: ")]
        in_said = [
            int(line.split()[2])
            for line in said.splitlines()
            if line.strip().startswith("exitcode  :")
        ]
        self.codes = in_said if codes is None else codes
        (self.folder,) = (place / "runs").iterdir()

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    @property
    def curve(self) -> list[list[float]]:
        with (self.folder / "metrics.csv").open() as file:
            return [
                [float(line[name]) for name in ("loss", "train_recorded", "test_acc")]
                for line in csv.DictReader(file)
            ]


def under_torchrun(
    place: Path,
    arguments: list[str],
    *more: str,
    victims: str = "",
    mishap: str = "",
    size: int = 2,
) -> Outcome:
    torchrun = [
        "torch.distributed.run",
        f"--nproc-per-node={size}",
        "--master-addr=127.0.0.1",
        f"--master-port={free_port()}",
        *more,
    ]
    command = [
        sys.executable,
        "-m",
        *torchrun,
        "-m",
        "noisebench",
        *PLUGIN,
        "-C",
        str(place),
        *arguments,
    ]
    env = environment(VICTIMS=victims, MISHAP=mishap)
    done = subprocess.run(
        command, cwd=place, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    return Outcome(place, done.returncode, done.stdout, done.stderr)


def in_one_process(place: Path, *arguments: str) -> Outcome:
    return Outcome(place, main(["-q", "-C", str(place), *RUN, *arguments]), "", "")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    """The curve of one process."""
    done = in_one_process(tmp_path_factory.mktemp("straight"))
    assert done.code == 0
    return done.curve


FINISHED = {
    "config.yaml",
    "metrics.csv",
    "dynamics.npz",
    "predictions.npz",
    "model.safetensors",
    "result.json",
}


@pytest.mark.soak
def test_a_killed_process_is_started_again_and_the_run_ends_as_if_it_had_lived(
    tmp_path: Path, straight: list[list[float]]
) -> None:
    ended = under_torchrun(tmp_path, RUN, "--max-restarts=3", victims="0", mishap="kill")
    assert ended.code == 0 and ended.files == FINISHED
    np.testing.assert_allclose(ended.curve, straight, **CLOSE)
    assert (
        "resuming where it was interrupted" in ended.said and ended.out.count("test accuracy") == 1
    )
    facts = json.loads((ended.folder / "result.json").read_text())["environment"]
    assert facts["processes"] == 2 and not {"accumulate", "sync_bn"} & set(facts)


def test_a_stopped_run_is_saved_and_goes_on_in_one_process(
    processes: Processes, tmp_path: Path, straight: list[list[float]]
) -> None:
    stopped = processes.command(tmp_path, RUN, victims="0", mishap="stop")
    assert 0 not in stopped.codes and stopped.files == {"config.yaml", "metrics.csv", "resume.pt"}
    assert stopped.errors == ["error: stopped in epoch 2 of 4; the same command resumes it"]
    assert in_one_process(tmp_path).code == 0
    assert stopped.files == FINISHED
    np.testing.assert_allclose(stopped.curve, straight, **CLOSE)


@pytest.mark.soak
def test_a_stopped_run_goes_on_in_more_processes(
    tmp_path: Path, straight: list[list[float]]
) -> None:
    under_torchrun(tmp_path, RUN, victims="0", mishap="stop")
    resumed = under_torchrun(tmp_path, RUN, size=3)
    assert resumed.code == 0 and resumed.files == FINISHED
    np.testing.assert_allclose(resumed.curve, straight, **CLOSE)


@pytest.mark.parametrize(("victim", "where"), [("0", ""), ("1", "in process 1: ")])
def test_what_one_process_dies_of_is_written_once_and_ends_all(
    victim: str, where: str, processes: Processes, tmp_path: Path
) -> None:
    """Here of too little memory, wherever, which leaves the checkpoint as it was."""
    failed = processes.command(tmp_path, RUN, victim, "out of memory")
    assert failed.codes == [3, 3] and failed.files == {
        "config.yaml",
        "metrics.csv",
        "error.json",
        "resume.pt",
    }
    assert (
        len(failed.errors) == 1
        and ("failed: out of memory: the same command resumes from the last checkpoint")
        in failed.errors[0]
    )
    assert f"[{where}MemoryError: no more of it]" in failed.errors[0]
    written = json.loads((failed.folder / "error.json").read_text())
    assert written["type"] == "MemoryError" and "step_with_mishap" in written["traceback"]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("mishap", "victims", "code", "message", "left"),
    [
        ("nan", "01", 3, "the cost became nan at epoch 2, step 4, on examples ", "error.json"),
        ("infinite gradient", "1", 3, " became inf at epoch 2, step 4, on examples ", "error.json"),
        ("damaged picture", "1", 2, "in process 1: picture 7 is damaged", "resume.pt"),
        ("kill", "1", 3, "another process of this run is gone", "resume.pt"),
    ],
)
def test_all_processes_fail_alike(
    mishap: str, victims: str, code: int, message: str, left: str, tmp_path: Path
) -> None:
    failed = under_torchrun(tmp_path, RUN, victims=victims, mishap=mishap)
    assert set(failed.codes) - {-9} == {code} and failed.files == {
        "config.yaml",
        "metrics.csv",
        left,
    }
    assert len(failed.errors) == 1 and message in failed.errors[0]


@pytest.mark.soak
def test_a_run_that_is_taken_or_finished_is_so_for_all(tmp_path: Path) -> None:
    done = under_torchrun(tmp_path, RUN)
    # of the current manifest there is none, so the digits
    again = under_torchrun(tmp_path, ["train", *RUN[4:]])
    assert (
        done.code == again.code == 0
        and "is finished already" in again.said
        and again.out.count("test accuracy") == 1
    )
    (done.folder / "claim").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    taken = under_torchrun(tmp_path, [*RUN, "--force"])
    assert (
        taken.codes == [2, 2]
        and len(taken.errors) == 1
        and ("is being run by process 1 on elsewhere") in taken.errors[0]
    )


@pytest.mark.soak
def test_a_run_that_estimates_its_noise_does_so_in_several_processes(tmp_path: Path) -> None:
    arguments = [*RUN, "--loss", "el(eps=estimated)"]
    one = in_one_process(tmp_path / "one", *arguments[len(RUN) :])
    (tmp_path / "two").mkdir()
    two = under_torchrun(tmp_path / "two", arguments)
    np.testing.assert_allclose(two.curve, one.curve, **CLOSE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_synchronised_batch_norm_makes_two_processes_on_one_gpu_one(
    processes: Processes, tmp_path: Path, digits: Images
) -> None:
    cases: dict[str, Case] = {
        "plain": {"model": "cnn4", "device": "cuda:0"},
        "memory": {"model": "cnn4", "device": "cuda:0", "strategy": "elr(lam=1, beta=0.9)"},
        "asked": {"model": "cnn4", "device": "cuda:0", "strategy": "dividemix(warmup=0.34)"},
        "few-left": {"model": "cnn4", "device": "cuda:0", "batch_size": 23},
    }
    found = processes.trained(
        2, {name: {**case, "sync_bn": True} for name, case in cases.items()}, tmp_path
    )
    for name, case in cases.items():
        one = in_one(digits, case)
        np.testing.assert_allclose(found[0][name]["loss"], one["loss"], rtol=5e-3)
        np.testing.assert_allclose(found[0][name]["loss"], found[1][name]["loss"], rtol=1e-6)
