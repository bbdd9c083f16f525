"""Writes the verdicts of README.md, and el-forest.svg, from the results CSVs of this directory:
`python results/claims.py`.

A claim is a list of comparisons, each a difference in points with a 95 % interval, positive where
the claim is right. `Claim.verdict` follows from the intervals alone; RULE states how.
"""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from scipy.stats import rankdata, ttest_rel

import noisebench as nb

HERE = Path(__file__).parent
RULE = (
    "An interval supports a claim where it lies above 0, and contradicts it where it lies below 0; a claim "
    "“(within m points)” is supported where it lies inside ±m, and contradicted where it lies outside. "
    "**holds**: all intervals support the claim. **partly**: some do. **does not hold**: none does, and one "
    "contradicts it or all lie within ±1 point. **undecided**: otherwise. **no interval**: too few seeds."
)


@dataclass(frozen=True)
class Gap:
    """A difference in points, and its 95 % interval where there are seeds enough."""

    where: str
    mean: float
    low: float | None
    high: float | None
    n: int

    def inside(self, margin: float) -> bool:
        """Whether the interval lies within so many points of 0."""
        return (
            self.low is not None and self.high is not None and max(-self.low, self.high) <= margin
        )

    def __neg__(self) -> Gap:
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return replace(self, mean=-self.mean, low=low, high=high)

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:+.2f}, {self.high:+.2f}]"
        return f"{self.mean:+.2f}{interval}"


Measure = Callable[[Path], list[Gap]]  # of a results CSV


@dataclass(frozen=True)
class Claim:
    """A sentence, the CSV it was tried on, and the differences that decide it.

    margin: the claim is that two things are equal within this many points. label: the name of the
    comparison in the table, by default that of the data set.
    """

    text: str
    file: str
    measure: Measure | None = None  # None: not tried
    margin: float | None = None
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or DATA.get(self.file, "digits")

    def gaps(self, folder: Path) -> list[Gap]:
        """Its comparisons, by the CSVs of a folder. Raises ValueError where the CSV has none."""
        if self.measure is None:
            return []
        if gaps := self.measure(folder / f"{self.file}.csv"):
            return gaps
        raise ValueError(f"{self.file}.csv has no runs for the claim {self.text!r}")

    def supports(self, gap: Gap) -> bool:
        """Whether the interval is on the claim's side."""
        if self.margin is not None:
            return gap.inside(self.margin)
        return gap.low is not None and gap.low > 0

    def contradicts(self, gap: Gap) -> bool:
        """Whether the interval excludes the claim."""
        if gap.low is None or gap.high is None:
            return False
        return gap.high < 0 if self.margin is None else max(gap.low, -gap.high) > self.margin

    def verdict(self, gaps: list[Gap]) -> str:
        """By RULE."""
        known = [gap for gap in gaps if gap.low is not None]
        if not known:
            return "no interval" if gaps else "not tried"
        right = sum(map(self.supports, known))
        if right:
            return "holds" if right == len(known) else "partly"
        negligible = self.margin is None and all(gap.inside(1) for gap in known)
        return "does not hold" if negligible or any(map(self.contradicts, known)) else "undecided"

    def strongest(self, gaps: list[Gap]) -> list[Gap]:
        """The number that speaks most for the verdict; the two extremes where it is mixed."""

        def support(gap: Gap) -> float:
            low, high = (gap.mean if end is None else end for end in (gap.low, gap.high))
            return low if self.margin is None else -max(-low, high)

        def contradiction(gap: Gap) -> float:
            low, high = (gap.mean if end is None else end for end in (gap.low, gap.high))
            return -high if self.margin is None else max(-low, high)

        best, worst = max(gaps, key=support), max(gaps, key=contradiction)
        verdict = self.verdict(gaps)
        if verdict == "does not hold" or (verdict == "holds" and self.margin is not None):
            return [worst]
        return [best] if verdict in {"holds", "undecided"} else list(dict.fromkeys((best, worst)))


def short(noise: str) -> str:
    """`sym 0.4`, `asym 0.4 two-way`; of CIFAR-10N's annotations `human worse`, `human random1`."""
    if column := re.findall(r"^human\(column='(\w+)'\)$", noise):
        return f"human {column[0].replace('_label', '')}"
    kind, rate, way = re.findall(r"^(sym|asym|pair)\w*\(rate=([\d.]+).*?(two-way)?'?\)$", noise)[0]
    return f"{kind} {float(rate):g} {way}".strip()


@cache
def _cells(path: Path, rows: str, metric: str, other: str) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = nb.report(
        path, rows=rows, metric=metric, against=other
    ).document()["cells"]
    return cells


def less(
    row: str, other: str, noises: str = ".*", *, metric: str = "last", rows: str = "method"
) -> Measure:
    """A row less another under each noise that the expression matches, as `noisebench report
    --compare-to` has it. `{rate}` is the noise rate of the column, `{half}` half of it.
    """

    def measure(path: Path) -> list[Gap]:
        gaps = []
        for noise in dict.fromkeys(run["noise"] for run in _runs(path)):
            if re.fullmatch(noises, short(noise)):
                rate = float(re.findall(r"rate=([\d.]+)|$", noise)[0] or 0)
                names = {"rate": f"{rate:g}", "half": f"{rate / 2:g}"}
                cells = _cells(path, rows, metric, other.format(**names))
                gaps += [
                    _gap(short(noise), cell["difference"])
                    for cell in cells
                    if cell["noise"] == noise and cell[rows] == row.format(**names)
                ]
        return sorted(gaps, key=lambda gap: ("asym" in gap.where, "two" in gap.where, gap.where))

    return measure


def _gap(where: str, found: dict[str, Any]) -> Gap:
    low, high = (None if found[end] is None else 100 * found[end] for end in ("low", "high"))
    return Gap(where, 100 * found["mean"], low, high, found["pairs"])


def negated(measure: Measure) -> Measure:
    """The differences with the opposite sign, for a metric that is better when lower."""
    return lambda path: [-gap for gap in measure(path)]


def each(rows: dict[str, str], other: str, noises: str) -> Measure:
    """Each of the rows, by the name to show, less another."""
    return lambda path: [
        replace(gap, where=f"{name}, {gap.where}")
        for name, row in rows.items()
        for gap in less(row, other, noises, rows="loss")(path)
    ]


@cache
def _runs(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return [run for run in csv.DictReader(lines) if not run["failed"]]


def _by_seed(path: Path, metric: str, method: str, noise: str) -> dict[str, float]:
    """A metric in percent, by seed."""
    return {
        run["seed"]: 100 * float(run[metric])
        for run in _runs(path)
        if run["method"] == method and run["noise"] == noise and run[metric]
    }


def _paired(where: str, values: dict[str, float], others: dict[str, float]) -> Gap:
    seeds = sorted(values.keys() & others.keys())
    left, right = ([side[seed] for seed in seeds] for side in (values, others))
    ends = ttest_rel(left, right).confidence_interval(0.95)
    return Gap(
        where, statistics.fmean(left) - statistics.fmean(right), ends.low, ends.high, len(seeds)
    )


def mean_over_noises(*, rank: bool = False) -> Measure:
    """EL less the best of the other methods, by test accuracy or by rank, averaged over the noises."""

    def measure(path: Path) -> list[Gap]:
        scores: dict[tuple[str, str], list[float]] = {}
        runs = sorted(_runs(path), key=lambda run: (run["noise"], run["seed"]))
        for (_, seed), group in groupby(runs, key=lambda run: (run["noise"], run["seed"])):
            rivals = list(group)
            accuracies = [100 * float(run["last"]) for run in rivals]
            for run, score in zip(
                rivals, rankdata(accuracies) if rank else accuracies, strict=True
            ):
                scores.setdefault((run["method"], seed), []).append(float(score))
        means: dict[str, dict[str, float]] = {}
        for (method, seed), values in scores.items():
            means.setdefault(method, {})[seed] = statistics.fmean(values)
        ours = means.pop("el")
        best = max(means, key=lambda method: statistics.fmean(means[method].values()))
        return [_paired(f"against {best}", ours, means[best])]

    return measure


def change(method: str, metric: str, other: str, noises: str = ".*", rival: str = "") -> Measure:
    """A metric of a method less another metric of it; with a rival, of the lead over it."""

    def measure(path: Path) -> list[Gap]:
        gaps = []
        for noise in dict.fromkeys(run["noise"] for run in _runs(path)):
            if re.fullmatch(noises, short(noise)):
                sides = [_by_seed(path, name, method, noise) for name in (metric, other)]
                if rival:
                    rivals = [_by_seed(path, name, rival, noise) for name in (metric, other)]
                    sides = [
                        {seed: side[seed] - theirs[seed] for seed in side}
                        for side, theirs in zip(sides, rivals, strict=True)
                    ]
                gaps.append(_paired(short(noise), *sides))
        return sorted(gaps, key=lambda gap: ("asym" in gap.where, gap.where))

    return measure


def as_predicted(method: str) -> Measure:
    """Mean p of the correct class, less its theoretical value times the mean p on clean labels."""

    def measure(path: Path) -> list[Gap]:
        with path.with_name("el-theory-optimum.csv").open(encoding="utf-8", newline="") as lines:
            expected = {
                row["panel"]: float(row["expected"])
                for row in csv.DictReader(lines)
                if row["row"] == method and row["series"] == "correct class"
            }
        noises = {short(run["noise"]): run["noise"] for run in _runs(path)}
        reached = _by_seed(path, "p_true", method, noises["sym 0"])
        return [
            _paired(
                where,
                _by_seed(path, "p_true", method, noises[where]),
                {seed: p * value for seed, value in reached.items()},
            )
            for where, p in expected.items()
        ]

    return measure


def less_published(path: Path) -> list[Gap]:
    """EL's test accuracy less the paper's."""
    cells = nb.report(path, published="equal-loss").document()["cells"]
    return [
        Gap(
            short(cell["noise"]),
            100 * (cell["mean"] - cell["published"]["mean"]),
            None,
            None,
            cell["n"],
        )
        for cell in cells
        if cell["method"] == "el" and cell["published"]
    ]


def less_chance(path: Path) -> list[Gap]:
    """The test accuracy of CE and EL at symmetric 0.8, less that of a guess among ten classes."""
    return [
        Gap(f"{run['method']}, sym 0.8", 100 * float(run["last"]) - 10, None, None, 1)
        for run in _runs(path)
        if short(run["noise"]) == "sym 0.8" and run["method"] in {"ce", "el"}
    ]


GRIDS = ("quick", "fashion-short", "cifar10-short")
DATA = {
    "quick": "digits",
    "fashion-short": "Fashion-MNIST",
    "cifar10-short": "CIFAR-10 subset",
    "cifar10-short-two-way": "CIFAR-10 subset",
    "cifar10-short-plain": "CIFAR-10 subset without augmentation",
    "cifar10n-short": "human labels",
    "el-cifar10": "CIFAR-10",
    "el-theory": "Fashion-MNIST",
    "el-theory-long": "Fashion-MNIST",
    "features-cifar10": "CIFAR-10",
    "features-cifar10n": "CIFAR-10N",
    "features-fashion": "Fashion-MNIST",
    "features-eps": "CIFAR-10",
}
ON_FEATURES = ("features-cifar10", "features-cifar10n", "features-fashion")
_SYM, _ASYM, _BOTH = r"sym .*", r"asym [\d.]+", ".*two-way"
_NOISY, _NOISY_SYM = r"(a?sym|pair) 0\..*", r"sym 0\..*"
_EPS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 2, 10, "estimated")
_ANY_EPS = {f"eps {eps}": f"el(eps={eps})" for eps in _EPS}
_WEAK, _COTEACHING = "elr(lam=1, beta=0.9)", "coteaching(ramp=0.25)"
CE_SYM, CE_ASYM = "EL beats CE under symmetric noise", "EL beats CE under asymmetric noise"
CE_HUMAN, GCE, SL = "EL beats CE on human labels", "EL beats GCE", "EL beats SL"
BEST_MEAN = "EL has the best mean accuracy over the noises"
BEST_RANK = "EL has the best mean rank over the noises (in ranks)"
SMOOTHING = "Label smoothing improves EL"
SHARE = "EL is better with eps the rate than with the share of incorrect labels"
LATE = "EL's lead over CE is larger in the last epoch than in the best one"

# fmt: off
PAPER = (
    *(Claim(CE_SYM, file, less("el", "ce", _SYM)) for file in GRIDS),
    *(Claim(CE_ASYM, file, less("el", "ce", _ASYM)) for file in GRIDS),
    Claim(CE_HUMAN, "cifar10n-short", less("el", "ce")),
    *(Claim(GCE, file, less("el", "gce")) for file in GRIDS),
    *(Claim(SL, file, less("el", "sl")) for file in GRIDS),
    *(Claim(BEST_MEAN, file, mean_over_noises()) for file in GRIDS[:2]),
    *(Claim(BEST_RANK, file, mean_over_noises(rank=True)) for file in GRIDS[:2]),
    *(Claim("EL memorizes fewer noisy labels than CE", file, negated(less("el", "ce", metric="memorised")))
      for file in (*GRIDS, "cifar10n-short", "cifar10-short-plain", "el-cifar10")),
    Claim(SMOOTHING, "el-plugin", less("lsr_el", "el")),
    Claim("Co-teaching is better with EL than with CE", "el-plugin", less(f"el, {_COTEACHING}", "coteaching")),
    Claim("ELR is better with EL than with CE", "el-plugin", less(f"el, {_WEAK}", f"ce, {_WEAK}"), label="weaker ELR"),
    Claim("ELR is better with EL than with CE", "el-plugin", less("el, elr", "elr"), label="stronger ELR"),
    Claim("EL with eps the noise rate beats EL with eps 2", "el-eps", less("el(eps={rate})", "el(eps=2)", _NOISY, rows="loss")),
    Claim("EL has the accuracy of the paper's Table 1 (within 1 point)", "el-cifar10", less_published, margin=1),
    Claim("EL beats CE and GCE on CIFAR-100 and ImageNet; the proofs about risks", ""),
)
FINDINGS = (
    Claim("By the paper's recipe CE and EL end at chance at symmetric 0.8 (within 1 point)", "el-cifar10", less_chance, margin=1),
    *(Claim(LATE, file, change("el", "last", "best", _SYM, "ce")) for file in GRIDS[:2]),
    *(Claim("EL beats its rival, each in its best epoch on test", "quick", less("el", rival, metric="best"), label=rival.upper())
      for rival in ("ce", "gce")),
    *(Claim("EL beats its rival, both stopped on noisy validation labels", "el-stopping", less("el", rival, metric="at_noisy_val"), label=rival.upper())
      for rival in ("ce", "sl")),
    *(Claim("Stopping on noisy validation labels improves the method", "el-stopping", change(method, "at_noisy_val", "last"), label=method.upper())
      for method in ("ce", "el")),
    Claim("EL beats CE, asymmetric noise one way (CIFAR-10's classes)", "el-two-way", less("el", "ce", _ASYM)),
    *(Claim("EL beats CE, asymmetric noise two ways", file, less("el", "ce", _BOTH)) for file in ("el-two-way", "cifar10-short-two-way")),
    *(Claim("EL beats its rival, asymmetric noise two ways", "el-two-way", less("el", rival, _BOTH), label=label)
      for rival, label in (("gce", "GCE"), ("sl", "SL"), ("forward", "Forward"))),
    Claim(SHARE, "el-eps", less("el(eps={rate})", "el(eps={half})", _ASYM, rows="loss"), label="digits' classes"),
    Claim(SHARE, "el-two-way", less("el", "el_overall"), label="CIFAR-10's classes"),
    Claim("EL with eps the rate beats EL with eps 0.05, symmetric noise", "el-eps", less("el(eps={rate})", "el(eps=0.05)", _NOISY_SYM, rows="loss")),
    Claim("EL with eps 2 beats CE", "el-theory", less("el(eps=2)", "ce")),
    Claim("EL with some eps beats CE at asymmetric 0.4", "el-eps", each(_ANY_EPS, "ce", "asym 0.4")),
    Claim("EL with some eps beats GCE under asymmetric noise", "el-eps", each(_ANY_EPS, "gce(q=0.7)", _ASYM)),
    Claim("EL with the estimated eps is level with eps the rate, symmetric noise (within 1 point)", "el-eps",
          less("el(eps=estimated)", "el(eps={rate})", _NOISY_SYM, rows="loss"), margin=1),
    Claim("EL with the estimated eps beats CE under asymmetric noise", "el-eps", less("el(eps=estimated)", "ce", _ASYM, rows="loss")),
    Claim("On clean labels EL is level with CE, whatever eps (within 1 point)", "el-eps", each(_ANY_EPS, "ce", "sym 0"), margin=1),
    Claim("AGCE with q near 0 trains as EL does (within 1 point)", "el-neighbours", less("1.4*agce(a=0.4, q=0.001)", "el(eps=0.4)", rows="loss"), margin=1),
    Claim("AGCE as its authors set it beats EL with eps 0.4", "el-neighbours", less("agce(a=0.6, q=0.6)", "el(eps=0.4)", rows="loss")),
    *(Claim("EL with the weaker ELR beats its rival", "el-plugin", less(f"el, {_WEAK}", rival), label=label)
      for rival, label in (("el", "EL"), ("elr", "stronger ELR with CE"), ("lsr, elr", "stronger ELR with label smoothing"))),
    Claim("Co-teaching is better with EL than with label smoothing", "el-plugin", less(f"el, {_COTEACHING}", f"lsr, {_COTEACHING}")),
    *(Claim("D2L, which uses no noise rate, beats EL", file, less("d2l", "el")) for file in GRIDS[:2]),
    *(Claim("p of the correct class is as theory predicts (within 5 points)", "el-theory", as_predicted(method), margin=5, label=label)
      for method, label in (("ce", "CE"), ("el", "EL with eps the rate"), ("el(eps=2)", "EL with eps 2"), ("mae", "MAE"))),
    Claim("EL with eps 2 gives the correct class a higher p than MAE", "el-theory", less("el(eps=2)", "mae", metric="p_true")),
    *(Claim(text, file, less("el", "ce", _NOISY, metric=metric), label=label)
      for text, metric in (("EL gives the correct class a higher p than CE", "p_true"), ("... and is more accurate", "last"))
      for file, label in (("el-theory", "10 epochs"), ("el-theory-long", "40 epochs"))),
)
FEATURES = (
    *(Claim(text, file, less(row, other))
      for text, row, other in (
          ("GCE beats CE", "gce", "ce"),
          ("EL beats CE", "el", "ce"),
          ("EL beats GCE", "el", "gce"),
          ("SL beats CE", "sl", "ce"),
          ("Label smoothing beats CE", "lsr", "ce"),
          ("D2L beats CE", "d2l", "ce"),
      )
      for file in ON_FEATURES),
    *(Claim("Forward with the true transition matrix beats GCE, symmetric noise", file, less("forward", "gce", _SYM))
      for file in ON_FEATURES[::2]),
    *(Claim("Forward with the true transition matrix beats GCE, asymmetric noise and human labels", file, less("forward", "gce", _ASYM))
      for file in ON_FEATURES[::2]),
    Claim("Forward with the true transition matrix beats GCE, asymmetric noise and human labels", ON_FEATURES[1], less("forward", "gce")),
    Claim("EL with eps 2 beats EL with eps the noise rate", "features-eps", less("el(eps=2)", "el(eps={rate})", _NOISY_SYM, rows="loss")),
    Claim("EL with eps 2 beats GCE", "features-eps", less("el(eps=2)", "gce(q=0.7)", rows="loss")),
    Claim("EL with the estimated eps is level with eps the rate (within 1 point)", "features-eps",
          less("el(eps=estimated)", "el(eps={rate})", _NOISY_SYM, rows="loss"), margin=1),
    *(Claim(f"ELR beats {other.upper()}", ON_FEATURES[1], less("elr", other)) for other in ("ce", "gce")),
)
# fmt: on
# the verdict lines: a sentence, and the claims that it puts together, by text
LINES = {
    "EL beats CE under symmetric noise and on human labels": (CE_SYM, CE_HUMAN),
    CE_ASYM: (CE_ASYM,),
    GCE: (GCE,),
    SL: (SL,),
    BEST_MEAN: (BEST_MEAN,),
    BEST_RANK: (BEST_RANK,),
    SMOOTHING: (SMOOTHING,),
}


def judge(claims: Sequence[Claim], folder: Path) -> dict[str, str]:
    """The verdict of some claims together, their strongest numbers, and where they hold."""
    found = {claim: claim.gaps(folder) for claim in claims}
    gaps = {
        replace(gap, where=", ".join(dict.fromkeys((claim.name, gap.where))))
        if len(claims) > 1
        else gap: claim
        for claim, members in found.items()
        for gap in members
    }
    strongest = claims[0].strongest(list(gaps)) if gaps else []
    return {
        "verdict": claims[0].verdict(list(gaps)),
        "numbers": "; ".join(f"{gap} ({gap.where})" for gap in strongest) or "–",
        "n": ", ".join(dict.fromkeys(str(gap.n) for gap in gaps)) or "–",
        "counts": ", ".join(_count(claim, members) for claim, members in found.items() if members)
        or "–",
        "pages": ", ".join(
            dict.fromkeys(f"[{claim.file}]({claim.file}.md)" for claim in claims if claim.file)
        )
        or "–",
    }


def _count(claim: Claim, gaps: list[Gap]) -> str:
    """`digits 2 of 7 (sym 0.6, 0.8)`, of those with an interval."""
    known = [gap for gap in gaps if gap.low is not None]
    right = [gap.where for gap in known if claim.supports(gap)]
    if not known:
        return f"{claim.name} without interval"
    kinds = groupby(right, key=lambda where: where.partition(" ")[0])
    places = "; ".join(
        ", ".join([next(items), *(where.partition(" ")[2] for where in items)])
        for _, items in kinds
    )
    shown = f" ({places})" if 0 < len(right) < min(len(known), 5) else ""
    return f"{claim.name} {len(right)} of {len(known)}{shown}"


def table(claims: Sequence[Claim], folder: Path) -> str:
    """The claims table: a line for each text."""
    head = [
        "| claim | verdict | strongest number | n | supported by | page |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    by_text = groupby(claims, key=lambda claim: claim.text)
    rows = [(text, judge(list(members), folder)) for text, members in by_text]
    keys = ("numbers", "n", "counts", "pages")
    return "\n".join(
        [
            *head,
            *(
                f"| {text} | **{facts['verdict']}** | {' | '.join(facts[key] for key in keys)} |"
                for text, facts in rows
            ),
        ]
    )


def lines(folder: Path) -> str:
    """The verdict lines."""
    texts = []
    for number, (text, names) in enumerate(LINES.items(), 1):
        facts = judge([claim for claim in PAPER if claim.text in names], folder)
        failed = facts["verdict"] == "does not hold"
        sides = ["Most against"] if failed else ["Most in favor", "Most against"]
        numbers = zip(sides, facts["numbers"].split("; "), strict=False)
        texts.append(
            f"{number}. **{text}: {facts['verdict']}.** Supported: {facts['counts']}. "
            + " ".join(f"{side}: {gap}." for side, gap in numbers)
        )
    return "\n".join(texts)


RIVALS = {
    "ce": ("#0072B2", "o"),
    "gce": ("#D55E00", "s"),
    "sl": ("#009E73", "D"),
}  # Okabe & Ito 2008
_ROWS = (
    "sym 0.2",
    "sym 0.4",
    "sym 0.6",
    "sym 0.8",
    "asym 0.2",
    "asym 0.3",
    "asym 0.4",
    "human worse",
)
_LIMITS = (-22, 45)  # points; wider intervals end in an arrow


def forest(folder: Path) -> dict[str, dict[str, list[Gap]]]:
    """The differences of the figure, by data set and rival."""
    found = {
        DATA[file]: {rival: less("el", rival)(folder / f"{file}.csv") for rival in RIVALS}
        for file in GRIDS
    }
    found[DATA["cifar10-short"]]["ce"] += less("el", "ce")(folder / "cifar10n-short.csv")
    return found


def caption(folder: Path) -> str:
    """The text below the figure."""
    counts = ", ".join(
        f"{data} n = {' or '.join(dict.fromkeys(str(gap.n) for gaps in rivals.values() for gap in gaps))}"
        for data, rivals in forest(folder).items()
    )
    return (
        "EL minus CE, GCE and SL: mean and 95 % interval over n seeds, paired by seed and noisy labels "
        f"({counts}; the larger for human labels). An arrow marks an interval that leaves the panel."
    )


def description(folder: Path) -> str:
    """The numbers of the figure, which its file carries as text."""
    return "\n".join(
        f"{data}, {gap.where}, EL minus {rival.upper()}: {gap}, n = {gap.n}"
        for data, rivals in forest(folder).items()
        for rival, gaps in rivals.items()
        for gap in gaps
    )


def draw(folder: Path, file: Path) -> None:
    """The forest plot."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {"svg.hashsalt": "noisebench", "svg.fonttype": "none", "font.size": 9}
    with rc_context(style):
        fig = Figure(figsize=(8, 4.9), layout="constrained", facecolor="white")
        panels = fig.subplots(1, len(GRIDS), sharex=True, sharey=True)
        for ax, (data, rivals) in zip(panels, forest(folder).items(), strict=True):
            counts = sorted({gap.n for gaps in rivals.values() for gap in gaps})
            ax.set_title(f"{data}, n = {' or '.join(map(str, counts))}", fontsize=9)
            ax.axvline(0, color="0.25", linewidth=1)
            for offset, (rival, gaps) in zip((-0.26, 0, 0.26), rivals.items(), strict=True):
                _draw_rival(ax, offset, rival, gaps)
            ax.set_xlim(*_LIMITS)
            ax.grid(axis="x", color="0.92")
            ax.set_axisbelow(True)
            run = {gap.where for gaps in rivals.values() for gap in gaps}
            for level, noise in enumerate(_ROWS):
                ax.axhline(level + 0.5, color="0.85", linewidth=0.6)
                if noise not in run:
                    ax.text(2, level, "not run", color="0.5", fontsize=8, va="center")
            ax.spines[["top", "right"]].set_visible(False)
        panels[0].set_yticks(range(len(_ROWS)), _ROWS)
        panels[0].set_ylim(len(_ROWS) - 0.5, -0.5)
        panels[0].set_ylabel("noise")
        fig.supxlabel(
            "difference in test accuracy, last epoch (points); right of 0: EL is better", fontsize=9
        )
        handles = panels[0].get_legend_handles_labels()
        fig.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
        metadata = (
            {"Date": None, "Description": description(folder)} if file.suffix == ".svg" else None
        )
        fig.savefig(file, metadata=metadata, dpi=100)


def _draw_rival(ax: Any, offset: float, rival: str, gaps: list[Gap]) -> None:
    color, mark = RIVALS[rival]
    levels = [_ROWS.index(gap.where) + offset for gap in gaps]
    ax.plot(
        [gap.mean for gap in gaps],
        levels,
        mark,
        color=color,
        markersize=4,
        label=f"EL minus {rival.upper()}",
    )
    for gap, level in zip(gaps, levels, strict=True):
        if gap.low is None or gap.high is None:
            continue
        low, high = max(gap.low, _LIMITS[0]), min(gap.high, _LIMITS[1])
        ax.plot([low, high], [level, level], color=color, linewidth=1.3)
        for end, cut, arrow in ((low, gap.low < low, "<"), (high, gap.high > high, ">")):
            if cut:
                ax.plot(end, level, arrow, color=color, markersize=5, clip_on=False)


def readme(text: str, folder: Path = HERE) -> str:
    """The text of README.md with its generated parts, which stand between markers, as the CSVs of
    a folder have them.
    """
    parts = {
        "verdicts": lines(folder),
        "rule": RULE,
        "caption": caption(folder),
        "paper": table(PAPER, folder),
        "findings": table(FINDINGS, folder),
        "features": table(FEATURES, folder),
    }
    for name, part in parts.items():
        before, found, rest = text.partition(f"<!-- {name} -->\n")
        if not found:
            raise ValueError(f"README.md lacks the marker <!-- {name} -->")
        text = f"{before}{found}{part}\n{rest[rest.index('<!-- end -->') :]}"
    return text


def main() -> None:
    """Write README.md and the figure."""
    page = HERE / "README.md"
    page.write_text(readme(page.read_text(encoding="utf-8")), encoding="utf-8")
    draw(HERE, HERE / "el-forest.svg")


if __name__ == "__main__":
    main()
