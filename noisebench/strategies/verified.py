"""Strategies that use verified labels (`corrupt --trusted 0.1`): CleanNet, distillation, and
MentorNet, whose mentor can also be a closed form of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, TypeAlias

from ..core.expressions import Value
from ..core.parameters import Interval, OneOf, Share
from ..errors import ConfigError, LanguageError
from .base import (
    Batch,
    ComputeCost,
    FullTrainingSet,
    Generator,
    ModelOutput,
    Networks,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    given_label_cost,
    one_hot,
    register_strategy,
    whole_epochs,
)


def verified(name: str, info: TrainingInfo) -> Tensor:
    """Returns the mask (N,) of verified examples. Raises ConfigError if there are none."""
    if info.trusted is None:
        raise ConfigError(
            f"{name} needs verified labels, and these data have none: noisebench "
            "corrupt ... --trusted 0.1"
        )
    return info.trusted


def cosine_to_prototypes(
    features: Tensor, labels: Tensor, trusted: Tensor, num_classes: int
) -> Tensor:
    """Returns the cosine similarity (N,) of the features (N, D) of each example to the prototype of
    its label's class, the mean direction of the trusted examples of that class.
    """
    directions = features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    sums = directions.new_zeros(num_classes, features.shape[1]).index_add_(
        0, labels[trusted], directions[trusted]
    )
    prototypes = sums / sums.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (directions * prototypes[labels]).sum(1)


@register_strategy(
    name="cleannet",
    per_class_memory=True,
    version=2,
    paper="Lee et al. 2018",
    disabled_form="cleannet(wait=1)",
    cost=ComputeCost(2, 1, full_set=1),
)
@dataclass
class CleanNet(Strategy):
    """CleanNet's weights: an example is weighted by the cosine similarity of its features to the
    verified examples of its given class.

    After `wait` of the run every example has weight max(0, cosine with the class's prototype, less
    `threshold`), scaled to 1 at cosine 1; verified examples have weight 1. The prototypes are mean
    directions of this network's own features; the paper learns an embedding for them.
    """

    packable = True
    threshold: Annotated[float, Interval("[-1, 1)")] = 0.1
    wait: Share = 0.1

    def setup(self, info: TrainingInfo) -> None:
        if self.wait == 1:
            self._trusted = info.labels < 0
        else:
            self._trusted = verified("cleannet", info)
        super().setup(info)
        self.state["weights"] = info.full((len(info.labels),), 1)
        self.state["weighing"] = False

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if not self.state["weighing"]:
            return super().supervise(batch, outputs)
        return [Supervision(batch.targets, self.state["weights"][batch.index], mean_over=True)]

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        # 0.07 * 100 is above 7 in floating point
        if epoch < self.wait * self.info.epochs - 1e-9 or self.wait == 1:
            return
        labels, K = self.info.labels, self.info.num_classes
        cosine = cosine_to_prototypes(whole.features(), labels, self._trusted, K)
        weights = ((cosine - self.threshold) / (1 - self.threshold)).clamp(0, 1)
        self.state["weights"].copy_(weights.masked_fill(self._trusted, 1.0))
        self.state["weighing"] = True


@register_strategy(
    name="distill", per_class_memory=True, paper="Li et al. 2017", cost=ComputeCost(1, 1)
)
@dataclass
class Distill(Strategy):
    """Distillation: a teacher trains on the verified labels only, then a new network on a mixture
    of the labels and the teacher's predictions.

    Targets are share y + (1 - share) p, with p the teacher's probabilities at this temperature;
    verified examples keep y. first: the share of the run for the teacher.
    """

    restarts = True
    share: Share = 0.5
    first: Share = 0.3
    temperature: Annotated[float, Interval("(0, 100]")] = 1.0

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        self._trusted = verified("distill", info)
        # the teacher's last epoch
        self._until = max(1, round(self.first * info.epochs))
        self.state["targets"] = info.given_targets()

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= self._until:
            weights = self._trusted[batch.index].to(outputs[0][0].cost.dtype)
            return [Supervision(batch.targets, weights, mean_over=True)]
        return [Supervision(self.state["targets"][batch.index])]

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        if epoch != self._until or epoch == self.info.epochs:
            return
        teacher_p = (whole.log_p() / self.temperature).softmax(1)
        given = self.state["targets"]
        mixed = self.share * given + (1 - self.share) * teacher_p
        self.state["targets"].copy_(mixed.where(~self._trusted[:, None], given))
        whole.restart()


Mentor: TypeAlias = dict[str, Tensor]

_COSTS, _PERCENTS = 4, 100
_LABEL, _EPOCH, _HIDDEN = 2, 5, 20  # the paper's sizes
_STEPS, _LR, _DECAY = 300, 0.02, 1e-3
_LEAST = 1e-6  # smallest probability of an incorrect class
_SCALES = ("centre", "scale")  # computed from the costs, not learned
# the paper's shares of the run, as is the time of the last fit
_BURN_IN = {"self_paced": 0.18, "predefined": 0.18, "data_driven": 0.21}
_LAST_FIT = 0.75


class Seen(NamedTuple):
    """Input of a mentor: costs (B, 4), the current and the previous cost, each also minus the
    threshold of its step; labels (B,); and the percentage of the run (B,), 0 to 99.
    """

    costs: Tensor
    labels: Tensor
    percent: Tensor


def new_mentor(num_classes: int, generator: Generator) -> Mentor:
    """Returns the initial parameters of a mentor, on the generator's device."""
    from torch import ones, randn, zeros

    def normal(rows: int, columns: int) -> Tensor:
        return randn(rows, columns, generator=generator, device=generator.device)

    inputs = _COSTS + _LABEL + _EPOCH
    return {
        "label": normal(num_classes, _LABEL),
        "epoch": normal(_PERCENTS, _EPOCH),
        "hidden": normal(inputs, _HIDDEN) / inputs**0.5,
        "hidden_bias": zeros(_HIDDEN),
        "out": normal(_HIDDEN, 1) / _HIDDEN**0.5,
        "out_bias": zeros(1),
        "centre": zeros(_COSTS),
        "scale": ones(_COSTS),
    }


def mentor_logits(mentor: Mentor, seen: Seen) -> Tensor:
    """Returns the logits (B,) of the probability that a label is correct."""
    from torch import cat

    # its gradient is deterministic; that of indexing need not be
    from torch.nn.functional import embedding

    costs = (seen.costs - mentor["centre"]) / mentor["scale"]
    inputs = cat(
        [costs, embedding(seen.labels, mentor["label"]), embedding(seen.percent, mentor["epoch"])],
        1,
    )
    hidden = (inputs @ mentor["hidden"] + mentor["hidden_bias"]).tanh()
    return (hidden @ mentor["out"] + mentor["out_bias"])[:, 0]


def fit_mentor(mentor: Mentor, seen: Seen, correct: Tensor) -> Mentor:
    """Returns the mentor trained to predict which labels are correct (B,), by cross entropy and
    full-batch steps of Adam.
    """
    from torch import enable_grad
    from torch.nn.functional import binary_cross_entropy_with_logits
    from torch.optim import Adam

    measured = {
        "centre": seen.costs.mean(0),
        "scale": seen.costs.std(0, correction=0).clamp_min(1e-6),
    }
    learned = {
        key: value.clone().requires_grad_() for key, value in mentor.items() if key not in _SCALES
    }
    optimizer = Adam(learned.values(), lr=_LR, weight_decay=_DECAY)
    with enable_grad():
        for _ in range(_STEPS):
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(
                mentor_logits({**learned, **measured}, seen), correct.to(seen.costs.dtype)
            ).backward()
            optimizer.step()
    return {**{key: value.detach() for key, value in learned.items()}, **measured}


def with_incorrect_labels(
    labels: Tensor, index: Tensor, mistaken: Tensor, generator: Generator
) -> Tensor:
    """Returns the labels (N,) with incorrect ones at index (n,), sampled in proportion to the row
    of the label's class in mistaken (K, K).
    """
    chances = mistaken.detach().cpu().clamp_min(_LEAST).fill_diagonal_(0)[labels[index].cpu()]
    noisy = labels.clone()
    if len(index):
        noisy[index] = chances.multinomial(1, generator=generator)[:, 0].to(labels.device)
    return noisy


def _complete(values: dict[str, Value]) -> dict[str, Value]:
    kind, width = str(values["kind"]), values["width"]
    if width is not None and kind != "predefined":
        raise LanguageError(f"mentornet: width needs kind='predefined', got {kind!r}: remove width")
    burn_in = _BURN_IN[kind] if values["burn_in"] is None else values["burn_in"]
    return {
        **values,
        "burn_in": burn_in,
        "width": 1 if width is None and kind == "predefined" else width,
    }


@register_strategy(
    name="mentornet",
    version=2,
    paper="Jiang et al. 2018",
    fill_defaults=_complete,
    disabled_form="mentornet(burn_in=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class MentorNet(Strategy):
    """MentorNet: after a burn-in with equal weights, each example is weighted by a mentor as a
    function of its cost.

    kind: `self_paced`, weight 1 up to the threshold and 0 beyond; `predefined`, beyond it falling
    linearly to 0 at (1 + width) times the threshold, width 1; `data_driven`, the probability that
    the label is correct, predicted by a small network trained on verified labels. percentile: of a
    batch's costs, whose moving average over the steps (decay) is the threshold. burn_in: a share of
    the run, 0.18; for data_driven 0.21, after which the mentor is first trained; it is trained for
    the last time at 0.75.

    With data_driven, half of the verified labels are replaced by incorrect ones until the mentor's
    last training, so that it has examples of both kinds on which the student was trained. They are
    sampled uniformly from the other classes, and from the middle of the burn-in on in proportion to
    the student's confusions on the verified examples. Then all verified labels are restored, with
    weight 1. The paper's small set already contains incorrect labels, and its mentor is a
    bidirectional LSTM over two steps of costs; here both costs are inputs of a hidden layer of 20.
    """

    packable = True
    kind: Annotated[str, OneOf(("self_paced", "predefined", "data_driven"))] = "self_paced"
    percentile: Share = 0.75
    decay: Annotated[float, Interval("[0, 1)")] = 0.9
    burn_in: Annotated[float | None, Interval("[0, 1]")] = None
    width: Annotated[float | None, Interval("(0, 100]")] = None

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        assert self.burn_in is not None, "fill_defaults sets burn_in"
        self._burned_in = whole_epochs(self.burn_in, info.epochs)
        self.state["threshold"] = info.full((), float("nan"))
        if self.kind == "data_driven":
            self._setup_data_driven(info)

    def _setup_data_driven(self, info: TrainingInfo) -> None:
        """Creates the state of a mentor that is trained twice, on verified labels of which half are
        incorrect until then.

        State: `labels` (N,), on which the student is trained; `seen` (N, 2), each example's last
        cost, and that minus the threshold of its step; `history` (epochs, M, 2), the same for the
        M verified examples; `mistaken` (K, K), sums of the student's probabilities for the verified
        examples by true class; `mentor`; `taught`, the epoch in which it was last trained.
        """
        from torch import randperm

        labels, generator, K = info.labels, info.generator, info.num_classes
        self._first = max(1, self._burned_in)
        self._last = max(self._first, min(whole_epochs(_LAST_FIT, info.epochs), info.epochs - 1))
        if self.burn_in == 1:
            self._trusted = labels < 0
        else:
            self._trusted = verified("mentornet(kind='data_driven')", info)
        index = self._trusted.nonzero()[:, 0]
        # a mentor that would be trained only at the end of the run changes no label
        half = len(index) // 2 if self._first < info.epochs else 0
        chosen = index[randperm(len(index), generator=generator)[:half].to(index.device)]
        mentor = new_mentor(K, generator)
        self.state.update(
            labels=with_incorrect_labels(labels, chosen, info.full((K, K), 1), generator),
            seen=info.full((len(labels), 2), float("nan")),
            history=info.full((self._last, len(index), 2), 0),
            mistaken=info.full((K, K), 0),
            mentor={key: value.to(labels.device) for key, value in mentor.items()},
            taught=0,
        )

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        if self.kind != "data_driven":
            return batch
        labels = self.state["labels"][batch.index]
        return replace(batch, labels=labels, targets=labels)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        cost, threshold = given_label_cost(outputs[0][0], batch), self.state["threshold"]
        current = cost.quantile(self.percentile)
        mean = self.decay * threshold + (1 - self.decay) * current
        threshold.copy_(current.where(threshold.isnan(), mean))
        weights: Tensor | None
        if self.kind == "data_driven":
            weights = self._mentor_weights(batch, outputs[0][0], cost)
        elif self.width is None:
            weights = (cost <= threshold).to(cost.dtype)
        else:
            beyond = (cost - threshold) / (self.width * threshold.abs()).clamp_min(1e-12)
            weights = (1 - beyond).clamp(0, 1)
        if batch.epoch <= self._burned_in:
            weights = None
        return [Supervision(batch.targets, weights, mean_over=True)]

    def _mentor_weights(self, batch: Batch, output: ModelOutput, cost: Tensor) -> Tensor | None:
        """Returns the mentor's weights (B,) for examples of this cost (B,); None before it is
        trained. Records the costs, and in one epoch the student's confusions.
        """
        from torch import stack

        trusted, seen = self._trusted[batch.index], self.state["seen"]
        if batch.epoch == self._first // 2:
            p = output.log_p.detach().exp()
            labels = one_hot(self.info.labels[batch.index], p)
            self.state["mistaken"] += labels.T @ (p * trusted[:, None])
        now, before = stack([cost, cost - self.state["threshold"]], 1), seen[batch.index]
        seen[batch.index] = now
        fitted_in = self.state["taught"]
        if not fitted_in:
            return None
        # Epochs after the mentor's last training are passed to it as that epoch, since it was
        # trained on no later ones (as in the authors' code).
        inputs = self._inputs(now, before, batch.labels, min(batch.epoch, fitted_in))
        weights = mentor_logits(self.state["mentor"], inputs).sigmoid()
        return weights.masked_fill(trusted, 1) if fitted_in == self._last else weights

    def _inputs(self, now: Tensor, before: Tensor, labels: Tensor, epoch: int) -> Seen:
        """Returns the mentor's input for these examples in an epoch."""
        from torch import cat

        percent = labels.new_full(labels.shape, 100 * (epoch - 1) // self.info.epochs)
        return Seen(cat([now, now.where(before.isnan(), before)], 1), labels, percent)

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        """Record the costs of the verified examples; resample the incorrect labels or train the
        mentor in the epochs for it.
        """
        if self.kind != "data_driven" or epoch > self._last or self._last >= self.info.epochs:
            return
        self.state["history"][epoch - 1] = self.state["seen"][self._trusted]
        if epoch == self._first // 2:
            # Incorrect labels by the student's confusions, since the noise of the other examples
            # is not uniform over the classes either.
            labels, mistaken = self.state["labels"], self.state["mistaken"]
            chosen = (labels != self.info.labels).nonzero()[:, 0]
            generator = self.info.generator
            labels.copy_(with_incorrect_labels(self.info.labels, chosen, mistaken, generator))
        if epoch in (self._first, self._last):
            self._fit_mentor(epoch)

    def _fit_mentor(self, epoch: int) -> None:
        """Trains the mentor on all epochs so far; the last time also restores the verified
        labels.
        """
        from torch import cat

        history, labels = self.state["history"][:epoch], self.state["labels"][self._trusted]
        pairs = zip(history, [history[0], *history[:-1]], strict=True)
        epochs = [
            self._inputs(now, before, labels, done) for done, (now, before) in enumerate(pairs, 1)
        ]
        correct = (labels == self.info.labels[self._trusted]).repeat(epoch)
        # an example may be in a last, incomplete batch, which is skipped
        recorded = history[..., 0].flatten().isfinite()
        seen = Seen(*(cat(parts)[recorded] for parts in zip(*epochs, strict=True)))
        self.state["mentor"] = fit_mentor(self.state["mentor"], seen, correct[recorded])
        self.state["taught"] = epoch
        if epoch == self._last:
            self.state["labels"].copy_(self.info.labels)
