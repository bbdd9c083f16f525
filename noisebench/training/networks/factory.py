"""The network that a training begins with: random, or with the weights of another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safetensors.torch import load
from torch import Tensor, nn

from ...errors import DataError
from ...experiments.backbones import TIMM, InitialWeights, is_ours, plain_names, read_initial
from . import make_network
from .fitting import FitResult, classifier_names, fit_state_dict

_NUMBER = "network{}."
_SIZE = "enlarge."  # of a network that enlarges its images, which it does for small ones alone


@dataclass(frozen=True)
class InitialState:
    """Initial weights: the state dict of each network, or one for all. ours: written by a run;
    label: its name in messages.
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
    """The networks of a training: their name, classes, the images' shape (height, width, channels),
    and initial weights, or None for random ones.
    """

    model: str
    num_classes: int
    shape: tuple[int, int, int]
    weights: InitialState | None = None
    networks: int = 1

    def network(self, number: int, seed: int) -> tuple[nn.Module, tuple[str, ...]]:
        """The network, and what was done so that the weights fit. What they do not hold is random,
        by the seed.

        Raises UnknownName, or DataError where it cannot take such images, or names the first
        tensors that do not fit.
        """
        if self.weights is None:
            return make_network(self.model, self.num_classes, self.shape, seed), ()
        state, mismatch = self.weights.of(number), ""
        for enlarged in self._enlarged_options(self.weights, state):
            network = make_network(
                self.model, self.num_classes, self.shape, seed, enlarged=enlarged
            )
            fit = self._fit(network, state)
            if fit.mismatch and enlarged and (translated := self._translated(network, state)):
                second_fit = self._fit(network, translated)
                fit = fit if second_fit.mismatch else second_fit
            if not fit.mismatch:
                network.load_state_dict(fit.state, strict=False)
                changes = list(fit.changes)
                if len(self.weights.states) > self.networks:
                    changes.append(f"of its {len(self.weights.states)} networks the first is taken")
                if hasattr(network, "enlarge"):
                    changes.append("its stem is timm's own, for which images are enlarged 4 times")
                return network, tuple(changes)
            mismatch = mismatch or fit.mismatch
        raise DataError(
            f"--init-weights: {self.weights.label} does not fit {self.model} here: {mismatch}"
        )

    def _enlarged_options(
        self, weights: InitialState, state: dict[str, Tensor]
    ) -> tuple[bool, ...]:
        """Whether images are enlarged: as the weights say; else for a run's weights first as runs
        open a stem, for others as timm has it.
        """
        if not self.model.startswith(TIMM):
            return (False,)
        if any(name.startswith(_SIZE) for name in state):
            return (True,)
        return (False, True) if weights.ours else (True, False)

    def _fit(self, network: nn.Module, state: dict[str, Tensor]) -> FitResult:
        """Networks that begin from the same weights get classifiers of their own: they would remain
        equal.
        """
        assert self.weights is not None
        fitted = {name: tensor for name, tensor in state.items() if not name.startswith(_SIZE)}
        for name, tensor in network.state_dict().items():
            if name.startswith(_SIZE):
                fitted[name] = tensor
        reinit_heads = self.networks > 1 and len(self.weights.states) == 1
        return fit_state_dict(network, fitted, reinit_heads=reinit_heads)

    def _translated(self, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """The weights as timm translates them; None where it cannot."""
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
        except Exception:  # whatever timm raises: these are no weights of this network
            return None


def weights_of(initial: InitialWeights | None) -> InitialState | None:
    """The initial weights of a run. Raises DataError where they are missing or have changed."""
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
