"""A network's layers in groups, from its stem to its classifier: which of them are trained, and how
fast.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from typing import Any

from torch import nn

from ...errors import ConfigError
from ...experiments.recipes import Recipe


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
        return _of_body(body, network)
    return [[name for name, _ in network.named_parameters()]]


def _of_body(body: nn.Sequential, network: nn.Module) -> list[list[str]]:
    groups: list[list[str]] = []
    for path, layer in body.named_children():
        names = [f"body.{path}.{name}" for name, _ in layer.named_parameters()]
        if any(parameter.dim() > 1 for parameter in layer.parameters()):
            groups.append(names)
        elif names:
            groups[-1] += names  # a norm, which follows its layer
    return [
        *groups,
        [name for name, _ in network.named_parameters() if not name.startswith("body.")],
    ]


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
