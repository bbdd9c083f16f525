"""Class-conditional noise with an unknown transition matrix T: estimated from the anchor points of
a first network, learned jointly with the network (VolMinNet, T-Revision), or not needed (DMI).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from ..core.parameters import Interval, OneOf, Share
from ..errors import RunFailed
from ..losses.registry import log_through
from ..metrics.confident_learning import anchored_transition
from .base import (
    Batch,
    ComputeCost,
    FullTrainingSet,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    first_epochs,
    one_hot,
    register_strategy,
    whole_epochs,
)

_WORST_CONDITION = 1e6


def through(log_p: Tensor, T: Tensor) -> Tensor:
    """Returns log(p T) (B, K), the log-probabilities of the noisy labels, from log_p (B, K) of the
    clean labels. Computed in float64, never -inf.
    """
    return log_through(log_p.double().exp(), T).to(log_p.dtype)


class TwoStages(Strategy):
    """Trains a network on the given labels for `first` of the run, estimates T from its anchor
    points, then trains a new network with T.
    """

    restarts = True
    keeps_network: ClassVar[bool] = False
    first: float

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        self._until = max(1, round(self.first * info.epochs))
        T = info.full((info.num_classes, info.num_classes), 0).double().fill_diagonal_(1)
        self.state.update(T=T, known=False)

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        if epoch != self._until or epoch == self.info.epochs:
            return
        T = anchored_transition(whole.log_p().cpu().numpy())
        self.state["T"].copy_(self.state["T"].new_tensor(self.prepared(T)))
        self.state["known"] = True
        kept = whole.networks[0].state_dict() if self.keeps_network else {}
        before = {key: value.clone() for key, value in kept.items()}
        whole.restart()
        if before:
            whole.networks[0].load_state_dict(before)

    def prepared(self, T: np.ndarray) -> np.ndarray:
        """Returns the matrix (K, K) that the correction uses."""
        return T


@register_strategy(
    name="forward_estimated",
    per_class_memory=True,
    paper="Patrini et al. 2017",
    disabled_form="forward_estimated(first=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class ForwardEstimated(TwoStages):
    """Forward correction with an estimated T: a first network estimates T from its anchor points,
    then a new network trains with it.

    first: the share of the run for the first network. The anchor of a class is the image at the
    97th percentile of that class's probability; with 100 or more classes, the one of largest
    probability.
    """

    first: Share = 0.25

    def transform_log_p(self, log_p: Tensor, batch: Batch, network: int) -> Tensor:
        if not self.state["known"]:
            return log_p
        return through(log_p, self.state["T"])


@register_strategy(
    name="backward_estimated",
    per_class_memory=True,
    paper="Patrini et al. 2017",
    properties=(),
    disabled_form="backward_estimated(first=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class BackwardEstimated(TwoStages):
    """Backward correction with an estimated T: as forward_estimated, then the cost of a label is
    its row of T^-1 times all costs.

    The cost can be negative, and has no lower bound if the loss has no upper one, as CE: such a run
    may diverge.
    """

    first: Share = 0.25

    def prepared(self, T: np.ndarray) -> np.ndarray:
        if np.linalg.cond(T) > _WORST_CONDITION:
            raise RunFailed("backward_estimated: the estimated T has no usable inverse")
        return np.linalg.inv(T)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if not self.state["known"]:
            return super().supervise(batch, outputs)
        return [Supervision(self.state["T"][batch.labels].to(outputs[0][0].cost.dtype))]


_LEAST = 1e-12  # smallest entry of a T to be revised, which needs log T and 1 / T_yy


def with_unit_diagonal(w: Tensor) -> Tensor:
    """Returns T (K, K) from free parameters w (K, K): rows with 1 on the diagonal and sigmoid(w)
    elsewhere, divided by their sums. T_ii is the largest entry of its row.
    """
    rows = w.sigmoid().diagonal_scatter(w.new_ones(len(w)))
    return rows / rows.sum(1, keepdim=True)


def log_volume(T: Tensor) -> Tensor:
    """Returns log |det T|, the log of the volume spanned by the rows of T (K, K)."""
    return T.slogdet().logabsdet


@register_strategy(name="volminnet", paper="Li et al. 2021", cost=ComputeCost(1, 1))
@dataclass
class VolMinNet(Strategy):
    """VolMinNet: forward correction with a T (K, K) learned jointly with the network, whose volume
    is minimized by lam log |det T| in the cost.

    T is computed from free parameters w (K, K): rows of 1 on the diagonal and sigmoid(w) off it,
    divided by their sums. init: the initial value of w. lr: of w, with the recipe's schedule and
    without weight decay; by default the recipe's learning rate, as in the paper on CIFAR-10 (SGD,
    0.01 for both). The authors use Adam for w on MNIST and CIFAR-100, here it is SGD. They keep the
    best epoch by noisy validation, here it is the last.
    """

    lam: Annotated[float, Interval("[0, 1]")] = 1e-4
    init: Annotated[float, Interval("[-20, 20]")] = -2
    lr: Annotated[float | None, Interval("[0, 100]")] = None

    def setup(self, info: TrainingInfo) -> None:
        shape = (info.num_classes, info.num_classes)
        self.state["w"] = info.labels.double().new_full(shape, self.init).requires_grad_()

    def parameter_groups(self) -> list[dict[str, Any]]:
        lr = {} if self.lr is None else {"lr": self.lr}
        return [{"params": [self.state["w"]], "weight_decay": 0.0, **lr}]

    def transform_log_p(self, log_p: Tensor, batch: Batch, network: int) -> Tensor:
        return through(log_p, with_unit_diagonal(self.state["w"]))

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        return self.lam * log_volume(with_unit_diagonal(self.state["w"])).to(
            outputs[0][0].cost.dtype
        )


def revised(T: Tensor, slack: Tensor) -> Tensor:
    """Returns softmax(log T + slack) by rows (K, K): always probabilities, and T itself for slack
    0.
    """
    return (T.log() + slack).softmax(1)


def importance(log_p: Tensor, labels: Tensor, T: Tensor) -> Tensor:
    """Returns p_y / (p T)_y (B,), the probability of the labels (B,) as clean labels over that as
    noisy labels. Only T gets a gradient.

    Clamped to at most K, which no T exceeds whose diagonal entries are the largest of their rows;
    without it a class that T no longer predicts would get all the weight.
    """
    log_p = log_p.detach()
    ratio = (log_p - through(log_p, T)).gather(1, labels[:, None])[:, 0].exp()
    return ratio.clamp_max(log_p.shape[1])


@register_strategy(
    name="forward_revision",
    per_class_memory=True,
    paper="Xia et al. 2019",
    disabled_form="forward_revision(first=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class ForwardRevision(TwoStages):
    """T-Revision: T is estimated from anchor points, used to train the network, and then revised
    together with it.

    The estimate is made after `first` of the run, the network trains with it for `second`, and the
    rest revises T. kind: `forward`, forward correction (Forward-R); `reweight`, the cost of a label
    is multiplied by p_y / (p T)_y, at most K (Reweight-R), whose gradient reaches T in the revision
    and never the network (in the authors' code first both, later neither). The paper: 20 + 200 +
    200 epochs; CIFAR-100 15 for the first, MNIST 100 for the second. As in the authors' code the
    network is kept from stage to stage, and the learning rate schedule restarts after the first.

    Differences: the paper's T + delta is softmax(log T + slack) by rows here: its rows are always
    probabilities, and its gradient is bounded, where delta's grows as 1 / T_ij, which the authors'
    Adam at lr 5e-7 compensates. lr: of the slack, with SGD, the recipe's schedule and no weight
    decay. On digits, 0.01 brings T nearer to the true one; from 0.1 on, T moves towards the
    identity as the network memorizes. The authors keep each stage's best epoch by noisy validation
    and use a learning rate of 5e-7 for the network in the revision; here the last epoch is kept.
    """

    keeps_network = True
    kind: Annotated[str, OneOf(("forward", "reweight"))] = "forward"
    first: Share = 0.048
    second: Share = 0.4762
    lr: Annotated[float, Interval("[0, 100]")] = 0.01

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        self._revised_after = self._until + whole_epochs(self.second, info.epochs)
        self.state["slack"] = self.state["T"].new_zeros(self.state["T"].shape).requires_grad_()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.state["slack"]], "weight_decay": 0.0, "lr": self.lr}]

    def prepared(self, T: np.ndarray) -> np.ndarray:
        floored: np.ndarray = np.maximum(T, _LEAST)
        return floored / floored.sum(1, keepdims=True)

    def transition(self, epoch: int) -> Tensor:
        """Returns T (K, K) in an epoch; in the revision stage a function of the slack."""
        T: Tensor = self.state["T"]
        return revised(T, self.state["slack"]) if epoch > self._revised_after else T

    def transform_log_p(self, log_p: Tensor, batch: Batch, network: int) -> Tensor:
        if self.kind == "reweight" or not self.state["known"]:
            return log_p
        return through(log_p, self.transition(batch.epoch))

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if self.kind == "forward" or not self.state["known"]:
            return super().supervise(batch, outputs)
        weights = importance(outputs[0][0].log_p, batch.labels, self.transition(batch.epoch))
        return [Supervision(batch.targets, weights, mean_over=True)]


def determinant_loss(log_p: Tensor, targets: Tensor, delta: float) -> Tensor:
    """Returns -log |det K U| (scalar), with U = P^T Y / B (K, K) the joint distribution of log_p
    (B, K) and targets (B, K); delta keeps it finite.

    Computed in float64 as -1/2 log det(K^2 U U^T + delta^2 I), which is -1/2 sum log(s^2 +
    delta^2) over the singular values s of K U.
    """
    p = log_p.double().exp()
    joint = p.T @ targets.double() * (p.shape[1] / len(p))
    gram = joint @ joint.T
    gram = gram.diagonal_scatter(gram.diagonal() + delta**2)
    return (-gram.slogdet().logabsdet / 2).to(log_p.dtype)


@register_strategy(
    name="dmi", paper="Xu et al. 2019", disabled_form="dmi(warmup=1)", cost=ComputeCost(1, 1)
)
@dataclass
class DMI(Strategy):
    """L_DMI: after a warm-up with the run's loss, -log |det U| of each batch's joint distribution U
    of prediction and given label.

    Class-conditional noise T only shifts it, by -log |det T|, so the best network is that of clean
    labels. It is invariant to permutations of the classes, which the warm-up resolves. The authors
    start from CE's best network by noisy validation and keep DMI's best; here both are the last.
    The paper: 120 + 100 epochs on CIFAR-10, 10 + 10 on Clothing1M.

    weight: a factor of the loss. It replaces a separate learning rate, the authors' 1e-6 after CE's
    1e-3: the recipe's is too large for the gradients of this loss, and with weight 1 classes are
    swapped (on digits).

    delta: keeps the loss finite, by -1/2 sum log(s^2 + delta^2) over the singular values s of K U,
    which are 1 for confident, correct predictions of balanced classes. A class without an example
    in the batch has s = 0, as have all beyond the batch's size: their cost is constant, without
    gradient. At 0.01 the shift is exact to a thousandth for each s of 0.2, and the gradient in s is
    at most 50. The authors add 0.001 to |det|; with many classes |det| is far below that, and the
    gradient vanishes, or, for a U not divided by B, the term has no effect.
    """

    packable = True
    warmup: Share = 0.5455
    weight: Annotated[float, Interval("[0, 100]")] = 0.01
    delta: Annotated[float, Interval("(0, 1]")] = 0.01

    def setup(self, info: TrainingInfo) -> None:
        self._warm = first_epochs(self.warmup, info.epochs)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= self._warm:
            return super().supervise(batch, outputs)
        return [
            Supervision(
                batch.targets, outputs[0][0].cost.new_zeros(len(batch.labels)), mean_over=True
            )
        ]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        if batch.epoch <= self._warm:
            return None
        log_p = outputs[0][0].log_p
        return self.weight * determinant_loss(log_p, one_hot(batch.labels, log_p), self.delta)
