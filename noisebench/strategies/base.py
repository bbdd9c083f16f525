"""The base of all strategies, and the parts that several share: costs and weights, schedules,
sharpening, and how far predictions are from a target distribution.

A strategy owns all that depends on the batch, on an example's history or on another network. The
loop calls the hooks in this order, a step: `prepare_batch`, which may predict with the networks ->
forward passes, with `transform_log_p` inside every log_p -> `supervise` -> `regularizer` -> one
gradient step; between epochs: `on_epoch_end`; to predict: `predict`.

Shapes: B = batch, N = training set, K classes; index (B,) counts into the training set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

from ..core.registry import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module
else:  # torch takes a second to import, and the registry needs none of it
    Generator = Module = Tensor = Any

__all__ = [
    "STRATEGIES",
    "Average",
    "Batch",
    "ComputeCost",
    "FullTrainingSet",
    "Generator",
    "ModelOutput",
    "Module",
    "Networks",
    "Outputs",
    "Strategy",
    "Supervision",
    "Tensor",
    "TrainingInfo",
    "averaged",
    "balance",
    "consistency",
    "entropy",
    "first_epochs",
    "follow",
    "given_label_cost",
    "linear_ramp",
    "one_hot",
    "register_strategy",
    "sharpened",
    "sigmoid_ramp",
    "whole_epochs",
]

STRATEGIES = Registry("strategy", "strategies", properties=("proper",))
"""Property a strategy may declare: `proper`, its targets are probabilities and its weights are not
negative. Facts: `disabled_form`, its text when switched off, which is plain training bit for bit;
`cost`, its ComputeCost.
"""

register_strategy = STRATEGIES.register


@dataclass(frozen=True)
class TrainingInfo:
    """What a strategy may use before the first step: given labels (N,), never clean ones, on the
    device; and which of them (N,) are verified, None where none is.
    """

    labels: Tensor
    num_classes: int
    epochs: int
    generator: Generator
    trusted: Tensor | None = None

    def full(self, shape: tuple[int, ...], value: float) -> Tensor:
        """A float32 tensor on the device."""
        return self.labels[:0].float().new_full(shape, value)

    def given_targets(self) -> Tensor:
        """The given labels as rows (N, K)."""
        return one_hot(self.labels, self.full((len(self.labels), self.num_classes), 0))


@dataclass(frozen=True)
class ComputeCost:
    """What a strategy costs, for each example an epoch. forward: passes, those without gradient
    included; full_set: of them, those over the whole set between epochs; note: what this does not
    count. CE has one forward and one backward pass.
    """

    forward: float
    backward: float
    full_set: float = 0
    note: str = ""

    @property
    def share(self) -> float:
        """The work of an epoch as a multiple of CE's, where a backward pass is two forward passes'
        work.
        """
        return (self.forward + 2 * self.backward) / 3

    def __str__(self) -> str:
        text = f"{self.forward:g} forward"
        if self.full_set:
            text += f" ({self.full_set:g} of them over the whole set after each epoch)"
        text += f", {self.backward:g} backward"
        return f"{text}; {self.note}" if self.note else text


@dataclass(frozen=True)
class Batch:
    """One step's examples. `views`: augmented images, each (B, C, H, W); `targets`: classes (B,) or
    rows (B, K).

    A strategy of several views may stack them to one of more rows; those of the examples in their
    order come first.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    index: Tensor
    targets: Tensor
    epoch: int
    generator: Generator

    def stacked(self) -> Batch:
        """All views as one of more rows, one view after the other."""
        from torch import cat

        n = len(self.views)
        return replace(
            self,
            views=(cat(self.views),),
            labels=self.labels.repeat(n),
            index=self.index.repeat(n),
            targets=cat([self.targets] * n),
        )


@dataclass(frozen=True)
class ModelOutput:
    """The output of one network for one view: logits, log_p and cost, each (B, K) and
    differentiable.
    """

    logits: Tensor
    log_p: Tensor
    cost: Tensor


Outputs: TypeAlias = Sequence[Sequence[ModelOutput]]
"""outputs[network][view]"""


class Supervision(NamedTuple):
    """The targets of a network, classes (B,) or rows (B, K), and the weights of the examples (B,).

    mean_over: the weighted costs are divided by the batch's size, not by the sum of the weights: a
    few examples of weight then move the network little.
    """

    targets: Tensor
    sample_weights: Tensor | None = None
    mean_over: bool = False


class Networks(Protocol):
    """The networks as the last step left them."""

    networks: Sequence[Module]

    def predict_log_p(
        self, images: Tensor, network: int = 0, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """log_p (B, K) of images (B, C, H, W), without gradient and without trace in batch norm;
        with `weights` in place of its own.
        """


class FullTrainingSet(Networks, Protocol):
    """The whole training set between epochs, without augmentation, in the order of the index."""

    def log_p(self, network: int = 0) -> Tensor:
        """log_p (N, K) of one network. Raises RunFailed where it is not finite."""

    def features(self, network: int = 0, index: Tensor | None = None) -> Tensor: ...

    def restart(self) -> None:
        """New networks, an optimizer without memory, and the learning rate's schedule from its
        beginning over the remaining epochs.
        """


@dataclass
class Strategy:
    """Plain training; a strategy overrides the hooks it needs. Everything in `state` is
    checkpointed.

    The traits are declared here, and nothing else is derived from a strategy's methods:
    num_networks, num_views -- how many networks are trained, on how many views of each image.
    stateless -- keeps no state and treats each example alone: examples of several runs may be in
    one batch, and parts of a batch one after the other.
    restarts -- calls FullTrainingSet.restart.
    packable -- several runs can be trained in lockstep: one network, one view of as many rows as
    the batch, no parameter groups, no restart.
    per_example_parameters -- the tensors (N, ...) of `state` whose rows it moves along their
    gradients by itself.
    """

    num_networks: ClassVar[int] = 1
    num_views: ClassVar[int] = 1
    stateless: ClassVar[bool] = False
    restarts: ClassVar[bool] = False
    packable: ClassVar[bool] = False
    per_example_parameters: ClassVar[tuple[str, ...]] = ()
    state: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    info: TrainingInfo = field(init=False, repr=False, compare=False)

    def setup(self, info: TrainingInfo) -> None:
        """Keep `info`; an override also makes the state. Called once, before the first step or
        before a checkpoint is loaded.
        """
        self.info = info

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters of its own (leaves of `state`) with their optimizer settings, as
        torch.optim.SGD takes them.
        """
        return []

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        """(a) Change the batch before the forward pass: mix inputs, stack views, replace the
        targets by predictions.
        """
        return batch

    def transform_log_p(self, log_p: Tensor, batch: Batch, network: int) -> Tensor:
        """(b) Change log_p (B, K), differentiably, by example or with parameters of its own. A loss
        may call it several times a step.
        """
        return log_p

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        """(c) The supervision of each network, whose targets are those of the first view."""
        return [Supervision(batch.targets) for _ in outputs]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        """(d) A differentiable scalar of all networks and views, added to the cost."""
        return None

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        """(e) Look at the whole set after an epoch (counted from 1): refit, prune, roll back."""

    def predict(self, log_ps: Sequence[Tensor]) -> Tensor:
        """log_p (n, K) of the networks together: their mean probability. It uses no state: finished
        networks have none.
        """
        if len(log_ps) == 1:
            return log_ps[0]
        total = log_ps[0]
        for other in log_ps[1:]:
            total = total.logaddexp(other)
        return total.log_softmax(1)


def whole_epochs(share: float, epochs: int) -> int:
    """The whole epochs in a share of the run; 0.29 of 100 are 29, though their product is below
    it.
    """
    return int(share * epochs + 1e-9)


def first_epochs(share: float, epochs: int) -> int:
    """The whole epochs in a share, at least one: a stage takes place in a short run too. None for a
    share of 0.
    """
    return max(1, whole_epochs(share, epochs)) if share else 0


def one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """Rows (B, K) of the classes (B,), as `like` (B, K)."""
    return like.new_zeros(like.shape).scatter_(1, classes[:, None], 1.0)


def given_label_cost(output: ModelOutput, batch: Batch) -> Tensor:
    """The cost (B,) of the given labels, without gradient."""
    return output.cost.detach().gather(1, batch.labels[:, None])[:, 0]


def averaged(chosen: Tensor, scale: float = 1.0) -> Tensor:
    """Weights (B,) by which a mean over the batch is `scale` times the mean over the chosen (B,),
    of weight 0 or 1.
    """
    return chosen * (scale * len(chosen) / chosen.sum().clamp_min(1))


def linear_ramp(done: float, length: float) -> float:
    """From 0 to 1 over `length`, then 1."""
    return min(1.0, max(0.0, done / length)) if length else 1.0


def sigmoid_ramp(done: float, length: float) -> float:
    """exp(-5 (1 - done / length)^2), from 0.0067 to 1 over `length`, then 1. Laine & Aila 2017."""
    return math.exp(-5 * (1 - linear_ramp(done, length)) ** 2)


def sharpened(p: Tensor, temperature: float) -> Tensor:
    """p^(1/T) (n, K), scaled to sum to 1 again. Berthelot et al. 2019."""
    return (p.clamp_min(1e-38).log() / temperature).softmax(1)


def balance(log_p: Tensor) -> Tensor:
    """KL(uniform | mean p) of log_p (n, K). In logarithms: a class that is never predicted must be
    able to return.
    """
    return math.log(len(log_p) / log_p.shape[1]) - log_p.logsumexp(0).mean()


def entropy(log_p: Tensor) -> Tensor:
    """Mean entropy of predictions log_p (n, K)."""
    return -(log_p.exp() * log_p).sum(1).mean()


def consistency(first: Tensor, second: Tensor) -> Tensor:
    """Mean KL of the prediction for a second view from that for the first, both log_p (B, K); the
    gradient is the second's alone.
    """
    first = first.detach()
    return (first.exp() * (first - second)).sum(1).mean()


Average: TypeAlias = dict[str, Tensor]
"""A network's weights averaged over its steps, to predict with. Tarvainen & Valpola 2017."""


def follow(average: Average, network: Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network, in place: parameters and floating-point
    buffers; counts are copied. An empty average becomes the network.
    """
    state = {name: value.detach() for name, value in network.state_dict().items()}
    if not average:
        average.update({name: value.clone() for name, value in state.items()})
        return
    for name, value in state.items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)
