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
_APL = "Ma et al. 2020, authors' settings"
_ALF = "Zhou et al. 2021, authors' settings"

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
        Method("lsr_el", "Cui et al., Equal Loss, with label smoothing", "lsr(el)"),
        # Ma et al. write MAE as 1 - p, half of ours, and take RCE's A from the code, -9.21.
        Method("nce_rce", "Ma et al. 2020", "nce + rce", presets=(
            Preset("mnist", "nce + 10*rce", _APL), Preset("cifar100", "10*nce + 0.1*rce", _APL))),
        Method("nce_mae", "Ma et al. 2020", "nce + 0.5*mae", presets=(
            Preset("mnist", "nce + 5*mae", _APL), Preset("cifar100", "10*nce + 0.5*mae", _APL))),
        Method("nfl_rce", "Ma et al. 2020", "nfl + rce", presets=(
            Preset("mnist", "nfl + 10*rce", _APL), Preset("cifar100", "10*nfl + 0.1*rce", _APL))),
        Method("nfl_mae", "Ma et al. 2020", "nfl + 0.5*mae", presets=(
            Preset("mnist", "nfl + 5*mae", _APL), Preset("cifar100", "10*nfl + 0.5*mae", _APL))),
        Method("agce", "Zhou et al. 2021", "agce(a=0.6, q=0.6)", presets=(Preset("mnist", "agce(a=4, q=0.2)", _ALF),)),
        Method("aul", "Zhou et al. 2021", "aul(a=5.5, q=3)", presets=(Preset("mnist", "aul(a=3, q=0.1)", _ALF),)),
        Method("ael", "Zhou et al. 2021", "ael(a=2.5)", presets=(Preset("mnist", "ael(a=3.5)", _ALF),)),
        Method("nce_agce", "Zhou et al. 2021", "nce + 4*agce(a=6, q=1.5)", presets=(
            Preset("cifar100", "10*nce + 0.1*agce(a=1.8, q=3)", _ALF),)),
        Method("nce_aul", "Zhou et al. 2021", "nce + 4*aul(a=6.3, q=1.5)", presets=(
            Preset("cifar100", "10*nce + 0.015*aul(a=6, q=3)", _ALF),)),
        Method("nce_ael", "Zhou et al. 2021", "nce + 4*ael(a=5)", presets=(Preset("cifar100", "10*nce + 0.1*ael(a=1.5)", _ALF),)),
        Method("phuber", "Menon et al. 2020", "phuber(tau=10)", presets=(Preset("cifar10", "phuber(tau=2)", "Menon et al. 2020"),)),
    )
}  # fmt: skip


def find_method(name: str) -> Method:
    """The row of a name. Raises UnknownName."""
    if name not in METHODS:
        raise UnknownName("method", name, METHODS, "methods")
    return METHODS[name]
