"""Runs an experiment of this directory, or resumes it: `python results/evidence.py el-cifar10
--time-limit 25`. Without a name it only writes the pages again.

`NAME.csv` has one line for each finished run of the suite NAME, `NAME.md` shows its tables. A run in
the CSV is not repeated; a stopped run resumes from the workspace. The runs that matter most come
first. Only one process at a time may write an experiment.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import noisebench as nb
from noisebench.cli import main as command
from noisebench.errors import Interrupted
from noisebench.experiments.suite import Suite, expand, read_suites
from noisebench.experiments.suite_file import packaged_suites

HERE = Path(__file__).parent
_LEAST = 0.01  # minutes: no run starts with less


@dataclass(frozen=True)
class Table:
    """The arguments of `noisebench.report`."""

    rows: str = "method"
    cols: str = "noise"
    metric: str = "last"
    against: str | None = None
    published: str | None = None


@dataclass(frozen=True)
class Evidence:
    """The seeds of an experiment, its tables, and its runs in order, as values of `run --filter`."""

    seeds: int
    tables: tuple[Table, ...]
    pieces: tuple[tuple[str, ...], ...] = ((),)


def _by_seed(seeds: int, *conditions: str) -> tuple[tuple[str, ...], ...]:
    """Each condition with seed 0, then with seed 1, and so on; the seeds alone without a condition."""
    return tuple(
        tuple(filter(None, (f"seed={seed}", condition)))
        for seed, condition in product(range(seeds), conditions or ("",))
    )


def _rates(text: str, *rates: float) -> str:
    return "noise=" + "|".join(text.format(rate) for rate in rates)


_SYM, _ASYM = "symmetric(rate={})", "asymmetric(rate={}, map='cifar10')"
_GAINS = Table(against="el")
_PAPER = Table(published="equal-loss", against="el")
_EPOCHS = Table("noise,method", "metric", "last,best,memorised")
EVIDENCE = {
    "quick": Evidence(10, (_GAINS, _EPOCHS, Table(metric="best", against="el"))),
    "el-eps": Evidence(10, (Table("loss", against="ce"), Table("loss", against="gce(q=0.7)"))),
    "el-neighbours": Evidence(10, (Table("loss", against="el(eps=0.4)"),)),
    "el-stopping": Evidence(
        10, tuple(Table(metric=metric, against="el") for metric in ("last", "at_noisy_val", "best"))
    ),
    "el-theory": Evidence(5, (Table(metric="p_true"), Table(against="ce"))),
    "el-theory-long": Evidence(5, (Table(metric="p_true"), Table(against="ce"))),
    "el-two-way": Evidence(10, (_GAINS, Table(metric="best", against="el"))),
    "el-plugin": Evidence(
        10, (Table("loss", against="ce"), _GAINS, Table(against="elr"), Table(metric="memorised"))
    ),
    "fashion-short": Evidence(3, (_GAINS, _EPOCHS), _by_seed(3)),
    "cifar10-short": Evidence(2, (_PAPER, _EPOCHS), _by_seed(2)),
    "cifar10-short-two-way": Evidence(2, (_PAPER, _EPOCHS), _by_seed(2)),
    "cifar10-short-plain": Evidence(2, (_GAINS, _EPOCHS), _by_seed(2)),
    "cifar10n-short": Evidence(3, (_GAINS, _EPOCHS), _by_seed(3)),
    "features-cifar10": Evidence(10, (Table(against="ce"), _GAINS, _EPOCHS)),
    "features-cifar10n": Evidence(10, (Table(against="ce"), _EPOCHS)),
    "features-fashion": Evidence(10, (Table(against="ce"), _GAINS, _EPOCHS)),
    "features-eps": Evidence(
        10, (Table("loss", against="ce"), Table("loss", against="gce(q=0.7)"))
    ),
    "el-cifar10": Evidence(
        4,
        (_PAPER, _EPOCHS),
        _by_seed(4, _rates(_SYM, 0.4, 0.8), _rates(_ASYM, 0.4, 0.3, 0.2), _rates(_SYM, 0.6, 0.2)),
    ),
}
# the text below the title of each page: what no table says
SHOWS = {
    "quick": """Compares eight methods under seven noises on real digits, with a network that memorizes noisy labels.

EL uses the true noise rate, Forward the true transition matrix. GCE has the setting of its paper for CIFAR; SL has that of its
authors' code (A = -9.21, where the paper has -4). Asymmetric noise flips half of the classes, so the share of incorrect labels is half the
rate: 2 to 7, 3 to 8 and 7 to 1 one way, 5 and 6 both ways. One test image is 0.2 points. At symmetric 0.4 the probability that EL
gives to the given label has two peaks after a quarter of the training, one for correct and one for incorrect labels
([figure](quick-paper.svg)).""",
    "el-eps": """Varies eps of Equal Loss: too small, the noise rate, too large, and estimated without the true rate.

Under asymmetric noise half of the rate is the share of incorrect labels, and the paper does not say which of the two eps stands for: compare
eps 0.2, 0.3 and 0.4 with eps 0.1, 0.15 and 0.2. A row with a standard deviation of several points on clean labels has seeds in
which the network stopped predicting one of the ten classes.""",
    "el-neighbours": """Compares EL with AGCE, a loss that tends to EL.

(1 + a) AGCE tends to EL with eps = a as q tends to 0. The paper does not mention it. `agce(a=0.6, q=0.6)` is the setting of the
authors of AGCE.""",
    "el-stopping": """Compares three epochs to report: the last, the best on a noisy validation split, and the best on test.

The validation split is a tenth of the training set, with labels as noisy as the rest, so choosing by it uses no clean label. Choosing by test
accuracy is optimistic. The order of the methods depends on the epoch: state it with every table.""",
    "el-theory": """Compares the optimum of CE, EL and MAE with the predictions of networks, early enough that few noisy labels are memorized.

Theory: CE reproduces the noisy class probabilities. EL with eps the noise rate gives the correct class probability 1 under symmetric noise
up to a rate of 1 - 2/K, less beyond it, and less than 1 under pair flips. MAE gives it 1 in all columns. At the rate 1 - 2/K the cost
of EL is flat to first order, and training is slow there. A better optimum is not always a better classifier: the correct class can be the
most probable one in either case. EL with eps 2 comes near its optimum under pair flips in some seeds only.""",
    "el-theory-long": """Repeats the columns of [el-theory](el-theory.md) in which EL was furthest from its optimum, with four times the epochs.

More training does not bring EL nearer to its optimum: the network begins to memorize noisy labels instead.""",
    "el-two-way": """Compares the two meanings of asymmetric noise in the literature: labels flip one way, or are exchanged both ways.

The text of the Equal Loss paper describes two ways; the papers that its baselines come from use one way. The classes are CIFAR-10's pairs, by
number. `el` has eps the noise rate, `el_overall` eps the share of incorrect labels. One way at the highest rate, EL stops predicting some of the classes
whose labels flip, 4 in every seed, 9 and 2 in most; two ways it predicts all (from predictions that the CSV does not hold). Numbers
made one way are not comparable with numbers made two ways.""",
    "el-plugin": """Combines CE and EL with label smoothing, co-teaching and ELR.

ELR has two settings in its paper, a weaker one (`lam=1, beta=0.9`) and a stronger one (`lam=3, beta=0.7`, here `elr`). In the stronger one EL
collapses, perhaps because its gradient is smaller than that of CE where p is small, so the penalty of ELR dominates. Co-teaching uses the
share of incorrect labels.""",
    "fashion-short": """Repeats the grid of [quick](quick.md) on 10,000 images of Fashion-MNIST with a small CNN.

The order of the methods is not that of digits: data, network and recipe differ. D2L, which uses no noise rate, is far ahead at high symmetric
rates. GCE memorizes more noisy labels than EL there.""",
    "cifar10-short": """Compares CE, GCE, SL and EL on 10,000 images of CIFAR-10 with the 8-layer CNN of the paper.

The recipe is the paper's with a tenth of its weight decay. With two seeds an interval is narrow or wide by chance. Under asymmetric noise EL stops
predicting two of the classes whose labels flip, deer and truck, in one of the two seeds (from predictions that the CSV does not hold).""",
    "cifar10-short-two-way": """Repeats the asymmetric column of [cifar10-short](cifar10-short.md) with labels exchanged both ways, as the text of the Equal Loss paper describes.

One seed so far: the differences have no interval.""",
    "cifar10-short-plain": """Repeats the symmetric column of [cifar10-short](cifar10-short.md) without augmentation, which lets the network memorize the noisy labels.

One seed so far: the differences have no interval.""",
    "cifar10n-short": """Compares CE and EL on 10,000 images of CIFAR-10 with human labels (CIFAR-N's `worse`).

EL uses the true share of incorrect labels. The labels are the same in all seeds, so the intervals cover training only.""",
    "features-cifar10": """Compares eight methods on all 50,000 images of CIFAR-10, as frozen ImageNet features with a linear head.

Features: the penultimate layer of EfficientNet-Lite0 at 128 pixels ([weights](weights.py)), 1,280 numbers per image. EL uses the true
noise rate, Forward the true transition matrix.""",
    "features-cifar10n": """Compares methods on the human annotations of CIFAR-10N, on the same features as [features-cifar10](features-cifar10.md).

The labels are the same in all seeds, so the intervals cover training only, and are narrow. EL uses the true share of incorrect labels,
Forward the true transition matrix.""",
    "features-fashion": """Repeats the grid of [features-cifar10](features-cifar10.md) on all 60,000 images of Fashion-MNIST.""",
    "features-eps": """Varies eps of Equal Loss on the features of [features-cifar10](features-cifar10.md): too small, the noise rate, too large, and estimated.""",
    "el-cifar10": """Repeats Table 1 of the Equal Loss paper on all of CIFAR-10.

Learning rate, weight decay (5e-3) and network are the paper's; the epochs and the batch size, which it does not state, are ours. With one seed,
ignore differences below a point. With this weight decay no method memorizes the noisy labels, and at symmetric 0.8 CE and EL give every class the
same probability. The baselines of the paper seem to be copied from the SL paper, whose recipe is another. The SL paper gives
the same 5e-3 for CIFAR-100, and in its code that is a decay of the learning rate. CE and EL at symmetric 0.4 gave the same accuracy on two GPUs, alone, and as one of five processes.""",
}


def gather(
    name: str, ends: float, jobs: int | None, workspace: Path, feature_weights: str | None = None
) -> int:
    """Runs what the CSV lacks until the clock is at `ends`, and adds it; returns the number of
    failed commands.
    """
    experiment, file, failed = EVIDENCE[name], HERE / f"{name}.csv", 0
    parallel = [] if jobs is None else ["--jobs", str(jobs)]
    workspace.mkdir(parents=True, exist_ok=True)
    for piece in experiment.pieces:
        left = (ends - time.monotonic()) / 60
        if left < _LEAST:
            break
        csv_files = [str(file)] if file.exists() else []
        options = ["--seeds", str(experiment.seeds), *parallel, "--time-limit", f"{left:.3f}"]
        options += [word for condition in piece for word in ("--filter", condition)]
        options += ["--completed", *csv_files] if csv_files else []
        options += ["--feature-weights", feature_weights] if feature_weights else []
        code = command(["-C", str(workspace), "run", name, *options])
        failed += code != 0
        if any(workspace.glob("runs/*/result.json")):
            paths = [*csv_files, str(workspace)]
            failed += command(["report", *paths, "--format", "runs", "-o", str(file)]) != 0
        if code == Interrupted.exit_code:
            sys.exit(code)
    return failed


@cache
def suites() -> dict[str, Suite]:
    """The packaged suites."""
    return read_suites(packaged_suites())


def page(name: str) -> str:
    """A results page as markdown: what it shows, the protocol, the tables, the differences, and the
    command.
    """
    tables, differences = _views(name)
    parts = {
        "Protocol": [*_protocol(name)],
        "Table": [*tables, *([_predicted()] if name == "el-theory" else [])],
        "Differences": differences,
        "Command": [_command(name)],
    }
    sections = [f"## {title}\n\n" + "\n\n".join(texts) for title, texts in parts.items()]
    return "\n\n".join([f"# {name}", SHOWS[name], *sections]) + "\n"


def _views(name: str) -> tuple[list[str], list[str]]:
    """The tables and the tables of differences, each once."""
    tables: dict[str, None] = {}
    differences: dict[str, None] = {}
    for view in EVIDENCE[name].tables:
        plain, full = (_render(name, each) for each in (replace(view, against=None), view))
        tables |= dict.fromkeys(plain)
        differences |= dict.fromkeys(
            f"Differences in `{view.metric}`:\n\n{text}" for text in full if text not in plain
        )
    return list(tables), list(differences)


def _render(name: str, view: Table) -> list[str]:
    """Each table with its caption."""
    text = nb.report(HERE / f"{name}.csv", **vars(view)).render("md").strip()
    return re.split(r"\n\n(?=\*\*)", text)


@cache
def _runs(name: str) -> list[dict[str, str]]:
    """The finished runs of a results CSV."""
    with (HERE / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        return [run for run in csv.DictReader(lines) if not run["failed"]]


def _protocol(name: str) -> Iterator[str]:
    """Which of the suite's runs the CSV has, and the hardware and the versions that made them."""
    runs = _runs(name)
    total = len(expand(suites()[name].with_defaults(seeds=EVIDENCE[name].seeds)))
    count = f"All {total} runs" if len(runs) == total else f"{len(runs)} of {total} runs"
    days = sorted({run["finished"][:10] for run in runs})
    yield (
        f"{count} of the suite `{name}` are in [{name}.csv]({name}.csv), one a line; they finished "
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}. The title of each table names the data, the "
        "model and the recipe."
    )
    machines = Counter(
        tuple(f"{word} {run[key]}".strip() for key, word in _MACHINE.items() if run[key])
        for run in runs
    )
    yield "\n".join(f"* {number} runs: {', '.join(facts)}" for facts, number in machines.items())


def _command(name: str) -> str:
    """The commands for the whole table and for one of its runs."""
    run = _runs(name)[-1]
    axes = (*suites()[name].matrix, "seed")
    command = f"noisebench run {name} --seeds {EVIDENCE[name].seeds}"
    if "features" in suites()[name].defaults.given():
        command += " --feature-weights tf_efficientnet_lite0.safetensors"
    one = " ".join(f'--filter "{axis}={run[axis]}"' for axis in axes)
    return (
        f"```sh\n{command}\n{command} {one}\n```\n\n"
        "The second command repeats one run; with the same versions, processor and number of threads the "
        "result is bit-identical."
    )


def _predicted() -> str:
    """The optimum of each loss beside the mean predictions, from el-theory-optimum.csv."""
    with (HERE / "el-theory-optimum.csv").open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["series"] == "correct class"]
    noises, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("panel", "row"))
    cells = {(row["row"], row["panel"]): row for row in rows}
    body = [
        f"| {' | '.join(line)} |"
        for line in (["method", *noises], ["---", *["---:"] * len(noises)])
    ]
    for method in methods:
        numbers = [cells[method, noise] for noise in noises]
        predicted = [f"{100 * float(row['expected']):.1f}" for row in numbers]
        observed = [
            f"{100 * float(row['mean']):.1f} ± {100 * float(row['std']):.1f}" for row in numbers
        ]
        body += [
            f"| {method}, predicted | {' | '.join(predicted)} |",
            f"| {method}, observed | {' | '.join(observed)} |",
        ]
    table = "\n".join(body)
    return (
        f"**probability of the correct class (%), predicted and observed**\n\n{table}\n\n"
        "Predicted: the optimum of the loss for a network of unlimited capacity that knows only the class of an "
        "image. Observed: mean over the test images ± sample standard deviation over seeds, from "
        "[el-theory-optimum.csv](el-theory-optimum.csv); [figure](el-theory.svg)."
    )


_MACHINE = dict.fromkeys(("processor", "device", "precision"), "") | {
    **{name: name for name in ("threads", "torch")},
    "packed": "networks trained at once",
    "python": "Python",
}


def _minutes(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes")


def main() -> int:
    """The exit code: 3 where a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"one of {', '.join(EVIDENCE)}; default: only write the pages again",
    )
    parser.add_argument("--time-limit", type=_minutes, default=1e6, help="minutes in total")
    parser.add_argument(
        "--jobs", type=int, help="runs in parallel; default: one per core, or one per GPU"
    )
    parser.add_argument("--feature-weights", help="weights of the suites features-*")
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path("evidence"),
        help="directory of the unfinished runs",
    )
    args = parser.parse_args()
    if unknown := set(args.names) - set(EVIDENCE):
        parser.error(
            f"unknown experiment: {', '.join(sorted(unknown))}; known: {', '.join(EVIDENCE)}"
        )
    ends = time.monotonic() + 60 * args.time_limit
    failed = sum(
        gather(name, ends, args.jobs, args.workspace / name, args.feature_weights)
        for name in args.names
    )
    for name in EVIDENCE:
        if (HERE / f"{name}.csv").exists():
            (HERE / f"{name}.md").write_text(page(name), encoding="utf-8")
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
