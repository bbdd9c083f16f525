"""A state dict of somewhere else, fitted to a network: its classifier where the classes are as
many, its first layer by channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_NAMED = 2  # tensors of a kind that an error names


@dataclass(frozen=True)
class FitResult:
    """Tensors (`state`) that a network can take; `said`: what of them was left out or changed, in
    sentences; `wrong`: what does not fit, in words that name the first tensors; empty where all do.
    """

    state: dict[str, Tensor]
    said: tuple[str, ...]
    wrong: str


def fit_state_dict(
    network: nn.Module, state: dict[str, Tensor], *, twins: bool = False
) -> FitResult:
    """What of a state dict a network begins from; what the state does not hold of the classifier
    stays as it is in the network. twins: other networks begin from the same state, and their
    classifiers tell them apart.
    """
    own, found, said = network.state_dict(), dict(state), []
    heads = tuple(f"{name}." for name in classifier_names(network))
    if other := _other_classes(own, found, heads) or (
        ("several networks begin from it, each with its own classifier") if twins else ""
    ):
        found = {name: tensor for name, tensor in found.items() if not name.startswith(heads)}
        said.append(f"{other}: left as freshly made")
    first = first_layer(network)
    if first in found and _other_channels(found[first], own[first]):
        channels = own[first].shape[1]
        said.append(
            f"its {first} sees {found[first].shape[1]} channels and is adapted to {channels}"
        )
        found[first] = adapted(found[first], channels)
    return FitResult(found, tuple(said), _wrong(own, found, heads))


def _other_classes(own: dict[str, Tensor], found: dict[str, Tensor], heads: tuple[str, ...]) -> str:
    """In which way the classifier is not that of the network's classes; empty where it is, or where
    more than its classes differ.
    """
    mine = [name for name in own if name.startswith(heads)]
    if mine and not any(name in found for name in mine):
        return "it has no classifier"
    unlike = [name for name in mine if name in found and found[name].shape != own[name].shape]
    by_class = all(found[name].shape[1:] == own[name].shape[1:] for name in unlike)
    return (
        f"its classifier is of {len(found[unlike[0]])} classes, not {len(own[unlike[0]])}"
        if unlike and by_class
        else ""
    )


def _other_channels(theirs: Tensor, mine: Tensor) -> bool:
    return (
        theirs.dim() == 4
        and theirs.shape[1] != mine.shape[1]
        and (len(theirs), *theirs.shape[2:]) == (len(mine), *mine.shape[2:])
    )


def adapted(weight: Tensor, channels: int) -> Tensor:
    """A first convolution (out, in, height, width) for other channels as timm adapts it: summed for
    one, else repeated and scaled.
    """
    before = weight.shape[1]
    if channels == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeated = weight.float().repeat(1, -(-channels // before), 1, 1)[:, :channels] * (
        before / channels
    )
    return repeated.to(weight.dtype)


def _wrong(own: dict[str, Tensor], found: dict[str, Tensor], heads: tuple[str, ...]) -> str:
    # a classifier is there, so that all of it must be
    left = any(name.startswith(heads) for name in found)
    unlike = {
        "missing": [
            name for name in own if name not in found and (left or not name.startswith(heads))
        ],
        "unexpected": sorted(name for name in found if name not in own),
        "of another shape": [
            f"{name} {tuple(found[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in found and found[name].shape != own[name].shape
        ],
    }
    return "; ".join(f"{kind} {_first(names)}" for kind, names in unlike.items() if names)


def _first(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def classifier_names(network: nn.Module) -> tuple[str, ...]:
    """The paths of the layers that tell classes: of timm's as timm says, of ours the head."""
    about: Any = getattr(network, "pretrained_cfg", None) or {}
    names = about.get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def first_layer(network: nn.Module) -> str:
    """The name of the weight that looks at the images' channels."""
    about: Any = getattr(network, "pretrained_cfg", None) or {}
    names = about.get("first_conv")
    if names:
        return f"{names if isinstance(names, str) else names[0]}.weight"
    return next(
        (
            f"{path}.weight"
            for path, layer in network.named_modules()
            if isinstance(layer, nn.Conv2d)
        ),
        "",
    )
