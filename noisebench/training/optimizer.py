"""What is trained, and how: layer groups from the stem to the classifier, and stochastic gradient
descent with momentum: torch's own arithmetic, all parameters of a group in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from ..errors import ConfigError
from ..experiments.recipes import Recipe


def layer_groups(network: nn.Module) -> list[list[str]]:
    """The names of the parameters of each group: timm's own groups of its networks; of ours a group
    a layer or block with weights, with the norms that follow it, the last the classifier. One group
    for a network of which none are known.
    """
    matcher: Any = getattr(network, "group_matcher", None)
    body = getattr(network, "body", None)
    if matcher is not None:
        from timm.models import group_parameters

        with suppress(AssertionError, NotImplementedError, AttributeError):  # some have no groups
            groups = group_parameters(network, matcher(coarse=False))
            return [groups[number] for number in sorted(groups)]
    elif isinstance(body, nn.Sequential):
        layers: list[list[str]] = []
        for path, layer in body.named_children():
            names = [f"body.{path}.{name}" for name, _ in layer.named_parameters()]
            if any(parameter.dim() > 1 for parameter in layer.parameters()):
                layers.append(names)
            elif names:
                layers[-1] += names  # a norm, which follows its layer
        names = [name for name, _ in network.named_parameters()]
        return [*layers, [name for name in names if not name.startswith("body.")]]
    return [[name for name, _ in network.named_parameters()]]


def freeze(network: nn.Module, count: int) -> list[nn.Module]:
    """Freeze the first `count` groups; returns the parts that stay in evaluation mode, each the
    largest in which nothing is trained.

    Raises ConfigError where nothing would be left to train.
    """
    if not count:
        return []
    groups = layer_groups(network)
    if count >= len(groups):
        has = f"{len(groups)} layer groups" if len(groups) > 1 else "no layer groups"
        raise ConfigError(
            f"freeze {count}: the network has {has}, so that nothing would be trained: freeze fewer"
        )
    frozen = set(chain(*groups[:count]))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return _frozen(network)


def _frozen(part: nn.Module) -> list[nn.Module]:
    """The largest parts in which nothing is trained."""
    trained = [parameter.requires_grad for parameter in part.parameters()]
    if trained and not any(trained):
        return [part]
    return [frozen for child in part.children() for frozen in _frozen(child)]


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """For the optimiser: what is trained, each layer group with a learning rate of its own where
    the recipe says so.

    Raises ConfigError where that would be one group.
    """
    trained = {
        name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad
    }
    if recipe.layer_decay == 1:
        return [{"params": list(trained.values())}]
    layers = layer_groups(network)
    groups = []
    for depth, names in enumerate(reversed(layers)):
        if params := [trained[name] for name in names if name in trained]:
            groups.append({"params": params, "lr": recipe.lr * recipe.layer_decay**depth})
    if len(groups) < 2:
        raise ConfigError(
            f"layer_decay {recipe.layer_decay:g} has no effect: the network has one "
            "layer group that is trained"
        )
    return groups[::-1]


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
