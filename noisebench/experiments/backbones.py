"""The names of networks and where their code is; knows no torch. `timm:NAME` is any of timm's."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.expressions import Call, parse
from ..errors import LanguageError, UnknownName

TIMM = "timm:"


@dataclass(frozen=True)
class Backbone:
    """One network; the function of this name in training.networks.backbones makes it. Parameters as
    counted at 32x32x3, K = 10.
    """

    name: str
    summary: str
    version: int = 1
    pack: int = 1  # so many runs of it train faster as one network


BACKBONES = {
    entry.name: entry
    for entry in (
        Backbone("mlp", "two hidden layers of 256, ReLU", pack=16),
        Backbone("cnn4", "conv 32, conv 64, dense 128, dense K, for 28x28"),
        Backbone(
            "cnn8",
            "the 8-layer CNN of SL, D2L and APL: 6 conv, 2 dense; 1.6 M parameters",
        ),
        Backbone(
            "resnet44",
            "pre-activation ResNet-44 of SL and D2L, widths 16-32-64; 0.67 M parameters",
        ),
        Backbone("resnet18", "ResNet-18 with a 3x3 stem for 32x32; 11.2 M parameters"),
        Backbone("resnet34", "ResNet-34 with a 3x3 stem for 32x32; 21.3 M parameters"),
        Backbone(
            "preact_resnet18",
            "pre-activation ResNet-18 for 32x32 (DivideMix, ELR+, SOP+); 11.2 M parameters",
        ),
    )
}


def canonical_backbone(text: str) -> str:
    """The one text of a backbone. Raises UnknownName; names behind `timm:` are checked when the
    network is made.
    """
    expression = parse(text)
    if not isinstance(expression, Call) or expression.args or expression.kwargs:
        raise LanguageError(
            f"a model is a name without parameters, such as cnn8 or timm:resnet50; got {text!r}"
        )
    if not expression.name.startswith(TIMM) and expression.name not in BACKBONES:
        raise UnknownName("model", expression.name, BACKBONES, "models")
    return expression.name


def pack_width(name: str) -> int:
    """How many runs of a backbone train together; 1: each by itself."""
    return 1 if name.startswith(TIMM) else BACKBONES[name].pack


def backbone_fingerprint(name: str) -> str:
    """The component version that a run's key holds."""
    return "1" if name.startswith(TIMM) else str(BACKBONES[name].version)
