"""The base class of all strategies, and parts that several share: costs and weights, ramps,
sharpening, and distances of predictions from a target distribution.

A strategy holds all state that depends on the batch, on an example's history or on another network.
In each step the training loop calls `prepare_batch`, which may predict with the networks; then runs
the forward passes, with `transform_log_p` applied to every log_p; then calls `supervise` and
`regularizer`, and makes one gradient step. After each epoch it calls `on_epoch_end`; to predict,
`predict`.

Shapes: B = batch, N = training set, K classes; index (B,) contains positions in the training set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias, overload

from ..core.registry import F, Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module
else:  # importing torch takes a second, and the registry does not need it
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
negative.
"""


@overload
def register_strategy(build: F) -> F: ...
@overload
def register_strategy(*, name: str = "", **facts: Any) -> Callable[[F], F]: ...
def register_strategy(build: Any = None, *, name: str = "", **facts: Any) -> Any:
    """Decorator that registers a dataclass derived from `Strategy`, usable by its name in
    `--strategy` and in suites.

    Its fields become the strategy's parameters. Its hooks get a `Batch` of B examples and the
    networks' outputs, with log_p (B, K) and cost (B, K) of each network and view: `supervise`
    returns the targets, classes (B,) or probabilities (B, K), and the sample weights (B,) of each
    network; `regularizer` returns a scalar or None. `Strategy` describes all hooks.

        @register_strategy(name="confident", paper="Author Year")
        @dataclass
        class Confident(Strategy):
            least: float = 0.5

            def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
                p = outputs[0][0].log_p.detach().exp()  # first network, first view: (B, K)
                given = p.gather(1, batch.labels[:, None])[:, 0]
                return [Supervision(batch.targets, (given >= self.least).to(p.dtype))]

    Keywords:

    * `name`: default the class's; `aliases`; `paper`.
    * `version`: to be raised when results change.
    * `properties`: by default `proper`: targets are probabilities, weights are not negative.
    * `cost`: its `ComputeCost`.
    * `disabled_form`: its text with parameters that make it plain training, bit for bit.
    * `per_class_memory`: whether it stores a number for each class of each example.
    * `fill_defaults`: a function from the given parameters to all of them.

    Returns the class unchanged. Raises LanguageError for a name that exists or is not letters,
    digits and _.
    """
    return STRATEGIES.register(build, name=name, **facts)


@dataclass(frozen=True)
class TrainingInfo:
    """What a strategy may use before the first step.

    labels (N,): the given labels, never the true ones, on the device. trusted (N,): which of them
    are verified; None if none are. generator: the source of the strategy's random numbers.
    """

    labels: Tensor
    num_classes: int
    epochs: int
    generator: Generator
    trusted: Tensor | None = None

    def full(self, shape: tuple[int, ...], value: float) -> Tensor:
        """Returns a float32 tensor of this shape and value on the device."""
        return self.labels[:0].float().new_full(shape, value)

    def given_targets(self) -> Tensor:
        """Returns the given labels as one-hot rows (N, K)."""
        return one_hot(self.labels, self.full((len(self.labels), self.num_classes), 0))


@dataclass(frozen=True)
class ComputeCost:
    """The compute of a strategy, in passes for each example and epoch; CE has one forward and one
    backward pass.

    forward: forward passes, including those without gradient; full_set: those of them over the full
    training set between epochs; backward: backward passes; note: what these numbers do not include.
    """

    forward: float
    backward: float
    full_set: float = 0
    note: str = ""

    @property
    def share(self) -> float:
        """The compute of an epoch as a multiple of CE's; a backward pass counts as two forward
        passes.
        """
        return (self.forward + 2 * self.backward) / 3

    def __str__(self) -> str:
        text = f"{self.forward:g} forward"
        if self.full_set:
            text += f" ({self.full_set:g} of them over the full set after each epoch)"
        text += f", {self.backward:g} backward"
        return f"{text}; {self.note}" if self.note else text


@dataclass(frozen=True)
class Batch:
    """The examples of one step.

    views: augmented images, each (B, C, H, W). labels (B,): the given labels. index (B,): positions
    in the training set. targets: classes (B,) or probabilities (B, K). epoch: counted from 1.

    A strategy with several views may stack them into one view with more rows; the rows of the
    examples, in their order, come first.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    index: Tensor
    targets: Tensor
    epoch: int
    generator: Generator

    def stacked(self) -> Batch:
        """Returns the batch with all views concatenated into one, view after view."""
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
    differentiable. Column k of the cost is the loss with label k.
    """

    logits: Tensor
    log_p: Tensor
    cost: Tensor


Outputs: TypeAlias = Sequence[Sequence[ModelOutput]]
"""outputs[network][view]"""


class Supervision(NamedTuple):
    """What one network is trained on: targets, classes (B,) or probabilities (B, K), and the
    weights of the examples (B,), None for equal weights.

    mean_over: divide the sum of the weighted costs by the batch size instead of the sum of the
    weights, so that few examples with weight make a small step.
    """

    targets: Tensor
    sample_weights: Tensor | None = None
    mean_over: bool = False


class Networks(Protocol):
    """The networks in their state after the last step."""

    networks: Sequence[Module]

    def predict_log_p(
        self, images: Tensor, network: int = 0, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Returns log_p (B, K) of images (B, C, H, W), without gradient and without updating batch
        norm's statistics; with `weights`, uses these in place of the network's own.
        """


class FullTrainingSet(Networks, Protocol):
    """The networks and the full training set between epochs, without augmentation, in the order of
    the index.
    """

    def log_p(self, network: int = 0) -> Tensor:
        """Returns log_p (N, K) of one network. Raises RunFailed if it is not finite."""

    def features(self, network: int = 0, index: Tensor | None = None) -> Tensor:
        """Returns the penultimate features (N, D) of one network; with index (n,), (n, D)."""

    def restart(self) -> None:
        """Replaces the networks by new ones, with a new optimizer and the learning rate schedule
        restarted over the remaining epochs.
        """


@dataclass
class Strategy:
    """Base class of strategies, which itself is plain training: a subclass is a dataclass that
    overrides the hooks it needs.

    Its fields are the strategy's parameters. Everything in `state` is saved in checkpoints. These
    class attributes declare what the training loop must provide; nothing is inferred from the
    methods:

    num_networks, num_views: how many networks are trained, and on how many views of each image.

    stateless: keeps no state and treats examples independently, so that a batch may combine
    examples of several runs or be processed in parts.

    restarts: calls FullTrainingSet.restart.

    packable: several runs can be trained in lockstep; requires one network, one view with as many
    rows as the batch, no parameter groups and no restart.

    per_example_parameters: names of tensors (N, ...) in `state` that the strategy itself updates by
    their gradients, row by row.
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
        """Store `info`; an override calls this method and creates its state. Called once, before
        the first step or before a checkpoint is loaded.
        """
        self.info = info

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the strategy's own trainable parameters (leaves of `state`) with their optimizer
        settings, as parameter groups of torch.optim.SGD.
        """
        return []

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        """(a) Return the batch, changed before the forward pass: mix images, stack views, or
        replace the targets by predictions.
        """
        return batch

    def transform_log_p(self, log_p: Tensor, batch: Batch, network: int) -> Tensor:
        """(b) Return log_p (B, K), changed differentiably for these examples or with the strategy's
        own parameters. May be called several times a step.
        """
        return log_p

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        """(c) Return one Supervision per network; its targets apply to the first view."""
        return [Supervision(batch.targets) for _ in outputs]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        """(d) Return a differentiable scalar of all networks and views that is added to the cost,
        or None.
        """
        return None

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        """(e) Update the state after an epoch (counted from 1), with predictions for the full
        training set: fit a model, remove examples, restore weights.
        """

    def predict(self, log_ps: Sequence[Tensor]) -> Tensor:
        """Return log_p (B, K) of the networks together from the log_p (B, K) of each: by default
        that of their mean probability. May not use `state`, which is not stored with trained
        networks.
        """
        if len(log_ps) == 1:
            return log_ps[0]
        total = log_ps[0]
        for other in log_ps[1:]:
            total = total.logaddexp(other)
        return total.log_softmax(1)


def whole_epochs(share: float, epochs: int) -> int:
    """Returns the number of whole epochs in a share of the run; 0.29 of 100 is 29, although the
    product in floating point is below it.
    """
    return int(share * epochs + 1e-9)


def first_epochs(share: float, epochs: int) -> int:
    """Returns the number of whole epochs in a share of the run, at least one, so that no stage is
    skipped in a short run; 0 for a share of 0.
    """
    return max(1, whole_epochs(share, epochs)) if share else 0


def one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """One-hot rows (B, K) of the classes (B,), with the dtype and device of `like` (B, K)."""
    return like.new_zeros(like.shape).scatter_(1, classes[:, None], 1.0)


def given_label_cost(output: ModelOutput, batch: Batch) -> Tensor:
    """Returns the cost (B,) of the given labels, without gradient."""
    return output.cost.detach().gather(1, batch.labels[:, None])[:, 0]


def averaged(chosen: Tensor, scale: float = 1.0) -> Tensor:
    """Returns weights (B,) with which a mean over the batch is `scale` times the mean over the
    chosen examples (B,), 0 or 1.
    """
    return chosen * (scale * len(chosen) / chosen.sum().clamp_min(1))


def linear_ramp(done: float, length: float) -> float:
    """From 0 to 1 over `length`, then 1."""
    return min(1.0, max(0.0, done / length)) if length else 1.0


def sigmoid_ramp(done: float, length: float) -> float:
    """exp(-5 (1 - done / length)^2), from 0.0067 to 1 over `length`, then 1. Laine & Aila 2017."""
    return math.exp(-5 * (1 - linear_ramp(done, length)) ** 2)


def sharpened(p: Tensor, temperature: float) -> Tensor:
    """Returns p^(1/T) (n, K), rescaled to sum to 1. Berthelot et al. 2019."""
    return (p.clamp_min(1e-38).log() / temperature).softmax(1)


def balance(log_p: Tensor) -> Tensor:
    """Returns KL(uniform | mean p) of log_p (n, K). Computed in logarithms, so that a class that is
    never predicted still has a gradient.
    """
    return math.log(len(log_p) / log_p.shape[1]) - log_p.logsumexp(0).mean()


def entropy(log_p: Tensor) -> Tensor:
    """Returns the mean entropy of predictions log_p (n, K)."""
    return -(log_p.exp() * log_p).sum(1).mean()


def consistency(first: Tensor, second: Tensor) -> Tensor:
    """Returns the mean KL of the second view's prediction from the first's, both log_p (B, K); only
    the second has a gradient.
    """
    first = first.detach()
    return (first.exp() * (first - second)).sum(1).mean()


Average: TypeAlias = dict[str, Tensor]
"""Moving average of a network's weights over its steps, for predictions. Tarvainen & Valpola 2017.
"""


def follow(average: Average, network: Module, decay: float) -> None:
    """Updates in place average <- decay * average + (1 - decay) * network, for parameters and
    floating-point buffers; integer buffers are copied. An empty average becomes the network.
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
