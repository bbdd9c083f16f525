"""What the tests share: the embedded digits, a small training, and real data where NOISEBENCH_DATA
says they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from noisebench.core.expressions import parse
from noisebench.datasets import DATASETS, Images, read_images
from noisebench.experiments.recipes import Recipe
from noisebench.losses import build_loss, build_penalty
from noisebench.runs.trackers import TRACKERS
from noisebench.strategies import build_strategy
from noisebench.training.distributed.processes import ParallelConfig
from noisebench.training.trainer import Task, Trainer

CPU = torch.device("cpu")
# `cuda`: trainings are tested on a GPU
DEVICE = torch.device(os.environ.get("NOISEBENCH_DEVICE", "cpu"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases",
        type=int,
        help="at most so many of each test's cases, spread over all of them; `make matrix`",
    )


@pytest.hookimpl(trylast=True)  # what -m deselects is no case
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if most := config.getoption("cases"):
        items[:] = spread_cases(items, most)


def spread_cases(items: list[pytest.Item], most: int) -> list[pytest.Item]:
    """Of each test at most so many of its cases, spread over all of them, in the order given."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {id(item) for cases in tests.values() for item in cases[:: -(-len(cases) // most)]}
    return [item for item in items if id(item) in kept]


@pytest.fixture(autouse=True, scope="session")
def environment() -> Iterator[None]:
    """One thread a process, since tests run side by side, and no settings of the person who runs
    them.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        trackers = (name for kind in TRACKERS.values() for name in kind.settings)
        for name in ("NOISEBENCH_WORKSPACE", "NOISEBENCH_MIRROR", "GITHUB_STEP_SUMMARY", *trackers):
            patch.delenv(name, raising=False)
        patch.setenv("no_proxy", "127.0.0.1")  # where tests have servers of their own
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("WANDB_MODE", "offline")  # no test logs to anybody's account
        yield


Case = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def case(subtests: pytest.Subtests) -> Case:
    """`with case(loss=text):` in a loop reports a failure as a subtest and goes on.

    A case that passes is not reported, since a subtest takes as long as a test: thousands of them
    are seconds.
    """

    @contextmanager
    def named(msg: str | None = None, **values: object) -> Iterator[None]:
        try:
            yield
        except (Exception, pytest.fail.Exception):
            with subtests.test(msg, **values):
                raise

    return named


@pytest.fixture(scope="session")
def digits() -> Images:
    return read_images(DATASETS["digits"], Path("unused"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real cifar10.npz and fashionmnist.npz."""
    place = Path(os.environ.get("NOISEBENCH_DATA", ""))
    if not os.environ.get("NOISEBENCH_DATA") or not (place / "cifar10.npz").exists():
        pytest.skip("needs the real images: NOISEBENCH_DATA names no folder with cifar10.npz")
    return place


@pytest.fixture
def make_trainer(digits: Images) -> Callable[..., Trainer]:
    """A trainer on 256 of the digits with a third of wrong labels."""
    return partial(small_trainer, digits)


def small_trainer(
    digits: Images,
    loss: str = "ce",
    strategy: str = "standard",
    model: str = "mlp",
    seed: int = 0,
    spread: ParallelConfig | None = None,
    device: torch.device = DEVICE,
    **recipe: object,
) -> Trainer:
    settings = Recipe(**{"epochs": 3, "batch_size": 32, "lr": 0.05, "nesterov": True, **recipe})  # type: ignore[arg-type]
    labels = digits.train_labels[:256].copy()
    labels[::3] = (labels[::3] + 1) % 10
    written = parse(loss)
    task = Task(
        digits.train_images[:256],
        labels,
        digits.test_images[:100],
        10,
        model,
        build_loss(loss),
        build_strategy(strategy),
        settings,
        seed,
        penalty=build_penalty(written),
        trusted=np.arange(256) % 9 == 1,  # of the labels that are right
    )
    return Trainer(task, device, spread=spread or ParallelConfig())


def weights(trainer: Trainer) -> list[np.ndarray]:
    """Every parameter and buffer of every network."""
    return [
        value.detach().cpu().numpy().copy()
        for network in trainer.networks
        for value in network.state_dict().values()
    ]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    """Bit for bit."""
    return len(a) == len(b) and all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True)
    )
