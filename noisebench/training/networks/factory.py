"""Creates initial networks: random, or from initial weights. The first layer is adapted to the
number of channels; the classifier is used if the number of classes is equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safetensors.torch import load
from torch import Tensor, nn

from ...errors import DataError
from ...experiments.backbones import TIMM, InitialWeights, is_ours, plain_names, read_initial
from . import make_network

_NUMBER = "network{}."
_SIZE = "enlarge."  # prefix of a layer that enlarges small images


@dataclass(frozen=True)
class InitialState:
    """Initial weights: one state dict per network, or one for all. ours: written by a run; label:
    name in messages.
    """

    states: tuple[dict[str, Tensor], ...]
    ours: bool
    label: str


@dataclass(frozen=True)
class NetworkFactory:
    """Creates the networks of a training. model: their name; shape: (height, width, channels) of
    the images; weights: initial weights, None: random; networks: their number.
    """

    model: str
    num_classes: int
    shape: tuple[int, int, int]
    weights: InitialState | None = None
    networks: int = 1

    def network(self, number: int, seed: int) -> tuple[nn.Module, tuple[str, ...]]:
        """The network, and sentences on how the weights were adapted. Tensors without initial
        weights are random, from the seed.

        Raises UnknownName, or DataError if the network does not support the images, or if the
        weights do not fit, with the first tensors.
        """
        if self.weights is None:
            return make_network(self.model, self.num_classes, self.shape, seed), ()
        count, mismatch = len(self.weights.states), ""
        if number >= count > 1:
            raise DataError(
                f"--init-weights: {self.weights.label} are the weights of {count} "
                "networks, and this run trains more: give those of one"
            )
        state = self.weights.states[number if count > 1 else 0]
        if not self.model.startswith(TIMM):
            options: tuple[bool, ...] = (False,)
        elif any(name.startswith(_SIZE) for name in state):
            options = (True,)
        else:  # runs change the stem for small images, other weights have timm's
            options = (False, True) if self.weights.ours else (True, False)
        # networks with the same initial weights and the same classifier would remain equal
        shared = self.networks > 1 and len(self.weights.states) == 1
        for enlarged in options:
            network = make_network(
                self.model, self.num_classes, self.shape, seed, enlarged=enlarged
            )
            fit = fit_state_dict(network, state, reinit_heads=shared)
            if fit.mismatch and enlarged and (translated := self._translated(network, state)):
                second_fit = fit_state_dict(network, translated, reinit_heads=shared)
                fit = fit if second_fit.mismatch else second_fit
            if not fit.mismatch:
                network.load_state_dict(fit.state, strict=False)
                changes = list(fit.changes)
                if len(self.weights.states) > self.networks:
                    changes.append(f"the first of its {len(self.weights.states)} networks is used")
                if hasattr(network, "enlarge"):
                    changes.append("its stem is unchanged, and images are enlarged 4 times for it")
                return network, tuple(changes)
            mismatch = mismatch or fit.mismatch
        raise DataError(
            f"--init-weights: {self.weights.label} does not fit {self.model} here: {mismatch}"
        )

    def _translated(self, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """The weights as converted by timm; None if it cannot convert them."""
        from .timm_models import timm_translated

        heads = (state.get(f"{name}.weight") for name in classifier_names(network))
        config: Any = network.pretrained_cfg
        classes = next(
            (len(weight) for weight in heads if weight is not None), config["num_classes"]
        )
        try:
            return timm_translated(
                self.model.removeprefix(TIMM), classes, self.shape, dict(state)
            ).state_dict()
        except Exception:  # any error of timm: these are not weights of this network
            return None


def weights_of(initial: InitialWeights | None) -> InitialState | None:
    """The initial weights of a run. Raises DataError if they are missing or have changed."""
    if initial is None:
        return None
    tensors = load(read_initial(initial))
    plain = {short: tensors[name] for name, short in plain_names(tensors).items()}
    prefixes = [""]
    if is_ours(plain):
        count = len({name.partition(".")[0] for name in plain})
        prefixes = [_NUMBER.format(number) for number in range(count)]
    states = tuple(
        {
            name.removeprefix(prefix): value
            for name, value in plain.items()
            if name.startswith(prefix)
        }
        for prefix in prefixes
    )
    return InitialState(states, is_ours(tensors), initial.label)


_NAMED = 2  # tensors of a kind that an error lists


@dataclass(frozen=True)
class FitResult:
    """The result of fitting weights to a network. state: the tensors to load; changes: sentences on
    omitted or changed tensors; mismatch: the first tensors that do not fit, empty if all do.
    """

    state: dict[str, Tensor]
    changes: tuple[str, ...]
    mismatch: str


def fit_state_dict(
    network: nn.Module, state: dict[str, Tensor], *, reinit_heads: bool = False
) -> FitResult:
    """Fit a state dict to a network; a missing classifier keeps the network's random weights.
    reinit_heads: never load the classifier, since several networks have the same initial weights.
    """
    target, changes = network.state_dict(), []
    state = {name: tensor for name, tensor in state.items() if not name.startswith(_SIZE)}
    state |= {name: tensor for name, tensor in target.items() if name.startswith(_SIZE)}
    heads = tuple(f"{name}." for name in classifier_names(network))
    reason = _other_classes(target, state, heads)
    if not reason and reinit_heads:
        reason = "several networks start from it, each with its own classifier"
    if reason:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
        changes.append(f"{reason}: random classifier")
    first = first_layer(network)
    if first in state and state[first].dim() == 4:
        (outputs, given, *kernel), channels = state[first].shape, target[first].shape[1]
        if channels != given and target[first].shape == (outputs, channels, *kernel):
            changes.append(f"its {first} has {given} input channels and is adapted to {channels}")
            state[first] = adapted(state[first], channels)
    return FitResult(state, tuple(changes), _mismatch(target, state, heads))


def _other_classes(
    target: dict[str, Tensor], state: dict[str, Tensor], heads: tuple[str, ...]
) -> str:
    """A sentence if the classifier is missing or has another number of classes; empty if it fits or
    differs in other ways.
    """
    names = [name for name in target if name.startswith(heads)]
    if names and not any(name in state for name in names):
        return "it has no classifier"
    unlike = [name for name in names if name in state and state[name].shape != target[name].shape]
    if unlike and all(state[name].shape[1:] == target[name].shape[1:] for name in unlike):
        classes, expected = len(state[unlike[0]]), len(target[unlike[0]])
        return f"its classifier has {classes} classes, not {expected}"
    return ""


def adapted(weight: Tensor, channels: int) -> Tensor:
    """The weight of a first convolution (out, in, height, width) for another number of channels, as
    in timm: summed for one channel, else repeated and scaled.
    """
    before = weight.shape[1]
    if channels == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeated = weight.float().repeat(1, -(-channels // before), 1, 1)[:, :channels]
    return (repeated * (before / channels)).to(weight.dtype)


def _mismatch(target: dict[str, Tensor], state: dict[str, Tensor], heads: tuple[str, ...]) -> str:
    # a classifier must be complete or absent
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
    """The paths of the classification layers: as configured by timm, or `head` of our networks."""
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    names = config.get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def first_layer(network: nn.Module) -> str:
    """The name of the first convolution's weight; empty without a convolution."""
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    if names := config.get("first_conv"):
        return f"{names if isinstance(names, str) else names[0]}.weight"
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            return f"{path}.weight"
    return ""
