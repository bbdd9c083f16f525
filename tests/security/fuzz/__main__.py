"""`python -m tests.security.fuzz TARGET [--seconds N] [--folder DIR] [--results FILE]`: runs a fuzz
target.

Prints what happened to its inputs; exit code 1 for a failure.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

TARGETS = ("language", "manifest", "suite", "record", "npz", "labels", "runs")


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m tests.security.fuzz")
    asked.add_argument("target", choices=TARGETS)
    asked.add_argument("--seconds", type=float, default=600)
    asked.add_argument(
        "--folder", type=Path, default=None, help="keeps failing inputs; default: a new one"
    )
    asked.add_argument(
        "--results", type=Path, default=None, help="a line is appended to this table"
    )
    asked.add_argument("--again", type=Path, default=None, help="try this input alone")
    options = asked.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix=f"fuzz-{options.target}-"))
    with ExitStack() as stack:
        atheris = _atheris()
        if atheris is not None and options.again is None:
            stack.enter_context(atheris.instrument_imports(include=["noisebench"]))
        target = importlib.import_module(f"tests.security.fuzz.{options.target}_target")
        from .engine import Engine, Tally, limit_memory
    attempt = target.prepare(folder)
    limit_memory()
    if options.again is not None:
        attempt(options.again.read_bytes())
        return 0
    engine = Engine(attempt, folder)

    def done(tally: Tally) -> None:
        way = "atheris" if atheris is not None else "chance"
        print(f"{options.target}, by {way}: {tally}; failing inputs in {folder}")
        if options.results is not None:
            refused = ", ".join(f"{count} {name}" for name, count in tally.refused.most_common())
            failed = "; ".join(tally.failed) or "none"
            with options.results.open("a") as file:
                file.write(
                    f"| {options.target} | {way} | {tally.seconds:.0f} | {tally.inputs} | "
                    f"{tally.taken} | {refused} | {failed} |\n"
                )

    if atheris is not None:
        engine.by_coverage(options.seconds, done)
    done(engine.by_chance(0, seconds=options.seconds))
    return bool(engine.tally.failed)


def _atheris() -> object:
    try:
        import atheris
    except ImportError:
        return None
    return atheris


if __name__ == "__main__":
    sys.exit(main())
