"""Inputs tried one after the other on a target, and what became of them. Led by coverage where
atheris is there, else by chance.
"""

from __future__ import annotations

import faulthandler
import os
import random
import re
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from noisebench.errors import NoisebenchError

MEMORY = 6 << 30  # bytes that a target's process may have, libraries included
# seconds of one input: of the processor, a failure; by the clock, the end of the process
SLOW, HANGS = 5.0, 60.0
_LONGEST_LINE = 5000  # letters of an error
_LONGEST_INPUT = 2048  # bytes of choices

Attempt = Callable[[bytes], None]
"""Tries an input. Raises NoisebenchError where that is refused; returns where it is taken."""


@dataclass
class Tally:
    """How many inputs were taken and refused, by which error, and which failed, by where."""

    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        return self.taken + sum(self.refused.values()) + len(self.failed)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {name}" for name, count in self.refused.most_common())
        return (
            f"{self.inputs} inputs in {self.seconds:.0f} s, {self.taken} taken, refused: "
            f"{kinds or 'none'}; {len(self.failed)} failures"
        )


class Engine:
    """Feeds a target until time or number is up. Each failing input is kept in `folder`, one for
    each place in the code.
    """

    def __init__(self, attempt: Attempt, folder: Path) -> None:
        self.tally, self._attempt, self._folder = Tally(), attempt, folder
        folder.mkdir(parents=True, exist_ok=True)

    def feed(self, data: bytes) -> None:
        """Try one input."""
        (self._folder / "last").write_bytes(data)  # what hangs can be tried again
        faulthandler.dump_traceback_later(HANGS, exit=True)
        began = time.process_time()  # others may be at work
        try:
            self._attempt(data)
            self.tally.taken += 1
        except NoisebenchError as error:
            self.tally.refused[type(error).__name__] += 1
            # a suite's mistakes are a line each
            if type(error).__name__ != "ConfigError" and "\n" in str(error):
                self._fail("more than one line", data, str(error))
            if max(map(len, str(error).split("\n"))) > _LONGEST_LINE:
                self._fail("an endless line", data, str(error)[:200])
        except Exception as error:  # whatever it is, it is what is looked for
            frames = [
                f
                for f in traceback.extract_tb(error.__traceback__)
                if "noisebench" in f.filename and "fuzz" not in f.filename
            ]
            where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "outside"
            self._fail(
                f"{type(error).__name__} in {where}",
                data,
                "".join(traceback.format_exception(error)),
            )
        finally:
            faulthandler.cancel_dump_traceback_later()
        if (took := time.process_time() - began) > SLOW:
            self._fail("slow", data, f"{took:.1f} s")

    def _fail(self, what: str, data: bytes, trace: str) -> None:
        if what not in self.tally.failed:
            self.tally.failed[what] = trace
            (self._folder / re.sub(r"\W+", "_", what)).write_bytes(data)
            print(f"FAILED {what}: {trace[-1500:]}", file=sys.stderr, flush=True)

    def by_chance(
        self, seed: int, *, seconds: float = float("inf"), count: float = float("inf")
    ) -> Tally:
        """Random inputs from a seed."""
        began, number, generator = time.monotonic(), 0, random.Random(seed)
        while time.monotonic() - began < seconds and number < count:
            self.feed(generator.randbytes(24 + generator.randrange(200)))
            number += 1
        self.tally.seconds = time.monotonic() - began
        return self.tally

    def by_coverage(self, seconds: float, done: Callable[[Tally], None]) -> None:
        """Inputs by atheris, which never returns: at the end `done` is told, and the process ends."""
        import atheris

        began = time.monotonic()

        def one(data: bytes) -> None:
            self.feed(data)
            self.tally.seconds = time.monotonic() - began
            if self.tally.seconds > seconds:
                done(self.tally)
                sys.stdout.flush()
                os._exit(bool(self.tally.failed))

        corpus = self._folder / "corpus"
        corpus.mkdir(exist_ok=True)
        generator = random.Random(0)
        for number in range(64):
            (corpus / f"seed{number}").write_bytes(generator.randbytes(200))
        atheris.Setup(
            [
                sys.argv[0],
                f"-max_len={_LONGEST_INPUT}",
                "-rss_limit_mb=0",
                "-timeout=1000",
                "-verbosity=0",
                str(corpus),
            ],
            one,
        )
        atheris.Fuzz()


def limit_memory() -> None:
    """What wants more than MEMORY gets a MemoryError, which is a failure."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
