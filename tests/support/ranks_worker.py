"""Several processes of one training for tests/faults/test_ranks.py: `python -m
tests.support.ranks_worker`.

Imports torch once, then reads a line of JSON for each group of processes, {seats, out, cases} or
{seats, arguments, output}, and forks them: they train the cases and write what is left, or are the
command. Answered by a line of JSON: their exit codes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from noisebench.cli import main
from noisebench.core.plugins import load_plugins
from noisebench.datasets import DATASETS, Images, read_images
from noisebench.training.distributed.process_group import open_process_group
from noisebench.training.distributed.processes import ParallelConfig, SingleProcess, rank_info
from noisebench.training.networks import factory
from noisebench.training.parallel import per_process_tensors
from noisebench.training.trainer import Trainer
from tests.conftest import small_trainer, weights

EPOCHS = 2
# what each would import itself
SLOW = (
    "torch._dynamo",
    "sklearn.mixture",
    "noisebench.cli.app",
    "pydantic.type_adapter",
    "rich.table",
)


def small_digits() -> Images:
    return read_images(DATASETS["digits"], Path("unused"))


def trained(digits: Images, ranks: SingleProcess, case: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a training leaves that several processes and one must agree on. case: as small_trainer
    takes it, and how to spread it.
    """
    case = {"batch_size": 25, "epochs": EPOCHS, **case}
    spread = ParallelConfig(ranks, case.pop("accumulate", 1), case.pop("sync_bn", False))
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
        **{
            f"kept{number}": value.detach().cpu().numpy()
            for number, value in enumerate(_kept(trainer))
        },
    }


def _kept(trainer: Trainer) -> Iterator[torch.Tensor]:
    """All that a process keeps for itself, and the momenta."""
    yield from per_process_tensors(trainer.state)
    yield from trainer.state.optimizer.velocities()


class _ChangedNetworks:
    """Inside `with`, networks with `spare` parameters that no pass uses, or with dropout before the
    head.
    """

    def __init__(self, change: str) -> None:
        self._change, self._make = change, factory.make_network

    def __enter__(self) -> None:
        if self._change:
            factory.make_network = self._changed  # type: ignore[assignment]

    def __exit__(self, *exception: object) -> None:
        factory.make_network = self._make

    def _changed(self, *arguments: Any) -> nn.Module:
        network = self._make(*arguments)
        if self._change == "dropout":
            network.body.append(nn.Dropout(0.5))  # type: ignore[operator, union-attr]
        else:
            network.spare = nn.Linear(2, 2, bias=False)
            nn.init.ones_(network.spare.weight)
        return network


def _be(seat: dict[str, str], group: dict[str, Any]) -> int:
    """One process of a group; its exit code."""
    os.environ.update(seat)
    if "arguments" in group:
        output = os.open(group["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        return main(group["arguments"])
    load_plugins([str(Path(__file__).parent / "strategies_of_five_powers.py")])
    here, digits = rank_info(), small_digits()
    with open_process_group(
        here, "cpu"
    ) as ranks:  # gloo, which lets two processes share a GPU, too
        for name, case in group["cases"].items():
            np.savez(f"{group['out']}/{name}-{here.rank}.npz", **trained(digits, ranks, case))
    return 0


def _forked(seat: dict[str, str], group: dict[str, Any]) -> int:
    if pid := os.fork():
        return pid
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 1
    try:
        code = _be(seat, group)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    for name in SLOW:
        import_module(name)
    torch.set_num_threads(1)
    pids: list[int] = []
    # as torchrun does
    signal.signal(signal.SIGTERM, lambda *arguments: [os.kill(pid, signal.SIGTERM) for pid in pids])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        group = json.loads(line)
        pids[:] = [_forked(seat, group) for seat in group["seats"]]
        out.write(
            json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]) + "\n"
        )
        out.flush()


if __name__ == "__main__":
    serve()
