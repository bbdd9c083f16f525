"""Stochastic gradient descent with momentum: torch's own arithmetic, all parameters of a group in
one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from ..experiments.recipes import Recipe


@dataclass
class Group:
    """Parameters that share their settings, each with its momentum, which begins at 0."""

    params: list[Tensor]
    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool
    velocities: list[Tensor]


class SGD:
    """torch.optim.SGD without its class, whose first use loads a compiler for a second."""

    def __init__(self, groups: Iterable[dict[str, Any]], recipe: Recipe) -> None:
        """Each group is `{"params": [...]}` with settings in place of the recipe's lr, momentum,
        weight_decay and nesterov.
        """
        shared = {
            name: getattr(recipe, name) for name in ("lr", "momentum", "weight_decay", "nesterov")
        }
        self.groups = [
            Group(**{**shared, **group}, velocities=[torch.zeros_like(p) for p in group["params"]])
            for group in groups
        ]

    @torch.no_grad()
    def step(self, lr_factor: float | Tensor) -> None:
        """One step along the gradients, which are forgotten. lr_factor: the share of each group's
        own learning rate.
        """
        for group in self.groups:
            with_grad = [
                (p, p.grad, v)
                for p, v in zip(group.params, group.velocities, strict=True)
                if p.grad is not None
            ]
            if not with_grad:
                continue
            params, grads, velocities = (list(column) for column in zip(*with_grad, strict=True))
            sgd(
                params,
                grads,
                velocities if group.momentum else [None] * len(params),
                fused=True,
                lr=group.lr * lr_factor,
                momentum=group.momentum,
                weight_decay=group.weight_decay,
                nesterov=group.nesterov,
                dampening=0.0,
                maximize=False,
            )
            for param in params:
                param.grad = None

    def forget(self) -> None:
        """No momentum, as in the beginning."""
        for velocity in self.velocities():
            velocity.zero_()

    def velocities(self) -> list[Tensor]:
        """Every parameter's momentum, in the order of the groups."""
        return [velocity for group in self.groups for velocity in group.velocities]

    def state_dict(self) -> dict[str, Any]:
        return {"velocities": self.velocities()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mine, saved in zip(self.velocities(), state["velocities"], strict=True):
            mine.copy_(saved)


def learning_rate_factor(
    schedule: tuple[str, tuple[float, ...]], epochs_done: float, epochs: int
) -> float:
    """The share of the initial learning rate after `epochs_done` (a fraction within an epoch) of
    `epochs`.
    """
    name, ends = schedule
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epochs_done / epochs))
    if name == "step":
        return float(0.1 ** sum(epochs_done >= end for end in ends))
    return 1.0
