"""The methods of the literature as a table: a loss, a strategy, and presets per data set, and per
noise where a source tuned them so. The presets are the rows of `presets.csv`.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from importlib.resources import files

from ..errors import UnknownName


@dataclass(frozen=True)
class Preset:
    """The loss, and optionally the strategy, that a source used on one data set in place of the
    method's own.

    noise: `symmetric`, `asymmetric`, or empty for any; rate: the noise's parameter, None for any. A
    preset with either was tuned with the true noise.
    """

    dataset: str
    loss: str
    source: str
    noise: str = ""
    rate: float | None = None
    strategy: str = ""

    @property
    def tuned(self) -> bool:
        """Whether it was tuned with the true noise."""
        return bool(self.noise) or self.rate is not None


@dataclass(frozen=True)
class Method:
    """One row of the methods table: its name, and the loss and strategy to train with."""

    name: str
    paper: str
    loss: str
    strategy: str = "standard"
    presets: tuple[Preset, ...] = ()

    def preset(self, dataset: str, noise: str = "", rate: float | None = None) -> Preset:
        """The most specific preset for the data set and noise; else the method's own loss."""
        fitting = [
            preset
            for preset in self.presets
            if preset.dataset == dataset
            and preset.noise in ("", noise)
            and preset.rate in (None, rate)
        ]
        preset = max(
            fitting,
            key=lambda preset: (preset.rate is not None, bool(preset.noise)),
            default=Preset(dataset, self.loss, self.paper),
        )
        return preset if preset.strategy else replace(preset, strategy=self.strategy)


_PRESETS = [
    (
        line["method"],
        Preset(
            line["dataset"],
            line["loss"],
            line["source"],
            line["noise"],
            float(line["rate"]) if line["rate"] else None,
            line["strategy"],
        ),
    )
    for line in csv.DictReader(
        files(__package__).joinpath("presets.csv").read_text(encoding="utf-8").splitlines()
    )
]

METHODS = {
    row.name: replace(
        row, presets=tuple(preset for method, preset in _PRESETS if method == row.name)
    )
    for row in (
        Method("ce", "", "ce"),
        Method("lsr", "Szegedy et al. 2016", "lsr(ce)"),
        Method("bootstrap", "Reed et al. 2015, hard", "ce", "bootstrap(kind='hard')"),
        Method("bootstrap_soft", "Reed et al. 2015, soft", "ce", "bootstrap(kind='soft')"),
        Method("d2l", "Ma et al. 2018", "ce", "d2l"),
        Method("ni_erm", "Zhu et al. 2024, on features with --model linear", "ce", "logistic"),
        Method("decoupling", "Malach & Shalev-Shwartz 2017", "ce", "decoupling"),
        Method("coteaching", "Han et al. 2018", "ce", "coteaching"),
        Method("coteaching_plus", "Yu et al. 2019", "ce", "coteaching_plus"),
        Method("jocor", "Wei et al. 2020", "ce", "jocor"),
        Method("curriculum", "Lyu & Tsang 2020, NPCL", "ce", "curriculum"),
        Method("mentornet", "Jiang et al. 2018, self-paced", "ce", "mentornet"),
        Method(
            "mentornet_pd", "Jiang et al. 2018, predefined", "ce", "mentornet(kind='predefined')"
        ),
        Method(
            "mentornet_dd",
            "Jiang et al. 2018, data-driven, on verified labels",
            "ce",
            "mentornet(kind='data_driven')",
        ),
        Method("joint", "Tanaka et al. 2018", "ce", "joint"),
        Method("mixup", "Zhang et al. 2018", "ce", "mixup"),
        Method("gmm_split", "small costs and a mixture fit alone", "ce", "gmm_split"),
        # lambda_u by cell; threshold 0.6 and costs averaged over five epochs at rate 0.9. Small
        # data of ten classes as CIFAR-10.
        Method("dividemix", "Li et al. 2020", "ce", "dividemix"),
        Method("elr_plus", "Liu et al. 2020", "ce", "elr_plus"),
        Method("elr", "Liu et al. 2020", "ce", "elr"),
        # For asymmetric noise on CIFAR-10 no source was found.
        Method("sop", "Liu et al. 2022", "ce", "sop"),
        Method("sop_plus", "Liu et al. 2022, two views", "ce", "sop_plus"),
        Method("nlnl", "Kim et al. 2019, without its last stage", "ce", "nlnl"),
        # What later tables call NLNL: negative learning in all epochs, as one loss among others.
        Method(
            "negative",
            "Kim et al. 2019, negative learning alone, as Ma et al. 2020 use it",
            "ce",
            "nlnl(negative=1, selective=0)",
        ),
        Method("peer", "Liu & Guo 2020", "ce", "peer"),
        Method("cores2", "Cheng et al. 2021, the sieve", "ce", "cores2"),
        Method("cleannet", "Lee et al. 2018, on verified labels", "ce", "cleannet"),
        Method("distill", "Li et al. 2017, on verified labels", "ce", "distill"),
        Method("forward", "Patrini et al. 2017, true T", "forward(ce)"),
        Method("backward", "Patrini et al. 2017, true T", "backward(ce)"),
        Method("forward_estimated", "Patrini et al. 2017, T estimated", "ce", "forward_estimated"),
        Method(
            "backward_estimated", "Patrini et al. 2017, T estimated", "ce", "backward_estimated"
        ),
        Method("volminnet", "Li et al. 2021", "ce", "volminnet"),
        # The epochs of Xia et al.'s three stages, of all: 20 + 100 + 200 on MNIST, 15 + 200 + 200
        # on CIFAR-100.
        Method("forward_revision", "Xia et al. 2019, Forward-R", "ce", "forward_revision"),
        Method(
            "reweight_revision",
            "Xia et al. 2019, Reweight-R",
            "ce",
            "forward_revision(kind='reweight')",
        ),
        Method("dmi", "Xu et al. 2019", "ce", "dmi"),
        Method("sl", "Wang et al. 2019", "sce"),
        Method("mae", "Ghosh et al. 2017", "mae"),
        Method("gce", "Zhang & Sabuncu 2018", "gce"),
        Method("gce_tuned", "Zhang & Sabuncu 2018, q by Wang et al. 2024", "gce"),
        Method("focal", "Lin et al. 2017", "focal"),
        Method("el", "Cui et al., Equal Loss", "el"),
        Method(
            "el_overall",
            "Cui et al., Equal Loss, eps the share of incorrect labels",
            "el(eps=overall)",
        ),
        Method("el_estimated", "Cui et al., Equal Loss, eps estimated", "el(eps=estimated)"),
        Method("lsr_el", "Cui et al., Equal Loss, with label smoothing", "lsr(el)"),
        # Ma et al. write MAE as 1 - p, half of ours, and take RCE's A from the code, -9.21; nfl's
        # factor is detached in all codes.
        Method("nce_rce", "Ma et al. 2020", "nce + rce"),
        Method("nce_mae", "Ma et al. 2020", "nce + 0.5*mae"),
        Method("nce_mae_light", "Ma et al. 2020, a tenth of MAE on CIFAR-100", "nce + 0.5*mae"),
        Method("nfl_rce", "Ma et al. 2020", "nfl(detach=True) + rce"),
        Method("nfl_mae", "Ma et al. 2020", "nfl(detach=True) + 0.5*mae"),
        Method("agce", "Zhou et al. 2021", "agce(a=0.6, q=0.6)"),
        Method("aul", "Zhou et al. 2021", "aul(a=5.5, q=3)"),
        Method("ael", "Zhou et al. 2021", "ael(a=2.5)"),
        # On MNIST the weight of their NCE is 0.
        Method("nce_agce", "Zhou et al. 2021", "nce + 4*agce(a=6, q=1.5)"),
        Method("nce_aul", "Zhou et al. 2021", "nce + 4*aul(a=6.3, q=1.5)"),
        Method("nce_ael", "Zhou et al. 2021", "nce + 4*ael(a=5)"),
        # Both papers set the weight decay to 0 beside the penalty (--weight-decay 0); a recipe is
        # shared by a table, so no row sets it.
        Method("anl_ce", "Ye et al. 2023", "5*nce + 5*nnce + l1(5e-5)"),
        # On these two real sets JAL's authors keep the weight decay and have no penalty.
        Method("jal_nce", "JAL, ICCV 2025", "nce + amse(a=30) + l1(5e-5)"),
        Method("jal_nfl", "JAL, ICCV 2025", "nfl(detach=True) + amse(a=30) + l1(5e-5)"),
        # Wang et al. chose m and the weights by kind of noise and rate. Their MAE here is
        # 2 (1 - p), as ours.
        Method("eps_ce_mae", "Wang et al. 2024", "0.01*eps_softmax(ce, m=1e5) + 5*mae"),
        Method(
            "eps_fl_mae",
            "Wang et al. 2024",
            "0.01*eps_softmax(focal(gamma=0.1, detach=True), m=1e5) + 5*mae",
        ),
        Method("js", "Englesson & Azizpour 2021", "js(pi=0.5)"),
        Method("gjs", "Englesson & Azizpour 2021, two views", "js(pi=0.5)", "gjs(pi=0.5)"),
        Method("ldr_kl", "Zhu et al. 2023", "ldr_kl(lam=10)"),
        Method("taylor", "Feng et al. 2020", "taylor(t=2)"),
        Method("bitempered", "Amid et al. 2019", "bitempered(t1=0.8, t2=1.2)"),
        # The code's form of clipping, by which the published numbers were made; at tau = 1 it is
        # the paper's.
        Method("logitclip_ce", "Wei et al. 2023", "logitclip(ce, tau=1)"),
        Method("phuber", "Menon et al. 2020", "phuber(tau=10)"),
    )
}


def find_method(name: str) -> Method:
    """The method of this name. Raises UnknownName."""
    if name not in METHODS:
        raise UnknownName("method", name, METHODS, "methods")
    return METHODS[name]
