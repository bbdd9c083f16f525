"""How each paper's experiments made their noise, as a table: `--convention sl2019 --asym 0.4` is what "asym 0.4" meant there.

The texts say what the published code does, or where there is none the paper. `{rate}` is the paper's own number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import ConfigError, UnknownName

KINDS = {"sym": "symmetric", "asym": "asymmetric", "pair": "pairflip", "idn": "pdn"}
_EVERY = ""  # a data set that the table does not name


@dataclass(frozen=True)
class Convention:
    """One paper: by kind of noise and data set, the noise text; and the noisy validation split that it holds out."""

    name: str
    paper: str
    note: str
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    val_fraction: float = 0.0
    val_split: str = "after"

    def text(self, kind: str, rate: float, dataset: str) -> str:
        """The noise of this paper. Raises ConfigError where the paper has none of this kind on these data."""
        if kind not in self.texts:
            has = ", ".join(f"--{name}" for name in self.texts)
            raise ConfigError(f"{self.name} has no --{kind} noise; it has {has}")
        on = self.texts[kind]
        if dataset not in on and _EVERY not in on:
            raise ConfigError(f"{self.name} has no --{kind} noise on {dataset}; it has it on {', '.join(on)}")
        return on.get(dataset, on.get(_EVERY, "")).format(rate=repr(rate))


def _alone(text: str) -> dict[str, str]:
    return {_EVERY: text}


_EXCLUSIVE = _alone("symmetric(rate={rate})")
_EXCLUSIVE_BY_CHANCE = _alone("symmetric(rate={rate}, exact=False)")
_INCLUSIVE_OF_A_SUBSET = _alone("symmetric(rate={rate}, inclusive=True, exact_over='set')")
_BLOCK5_BY_CHANCE = "asymmetric(rate={rate}, map='block5-next', exact=False)"
_BY_CHANCE = {
    "mnist": "asymmetric(rate={rate}, map='digits', exact=False)",
    "cifar10": "asymmetric(rate={rate}, map='cifar10', exact=False)",
    "cifar100": _BLOCK5_BY_CHANCE,
}
_CHANGED_IN_PLACE = {
    "mnist": "asymmetric(rate={rate}, map='digits', flip_back=True)",
    "cifar10": "asymmetric(rate={rate}, map='cifar10', flip_back=True)",
    "cifar100": _BLOCK5_BY_CHANCE,
}

_SL = {
    "mnist": "asymmetric(rate={rate}, map='digits')",
    "cifar10": "asymmetric(rate={rate}, map='cifar10')",
    "cifar100": "asymmetric(rate={rate}, map='block5-pair', exact=False)",
}
_ANL = {
    "mnist": "asymmetric(rate={rate}, map='digits', exact_over='pair')",
    "cifar10": "asymmetric(rate={rate}, map='cifar10', exact_over='pair')",
    "cifar100": "asymmetric(rate={rate}, map='block5-next', exact_over='pair')",
}
_EL = {"cifar10": "asymmetric(rate={rate}, map='cifar10-two-way')", "cifar100": "asymmetric(rate={rate}, map='superclass-pair')"}

CONVENTIONS = {
    row.name: row
    for row in (
        Convention(
            "patrini2017",
            "Patrini et al. 2017, Loss Correction",
            "each label by chance; CIFAR-100 in blocks of five consecutive ids",
            {"sym": _EXCLUSIVE_BY_CHANCE, "asym": _BY_CHANCE},
        ),
        Convention(
            "coteaching2018",
            "Han et al. 2018, Co-teaching",
            "each label by chance; their code draws the same labels in every run",
            {"sym": _EXCLUSIVE_BY_CHANCE, "pair": _alone("pairflip(rate={rate}, exact=False)")},
        ),
        Convention(
            "sl2019",
            "Wang et al. 2019, Symmetric Cross Entropy",
            "CIFAR-100: in each block of five one random pair exchanges labels, so 0.4 is 16 % wrong; the same labels in every run",
            {"sym": _EXCLUSIVE, "asym": _SL},
        ),
        Convention(
            "apl2020",
            "Ma et al. 2020, Normalized Loss Functions (APL)",
            "picks from labels already changed: at 0.4 only 24 % of the cats become dogs (how many flip back is exact here, chance there)",
            {"sym": _EXCLUSIVE, "asym": _CHANGED_IN_PLACE},
        ),
        Convention("jocor2020", "Wei et al. 2020, JoCoR", "each label by chance", {"sym": _EXCLUSIVE_BY_CHANCE, "asym": _BY_CHANCE}),
        Convention(
            "dividemix2020",
            "Li et al. 2020, DivideMix",
            "symmetric includes the true class, so 0.5 is 45 % wrong on ten classes; exactly rate of all examples is drawn anew",
            {"sym": _INCLUSIVE_OF_A_SUBSET, "asym": {"cifar10": "asymmetric(rate={rate}, map='cifar10', exact_over='set')"}},
        ),
        Convention(
            "elr2020",
            "Liu et al. 2020, Early-Learning Regularization",
            "symmetric includes the true class; asymmetric picks from labels already changed; a tenth is held out first, and corrupted too",
            {"sym": _INCLUSIVE_OF_A_SUBSET, "asym": {key: _CHANGED_IN_PLACE[key] for key in ("cifar10", "cifar100")}},
            0.1,
            "before",
        ),
        Convention(
            "pdn2020",
            "Xia et al. 2020, Part-dependent Label Noise",
            "each image's own rate is from a normal around the rate, truncated to [0, 1]",
            {"idn": _alone("pdn(rate={rate})")},
        ),
        Convention("alf2021", "Zhou et al. 2021, Asymmetric Loss Functions", "as apl2020", {"sym": _EXCLUSIVE, "asym": _CHANGED_IN_PLACE}),
        Convention(
            "gjs2021",
            "Englesson & Azizpour 2021, Generalized Jensen-Shannon",
            "true superclasses, circular; exactly rate of all examples is changed",
            {"asym": {"cifar100": "asymmetric(rate={rate}, map='superclass-next', exact_over='set')"}},
        ),
        Convention(
            "anl2023",
            "Ye et al. 2023, Active Negative Loss",
            "the count of each pair of classes is rounded down: symmetric 0.1 on CIFAR-100 is no noise at all",
            {"sym": _alone("symmetric(rate={rate}, exact_over='pair')"), "asym": _ANL},
        ),
        Convention(
            "el2023",
            "Cui et al., Equal Loss",
            "by the paper's text: four pairs of CIFAR-10 exchange labels (0.4 is 32 % wrong), two random classes of each true superclass "
            "of CIFAR-100 (16 %); its baselines were copied from sl2019",
            {"sym": _EXCLUSIVE, "asym": _EL},
        ),
    )
}


def find_convention(name: str) -> Convention:
    """The row of a name. Raises UnknownName."""
    if name not in CONVENTIONS:
        raise UnknownName("convention", name, CONVENTIONS, "conventions")
    return CONVENTIONS[name]
