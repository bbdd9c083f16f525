"""The whole grid: `python tests/perf/bench_suite.py [SUITE]`.

`noisebench run` in a fresh folder, start-up and all, beside the same runs one at a time, each by
itself in float32 on one thread (a sample of them, in the same minute), and the forecast of
`--dry-run` made before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from noisebench.core.hardware import cpu_count
from noisebench.experiments.suite import find_suite
from noisebench.runs.checkpoint import RunOptions
from noisebench.runs.queue import QueuedRun, plan_suite
from noisebench.runs.session import execute_run, make_trainer
from noisebench.runs.workspace import Workspace

SAMPLE = 8


def command(folder: str, *words: str) -> str:
    """What the command line prints."""
    arguments = [sys.executable, "-m", "noisebench", "-q", "-C", folder, *words]
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def alone(name: str) -> tuple[int, float]:
    """How many runs the suite has, and seconds of one by itself: a sample of all its methods."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        workspace, suite = Workspace(folder), find_suite(name, Path(folder))[1]
        defaults = suite.defaults.model_copy(update={"precision": "fp32"})
        items: list[QueuedRun] = plan_suite(
            workspace, suite.model_copy(update={"defaults": defaults})
        )
        begun = time.perf_counter()
        for item in items[:: max(1, len(items) // SAMPLE)][:SAMPLE]:
            images = workspace.training_images(item.run)
            execute_run(
                item.run, images, make_trainer(item.run, images, "cpu"), item.folder, RunOptions()
            )
    return len(items), (time.perf_counter() - begun) / min(SAMPLE, len(items))


def main() -> None:
    """Print one line a way."""
    name = sys.argv[1] if len(sys.argv) > 1 else "quick"
    with tempfile.TemporaryDirectory() as folder:
        forecast = json.loads(command(folder, "run", name, "--dry-run", "--json"))
    count, each = alone(name)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        command(folder, "run", name)
        seconds = time.perf_counter() - begun
        after = json.loads(command(folder, "run", name, "--dry-run", "--rerun", "all", "--json"))
    print(
        f"torch {torch.__version__}, {cpu_count()} cores, {name}: {count} runs, {forecast['packs']} "
        "packs"
    )
    print("| way | seconds | a run | |\n| --- | ---: | ---: | ---: |")
    print(
        f"| one at a time, float32, one thread (from {SAMPLE}) | {count * each:.0f} | "
        f"{each:.2f} | 1.0 |"
    )
    print(
        f"| `noisebench run {name}` | {seconds:.1f} | {seconds / count:.3f} | "
        f"{count * each / seconds:.1f} |"
    )
    for what, said in (("before any run", forecast), ("from finished runs", after)):
        guess = said["estimated_seconds"]
        print(f"| forecast {what} | {guess:.1f} | | {100 * (guess / seconds - 1):+.0f} % |")


if __name__ == "__main__":
    main()
