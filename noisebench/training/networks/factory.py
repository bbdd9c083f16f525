"""The network that a training begins with: freshly made, or with the weights of another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load
from torch import Tensor, nn

from ...errors import DataError
from ...experiments.backbones import TIMM
from ...experiments.weights import InitialWeights, is_ours, plain_names, read_initial
from . import make_network
from .fitting import FitResult, classifier_names, fit_state_dict

_NUMBER = "network{}."
_SIZE = "enlarge."  # of a network that enlarges its images, which it does for small ones alone


@dataclass(frozen=True)
class InitialState:
    """What networks begin from: the state dict of each, or one for all. ours: a run wrote it;
    label: what it is called.
    """

    states: tuple[dict[str, Tensor], ...]
    ours: bool
    label: str

    def of(self, number: int) -> dict[str, Tensor]:
        """Raises DataError where there are several, but none for this network."""
        if len(self.states) > 1 and number >= len(self.states):
            raise DataError(
                f"--init-weights: {self.label} are the weights of {len(self.states)} "
                "networks, this run trains more: give those of one"
            )
        return self.states[number if len(self.states) > 1 else 0]


@dataclass(frozen=True)
class NetworkFactory:
    """Which networks, and how many: their name, classes, the images' shape (height, width,
    channels), and what they begin from, if not afresh.
    """

    model: str
    num_classes: int
    shape: tuple[int, int, int]
    weights: InitialState | None = None
    networks: int = 1

    def network(self, number: int, seed: int) -> tuple[nn.Module, tuple[str, ...]]:
        """The network, and what was done so that the weights fit. What they do not hold is made by
        the seed.

        Raises UnknownName, or DataError where it cannot take such images, or names the first
        tensors that do not fit.
        """
        if self.weights is None:
            return make_network(self.model, self.num_classes, self.shape, seed), ()
        return self._with(self.weights, number, seed)

    def _with(
        self, weights: InitialState, number: int, seed: int
    ) -> tuple[nn.Module, tuple[str, ...]]:
        state, wrong = weights.of(number), ""
        for enlarged in self._designs(weights, state):
            network = make_network(
                self.model, self.num_classes, self.shape, seed, enlarged=enlarged
            )
            fitted = self._fit(network, state, enlarged=enlarged)
            if not fitted.wrong:
                network.load_state_dict(fitted.state, strict=False)
                return network, (*fitted.said, *self._said(weights, network))
            wrong = wrong or fitted.wrong
        raise DataError(f"--init-weights: {weights.label} does not fit {self.model} here: {wrong}")

    def _said(self, weights: InitialState, network: nn.Module) -> Iterator[str]:
        if len(weights.states) > self.networks:
            yield f"of its {len(weights.states)} networks the first is taken"
        if hasattr(network, "enlarge"):
            yield "its stem is timm's own, for which images are enlarged 4 times"

    def _designs(self, weights: InitialState, state: dict[str, Tensor]) -> Iterator[bool]:
        """Whether images are enlarged: as the weights say; else of a run's weights first as runs
        open a stem, of others as timm has it.
        """
        if not self.model.startswith(TIMM):
            yield False
        elif _enlarges(state):
            yield True
        else:
            yield from (False, True) if weights.ours else (True, False)

    def _fit(self, network: nn.Module, state: dict[str, Tensor], *, enlarged: bool) -> FitResult:
        """The weights as they are, or else as timm translates them."""
        fitted = self._fitted(network, state)
        if fitted.wrong and enlarged and (translated := self._translated(network, state)):
            again = self._fitted(network, translated)
            return fitted if again.wrong else again
        return fitted

    def _fitted(self, network: nn.Module, state: dict[str, Tensor]) -> FitResult:
        """Networks that begin from the same weights get classifiers of their own: they would be one
        network for ever.
        """
        assert self.weights is not None
        size = {
            name: tensor for name, tensor in network.state_dict().items() if name.startswith(_SIZE)
        }
        others = {name: tensor for name, tensor in state.items() if not name.startswith(_SIZE)}
        return fit_state_dict(
            network, {**size, **others}, twins=self.networks > 1 and len(self.weights.states) == 1
        )

    def _translated(self, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        from .timm_models import timm_translated

        heads = (state.get(f"{name}.weight") for name in classifier_names(network))
        about: Any = network.pretrained_cfg
        classes = next(
            (len(weight) for weight in heads if weight is not None), about["num_classes"]
        )
        try:
            return timm_translated(
                self.model.removeprefix(TIMM), classes, self.shape, dict(state)
            ).state_dict()
        except Exception:  # whatever timm raises: these are no weights of this network
            return None


def _enlarges(state: dict[str, Tensor]) -> bool:
    return any(name.startswith(_SIZE) for name in state)


def weights_of(initial: InitialWeights | None) -> InitialState | None:
    """The weights of a run that begins from some. Raises DataError where they are not at hand, or
    others now.
    """
    if initial is None:
        return None
    found = load(read_initial(initial))
    plain = {short: found[name] for name, short in plain_names(found).items()}
    count = len({name.partition(".")[0] for name in plain}) if is_ours(plain) else 1
    parts = [_NUMBER.format(number) for number in range(count)] if is_ours(plain) else [""]
    states = tuple(
        {name.removeprefix(part): value for name, value in plain.items() if name.startswith(part)}
        for part in parts
    )
    return InitialState(states, is_ours(found), initial.label)
