"""MentorNet's learned mentor, as functions of a dict of tensors: a small network that says by an
example's costs if its label is right.

Examples weighted by their cost: MentorNet, its curricula in closed form and the mentor that learns
its own from verified labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple, TypeAlias

from ..core.expressions import Value
from ..core.parameters import Interval, OneOf, Share
from ..errors import LanguageError
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
from .verified import verified

Mentor: TypeAlias = dict[str, Tensor]

_COSTS, _PERCENTS = 4, 100
_LABEL, _EPOCH, _HIDDEN = 2, 5, 20  # the paper's sizes
_STEPS, _LR, _DECAY = 300, 0.02, 1e-3
_LEAST = 1e-6  # of a chance: no class is never mistaken for another
_SCALES = ("centre", "scale")  # measured, not learned


class Seen(NamedTuple):
    """What a mentor is told: costs (B, 4), now and when last seen, each as it is and less the
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

    told = _COSTS + _LABEL + _EPOCH
    return {
        "label": drawn(num_classes, _LABEL),
        "epoch": drawn(_PERCENTS, _EPOCH),
        "hidden": drawn(told, _HIDDEN) / told**0.5,
        "hidden_bias": zeros(_HIDDEN),
        "out": drawn(_HIDDEN, 1) / _HIDDEN**0.5,
        "out_bias": zeros(1),
        "centre": zeros(_COSTS),
        "scale": ones(_COSTS),
    }


def judged(mentor: Mentor, seen: Seen) -> Tensor:
    """The logit (B,) that a label is right."""
    from torch import cat

    # its gradient is the same bits each time, which that of indexing need not be
    from torch.nn.functional import embedding

    costs = (seen.costs - mentor["centre"]) / mentor["scale"]
    told = cat(
        [costs, embedding(seen.labels, mentor["label"]), embedding(seen.percent, mentor["epoch"])],
        1,
    )
    hidden = (told @ mentor["hidden"] + mentor["hidden_bias"]).tanh()
    return (hidden @ mentor["out"] + mentor["out_bias"])[:, 0]


def taught(mentor: Mentor, seen: Seen, right: Tensor) -> Mentor:
    """The mentor after a lesson: which labels are right (B,), by cross entropy, in steps of Adam on
    all at once.
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
    """The labels (N,) with wrong ones in these places, drawn in proportion to what their class is
    mistaken for: mistaken (K, K).
    """
    chances = mistaken.detach().cpu().clamp_min(_LEAST).fill_diagonal_(0)[labels[places].cpu()]
    found = labels.clone()
    if len(places):
        found[places] = chances.multinomial(1, generator=generator)[:, 0].to(labels.device)
    return found


# the paper's, as is the last lesson
_BURN_IN = {"self_paced": 0.18, "predefined": 0.18, "data_driven": 0.21}
_LAST_LESSON = 0.75


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
    """MentorNet: an example weighs what a mentor makes of its cost; after a burn-in, in which all
    count alike.

    kind: `self_paced`, weight 1 up to the threshold and 0 beyond; `predefined`, beyond it falling
    linearly, to 0 at (1 + width) times the threshold, width 1; `data_driven`, the chance that the
    label is right, by a small network that learns it from verified labels. percentile: of a batch's
    costs, whose moving average over the steps (decay) is the threshold. burn_in: a share of the
    run, 0.18; data-driven 0.21, the mentor's first lesson, its last is at 0.75.

    Data-driven, half of the verified labels are replaced by wrong ones until the last lesson:
    without them there are none to learn from, and the student has to be as used to these as to
    others. They are drawn from the other classes alike, and from the middle of the burn-in on as
    the student mistakes the verified; then all verified labels are right again and weigh 1. The
    paper's small set holds wrong labels already, and its mentor a bidirectional LSTM over two steps
    of costs; here both go straight into the hidden layer of 20.
    """

    packable = True
    kind: Annotated[str, OneOf(("self_paced", "predefined", "data_driven"))] = "self_paced"
    percentile: Share = 0.75
    decay: Annotated[float, Interval("[0, 1)")] = 0.9
    burn_in: Annotated[float | None, Interval("[0, 1]")] = None
    width: Annotated[float | None, Interval("(0, 100]")] = None

    def setup(self, info: TrainingInfo) -> None:
        assert self.burn_in is not None, "the language writes burn_in out"
        self._burned_in = whole_epochs(self.burn_in, info.epochs)
        self.state["threshold"] = info.full((), float("nan"))
        self._curriculum = _CURRICULA[self.kind](self, info)

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        return self._curriculum.prepare(batch)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        cost, threshold = given_label_cost(outputs[0][0], batch), self.state["threshold"]
        now = cost.quantile(self.percentile)
        threshold.copy_(
            now.where(threshold.isnan(), self.decay * threshold + (1 - self.decay) * now)
        )
        weights = self._curriculum.weigh(batch, outputs[0][0], cost)
        return [
            Supervision(
                batch.targets, weights if batch.epoch > self._burned_in else None, mean_over=True
            )
        ]

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        self._curriculum.between(epoch)


class Curriculum:
    """What of MentorNet differs by kind. It keeps what it remembers in the strategy's state."""

    def __init__(self, strategy: MentorNet, info: TrainingInfo) -> None:
        self._state, self._width = strategy.state, strategy.width

    def prepare(self, batch: Batch) -> Batch:
        """The batch as the student learns it."""
        return batch

    def weigh(self, batch: Batch, output: ModelOutput, cost: Tensor) -> Tensor | None:
        """The weight (B,) of each example, its cost (B,) given; None where all count alike."""
        raise NotImplementedError

    def between(self, epoch: int) -> None:
        """After an epoch (counted from 1)."""


class SelfPaced(Curriculum):
    """Weight 1 up to the threshold, 0 beyond."""

    def weigh(self, batch: Batch, output: ModelOutput, cost: Tensor) -> Tensor | None:
        return (cost <= self._state["threshold"]).to(cost.dtype)


class Predefined(Curriculum):
    """Weight 1 up to the threshold, beyond it falling linearly."""

    def weigh(self, batch: Batch, output: ModelOutput, cost: Tensor) -> Tensor | None:
        assert self._width is not None, "the language writes width out"
        threshold = self._state["threshold"]
        beyond = (cost - threshold) / (self._width * threshold.abs()).clamp_min(1e-12)
        return (1 - beyond).clamp(0, 1)


class DataDriven(Curriculum):
    """The chance that a label is right, by a mentor that is taught twice, by verified labels of
    which half are wrong until then.

    State: `labels` (N,), as the student learns them; `seen` (N, 2), each example's last cost, and
    that less the threshold of its time; `history` (epochs, M, 2), the same of the M verified;
    `mistaken` (K, K), what the student takes their classes for; `mentor`; `taught`, the epoch of
    its last lesson.
    """

    def __init__(self, strategy: MentorNet, info: TrainingInfo) -> None:
        super().__init__(strategy, info)
        self._labels, self._classes, self._epochs = info.labels, info.num_classes, info.epochs
        self._generator = info.generator
        self._first = max(1, whole_epochs(strategy.burn_in or 0, info.epochs))
        self._last = max(self._first, min(whole_epochs(_LAST_LESSON, info.epochs), info.epochs - 1))
        self._trusted = (
            info.labels < 0
            if strategy.burn_in == 1
            else verified("mentornet(kind='data_driven')", info)
        )
        self._state.update(self._beginning())

    def _beginning(self) -> dict[str, Any]:
        """The state before the first step. A mentor that would learn only at the end of the run
        changes no label.
        """
        from torch import float32, randperm

        places = self._trusted.nonzero()[:, 0]
        half = len(places) // 2 if self._first < self._epochs else 0
        chosen = places[randperm(len(places), generator=self._generator)[:half].to(places.device)]
        numbers = self._labels.new_zeros(len(self._labels), dtype=float32)
        alike = numbers.new_ones(self._classes, self._classes)
        mentor = new_mentor(self._classes, self._generator)
        return {
            "labels": planted(self._labels, chosen, alike, self._generator),
            "seen": numbers.new_full((len(numbers), 2), float("nan")),
            "history": numbers.new_zeros(self._last, len(places), 2),
            "mistaken": numbers.new_zeros(self._classes, self._classes),
            "mentor": {key: value.to(numbers.device) for key, value in mentor.items()},
            "taught": 0,
        }

    def prepare(self, batch: Batch) -> Batch:
        labels = self._state["labels"][batch.index]
        return replace(batch, labels=labels, targets=labels)

    def weigh(self, batch: Batch, output: ModelOutput, cost: Tensor) -> Tensor | None:
        from torch import stack

        trusted, seen = self._trusted[batch.index], self._state["seen"]
        if batch.epoch == self._first // 2:
            p = output.log_p.detach().exp()
            self._state["mistaken"] += one_hot(self._labels[batch.index], p).T @ (
                p * trusted[:, None]
            )
        now, before = stack([cost, cost - self._state["threshold"]], 1), seen[batch.index]
        seen[batch.index] = now
        if not self._state["taught"]:
            return None
        # An epoch after the last lesson is taken for that of the lesson: the mentor has learned of
        # none later (as in the authors' code).
        told = self._told(now, before, batch.labels, min(batch.epoch, self._state["taught"]))
        weights = judged(self._state["mentor"], told).sigmoid()
        return weights.masked_fill(trusted, 1) if self._state["taught"] == self._last else weights

    def _told(self, now: Tensor, before: Tensor, labels: Tensor, epoch: int) -> Seen:
        """What the mentor is told of these examples in an epoch."""
        from torch import cat

        percent = labels.new_full(labels.shape, 100 * (epoch - 1) // self._epochs)
        return Seen(cat([now, now.where(before.isnan(), before)], 1), labels, percent)

    def between(self, epoch: int) -> None:
        if epoch <= self._last < self._epochs:
            self._state["history"][epoch - 1] = self._state["seen"][self._trusted]
            if epoch == self._first // 2:
                self._plant_anew()
            if epoch in (self._first, self._last):
                self._teach(epoch)

    def _plant_anew(self) -> None:
        """The wrong labels that the student would most likely find: those of the others were not
        drawn from all classes alike either.
        """
        chosen = (self._state["labels"] != self._labels).nonzero()[:, 0]
        self._state["labels"].copy_(
            planted(self._labels, chosen, self._state["mistaken"], self._generator)
        )

    def _teach(self, epoch: int) -> None:
        """A lesson on all epochs so far; after the last one the verified labels are right again."""
        from torch import cat

        history, labels = self._state["history"][:epoch], self._state["labels"][self._trusted]
        pairs = zip(history, [history[0], *history[:-1]], strict=True)
        epochs = [
            self._told(now, before, labels, done) for done, (now, before) in enumerate(pairs, 1)
        ]
        right = (labels == self._labels[self._trusted]).repeat(epoch)
        # an example may stand in a last batch that is left out
        looked_at = history[..., 0].flatten().isfinite()
        seen = Seen(*(cat(parts)[looked_at] for parts in zip(*epochs, strict=True)))
        self._state["mentor"], self._state["taught"] = (
            taught(self._state["mentor"], seen, right[looked_at]),
            epoch,
        )
        if epoch == self._last:
            self._state["labels"].copy_(self._labels)


_CURRICULA: dict[str, type[Curriculum]] = {
    "self_paced": SelfPaced,
    "predefined": Predefined,
    "data_driven": DataDriven,
}
