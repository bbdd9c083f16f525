"""Makes a table of this folder, or goes on with it, a piece at a time: `python results/evidence.py
el-cifar10 --time-limit 25`.

Of each table `NAME.csv` has every run, a line each, and `NAME.md` what it shows. What the file has
is not run again, wherever it was run; what was stopped goes on in the workspace. Pieces come in the
order of their value, so that the time there is is spent best. One process at a time may write a
table.
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
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import noisebench as nb
from noisebench.cli import main as command
from noisebench.errors import Interrupted
from noisebench.experiments.suite import Suite, expand, packaged_suites, read_suites

HERE = Path(__file__).parent
_LEAST = 0.01  # minutes: less begins nothing


@dataclass(frozen=True)
class Table:
    """One view of the runs, by the words of `report`."""

    rows: str = "method"
    cols: str = "noise"
    metric: str = "last"
    against: str | None = None
    published: str | None = None


@dataclass(frozen=True)
class Evidence:
    """How many of a suite's seeds, in which pieces (conditions of `run --filter`), and what is shown
    of them.
    """

    seeds: int
    tables: tuple[Table, ...]
    pieces: tuple[tuple[str, ...], ...] = ((),)


def _by_seed(seeds: int, *conditions: str) -> tuple[tuple[str, ...], ...]:
    """Each condition with seed 0, then with seed 1 ...; alone by seed where there is none."""
    return tuple(
        tuple(filter(None, (f"seed={seed}", condition)))
        for seed, condition in product(range(seeds), conditions or ("",))
    )


def _rates(text: str, *rates: float) -> str:
    return "noise=" + "|".join(text.format(rate) for rate in rates)


_SYM, _ASYM = "symmetric(rate={})", "asymmetric(rate={}, map='cifar10')"
_GAINS = Table(against="el")
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
    "cifar10-short": Evidence(2, (_GAINS, _EPOCHS, Table(published="equal-loss")), _by_seed(2)),
    "cifar10-short-two-way": Evidence(2, (_EPOCHS, Table(published="equal-loss")), _by_seed(2)),
    "cifar10-short-plain": Evidence(2, (_EPOCHS,), _by_seed(2)),
    "cifar10n-short": Evidence(3, (_GAINS, _EPOCHS), _by_seed(3)),
    "el-cifar10": Evidence(
        4,
        (Table(published="equal-loss"), _GAINS, _EPOCHS),
        _by_seed(4, _rates(_SYM, 0.4, 0.8), _rates(_ASYM, 0.4, 0.3, 0.2), _rates(_SYM, 0.6, 0.2)),
    ),
}


def gather(name: str, ends: float, jobs: int | None, workspace: Path) -> int:
    """Run what is left of a table until the clock is at `ends`, and add it to the file piece by
    piece; how many commands failed.
    """
    found, file, failed = EVIDENCE[name], HERE / f"{name}.csv", 0
    at_once = [] if jobs is None else ["--jobs", str(jobs)]
    workspace.mkdir(parents=True, exist_ok=True)
    for piece in found.pieces:
        left = (ends - time.monotonic()) / 60
        if left < _LEAST:
            break
        there = [str(file)] if file.exists() else []
        known = ["--completed", *there] if there else []
        where = [word for condition in piece for word in ("--filter", condition)]
        asked = [
            "--seeds",
            str(found.seeds),
            *where,
            *known,
            *at_once,
            "--time-limit",
            f"{left:.3f}",
        ]
        code = command(["-C", str(workspace), "run", name, *asked])
        failed += code != 0
        if any(workspace.glob("runs/*/result.json")):
            failed += (
                command(["report", *there, str(workspace), "--format", "runs", "-o", str(file)])
                != 0
            )
        if code == Interrupted.exit_code:
            sys.exit(code)
    return failed


@cache
def suites() -> dict[str, Suite]:
    """The packaged ones, read once for all pages."""
    return read_suites(packaged_suites())


def page(name: str) -> str:
    """What a table's file of runs shows, as markdown, each table once."""
    found, file = EVIDENCE[name], HERE / f"{name}.csv"
    views = [nb.report(file, **vars(view)).render("md").strip() for view in found.tables]
    tables = dict.fromkeys(table for view in views for table in re.split(r"\n\n(?=\*\*)", view))
    return "\n\n".join([f"# {name}", *_made(name, file), *tables]) + "\n"


def _made(name: str, file: Path) -> Iterator[str]:
    """Of which runs it is, how many are still to come, and what made them."""
    with file.open(encoding="utf-8", newline="") as lines:
        runs = [run for run in csv.DictReader(lines) if not run["failed"]]
    seeds, suite = EVIDENCE[name].seeds, suites()[name]
    whole = len(expand(suite.with_defaults(seeds=seeds)))
    some = "all" if len(runs) == whole else f"{len(runs)} of"
    one = " ".join(f'--filter "{axis}={runs[-1][axis]}"' for axis in (*suite.matrix, "seed"))
    yield (
        f"`noisebench run {name} --seeds {seeds}`, {some} {whole} runs, a line each in "
        f"[{file.name}]({file.name}). One of them again, "
        f"to the last bit with the same versions, processor and threads: add `{one}`, say."
    )
    machines = Counter(
        tuple(f"{word} {run[key]}".strip() for key, word in _MACHINE.items() if run[key])
        for run in runs
    )
    yield "\n".join(f"* {count} runs: {', '.join(facts)}" for facts, count in machines.items())
    yield (
        f"Finished from {min(run['finished'] for run in runs)[:10]} to "
        f"{max(run['finished'] for run in runs)[:10]}."
    )


_MACHINE = dict.fromkeys(("processor", "device", "precision"), "") | {
    **{name: name for name in ("threads", "torch")},
    "packed": "places in a pack",
    "python": "Python",
}


def _minutes(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes")


def main() -> int:
    """The exit code: 3 where a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(EVIDENCE)}; default: only write the pages again",
    )
    parser.add_argument("--time-limit", type=_minutes, default=1e6, help="in all")
    parser.add_argument(
        "--jobs", type=int, help="runs at a time; default: one a core, or one a GPU"
    )
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path("evidence"),
        help="where runs lie until they are finished",
    )
    told = parser.parse_args()
    if unknown := set(told.names) - set(EVIDENCE):
        parser.error(
            f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(EVIDENCE)}"
        )
    ends = time.monotonic() + 60 * told.minutes
    failed = sum(gather(name, ends, told.jobs, told.workspace / name) for name in told.names)
    for name in EVIDENCE:
        if (HERE / f"{name}.csv").exists():
            (HERE / f"{name}.md").write_text(page(name), encoding="utf-8")
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
