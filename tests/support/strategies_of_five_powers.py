"""Five small strategies, one for each power of the interface. A plugin file like anyone's: it
registers what it has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from noisebench.strategies import Strategy, Supervision, register_strategy


@register_strategy(name="test_mixing", disabled_form="test_mixing(share=0)")
@dataclass
class Mixing(Strategy):
    """(a) Every image mixed with another of its batch, and so are the targets."""

    packable = True
    share: float = 0.3

    def prepare_batch(self, batch, networks):
        import torch

        order = torch.randperm(len(batch.index), generator=batch.generator)
        one_hot = torch.eye(self.num_classes, device=batch.labels.device)[batch.labels]
        mixed = [view + self.share * (view[order] - view) for view in batch.views]
        return replace(
            batch, views=tuple(mixed), targets=one_hot + self.share * (one_hot[order] - one_hot)
        )

    def setup(self, facts):
        self.num_classes = facts.num_classes


@register_strategy(name="test_learned_transition")
@dataclass
class LearnedTransition(Strategy):
    """(b) log_p of the recorded label through a T that is learned by the same optimiser, from the
    identity on.
    """

    lr: float = 0.1

    def setup(self, facts):
        import torch

        self.state["logits_T"] = (
            4 * torch.eye(facts.num_classes, device=facts.labels.device)
        ).requires_grad_()

    def parameter_groups(self):
        return [{"params": [self.state["logits_T"]], "lr": self.lr, "weight_decay": 0.0}]

    def transform_log_p(self, log_p, batch, network):
        return (log_p.unsqueeze(2) + self.state["logits_T"].log_softmax(1)).logsumexp(1)


@register_strategy(name="test_agreement")
@dataclass
class Agreement(Strategy):
    """(c) and (d) Two networks on two views; each believes the label where the other finds it
    cheap; they shall agree.
    """

    num_networks: ClassVar[int] = 2
    num_views: ClassVar[int] = 2
    keep: float = 0.8
    weight: float = 0.5

    def supervise(self, batch, outputs):
        count = max(1, int(self.keep * len(batch.index)))
        beliefs = []
        for other in reversed(range(2)):
            cost = outputs[other][0].cost.detach().gather(1, batch.labels[:, None])[:, 0]
            cheap = cost.argsort(stable=True)[:count]
            beliefs.append(
                Supervision(batch.targets, cost.new_zeros(len(cost)).scatter_(0, cheap, 1.0))
            )
        return beliefs

    def regularizer(self, batch, outputs):
        p, q = outputs[0][1].log_p, outputs[1][1].log_p
        return self.weight * ((p.exp() - q.exp()) * (p - q)).sum(1).mean()


@register_strategy(name="test_memory")
@dataclass
class Memory(Strategy):
    """(d) with a state per example: early-learning regularisation against a running mean of the
    predictions.
    """

    packable = True
    weight: float = 1.0
    momentum: float = 0.7

    def setup(self, facts):
        import torch

        self.state["mean"] = torch.zeros(
            len(facts.labels), facts.num_classes, device=facts.labels.device
        )

    def regularizer(self, batch, outputs):
        p = outputs[0][0].log_p.exp()
        mean = self.momentum * self.state["mean"][batch.index] + (1 - self.momentum) * p.detach()
        self.state["mean"][batch.index] = mean
        return self.weight * (1 - (mean * p).sum(1)).clamp_min(1e-4).log().mean()


@register_strategy(name="test_refit")
@dataclass
class Refit(Strategy):
    """(e) After every epoch the labels are replaced by the whole set's own predictions, the least
    certain are not trusted.
    """

    packable = True
    share: float = 0.02

    def setup(self, facts):
        import torch

        self.state["targets"] = torch.eye(facts.num_classes, device=facts.labels.device)[
            facts.labels
        ]
        self.state["weights"] = torch.ones(len(facts.labels), device=facts.labels.device)

    def supervise(self, batch, outputs):
        return [Supervision(self.state["targets"][batch.index], self.state["weights"][batch.index])]

    def on_epoch_end(self, epoch, whole):
        p: Any = whole.log_p().exp()
        self.state["targets"] = (1 - self.share) * self.state["targets"] + self.share * p
        certainty = p.max(1).values
        self.state["weights"] = (certainty >= certainty.quantile(0.1)).float()
        self.state["feature_norm"] = float(whole.features().norm(dim=1).mean())


@register_strategy(name="test_stacking", disabled_form="test_stacking(copies=1)")
@dataclass
class Stacking(Strategy):
    """(a) once more: every example several times in a batch."""

    copies: int = 2

    def prepare_batch(self, batch, networks):
        import torch

        rows = {
            name: torch.cat([getattr(batch, name)] * self.copies)
            for name in ("labels", "index", "targets")
        }
        return replace(batch, views=(torch.cat(batch.views * self.copies),), **rows)
