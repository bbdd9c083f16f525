"""One of several processes for tests/faults/test_ranks.py, `python -m tests.support.ranks_worker`: trains and writes the result."""

from __future__ import annotations

import json
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
from noisebench.training import beginning
from noisebench.training.ranks import several_ranks
from noisebench.training.sharing import kept_by_each
from noisebench.training.trainer import Trainer
from tests.conftest import small_trainer, weights

EPOCHS = 2


def small_digits() -> Images:
    return read_images(DATASETS["digits"], Path("unused"))


def trained(digits: Images, ranks: Ranks, case: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a training leaves that several processes and one must agree on. case: as small_trainer takes it, and how to spread it."""
    case = {"batch_size": 25, "epochs": EPOCHS, **case}
    spread = Spread(ranks, case.pop("accumulate", 1), case.pop("sync_bn", False))
    device = torch.device(case.pop("device", "cpu"))
    with _ChangedNetworks(case.pop("change", "")):
        trainer = small_trainer(digits, spread=spread, device=device, **case)
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


class _ChangedNetworks:
    """Inside `with`, networks with `spare` parameters that no pass uses, or with dropout before the head."""

    def __init__(self, change: str) -> None:
        self._change, self._make = change, beginning.make_network

    def __enter__(self) -> None:
        if self._change:
            beginning.make_network = self._changed  # type: ignore[assignment]

    def __exit__(self, *exception: object) -> None:
        beginning.make_network = self._make

    def _changed(self, *arguments: Any) -> nn.Module:
        network = self._make(*arguments)
        if self._change == "dropout":
            network.body.append(nn.Dropout(0.5))  # type: ignore[operator, union-attr]
        else:
            network.spare = nn.Linear(2, 2, bias=False)
            nn.init.ones_(network.spare.weight)
        return network


def main(out: Path) -> None:
    torch.set_num_threads(1)
    load_plugins([str(Path(__file__).parent / "strategies_of_five_powers.py")])
    cases = json.loads(sys.stdin.read())
    seat, digits = seat_here(), small_digits()
    with several_ranks(seat, "cpu") as ranks:  # gloo, which lets two processes share a GPU, too
        for name, case in cases.items():
            np.savez(out / f"{name}-{seat.rank}.npz", **trained(digits, ranks, case))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
