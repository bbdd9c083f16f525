"""The methods of the literature as a table: a loss, a strategy, and presets by data set. No code."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UnknownName


@dataclass(frozen=True)
class Preset:
    """What a source used on one data set in place of the method's own text."""

    dataset: str
    loss: str
    source: str


@dataclass(frozen=True)
class Method:
    """One row: what one writes in a table, and what is trained."""

    name: str
    paper: str
    loss: str
    strategy: str = "standard"
    presets: tuple[Preset, ...] = ()

    def loss_on(self, dataset: str) -> str:
        return next((preset.loss for preset in self.presets if preset.dataset == dataset), self.loss)


_SL = "Wang et al. 2019, authors' code"

METHODS = {
    row.name: row
    for row in (
        Method("ce", "", "ce"),
        Method("lsr", "Szegedy et al. 2016", "lsr(ce)"),
        Method("bootstrap", "Reed et al. 2015, hard", "ce", "bootstrap(kind='hard')"),
        Method("bootstrap_soft", "Reed et al. 2015, soft", "ce", "bootstrap(kind='soft')"),
        Method("forward", "Patrini et al. 2017, true T", "forward(ce)"),
        Method("backward", "Patrini et al. 2017, true T", "backward(ce)"),
        Method("sl", "Wang et al. 2019", "sce", presets=(
            Preset("mnist", "sce(alpha=0.01, beta=1)", _SL),
            Preset("cifar10", "sce(alpha=0.1, beta=1)", _SL),
            Preset("cifar100", "sce(alpha=6, beta=0.1)", _SL),
        )),
        Method("mae", "Ghosh et al. 2017", "mae"),
        Method("gce", "Zhang & Sabuncu 2018", "gce"),
        Method("focal", "Lin et al. 2017", "focal"),
        Method("el", "Cui et al., Equal Loss", "el"),
    )
}  # fmt: skip


def find_method(name: str) -> Method:
    """The row of a name. Raises UnknownName."""
    if name not in METHODS:
        raise UnknownName("method", name, METHODS, "methods")
    return METHODS[name]
