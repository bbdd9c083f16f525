"""A network's weights averaged over its steps, to be asked in its place. Tarvainen & Valpola 2017."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
else:
    Module = Tensor = Any

Average: TypeAlias = dict[str, Tensor]


def follow(average: Average, network: Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network, in place: parameters and, where they are no counts, what batch norm keeps.
    An average that is empty becomes the network."""
    now = {name: value.detach() for name, value in network.state_dict().items()}
    if not average:
        average.update({name: value.clone() for name, value in now.items()})
        return
    for name, value in now.items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)
