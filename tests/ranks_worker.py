"""One of several processes for tests/test_ranks.py: trains what it is told and writes what became of it. `python -m tests.ranks_worker`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from noisebench.datasets import DATASETS, Images, read_images
from noisebench.plugins import load_plugins
from noisebench.processes import Ranks, Spread, seat_here
from noisebench.training import trainer as training
from noisebench.training.ranks import several_ranks
from noisebench.training.sharing import kept_by_each
from noisebench.training.trainer import Trainer

from .conftest import small_trainer, weights

EPOCHS = 4


def small_digits() -> Images:
    return read_images(DATASETS["digits"], Path("unused"))


def trained(digits: Images, ranks: Ranks, case: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a training leaves that several processes and one must agree on. case: as small_trainer takes it, and how to spread it."""
    case = {"batch_size": 23, "epochs": EPOCHS, **case}
    spread = Spread(ranks, case.pop("accumulate", 1), case.pop("sync_bn", False))
    device = torch.device(case.pop("device", "cpu"))
    with _spare_layer(case.pop("spare", False)):
        trainer = small_trainer(digits, spread=spread, device=device, **case)
    for module in trainer.networks[0].modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    ends = [trainer.run_epoch() for _ in range(case["epochs"])]
    last = ends[-1]
    return {
        "loss": np.array([end.loss for end in ends]),
        "test": last.test_log_p,
        "p": last.train_p,
        "gradient": last.train_gradient,
        **{f"weights{number}": value for number, value in enumerate(weights(trainer))},
        **{f"kept{number}": value.detach().cpu().numpy() for number, value in enumerate(_kept(trainer))},
    }


def _kept(trainer: Trainer) -> Iterator[torch.Tensor]:
    """All that a process keeps for itself, and the momenta."""
    yield from kept_by_each(trainer)
    yield from trainer.optimizer.velocities()


class _spare_layer:
    """Inside `with`, networks have parameters that no pass uses."""

    def __init__(self, wanted: bool) -> None:
        self._wanted, self._make = wanted, training.make_network

    def __enter__(self) -> None:
        if self._wanted:
            training.make_network = self._with_spare  # type: ignore[assignment]

    def __exit__(self, *exception: object) -> None:
        training.make_network = self._make

    def _with_spare(self, *arguments: Any) -> nn.Module:
        network = self._make(*arguments)
        network.spare = nn.Linear(2, 2)
        return network


def main(out: Path, backend_device: str) -> None:
    torch.set_num_threads(1)
    load_plugins([str(Path(__file__).parent / "strategies_of_five_powers.py")])
    cases = json.loads(sys.stdin.read())
    seat, digits = seat_here(), small_digits()
    with several_ranks(seat, backend_device) as ranks:
        for name, case in cases.items():
            np.savez(out / f"{name}-{seat.rank}.npz", **trained(digits, ranks, case))


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ.get("DEVICE", "cpu"))
