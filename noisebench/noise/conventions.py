"""How each paper generates its noise: `--convention sl2019 --asym 0.4` is the noise that SL calls
"asym 0.4".

The texts follow the published code, or the paper if there is no code. `{rate}` is the paper's
rate. "The same labels in every run" means that the paper's runs differ in training only: keep one
noise seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ConfigError, UnknownName

_EVERY = ""  # any other data set


@dataclass(frozen=True)
class Convention:
    """The noise texts of a paper by kind of noise and data set, and its noisy validation split."""

    name: str
    paper: str
    note: str
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    val_fraction: float = 0.0
    val_split: str = "after"

    def text(self, kind: str, rate: float, dataset: str) -> str:
        """The paper's noise text. Raises ConfigError if the paper has no such noise on this data
        set.
        """
        if kind not in self.texts:
            has = ", ".join(f"--{name}" for name in self.texts)
            raise ConfigError(f"{self.name} has no --{kind} noise; it has {has}")
        texts = self.texts[kind]
        text = texts.get(dataset, texts.get(_EVERY))
        if text is None:
            raise ConfigError(
                f"{self.name} has no --{kind} noise on {dataset}, only on {', '.join(texts)}"
            )
        return text.format(rate=repr(rate))


_EXCLUSIVE = {_EVERY: "symmetric(rate={rate})"}
# MNIST's classes differ in size.
_EXCLUSIVE_OR_EQUAL = {**_EXCLUSIVE, "mnist": "symmetric(rate={rate}, exact_over='equal')"}
_EXCLUSIVE_BY_CHANCE = {_EVERY: "symmetric(rate={rate}, exact=False)"}
_EXCLUSIVE_OF_A_SUBSET = {_EVERY: "symmetric(rate={rate}, exact_over='set')"}
_INCLUSIVE_OF_A_SUBSET = {_EVERY: "symmetric(rate={rate}, inclusive=True, exact_over='set')"}
_BY_PAIR = {_EVERY: "symmetric(rate={rate}, exact_over='pair')"}
_PAIR_BY_CHANCE = {_EVERY: "pairflip(rate={rate}, exact=False)"}
_DEPENDENT = dict.fromkeys(("cifar10", "cifar100"), "dependent(rate={rate})")

_BLOCK5_BY_CHANCE = "asymmetric(rate={rate}, map='block5-next', exact=False)"
_BY_CHANCE = {
    "mnist": "asymmetric(rate={rate}, map='digits', exact=False)",
    "cifar10": "asymmetric(rate={rate}, map='cifar10', exact=False)",
    "cifar100": _BLOCK5_BY_CHANCE,
}
_CIFAR_IN_PLACE = {
    "cifar10": "asymmetric(rate={rate}, map='cifar10', flip_back=True)",
    "cifar100": _BLOCK5_BY_CHANCE,
}
_IN_PLACE = {**_BY_CHANCE, **_CIFAR_IN_PLACE}
_SL = {
    "mnist": "asymmetric(rate={rate}, map='digits', exact_over='pair')",
    "cifar10": "asymmetric(rate={rate}, map='cifar10')",
    "cifar100": "asymmetric(rate={rate}, map='block5-pair', exact=False)",
}
_ANL = {
    "mnist": "asymmetric(rate={rate}, map='digits', exact_over='pair')",
    "cifar10": "asymmetric(rate={rate}, map='cifar10', exact_over='pair')",
    "cifar100": "asymmetric(rate={rate}, map='block5-next', exact_over='pair')",
}
_EL = {
    "cifar10": "asymmetric(rate={rate}, map='cifar10-two-way')",
    "cifar100": "asymmetric(rate={rate}, map='superclass-pair')",
}
_OF_A_SUBSET = "asymmetric(rate={rate}, map='cifar10', exact_over='set')"

_SAME = "the same labels in every run"
_EQUAL = "symmetric on MNIST changes the same number of labels in each class"
_DEPENDENT_NOTE = f"instance-dependent: exactly rate of all images, unlike pdn2020; {_SAME}"

CONVENTIONS = {
    row.name: row
    for row in (
        Convention(
            "patrini2017",
            "Patrini et al. 2017, Loss Correction",
            "each label flips independently; CIFAR-100 in blocks of five consecutive ids; then "
            "10 % validation split",
            {"sym": _EXCLUSIVE_BY_CHANCE, "asym": _BY_CHANCE},
            0.1,
        ),
        Convention(
            "coteaching2018",
            "Han et al. 2018, Co-teaching",
            f"each label flips independently; {_SAME}",
            {"sym": _EXCLUSIVE_BY_CHANCE, "pair": _PAIR_BY_CHANCE},
        ),
        Convention(
            "d2l2018",
            "Ma et al. 2018, Dimensionality-Driven Learning",
            f"exactly rate of all examples, regardless of their class; {_SAME}",
            {"sym": _EXCLUSIVE_OF_A_SUBSET},
        ),
        Convention(
            "sl2019",
            "Wang et al. 2019, Symmetric Cross Entropy",
            "CIFAR-100: one random pair of each block of five exchanges labels, so that 0.4 means "
            f"16 % incorrect labels; {_EQUAL}; {_SAME}",
            {"sym": _EXCLUSIVE_OR_EQUAL, "asym": _SL},
        ),
        Convention(
            "apl2020",
            "Ma et al. 2020, Normalized Loss Functions (APL)",
            "asymmetric on CIFAR-10 selects from labels that it has already changed: at 0.4 only "
            "24 % of the cats become dogs (the number that flips back is exact here, random in "
            "their code); on MNIST and CIFAR-100 each label flips independently; "
            f"{_EQUAL}",
            {"sym": _EXCLUSIVE_OR_EQUAL, "asym": _IN_PLACE},
        ),
        Convention(
            "jocor2020",
            "Wei et al. 2020, JoCoR",
            f"each label flips independently; {_SAME}",
            {"sym": _EXCLUSIVE_BY_CHANCE, "asym": _BY_CHANCE, "pair": _PAIR_BY_CHANCE},
        ),
        Convention(
            "dividemix2020",
            "Li et al. 2020, DivideMix",
            "symmetric includes the true class, so that 0.5 means 45 % incorrect labels with ten "
            f"classes; exactly rate of all examples is resampled; {_SAME}",
            {"sym": _INCLUSIVE_OF_A_SUBSET, "asym": {"cifar10": _OF_A_SUBSET}},
        ),
        Convention(
            "elr2020",
            "Liu et al. 2020, Early-Learning Regularization",
            "symmetric includes the true class; asymmetric on CIFAR-10 selects from labels that it "
            "has already changed, on CIFAR-100 each label flips independently; 10 % validation "
            "split, sampled first and corrupted too",
            {"sym": _INCLUSIVE_OF_A_SUBSET, "asym": _CIFAR_IN_PLACE},
            0.1,
            "before",
        ),
        Convention(
            "pdn2020",
            "Xia et al. 2020, Part-dependent Label Noise",
            "each image's rate is sampled from a normal around rate, truncated to [0, 1]; its "
            "incorrect labels depend on raw bytes, so that most images of a class share one; then "
            "10 % validation split",
            {"idn": {_EVERY: "pdn(rate={rate}, pixels='bytes')"}},
            0.1,
        ),
        Convention(
            "alf2021",
            "Zhou et al. 2021, Asymmetric Loss Functions",
            f"as apl2020, but symmetric on MNIST flips each label independently; {_SAME}",
            {
                "sym": {**_EXCLUSIVE, "mnist": "symmetric(rate={rate}, exact=False)"},
                "asym": _IN_PLACE,
            },
        ),
        Convention(
            "cleanlab2021",
            "Northcutt et al. 2021, cleanlab's benchmarking",
            "the count of each pair of classes is rounded down; for your own matrix use "
            "--noise \"matrix(file='T.csv', exact_over='pair')\"",
            {
                "sym": _BY_PAIR,
                "asym": _ANL,
                "pair": {_EVERY: "pairflip(rate={rate}, exact_over='pair')"},
            },
        ),
        Convention(
            "gjs2021",
            "Englesson & Azizpour 2021, Generalized Jensen-Shannon",
            "symmetric includes the true class, so that 0.4 means 36 % incorrect labels with ten "
            "classes; asymmetric on CIFAR-10 selects from labels that it has already changed, as "
            "in apl2020; on CIFAR-100 it is circular in the true superclasses and changes exactly "
            "rate of all examples",
            {
                "sym": _INCLUSIVE_OF_A_SUBSET,
                "asym": {
                    "cifar10": _CIFAR_IN_PLACE["cifar10"],
                    "cifar100": "asymmetric(rate={rate}, map='superclass-next', exact_over='set')",
                },
            },
        ),
        Convention(
            "anl2023",
            "Ye et al. 2023, Active Negative Loss",
            "the count of each pair of classes is rounded down: symmetric 0.1 on CIFAR-100 changes "
            "no label",
            {"sym": _BY_PAIR, "asym": _ANL},
        ),
        Convention(
            "el2023",
            "Cui et al., Equal Loss",
            "by the paper's text: four pairs of CIFAR-10 exchange labels (0.4 means 32 % incorrect "
            "labels), and two random classes of each true superclass of CIFAR-100 (16 %); its "
            "baselines were copied from sl2019",
            {"sym": _EXCLUSIVE, "asym": _EL},
        ),
        Convention(
            "logitclip2023",
            "Wei et al. 2023, LogitClip",
            "exactly rate of all examples is resampled; asymmetric on CIFAR-100 flips to the next "
            f"of all classes; {_DEPENDENT_NOTE}; for its open-set noise use "
            "--noise \"openset(rate=0.4, source='cifar100', exact_over='set')\"",
            {
                "sym": _EXCLUSIVE_OF_A_SUBSET,
                "asym": {
                    "cifar10": _OF_A_SUBSET,
                    "cifar100": "asymmetric(rate={rate}, map='next', exact_over='set')",
                },
                "idn": _DEPENDENT,
            },
        ),
        Convention(
            "epssoftmax2024",
            "Wang et al. 2024, Epsilon-Softmax",
            f"symmetric and asymmetric as apl2020; {_DEPENDENT_NOTE}",
            {"sym": _EXCLUSIVE, "asym": _CIFAR_IN_PLACE, "idn": _DEPENDENT},
        ),
        Convention(
            "jal2025",
            "Wang et al. 2025, Joint Asymmetric Loss (JAL)",
            f"symmetric and asymmetric as anl2023 (the code's default, method2); {_DEPENDENT_NOTE}",
            {
                "sym": _BY_PAIR,
                "asym": {name: _ANL[name] for name in ("cifar10", "cifar100")},
                "idn": _DEPENDENT,
            },
        ),
        Convention(
            "lnltoolbox",
            "LNL-toolbox",
            "symmetric is its default 'global': exactly rate of all examples, regardless of their "
            "class; pair flips each label independently",
            {"sym": _EXCLUSIVE_OF_A_SUBSET, "pair": _PAIR_BY_CHANCE},
        ),
    )
}


def find_convention(name: str) -> Convention:
    """Returns the convention of this name. Raises UnknownName."""
    if name not in CONVENTIONS:
        raise UnknownName("convention", name, CONVENTIONS, "conventions")
    return CONVENTIONS[name]
