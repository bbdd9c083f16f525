"""Layer groups from the stem to the classifier, and stochastic gradient descent with momentum, with
torch's arithmetic and all parameters of a group in one call.
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
    """The parameter names of each layer group. Networks of timm have timm's groups; ours have one
    group per layer or block with weights, including the norms that follow it, and the classifier as
    the last. Other networks have a single group.
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
    """Freeze the first `count` layer groups; returns the largest modules without trained
    parameters, which stay in evaluation mode.

    Raises ConfigError if no parameter would be trained.
    """
    if not count:
        return []
    groups = layer_groups(network)
    if count >= len(groups):
        has = f"{len(groups)} layer groups" if len(groups) > 1 else "no layer groups"
        raise ConfigError(
            f"freeze {count}: the network has {has}, so nothing would be trained: freeze fewer"
        )
    frozen = set(chain(*groups[:count]))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return _frozen(network)


def _frozen(part: nn.Module) -> list[nn.Module]:
    """The largest modules without trained parameters."""
    trained = [parameter.requires_grad for parameter in part.parameters()]
    if trained and not any(trained):
        return [part]
    return [frozen for child in part.children() for frozen in _frozen(child)]


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """The trained parameters for the optimizer, with a learning rate per layer group if the recipe
    has `layer_decay`.

    Raises ConfigError if there is only one such group.
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
            f"layer_decay {recipe.layer_decay:g} has no effect: the network has only one "
            "trained layer group"
        )
    return groups[::-1]


@dataclass
class Group:
    """Parameters with the same settings, and their momentum buffers, initially 0."""

    params: list[Tensor]
    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool
    velocities: list[Tensor]


class SGD:
    """The arithmetic of torch.optim.SGD without its class, whose first use imports a compiler (1
    s).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], recipe: Recipe) -> None:
        """groups: each is `{"params": [...]}`, optionally with its own lr, momentum, weight_decay
        and nesterov instead of the recipe's.
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
        """Update the parameters and clear their gradients. lr_factor: multiplies each group's
        learning rate.
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
        """Reset the momentum to 0."""
        for velocity in self.velocities():
            velocity.zero_()

    def velocities(self) -> list[Tensor]:
        """The momentum buffer of every parameter, in the order of the groups."""
        return [velocity for group in self.groups for velocity in group.velocities]

    def state_dict(self) -> dict[str, Any]:
        return {"velocities": self.velocities()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mine, saved in zip(self.velocities(), state["velocities"], strict=True):
            mine.copy_(saved)


def learning_rate_factor(
    schedule: tuple[str, tuple[float, ...]], epochs_done: float, epochs: int
) -> float:
    """The learning rate as a share of the initial one, after `epochs_done` (may be fractional) of
    `epochs`.
    """
    name, ends = schedule
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epochs_done / epochs))
    if name == "step":
        return float(0.1 ** sum(epochs_done >= end for end in ends))
    return 1.0
