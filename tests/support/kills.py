"""A small suite whose processes are killed at random, again and again: `python -m
tests.support.kills --kills 200 -o FILE.md`.

Half of the kills hit a worker, or a process that forks or waits for one, a third the command
itself, the rest are Ctrl-C and SIGTERM. The same command is given again until all runs are
finished; then every file of every run is held against that of an undisturbed suite, but
for what the clock says.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from noisebench.core.hardware import environment
from noisebench.runs.folder import RunFolder
from tests.support.suites import left

SUITE = """\
version: 1
suites:
  small:
    defaults: {dataset: digits, epochs: 25, seeds: [0, 1]}
    matrix:
      noise: [symmetric(rate=0.4), asymmetric(rate=0.3)]
      method: [ce, el, elr_plus]
"""
OFTEN = (
    "from noisebench.runs import checkpoint\n\ncheckpoint._CHECKPOINT_EVERY = 0.2  # where a suite "
    "takes "
    "days it is half a minute\n"
)
PAGE = """\
# Killed at random

A small suite, packs of places and runs of two networks among it, checkpointed every 0.2 s and disturbed until its processes were killed
as often as asked. A round ends with all runs finished; then every file of every run is compared with that of a suite that was not
disturbed, but for what the clock says. Exit code 3 is a run whose worker was killed while it was alone with it; the same command tries
it again.

```yaml
{suite}```

```
{log}
```
"""
SHARES = {"worker": 55, "command": 33, "Ctrl-C": 6, "SIGTERM": 6}
LONGEST = 5.0  # seconds between two


@dataclass
class Disturbed:
    """A suite under fire. place: its workspace, anew in each round."""

    random: Random
    wanted: int
    hit: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        return self.hit["worker"] + self.hit["command"]

    def round(self, place: Path) -> None:
        """Give the command until its suite is finished, disturbing it as long as there are kills
        left.
        """
        while True:
            process = command(place)
            while process.poll() is None:
                self._wait(process)
                if process.poll() is None and self.kills < self.wanted:
                    self._disturb(process)
            self.codes[process.returncode] += 1
            if process.returncode == 0 and all(
                RunFolder(path).status() == "done" for path in (place / "runs").iterdir()
            ):
                return

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        if self.kills >= self.wanted:
            process.wait()
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.random.uniform(0.2, LONGEST))

    def _disturb(self, process: subprocess.Popen[bytes]) -> None:
        whom = self.random.choices(list(SHARES), list(SHARES.values()))[0]
        if whom == "worker":
            if not (workers := descendants(process.pid)):
                return
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(workers), signal.SIGKILL)
                self.hit[whom] += 1
            return
        process.send_signal(
            {"command": signal.SIGKILL, "Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}[whom]
        )
        self.hit[whom] += 1
        process.wait()


def command(place: Path) -> subprocess.Popen[bytes]:
    words = [
        sys.executable,
        "-m",
        "noisebench",
        "-q",
        "-C",
        str(place),
        "--plugin",
        str(place / "often.py"),
        "run",
        "small",
        "--jobs",
        "2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (place / "log").open("ab") as log:
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=log, env=environment)


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def descendants(pid: int) -> list[int]:
    """The processes that a process and its descendants started."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def workspace(place: Path) -> Path:
    place.mkdir()
    (place / "benchmarks.yaml").write_text(SUITE)
    (place / "often.py").write_text(OFTEN)
    return place


def unlike(place: Path, straight: Path) -> list[str]:
    """Files that differ between two workspaces."""
    one, other = (
        {name: content for name, content in left(each).items() if name != "log"}
        for each in (place, straight)
    )
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def soak(kills: int, seed: int, say: Callable[[str], object]) -> bool:
    """Whether every round ended as the undisturbed suite; `say` is told each line."""
    began, disturbed, different = time.monotonic(), Disturbed(Random(seed), kills), 0
    facts = environment()
    say(f"{datetime.now(UTC):%Y-%m-%d}, {facts['processor']}")
    say(f"Python {facts['python']}, torch {facts['torch']}")
    with tempfile.TemporaryDirectory() as root:
        straight = workspace(Path(root) / "straight")
        assert command(straight).wait() == 0, (straight / "log").read_text()
        say(
            f"undisturbed: {len(list((straight / 'runs').iterdir()))} runs in "
            f"{time.monotonic() - began:.0f} s"
        )
        number = 0
        while disturbed.kills < kills:
            number, before = number + 1, disturbed.kills
            place = workspace(Path(root) / str(number))
            disturbed.round(place)
            found = unlike(place, straight)
            different += bool(found)
            log = (place / "log").read_text()
            bugs = log.count("Traceback") + log.count("a bug in noisebench")
            different += bool(bugs)
            equal = f"unlike: {', '.join(found)}" if found else "every file equal"
            say(f"round {number}: {disturbed.kills - before} kills; {equal}; {bugs} tracebacks")
    hit = ", ".join(f"{count} {name}" for name, count in disturbed.hit.items())
    codes = ", ".join(f"{code}: {count}" for code, count in sorted(disturbed.codes.items()))
    say(f"in all: {hit}; exit codes {codes}; {time.monotonic() - began:.0f} s")
    return not different


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", type=Path, metavar="FILE", help="where to write the report, too")
    options = parser.parse_args()
    lines = [f"$ python -m tests.support.kills --kills {options.kills} --seed {options.seed}"]

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    good = soak(options.kills, options.seed, say)
    if options.o:
        options.o.write_text(PAGE.format(suite=SUITE, log="\n".join(lines)))
    sys.exit(not good)


if __name__ == "__main__":
    main()
