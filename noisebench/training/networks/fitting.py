"""A state dict from elsewhere, fitted to a network: its classifier where the number of classes is
equal, its first layer by channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_NAMED = 2  # tensors of a kind that an error names


@dataclass(frozen=True)
class FitResult:
    """`state`: tensors that a network can take; `changes`: what was left out or changed, in
    sentences; `mismatch`: what does not fit, naming the first tensors; empty where all do.
    """

    state: dict[str, Tensor]
    changes: tuple[str, ...]
    mismatch: str


def fit_state_dict(
    network: nn.Module, state: dict[str, Tensor], *, reinit_heads: bool = False
) -> FitResult:
    """The part of a state dict that a network begins from; a classifier that the state lacks stays
    as it is in the network. reinit_heads: other networks begin from the same state, and their
    classifiers tell them apart.
    """
    target, state, changes = network.state_dict(), dict(state), []
    heads = tuple(f"{name}." for name in classifier_names(network))
    reason = _other_classes(target, state, heads)
    if not reason and reinit_heads:
        reason = "several networks begin from it, each with its own classifier"
    if reason:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
        changes.append(f"{reason}: left as freshly made")
    first = first_layer(network)
    if first in state and _other_channels(state[first], target[first]):
        given, channels = state[first].shape[1], target[first].shape[1]
        changes.append(f"its {first} sees {given} channels and is adapted to {channels}")
        state[first] = adapted(state[first], channels)
    return FitResult(state, tuple(changes), _mismatch(target, state, heads))


def _other_classes(
    target: dict[str, Tensor], state: dict[str, Tensor], heads: tuple[str, ...]
) -> str:
    """In which way the classifier is not that of the network's classes; empty where it is, or where
    more than its classes differ.
    """
    names = [name for name in target if name.startswith(heads)]
    if names and not any(name in state for name in names):
        return "it has no classifier"
    unlike = [name for name in names if name in state and state[name].shape != target[name].shape]
    if unlike and all(state[name].shape[1:] == target[name].shape[1:] for name in unlike):
        classes, expected = len(state[unlike[0]]), len(target[unlike[0]])
        return f"its classifier is of {classes} classes, not {expected}"
    return ""


def _other_channels(weight: Tensor, target: Tensor) -> bool:
    return (
        weight.dim() == 4
        and weight.shape[1] != target.shape[1]
        and (len(weight), *weight.shape[2:]) == (len(target), *target.shape[2:])
    )


def adapted(weight: Tensor, channels: int) -> Tensor:
    """A first convolution (out, in, height, width) for other channels as timm adapts it: summed for
    one, else repeated and scaled.
    """
    before = weight.shape[1]
    if channels == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeated = weight.float().repeat(1, -(-channels // before), 1, 1)[:, :channels]
    return (repeated * (before / channels)).to(weight.dtype)


def _mismatch(target: dict[str, Tensor], state: dict[str, Tensor], heads: tuple[str, ...]) -> str:
    # where a part of a classifier is there, all of it must be
    has_head = any(name.startswith(heads) for name in state)
    needed = [name for name in target if has_head or not name.startswith(heads)]
    kinds = {
        "missing": [name for name in needed if name not in state],
        "unexpected": sorted(name for name in state if name not in target),
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in target.items()
            if name in state and state[name].shape != tensor.shape
        ],
    }
    parts = []
    for kind, names in kinds.items():
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{kind} {', '.join(names[:_NAMED])}{more}")
    return "; ".join(parts)


def classifier_names(network: nn.Module) -> tuple[str, ...]:
    """The paths of the layers that tell classes: of timm's as timm says, of ours the head."""
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    names = config.get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def first_layer(network: nn.Module) -> str:
    """The name of the weight that looks at the images' channels; empty without a convolution."""
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    if names := config.get("first_conv"):
        return f"{names if isinstance(names, str) else names[0]}.weight"
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            return f"{path}.weight"
    return ""
