"""`make matrix`: the tests of `make test`, one case of each, with the oldest and the newest
versions that pyproject.toml allows.

Oldest: for every library in pyproject.toml, extras and test tools too, the lowest release that its
bound allows and that has a wheel for that Python; uv reads the bounds from there. What those
libraries need in turn is the newest that they accept. Newest: what pip would install today. Each
combination has a virtual environment in .matrix/, removed after its tests.

    python tests/support/versions.py python3.11 python3.14               # both, on two Pythons
    python tests/support/versions.py python3.11 --which newest           # does a release of
    today break anything? For CI, once a week
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".matrix"
FOLDERS = ("unit", "contracts", "cli", "faults", "security")  # what `make test` runs
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
SHOWN = ("torch", "timm", "pandas", "typer")
COUNTS = ("passed", "failed", "error", "skipped")


@dataclass(frozen=True)
class Outcome:
    """What became of one combination; `reason`: the reason for no counts."""

    python: str
    which: str
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0
    reason: str = ""

    @property
    def good(self) -> bool:
        return (
            not self.reason
            and self.counts["passed"] > 0
            and self.counts["failed"] == self.counts["error"] == 0
        )


def bounds(*extras: str) -> dict[str, Version]:
    """Library -> the lower bound that pyproject.toml writes, of what is always needed and of these
    extras.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = map(
        Requirement,
        [
            *project["dependencies"],
            *(text for extra in extras for text in project["optional-dependencies"][extra]),
        ],
    )
    return {
        canonicalize_name(one.name): Version(written.version)
        for one in named
        for written in one.specifier
    }


def above(versions: dict[str, str]) -> list[str]:
    """What is newer than its bound, with the bound: in the oldest combination, what has no older
    wheel for that Python.
    """
    asked = bounds("check", "parquet", "plot").items()
    return [
        f"{name} {versions[name]} (>={low})"
        for name, low in asked
        if name in versions and Version(versions[name]) > low
    ]


def version_of(python: str) -> str:
    """Such as 3.14.10; empty where the command is not here or starts no Python."""
    try:
        done = subprocess.run(
            [python, "-c", "import platform; print(platform.python_version())"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def beside(place: Path, kind: str) -> Path:
    # with_suffix would take the last number of 3.14.1 for one
    return place.with_name(f"{place.name}.{kind}")


def install(python: str, which: str, place: Path) -> Path:
    """A virtual environment with these versions; its Python. The exact versions stand in the file
    beside it.
    """
    subprocess.run([python, "-m", "venv", "--clear", place], check=True)
    own = place / "bin" / "python"
    pins = beside(place, "txt")
    subprocess.run([own, "-m", "pip", "install", "--quiet", "--quiet", "uv"], check=True)
    uv = [place / "bin" / "uv", "--quiet", "pip"]
    resolve = [
        "compile",
        "pyproject.toml",
        "--extra",
        "check",
        "--no-build",
        "--prerelease",
        "disallow",
        "--no-annotate",
        "--resolution",
        RESOLUTIONS[which],
    ]
    subprocess.run(
        [*uv, *resolve, "--upgrade", "--python", own, "--output-file", pins], check=True, cwd=ROOT
    )
    subprocess.run(
        [*uv, "install", "--compile-bytecode", "--python", own, "--requirements", pins],
        check=True,
        cwd=ROOT,
    )
    subprocess.run(
        [*uv, "install", "--python", own, "--no-deps", "--editable", "."], check=True, cwd=ROOT
    )
    return own


def pinned(text: str) -> dict[str, str]:
    """The versions in a requirements file of exact ones."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))


def counted(output: str) -> dict[str, int]:
    """pytest's closing line as numbers."""
    last = output.rstrip().rpartition("\n")[2]
    return {
        name: int(found[1]) if (found := re.search(rf"(\d+) {name}", last)) else 0
        for name in COUNTS
    }


def tested(python: str, which: str, asked: argparse.Namespace) -> Outcome:
    """The tests in an environment of their own, with all that they printed in a file beside it."""
    full = version_of(python)
    if not full:
        return Outcome(python, which, reason="not here")
    place = PLACE / f"{full}-{which}"
    try:
        own = install(python, which, place)
    except subprocess.CalledProcessError as error:
        return Outcome(
            full,
            which,
            reason=f"not installed: {Path(error.cmd[0]).name} ended with {error.returncode}",
        )
    folders = [f"tests/{name}" for name in FOLDERS]
    command = [
        own,
        "-m",
        "pytest",
        *folders,
        "--cases",
        str(asked.cases),
        "-n",
        str(asked.workers),
        "--dist",
        "worksteal",
        *asked.pytest,
    ]
    start = time.monotonic()
    with beside(place, "log").open("w+") as log:
        subprocess.run(
            command,
            cwd=ROOT,
            check=False,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        log.seek(0)
        counts = counted(log.read())
    if not asked.keep:
        shutil.rmtree(place)
    return Outcome(
        full, which, pinned(beside(place, "txt").read_text()), counts, time.monotonic() - start
    )


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def row(outcome: Outcome) -> str:
    if outcome.reason:
        return line(
            [outcome.python, outcome.which, outcome.reason, *[""] * (len(SHOWN) + len(COUNTS))]
        )
    versions = [outcome.versions[name] for name in SHOWN]
    return line(
        [
            outcome.python,
            outcome.which,
            *versions,
            *(str(outcome.counts[name]) for name in COUNTS),
            f"{outcome.seconds:.0f}",
        ]
    )


def main() -> int:
    """0: every combination whose Python is here has passed, and there was one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pythons", nargs="+", help="commands, such as python3.14")
    parser.add_argument("--which", choices=RESOLUTIONS, nargs="+", default=list(RESOLUTIONS))
    parser.add_argument("--cases", type=int, default=1, help="at most so many of each test's cases")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--keep", action="store_true", help="the environments stay in .matrix/, some 5 GB each"
    )
    parser.add_argument(
        "--pytest",
        nargs=1,
        default=[],
        action="extend",
        help="one more word for pytest; may be given several times",
    )
    asked = parser.parse_args()
    PLACE.mkdir(exist_ok=True)
    outcomes = []
    for python in asked.pythons:
        for which in asked.which:
            outcomes.append(tested(python, which, asked))
            sys.stderr.write(f"{row(outcomes[-1])}\n")
    heads = ["python", "versions", *SHOWN, *COUNTS, "s"]
    print("\n".join([line(heads), line(["---"] * len(heads)), *map(row, outcomes)]))
    for outcome in outcomes:
        if outcome.which == "oldest" and (newer := above(outcome.versions)):
            print(
                f"\n{outcome.python}, oldest: newer than the bound, no older wheel for this "
                f"Python: {', '.join(newer)}"
            )
    ran = [outcome for outcome in outcomes if outcome.reason != "not here"]
    return 0 if ran and all(outcome.good for outcome in ran) else 1


if __name__ == "__main__":
    sys.exit(main())
