"""What a strategy is: it owns all that depends on the batch, on an example's history or on another
network.

The loop calls the hooks in this order, a step: `prepare`, which may ask the networks -> forward
passes, with `adapt` inside every log_p -> `believe` -> `penalty` -> one gradient step; between
epochs: `between`; to predict: `predict`. It asks no names. Shapes: B = batch, N = training set, K
classes; index (B,) counts into the training set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from ..core.registry import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module
else:
    Generator = Module = Tensor = Any

STRATEGIES = Registry("strategy", "strategies", properties=("proper",))
"""Law a strategy may declare: `proper`, its targets are probabilities and its weights are not
negative. Facts: `off`, its text when switched off, which is plain training bit for bit; `cost`, its
Passes.
"""

register_strategy = STRATEGIES.register


@dataclass(frozen=True)
class TrainingInfo:
    """What a strategy may know before the first step: recorded labels (N,), never clean ones, on
    the device; and which of them (N,) somebody has verified, None where nobody has any.
    """

    labels: Tensor
    num_classes: int
    epochs: int
    generator: Generator
    trusted: Tensor | None = None


@dataclass(frozen=True)
class ComputeCost:
    """What a strategy costs, for each example an epoch. forward: those without gradient counted
    too; whole: of them, those over the whole set between epochs; also: what this does not count. CE
    has one forward and one backward pass.
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
        whole = (
            f" ({self.full_set:g} of them over the whole set after each epoch)"
            if self.full_set
            else ""
        )
        return f"{self.forward:g} forward{whole}, {self.backward:g} backward" + (
            f"; {self.note}" if self.note else ""
        )


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
        """All views as one of so many times the rows, one view after the other."""
        from torch import cat

        def repeated(rows: Tensor) -> Tensor:
            return cat([rows] * len(self.views))

        labels, index, targets = map(repeated, (self.labels, self.index, self.targets))
        return replace(self, views=(cat(self.views),), labels=labels, index=index, targets=targets)


@dataclass(frozen=True)
class ModelOutput:
    """What one network says of one view: logits, log_p and cost, each (B, K) and differentiable."""

    logits: Tensor
    log_p: Tensor
    cost: Tensor


class Supervision(NamedTuple):
    """Which labels a network is to learn, classes (B,) or rows (B, K), and how much each example is
    trusted (B,).

    whole_batch: the weighted costs are divided by the batch's size, not by the sum of the weights:
    few trusted examples then move the network little.
    """

    targets: Tensor
    sample_weights: Tensor | None = None
    mean_over: bool = False


def whole_epochs(share: float, epochs: int) -> int:
    """The whole epochs in a share of so many; 0.29 of 100 are 29, though their product is below
    it.
    """
    return int(share * epochs + 1e-9)


def first_epochs(share: float, epochs: int) -> int:
    """The whole epochs in a share, at least one: a stage that is wanted takes place in a short run
    too. None for a share of 0.
    """
    return max(1, whole_epochs(share, epochs)) if share else 0


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
        """New networks, an optimiser without memory, and the learning rate's schedule from its
        beginning over what is left.
        """


@dataclass
class Strategy:
    """Plain training; a strategy overrides the hooks it needs. Everything in `state` is
    checkpointed.
    """

    num_networks: ClassVar[int] = 1
    num_views: ClassVar[int] = 1
    # keeps no state and looks at each example alone: several runs' examples may stand in one batch
    stateless: ClassVar[bool] = False
    restarts: ClassVar[bool] = False  # calls WholeSet.restart
    # tensors (N, ...) of `state` whose rows it moves along their gradients by itself
    per_example_parameters: ClassVar[tuple[str, ...]] = ()
    state: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def in_step(cls) -> bool:
        """Whether several runs of it can be trained in lockstep: one network and view, no
        parameters of its own, no restart.
        """
        return (
            cls.num_networks == cls.num_views == 1
            and not cls.restarts
            and cls.parameter_groups is Strategy.parameter_groups
        )

    def setup(self, facts: TrainingInfo) -> None:
        """Make the state. Called once, before the first step or before a checkpoint is loaded."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters of its own (leaves of `state`) with their optimiser settings, as
        torch.optim.SGD takes them.
        """
        return []

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        """(a) Change the batch before the forward pass: mix inputs, stack views, replace the
        targets by what the networks say.
        """
        return batch

    def transform_log_p(self, log_p: Tensor, batch: Batch, network: int) -> Tensor:
        """(b) Change log_p (B, K), differentiably, by example or with parameters of its own. A loss
        may ask for it several times a step.
        """
        return log_p

    def supervise(
        self, batch: Batch, outputs: Sequence[Sequence[ModelOutput]]
    ) -> list[Supervision]:
        """(c) One belief a network from `outputs[network][view]`. The belief is about the first
        view.
        """
        return [Supervision(batch.targets) for _ in outputs]

    def regularizer(self, batch: Batch, outputs: Sequence[Sequence[ModelOutput]]) -> Tensor | None:
        """(d) A differentiable scalar of all networks and views, added to the cost."""
        return None

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        """(e) Look at the whole set after an epoch (counted from 1): refit, prune, roll back."""

    def predict(self, log_ps: Sequence[Tensor]) -> Tensor:
        """log_p (n, K) of the networks together: their mean probability. It asks for no state:
        finished networks have none.
        """
        if len(log_ps) == 1:
            return log_ps[0]
        total = log_ps[0]
        for other in log_ps[1:]:
            total = total.logaddexp(other)
        return total.log_softmax(1)
