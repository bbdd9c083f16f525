"""MentorNet's learned mentor, as functions of a dict of tensors: a small network that says by an example's costs if its label is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from torch import Generator, Tensor
else:
    Generator = Tensor = Any

Mentor: TypeAlias = dict[str, Tensor]

_COSTS, _PERCENTS = 4, 100
_LABEL, _EPOCH, _HIDDEN = 2, 5, 20  # the paper's sizes
_STEPS, _LR, _DECAY = 300, 0.02, 1e-3
_LEAST = 1e-6  # of a chance: no class is never mistaken for another
_SCALES = ("centre", "scale")  # measured, not learned


class Seen(NamedTuple):
    """What a mentor is told: costs (B, 4), now and when last seen, each as it is and less the percentile of its time; labels (B,);
    and the percentage of the run (B,), 0 to 99."""

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
    from torch.nn.functional import embedding  # its gradient is the same bits each time, which that of indexing need not be

    costs = (seen.costs - mentor["centre"]) / mentor["scale"]
    told = cat([costs, embedding(seen.labels, mentor["label"]), embedding(seen.percent, mentor["epoch"])], 1)
    hidden = (told @ mentor["hidden"] + mentor["hidden_bias"]).tanh()
    return (hidden @ mentor["out"] + mentor["out_bias"])[:, 0]


def taught(mentor: Mentor, seen: Seen, right: Tensor) -> Mentor:
    """The mentor after a lesson: which labels are right (B,), by cross entropy, in steps of Adam on all at once."""
    from torch import enable_grad
    from torch.nn.functional import binary_cross_entropy_with_logits
    from torch.optim import Adam

    measured = {"centre": seen.costs.mean(0), "scale": seen.costs.std(0, correction=0).clamp_min(1e-6)}
    learned = {key: value.clone().requires_grad_() for key, value in mentor.items() if key not in _SCALES}
    optimizer = Adam(learned.values(), lr=_LR, weight_decay=_DECAY)
    with enable_grad():
        for _ in range(_STEPS):
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(judged({**learned, **measured}, seen), right.to(seen.costs.dtype)).backward()
            optimizer.step()
    return {**{key: value.detach() for key, value in learned.items()}, **measured}


def planted(labels: Tensor, places: Tensor, mistaken: Tensor, generator: Generator) -> Tensor:
    """The labels (N,) with wrong ones in these places, drawn in proportion to what their class is mistaken for: mistaken (K, K)."""
    chances = mistaken.detach().cpu().clamp_min(_LEAST).fill_diagonal_(0)[labels[places].cpu()]
    found = labels.clone()
    if len(places):
        found[places] = chances.multinomial(1, generator=generator)[:, 0].to(labels.device)
    return found
