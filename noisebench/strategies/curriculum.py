"""Examples weighted by their cost: MentorNet's curricula that are given in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from ..parameters import Interval, OneOf, Share
from .base import Batch, Belief, Facts, Output, Strategy, register_strategy
from .peers import recorded_cost


@register_strategy(name="mentornet", paper="Jiang et al. 2018", off="mentornet(burn_in=1)", cost="1 forward, 1 backward")
@dataclass
class MentorNet(Strategy):
    """MentorNet with a curriculum in closed form: examples that cost more than most of their like are not learned.

    kind: `self_paced`, weight 1 up to the threshold and 0 beyond; `predefined`, beyond it falling linearly, to 0 at (1 + width) times the
    threshold. percentile: of a batch's costs, whose moving average over the steps (decay) is the threshold. burn_in: the share of the run
    before it, where all count alike. The data-driven mentor needs labels that are known to be right and is not here.
    """

    kind: Annotated[str, OneOf(("self_paced", "predefined"))] = "self_paced"
    percentile: Share = 0.75
    decay: Annotated[float, Interval("[0, 1)")] = 0.9
    burn_in: Share = 0.18
    width: Annotated[float, Interval("(0, 100]")] = 1.0

    def start(self, facts: Facts) -> None:
        from torch import float32

        self._epochs = facts.epochs
        self.state["threshold"] = facts.labels.new_full((), float("nan"), dtype=float32)

    def believe(self, batch: Batch, outputs: Sequence[Sequence[Output]]) -> list[Belief]:
        cost, threshold = recorded_cost(outputs[0][0], batch), self.state["threshold"]
        now = cost.quantile(self.percentile)
        threshold.copy_(now.where(threshold.isnan(), self.decay * threshold + (1 - self.decay) * now))
        if batch.epoch <= self.burn_in * self._epochs:
            return super().believe(batch, outputs)
        if self.kind == "self_paced":
            return [Belief(batch.targets, (cost <= threshold).to(cost.dtype), whole_batch=True)]
        beyond = (cost - threshold) / (self.width * threshold.abs()).clamp_min(1e-12)
        return [Belief(batch.targets, (1 - beyond).clamp(0, 1), whole_batch=True)]
