"""Weights by verified labels (`corrupt --trusted 0.1`): CleanNet and distillation, and MentorNet,
whose mentor may also be a closed form of the cost.
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
    """Which examples (N,) have a verified label. Raises ConfigError where none has."""
    if info.trusted is None:
        raise ConfigError(
            f"{name} needs verified labels, which these data have not: noisebench "
            "corrupt ... --trusted 0.1"
        )
    return info.trusted


def cosine_to_prototypes(
    features: Tensor, labels: Tensor, trusted: Tensor, num_classes: int
) -> Tensor:
    """The cosine (N,) of each example's features (N, D) with the prototype of its label's class:
    the mean direction of the trusted ones.
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
        # 0.07 of 100 is 7, though their product is above it
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
_LEAST = 1e-6  # of a chance: no class is never mistaken for another
_SCALES = ("centre", "scale")  # measured, not learned
# the paper's, as is the last lesson
_BURN_IN = {"self_paced": 0.18, "predefined": 0.18, "data_driven": 0.21}
_LAST_LESSON = 0.75


class Seen(NamedTuple):
    """The input of a mentor: costs (B, 4), now and when last seen, each as it is and less the
    percentile of its time; labels (B,); and the percentage of the run (B,), 0 to 99.
    """

    costs: Tensor
    labels: Tensor
    percent: Tensor


def new_mentor(num_classes: int, generator: Generator) -> Mentor:
    """A mentor that has learned nothing yet, on the generator's device."""
    from torch import ones, randn, zeros

    def drawn(rows: int, columns: int) -> Tensor:
        return randn(rows, columns, generator=generator, device=generator.device)

    inputs = _COSTS + _LABEL + _EPOCH
    return {
        "label": drawn(num_classes, _LABEL),
        "epoch": drawn(_PERCENTS, _EPOCH),
        "hidden": drawn(inputs, _HIDDEN) / inputs**0.5,
        "hidden_bias": zeros(_HIDDEN),
        "out": drawn(_HIDDEN, 1) / _HIDDEN**0.5,
        "out_bias": zeros(1),
        "centre": zeros(_COSTS),
        "scale": ones(_COSTS),
    }


def judged(mentor: Mentor, seen: Seen) -> Tensor:
    """The logit (B,) that a label is correct."""
    from torch import cat

    # its gradient is the same bits each time, which that of indexing need not be
    from torch.nn.functional import embedding

    costs = (seen.costs - mentor["centre"]) / mentor["scale"]
    inputs = cat(
        [costs, embedding(seen.labels, mentor["label"]), embedding(seen.percent, mentor["epoch"])],
        1,
    )
    hidden = (inputs @ mentor["hidden"] + mentor["hidden_bias"]).tanh()
    return (hidden @ mentor["out"] + mentor["out_bias"])[:, 0]


def taught(mentor: Mentor, seen: Seen, right: Tensor) -> Mentor:
    """The mentor after a lesson: which labels are correct (B,), by cross entropy, in steps of Adam
    on all at once.
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
                judged({**learned, **measured}, seen), right.to(seen.costs.dtype)
            ).backward()
            optimizer.step()
    return {**{key: value.detach() for key, value in learned.items()}, **measured}


def planted(labels: Tensor, places: Tensor, mistaken: Tensor, generator: Generator) -> Tensor:
    """The labels (N,) with incorrect ones in these places, drawn in proportion to the row of their
    class in mistaken (K, K).
    """
    chances = mistaken.detach().cpu().clamp_min(_LEAST).fill_diagonal_(0)[labels[places].cpu()]
    noisy = labels.clone()
    if len(places):
        noisy[places] = chances.multinomial(1, generator=generator)[:, 0].to(labels.device)
    return noisy


def _complete(values: dict[str, Value]) -> dict[str, Value]:
    kind, width = str(values["kind"]), values["width"]
    if width is not None and kind != "predefined":
        raise LanguageError(
            f"mentornet: width is of kind='predefined', and this is {kind!r}: leave it out"
        )
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
        assert self.burn_in is not None, "the language fills burn_in in"
        self._burned_in = whole_epochs(self.burn_in, info.epochs)
        self.state["threshold"] = info.full((), float("nan"))
        if self.kind == "data_driven":
            self._setup_lessons(info)

    def _setup_lessons(self, info: TrainingInfo) -> None:
        """A mentor that is taught twice, by verified labels of which half are incorrect until then.

        State: `labels` (N,), as the student learns them; `seen` (N, 2), each example's last cost,
        and that less the threshold of its time; `history` (epochs, M, 2), the same of the M
        verified; `mistaken` (K, K), the student's predictions by their class; `mentor`; `taught`,
        the epoch of its last lesson.
        """
        from torch import randperm

        labels, generator, K = info.labels, info.generator, info.num_classes
        self._first = max(1, self._burned_in)
        self._last = max(self._first, min(whole_epochs(_LAST_LESSON, info.epochs), info.epochs - 1))
        if self.burn_in == 1:
            self._trusted = labels < 0
        else:
            self._trusted = verified("mentornet(kind='data_driven')", info)
        places = self._trusted.nonzero()[:, 0]
        # a mentor that would learn only at the end of the run changes no label
        half = len(places) // 2 if self._first < info.epochs else 0
        chosen = places[randperm(len(places), generator=generator)[:half].to(places.device)]
        mentor = new_mentor(K, generator)
        self.state.update(
            labels=planted(labels, chosen, info.full((K, K), 1), generator),
            seen=info.full((len(labels), 2), float("nan")),
            history=info.full((self._last, len(places), 2), 0),
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
            weights = self._judge(batch, outputs[0][0], cost)
        elif self.width is None:
            weights = (cost <= threshold).to(cost.dtype)
        else:
            beyond = (cost - threshold) / (self.width * threshold.abs()).clamp_min(1e-12)
            weights = (1 - beyond).clamp(0, 1)
        if batch.epoch <= self._burned_in:
            weights = None
        return [Supervision(batch.targets, weights, mean_over=True)]

    def _judge(self, batch: Batch, output: ModelOutput, cost: Tensor) -> Tensor | None:
        """The mentor's weight (B,) of each example of the cost (B,); None where all count alike."""
        from torch import stack

        trusted, seen = self._trusted[batch.index], self.state["seen"]
        if batch.epoch == self._first // 2:
            p = output.log_p.detach().exp()
            labels = one_hot(self.info.labels[batch.index], p)
            self.state["mistaken"] += labels.T @ (p * trusted[:, None])
        now, before = stack([cost, cost - self.state["threshold"]], 1), seen[batch.index]
        seen[batch.index] = now
        taught_in = self.state["taught"]
        if not taught_in:
            return None
        # An epoch after the last lesson is taken for that of the lesson: the mentor has learned of
        # none later (as in the authors' code).
        inputs = self._inputs(now, before, batch.labels, min(batch.epoch, taught_in))
        weights = judged(self.state["mentor"], inputs).sigmoid()
        return weights.masked_fill(trusted, 1) if taught_in == self._last else weights

    def _inputs(self, now: Tensor, before: Tensor, labels: Tensor, epoch: int) -> Seen:
        """The mentor's input for these examples in an epoch."""
        from torch import cat

        percent = labels.new_full(labels.shape, 100 * (epoch - 1) // self.info.epochs)
        return Seen(cat([now, now.where(before.isnan(), before)], 1), labels, percent)

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        """Remember the costs of the verified examples; plant and teach in the epochs for it."""
        if self.kind != "data_driven" or epoch > self._last or self._last >= self.info.epochs:
            return
        self.state["history"][epoch - 1] = self.state["seen"][self._trusted]
        if epoch == self._first // 2:
            # The incorrect labels that the student would most likely predict: those of the other
            # examples were not drawn from all classes alike either.
            labels, mistaken = self.state["labels"], self.state["mistaken"]
            chosen = (labels != self.info.labels).nonzero()[:, 0]
            labels.copy_(planted(self.info.labels, chosen, mistaken, self.info.generator))
        if epoch in (self._first, self._last):
            self._teach(epoch)

    def _teach(self, epoch: int) -> None:
        """A lesson on all epochs so far; after the last one the verified labels are correct
        again.
        """
        from torch import cat

        history, labels = self.state["history"][:epoch], self.state["labels"][self._trusted]
        pairs = zip(history, [history[0], *history[:-1]], strict=True)
        epochs = [
            self._inputs(now, before, labels, done) for done, (now, before) in enumerate(pairs, 1)
        ]
        correct = (labels == self.info.labels[self._trusted]).repeat(epoch)
        # an example may stand in a last batch that is left out
        looked_at = history[..., 0].flatten().isfinite()
        seen = Seen(*(cat(parts)[looked_at] for parts in zip(*epochs, strict=True)))
        self.state["mentor"] = taught(self.state["mentor"], seen, correct[looked_at])
        self.state["taught"] = epoch
        if epoch == self._last:
            self.state["labels"].copy_(self.info.labels)
