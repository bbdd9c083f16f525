"""On a GPU trainings are those of a processor, to rounding: every strategy, recorded graphs, packs,
and the command line.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from noisebench.errors import RunFailed
from noisebench.training.packed import PackedTrainer
from noisebench.training.trainer import Trainer
from tests.conftest import Case, same, weights
from tests.contracts.test_losses import POINTWISE, texts_of
from tests.contracts.test_strategies import TEXTS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

Made = Callable[..., Trainer]
LOSSES = [
    *(texts_of(entry)[0] for entry in POINTWISE),
    "lsr(el(eps=0.3))",
    "10*normalized(ce) + 0.1*mae",
    "logitclip(ce)",
]


def on(device: str, trainer: Trainer) -> Trainer:
    """The same training on a device."""
    return Trainer(trainer.task, torch.device(device))


def test_every_strategy_trains_as_on_a_processor(make_trainer: Made, case: Case) -> None:
    for text in TEXTS:
        with case(strategy=text):
            here, there = (
                on(device, make_trainer(strategy=text, lr=0.01, epochs=4))
                for device in ("cpu", "cuda")
            )
            for mine, its in [(here.run_epoch(), there.run_epoch()) for _ in range(2)]:
                assert its.loss == pytest.approx(mine.loss, rel=2e-3, abs=1e-4)
                np.testing.assert_allclose(its.test_log_p, mine.test_log_p, atol=2e-2)


def test_a_recorded_step_learns_as_one_that_is_not(make_trainer: Made, case: Case) -> None:
    """A batch of 30 leaves a last one of another size; two networks of the same bits before, to
    rounding the same after.
    """
    for loss in LOSSES:
        with case(loss=loss):
            plain, recorded = (
                on(
                    "cuda",
                    make_trainer(
                        loss, batch_size=30, crop=1, flip=True, clip=1.0, weight_decay=1e-3
                    ),
                )
                for _ in range(2)
            )
            assert recorded.training_step.recorded is not None
            plain.training_step.recorded = None
            for _ in range(2):
                mine, its = plain.run_epoch(), recorded.run_epoch()
                assert its.loss == pytest.approx(mine.loss, rel=1e-4, abs=1e-6)
                np.testing.assert_allclose(its.train_p, mine.train_p, atol=1e-3)
                np.testing.assert_allclose(its.train_gradient, mine.train_gradient, atol=1e-3)


@pytest.mark.parametrize("network", ["mlp", "cnn8"])
def test_a_recorded_step_records_whether_cost_and_gradient_are_finite(
    network: str, make_trainer: Made
) -> None:
    trainer = on("cuda", make_trainer(batch_size=16, model=network))
    for _ in range(12):
        trainer.training_step.run()
    assert (
        trainer.training_step.recorded is not None
        and (trainer.state.finite_probes[:12] > 0).all()
        and len(trainer.state.finite_probes[:12].unique()) == 12
    )
    with torch.no_grad():
        next(trainer.networks[0].parameters()).fill_(float("inf"))
    with pytest.raises(
        RunFailed,
        match=r"the cost became nan at epoch 1, step 13, on examples "
        r"\d+, ",
    ):
        trainer.run_epoch()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_step_is_recorded_on_the_gpu_that_it_computes_on(make_trainer: Made) -> None:
    first, second = (on(device, make_trainer(batch_size=30)) for device in ("cuda:0", "cuda:1"))
    for mine, its in [(first.run_epoch(), second.run_epoch()) for _ in range(2)]:
        assert its.loss == pytest.approx(mine.loss, rel=1e-4)


def test_strategies_that_look_beyond_an_example_are_not_recorded(make_trainer: Made) -> None:
    assert on("cuda", make_trainer(strategy="elr"))._recorded is None
    assert on("cpu", make_trainer())._recorded is None


def test_two_trainings_are_equal_and_one_resumes_as_if_it_had_not_stopped(
    make_trainer: Made,
) -> None:
    straight, twin = (on("cuda", make_trainer(model="cnn4", crop=1, flip=True)) for _ in range(2))
    for trainer in (straight, twin):
        trainer.run_epoch()
    resumed = on("cuda", make_trainer(model="cnn4", crop=1, flip=True))
    resumed.load_state_dict(twin.state_dict())
    straight.run_epoch()
    resumed.run_epoch()
    assert same(weights(resumed), weights(straight))


def test_a_pack_trains_as_each_alone(make_trainer: Made) -> None:
    alone = [on("cuda", make_trainer(loss)) for loss in ("ce", "gce", "mae")]
    packed = [on("cuda", make_trainer(loss)) for loss in ("ce", "gce", "mae")]
    ends = PackedTrainer(packed, 16).run_epoch()
    for trainer, end in zip(alone, ends, strict=True):
        np.testing.assert_allclose(end.test_log_p, trainer.run_epoch().test_log_p, atol=2e-2)  # type: ignore[union-attr]


def _noisebench(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "noisebench", "-C", str(place), *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_on_a_gpu_is_stopped_resumed_evaluated_and_checked(tmp_path: Path) -> None:
    words = [
        "train",
        "digits",
        "--sym",
        "0.4",
        "--model",
        "cnn8",
        "--loss",
        "el",
        "--epochs",
        "2000",
        "--device",
        "cuda",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "noisebench", "-C", str(tmp_path), *words],
        stderr=subprocess.PIPE,
        text=True,
    )
    begun = time.monotonic()
    while not list(tmp_path.glob("runs/*/claim")) and time.monotonic() < begun + 60:
        time.sleep(0.05)
    time.sleep(4)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    done = _noisebench(tmp_path, *words, "--json")
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    run = json.loads(done.stdout)["run"]
    for device in ("cuda", "cpu"):
        checked = _noisebench(tmp_path, "evaluate", run, "--verify", "--device", device)
        print(checked.stdout)
        assert checked.returncode == 0, checked.stdout + checked.stderr
