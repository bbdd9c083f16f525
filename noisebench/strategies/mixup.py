"""Mixup: examples and labels mixed in pairs, as a strategy by itself and as a part of others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from ..core.parameters import Interval
from .base import (
    Batch,
    ComputeCost,
    Generator,
    Networks,
    Strategy,
    Tensor,
    TrainingInfo,
    one_hot,
    register_strategy,
)


@dataclass(frozen=True)
class Mixture:
    """How a batch of n rows is mixed: row i with row order[i], of which it keeps `share`."""

    order: Tensor
    share: float

    @classmethod
    def draw(
        cls, n: int, alpha: float, generator: Generator, *, own: bool = False, device: Any = None
    ) -> Mixture:
        """share from Beta(alpha, alpha), one for the batch; own: the larger of it and its rest, so
        that each row stays mostly itself.
        """
        import numpy as np
        from torch import randint, randperm

        seed = int(randint(2**62, (), generator=generator))
        share = float(np.random.default_rng(seed).beta(alpha, alpha))
        return cls(
            randperm(n, generator=generator).to(device), max(share, 1 - share) if own else share
        )

    def __call__(self, rows: Tensor) -> Tensor:
        """rows (n, ...), mixed."""
        return self.share * rows + (1 - self.share) * rows[self.order]


@register_strategy(
    name="mixup", paper="Zhang et al. 2018", disabled_form="mixup(alpha=0)", cost=ComputeCost(1, 1)
)
@dataclass
class Mixup(Strategy):
    """Mixup: each image is a mixture of two of its batch, and so is its target; their shares are
    drawn from Beta(alpha, alpha).

    alpha: 1 in the paper for CIFAR-10; 0 mixes nothing. What the network says in passing it says of
    mixed images.
    """

    packable = True
    alpha: Annotated[float, Interval("[0, 100]")] = 1.0

    def setup(self, info: TrainingInfo) -> None:
        self._classes = info.num_classes

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        if not self.alpha:
            return batch
        mixture = Mixture.draw(
            len(batch.index), self.alpha, batch.generator, device=batch.index.device
        )
        rows = batch.views[0].new_zeros(len(batch.labels), self._classes)
        return replace(
            batch,
            views=tuple(map(mixture, batch.views)),
            targets=mixture(one_hot(batch.labels, rows)),
        )
