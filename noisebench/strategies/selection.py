"""Selection of examples by their cost or probability: with two networks in decoupling, co-teaching,
co-teaching+ and JoCoR, with one in curriculum loss and negative learning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from ..core.expressions import AUTO
from ..core.parameters import Interval, Share, WrongShare
from .base import (
    Batch,
    ComputeCost,
    Generator,
    ModelOutput,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    averaged,
    first_epochs,
    given_label_cost,
    linear_ramp,
    register_strategy,
    whole_epochs,
)


def smallest(cost: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """Returns weights (B,) in {0, 1}, 1 for the `count` smallest costs (B,) within the mask
    `among`; of equal costs the first.
    """
    if among is not None:
        cost = cost.masked_fill(~among, math.inf)
    chosen = cost.argsort(stable=True)[:count]
    return cost.new_zeros(cost.shape).scatter_(0, chosen, 1.0)


def forgotten(rate: float, epoch: int, ramp: float, epochs: int, power: float) -> float:
    """Returns the share of examples excluded in an epoch (counted from 1): rate * min(1, (e /
    T_k)^power), with e the finished epochs and T_k = ramp * epochs.
    """
    return rate * linear_ramp(epoch - 1, ramp * epochs) ** power


def disagreement(outputs: Outputs) -> Tensor:
    """Mask (B,) of the examples for which two networks predict different classes."""
    first, second = (views[0].logits.detach().argmax(1) for views in outputs)
    return first != second


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Returns KL(p | q) + KL(q | p) (B,) of two networks' log_p (B, K), computed as sum_k (p_k -
    q_k) (log p_k - log q_k).
    """
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1)


@register_strategy(
    name="coteaching",
    version=2,
    paper="Han et al. 2018",
    disabled_form="coteaching(rate=0)",
    cost=ComputeCost(2, 2),
)
@dataclass
class Coteaching(Strategy):
    """Co-teaching: each of two networks trains on the examples of smallest loss under the other
    network, all but `rate` of a batch.

    rate: the share of incorrect labels; `auto` is its expected value, 1 - sum_k pi_k T_kk, which
    under asymmetric noise is less than the nominal rate. ramp: the share of the run over which the
    excluded share grows from 0, by `power`. The paper: 10 of 200 epochs, power 1.
    """

    num_networks = 2
    rate: WrongShare = AUTO  # type: ignore[assignment]
    ramp: Share = 0.05
    power: Annotated[float, Interval("(0, 10]")] = 1.0

    def kept(self, size: int, epoch: int) -> int:
        """Returns how many of `size` examples are trained on."""
        return int(
            (1 - forgotten(self.rate, epoch, self.ramp, self.info.epochs, self.power)) * size + 1e-9
        )

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        count = self.kept(len(batch.index), batch.epoch)
        return [
            Supervision(batch.targets, smallest(given_label_cost(other[0], batch), count))
            for other in reversed(outputs)
        ]


@register_strategy(
    name="coteaching_plus", version=3, paper="Yu et al. 2019", cost=ComputeCost(2, 2)
)
@dataclass
class CoteachingPlus(Coteaching):
    """Co-teaching+: co-teaching restricted, after a warm-up, to the examples on which the two
    networks disagree.

    warmup: a share of the run; the paper: 20 of 200 epochs on CIFAR-10, 5 on CIFAR-100. The summed
    cost is divided by the batch size, so few examples make a small step and none make no step; the
    authors divide by the number selected.
    """

    warmup: Share = 0.1

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= whole_epochs(self.warmup, self.info.epochs):
            return super().supervise(batch, outputs)
        among = disagreement(outputs)
        count = self.kept(int(among.sum()), batch.epoch)
        return [
            Supervision(
                batch.targets,
                smallest(given_label_cost(other[0], batch), count, among),
                mean_over=True,
            )
            for other in reversed(outputs)
        ]


@register_strategy(
    name="jocor",
    version=2,
    paper="Wei et al. 2020",
    disabled_form="jocor(rate=0, lam=0)",
    cost=ComputeCost(2, 2),
)
@dataclass
class JoCoR(Coteaching):
    """Joint training with co-regularization: both networks train on the examples of smallest joint
    loss, all but `rate` of a batch.

    The joint loss is (1 - lam) (sum of both networks' costs) + lam (KL(p | q) + KL(q | p)),
    averaged over the selected examples. rate: the share of incorrect labels as in co-teaching, and
    as in the paper, which halves the rate of asymmetric noise. ramp as in co-teaching: 10 of 200
    epochs. lam 0.9 on CIFAR-10, 0.65 at a rate of 0.8, 0.85 on CIFAR-100.

    The factor 1 - lam is the paper's, whose optimizer, Adam, is invariant to it. Under SGD it slows
    training, but dividing by it would give the agreement term a weight of lam / (1 - lam), up to 9,
    which diverges at the learning rates of plain training.
    """

    lam: Annotated[float, Interval("[0, 1]")] = 0.9

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        weights = averaged(self._chosen(batch, outputs), 1 - self.lam)
        return [Supervision(batch.targets, weights, mean_over=True) for _ in outputs]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        if not self.lam:
            return None
        apart = divergence(*(views[0].log_p for views in outputs))
        return (averaged(self._chosen(batch, outputs), self.lam) * apart).mean()

    def _chosen(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Weights (B,) in {0, 1}, 1 for the examples of smallest joint loss."""
        first, second = (views[0] for views in outputs)
        apart = divergence(first.log_p.detach(), second.log_p.detach())
        joint = (1 - self.lam) * (
            given_label_cost(first, batch) + given_label_cost(second, batch)
        ) + self.lam * apart
        return smallest(joint, self.kept(len(batch.index), batch.epoch))


@register_strategy(
    name="decoupling",
    version=2,
    paper="Malach & Shalev-Shwartz 2017",
    disabled_form="decoupling(warmup=1)",
    cost=ComputeCost(2, 2),
)
@dataclass
class Decoupling(Strategy):
    """Decoupling: two networks train only on the examples on which they disagree.

    warmup: the share of the run in which both train on all examples. The summed cost is divided by
    the batch size, so few examples make a small step and none make no step.
    """

    num_networks = 2
    warmup: Share = 0.1

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= whole_epochs(self.warmup, self.info.epochs):
            return super().supervise(batch, outputs)
        weights = disagreement(outputs).to(outputs[0][0].cost.dtype)
        return [Supervision(batch.targets, weights, mean_over=True) for _ in outputs]


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the margin (B,), the label's logit minus the largest other logit, of logits (B, K);
    below 0 another class is predicted.
    """
    others = logits.scatter(1, labels[:, None], -float("inf"))
    return logits.gather(1, labels[:, None])[:, 0] - others.max(1).values


def soft_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the paper's base loss (B,): max(0, 1 - margin) if the label is predicted, else 1 +
    CE; an upper bound of the 0-1 loss.
    """
    u = margin(logits, labels)
    cross_entropy = logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]
    return (1 - u).clamp_min(0).where(u >= 0, 1 + cross_entropy)


def cheapest_within(cost: Tensor, threshold: Tensor | float) -> Tensor:
    """Returns the v (B,) in {0, 1} that minimizes max(sum_i v_i cost_i, C - sum_i v_i), with C the
    threshold: examples are added in order of cost as long as the sum of the i smallest costs is at
    most C + 1 - i.
    """
    ordered, places = cost.sort(stable=True)
    rank = cost.new_ones(cost.shape).cumsum(0)
    within = (ordered.cumsum(0) <= threshold + 1 - rank).to(cost.dtype)
    return cost.new_zeros(cost.shape).scatter_(0, places, within)


@register_strategy(
    name="curriculum",
    version=2,
    paper="Lyu & Tsang 2020",
    disabled_form="curriculum(rate=0, burn_in=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class CurriculumLoss(Strategy):
    """Noise pruned curriculum loss (NPCL), min over v of max(sum_i v_i l_i, C - sum_i v_i), v in
    {0, 1}^n, for each batch of n.

    C = (1 - rate)^2 n + (1 - rate) errors, by which the largest l are pruned; at rate 0 it is the
    curriculum loss (CL). burn_in: the share of the run that trains on all examples; the paper: 10
    of 200 epochs on CIFAR, 5 on MNIST. l is the paper's soft hinge loss of the logits, an upper
    bound of the 0-1 loss. The selected examples train with the run's own loss, summed and divided
    by the batch size, also where the other side of the maximum is larger. Implemented from other
    papers' descriptions of the method, which agree.
    """

    packable = True
    rate: WrongShare = AUTO  # type: ignore[assignment]
    burn_in: Share = 0.05

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= first_epochs(self.burn_in, self.info.epochs):
            return super().supervise(batch, outputs)
        logits = outputs[0][0].logits.detach()
        errors = (margin(logits, batch.labels) < 0).sum()
        threshold = (1 - self.rate) ** 2 * len(logits) + (1 - self.rate) * errors
        return [
            Supervision(
                batch.targets,
                cheapest_within(soft_hinge(logits, batch.labels), threshold),
                mean_over=True,
            )
        ]


_NEGATIVE_FLOOR = 1e-5  # the authors clamp 1 - p to it; a clamped probability has no gradient


def other_labels(labels: Tensor, num_classes: int, draws: int, generator: Generator) -> Tensor:
    """Samples complementary labels (B, draws) for each label (B,), uniformly from the other classes
    with replacement.
    """
    from torch import randint

    ahead = randint(1, num_classes, (len(labels), draws), generator=generator).to(labels.device)
    return (labels[:, None] + ahead) % num_classes


def negative_cost(log_p: Tensor, others: Tensor) -> Tensor:
    """Returns - sum_k log(1 - p_k) (B,) over each example's complementary labels (B, draws)."""
    return -(1 - log_p.exp()).clamp_min(_NEGATIVE_FLOOR).log().gather(1, others).sum(1)


@register_strategy(
    name="nlnl",
    paper="Kim et al. 2019",
    disabled_form="nlnl(negative=0, selective=0, cut=0)",
    cost=ComputeCost(1, 1),
)
@dataclass
class NLNL(Strategy):
    """Negative learning on complementary labels, sampled from the classes other than the given one;
    then positive learning on confident examples.

    For `negative` of the run every example costs - log(1 - p) of its complementary labels (NL),
    `draws` of them, summed; for `selective` only those whose label has p above 1 / K (SelNL); then
    the run's own loss is used where p is above `cut` (SelPL). The paper: 720 epochs each; 1 draw,
    on CIFAR-100 110; the authors' learning rate is 0.02, since many draws need a small one.

    Differences: the authors' code uses the mean p of the last ten epochs and weights rare classes
    more; here p is that of the step and all classes have equal weight. The last stage, two times
    480 epochs on pseudo-labels, is left out.
    """

    packable = True
    draws: Annotated[int, Interval("[1, 1000]")] = 1
    negative: Share = 0.3334
    selective: Share = 0.3334
    cut: Share = 0.5

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        self._first = first_epochs(self.negative, info.epochs)
        self._last = self._first + whole_epochs(self.selective, info.epochs)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        # in the negative stages no example is trained on its given label
        least = self.cut if batch.epoch > self._last else 2
        return [Supervision(batch.targets, _sure(batch, outputs[0][0], least))]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        if batch.epoch > self._last:
            return None
        K = self.info.num_classes
        others = other_labels(batch.labels, K, self.draws, batch.generator)
        chosen = _sure(batch, outputs[0][0], 1 / K if batch.epoch > self._first else 0)
        return (averaged(chosen) * negative_cost(outputs[0][0].log_p, others)).mean()


def _sure(batch: Batch, output: ModelOutput, least: float) -> Tensor:
    """Weights (B,) in {0, 1}, 1 where the probability of the given label is at least `least`."""
    log_p = output.log_p.detach().gather(1, batch.labels[:, None])[:, 0]
    return (log_p.exp() >= least).to(log_p.dtype)
