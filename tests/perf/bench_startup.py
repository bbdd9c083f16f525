"""How soon something happens: `python tests/perf/bench_startup.py`. Whole processes, medians, in
turn with their references.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 9
FIRST_EPOCH = """
import time
import torch
begun = time.perf_counter()
from noisebench.training.trainer import Trainer
Trainer.run_epoch = lambda self, on_step: (_ for _ in ()).throw(SystemExit(print(time.perf_counter() - begun)))
from noisebench.cli import entry
import sys
sys.argv = ["noisebench", "-q", "train", "digits", "--sym", "0.4"]
entry()
"""
COMMANDS = {
    "import typer, rich": ["-c", "import typer, rich"],
    "import torch": ["-c", "import torch"],
    "noisebench --help": ["-m", "noisebench", "--help"],
    "noisebench corrupt cifar10 --asym 0.3": [
        "-m",
        "noisebench",
        "corrupt",
        "cifar10",
        "--asym",
        "0.3",
        "--force",
    ],
    "train digits, from torch's import to its first epoch": ["-c", FIRST_EPOCH],
}


def seconds(arguments: list[str], folder: str) -> float:
    """Of a process; of one that prints a number, that."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], check=True, cwd=folder, capture_output=True, text=True
    )
    spent = time.perf_counter() - begun
    return float(done.stdout) if arguments[-1] is FIRST_EPOCH else spent


def main() -> None:
    """Print a table."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for name, arguments in COMMANDS.items():
                found[name].append(seconds(arguments, folder))
    middle = {name: statistics.median(values) for name, values in found.items()}
    print(f"medians of {ROUNDS}\n| what | seconds | x import typer, rich |\n| --- | ---: | ---: |")
    for name, value in middle.items():
        print(f"| {name} | {value:.3f} | {value / middle['import typer, rich']:.1f} |")


if __name__ == "__main__":
    main()
