"""What a large suite costs beside its training: `python tests/perf/simulate_scale.py [RUNS]
[FOLDER]`.

Everything is real, by the command line and its worker processes, but the epochs: a plugin puts a
stub in their place that says the same of every example. Planned, claimed, written, recorded,
reported is as ever. With strace at hand the calls that a file server would see.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CELLS = 200  # twenty noises, ten methods
EPOCHS = 10
STUB = '''
"""Epochs that take no time."""
import numpy as np
from noisebench.metrics.dynamics import early_epochs
from noisebench.training.packed import PackedTrainer
from noisebench.training.trainer import EpochResult, Trainer


def end(self):
    random, n, K = np.random.default_rng(self.state.epoch), len(self.state.labels), self.task.num_classes
    log_p = np.log(random.dirichlet(np.ones(K), len(self.test)).astype(np.float32) + 1e-9)
    p, gradient = random.random((2, n), dtype=np.float32)
    whole = random.random((n, K if self.state.epoch < early_epochs(self.task.recipe.epochs) else 0), dtype=np.float32)
    self.state.epoch += 1
    return EpochResult(self.state.epoch, 0.1, 1.0, random.integers(0, K, n), p, gradient, whole, p, log_p)


def run_epoch(self, on_step=lambda: None):
    on_step()
    return end(self)


def run_epochs(self, on_step=lambda: None):
    on_step()
    return [end(trainer) for trainer in [self._all[row] for row in self.running]]


Trainer.run_epoch, PackedTrainer.run_epoch = run_epoch, run_epochs
'''


def make(place: Path, runs: int) -> None:
    """The stub, and a suite of so many runs."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "stub.py").write_text(STUB)
    rates = [round(0.05 + 0.04 * number, 2) for number in range(10)]
    noises = [
        *(f"symmetric(rate={rate})" for rate in rates),
        *(f"asymmetric(rate={rate})" for rate in rates),
    ]
    methods = ["ce", "lsr", "bootstrap", "forward", "sl", "d2l", "gce", "el", "mae", "js"]
    defaults = {
        "dataset": "digits",
        "model": "mlp",
        "recipe": "digits",
        "epochs": EPOCHS,
        "seeds": list(range(runs // CELLS)),
    }
    suite = {"defaults": defaults, "matrix": {"noise": noises, "method": methods}}
    (place / "scale.yaml").write_text(json.dumps({"version": 1, "suites": {"scale": suite}}))


def noisebench(
    place: Path, *arguments: str, before: tuple[str, ...] = ()
) -> tuple[float, float, float]:
    """Seconds, peak memory (MB) and seconds of processor of a command in the folder, its workers
    included but for the peak.
    """
    stub = ["--plugin", "stub.py"] if arguments[0] == "run" and "--dry-run" not in arguments else []
    command = [*before, sys.executable, "-m", "noisebench", "-C", ".", *stub, "-q", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    with subprocess.Popen(
        command, cwd=place, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, out
    return time.perf_counter() - begun, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def run_all(place: Path, runs: int, *arguments: str) -> tuple[float, float]:
    """Seconds, and seconds of processor, for a suite of so many runs, in a new folder, start-up
    included.
    """
    make(place, runs)
    seconds, _, busy = noisebench(place, "run", "scale.yaml", *arguments)
    return seconds, busy


def two_at_once(place: Path, runs: int) -> tuple[float, float]:
    """The same of two processes of one worker each, over one folder, at the same suite."""
    make(place, runs)
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: run_all(place, runs, "--jobs", "1"), range(2)))
    return max(seconds for seconds, _ in both), sum(busy for _, busy in both)


def operations(root: Path) -> Counter[str]:
    """The calls of a run that reach the workspace, by name: a suite of two runs a cell less one of
    one run a cell.
    """
    counts = []
    for runs in (CELLS, 2 * CELLS):
        place, log = root / f"traced{runs}", root / f"trace{runs}"
        make(place, runs)
        # what is read and written a client keeps and sends in large pieces
        calls = "trace=%file,fsync,getdents64"
        noisebench(
            place,
            "run",
            "scale.yaml",
            "--jobs",
            "1",
            before=("strace", "-f", "-y", "-qq", "-e", calls, "-o", str(log)),
        )
        inside = (
            line
            for line in log.open(errors="replace")
            if "runs/" in line and "AT_EMPTY_PATH" not in line
        )
        counts.append(
            Counter(
                found[1]
                for line in inside
                if (found := re.match(r"\d+\s+(?:<\.\.\. )?(\w+)", line))
            )
        )
        log.unlink()
    return Counter({name: (counts[1][name] - counts[0][name]) / CELLS for name in counts[1]})  # type: ignore[misc]


def sizes(place: Path) -> str:
    """Files and bytes of a run by name, and of all on disk."""
    folders = list((place / "runs").iterdir())
    files = {path.name: path.stat() for path in sorted(folders[0].iterdir())}
    by_name = ", ".join(f"{name} {found.st_size / 1000:.1f}" for name, found in files.items())
    blocks = sum(
        path.stat().st_blocks * 512 for folder in folders for path in folder.iterdir()
    ) / len(folders)
    total = sum(found.st_size for found in files.values())
    return (
        f"{len(files)} files, {total / 1000:.0f} kB, {blocks / 1000:.0f} kB in blocks, a run; "
        f"in kB: {by_name}"
    )


def show_reading(place: Path) -> None:
    """What it costs to look at a suite that is done."""
    shown = [
        ("run --dry-run", ["run", "scale.yaml", "--dry-run"]),
        ("run, all finished", ["run", "scale.yaml"]),
        ("list runs", ["list", "runs"]),
        ("report", ["report"]),
    ]
    print("| command | seconds | of processor | peak (MB) |\n| --- | ---: | ---: | ---: |")
    for name, arguments in shown:
        seconds, memory, busy = noisebench(place, *arguments)
        print(f"| `{name}` | {seconds:.1f} | {busy:.1f} | {memory:.0f} |", flush=True)


def show_a_run(
    name: str, runs: int, spent: tuple[float, float], start: tuple[float, float]
) -> None:
    """What a run takes beyond the start-up."""
    seconds, busy = (1000 * (all_ - once) / runs for all_, once in zip(spent, start, strict=True))
    print(f"{name}: {spent[0]:.1f} s; a run {seconds:.1f} ms, {busy:.1f} of processor", flush=True)


def main() -> None:
    """All of it, in a folder that is removed unless it was named."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    root = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    few, start = (
        max(CELLS, runs // 10 // CELLS * CELLS),
        run_all(root / "start", CELLS, "--jobs", "1", "--shard", f"1/{CELLS}"),
    )
    make(root / "all", runs)
    seconds, memory, busy = noisebench(root / "all", "run", "scale.yaml", "--dry-run")
    print(
        f"{runs} runs, none done: --dry-run in {seconds:.1f} s ({busy:.1f} of processor), "
        f"{memory:.0f} MB; one run: {start[0]:.1f} s"
    )
    for name, spent in (
        ("one worker", run_all(root / "one", few, "--jobs", "1")),
        ("two workers of one process", run_all(root / "two", few, "--jobs", "2")),
        ("two processes over one folder", two_at_once(root / "both", few)),
    ):
        show_a_run(f"{few} runs, {name}", few, spent, start)
    show_a_run(f"{runs} runs, two workers", runs, run_all(root / "all", runs, "--jobs", "2"), start)
    print(sizes(root / "all"))
    show_reading(root / "all")
    seconds, memory, busy = noisebench(root / "one", "report", "-o", "page.html")
    size = (root / "one" / "page.html").stat().st_size / 1e6
    print(
        f"{few} runs, report -o page.html: {seconds:.1f} s ({busy:.1f} of processor), "
        f"{memory:.0f} MB; the page has {size:.1f} MB"
    )
    if shutil.which("strace"):
        found = operations(root)
        print(
            "calls a run: "
            f"{', '.join(f'{name} {count:.1f}' for name, count in found.most_common())}; "
            f"{sum(found.values()):.0f} in all"
        )
    print(
        "peak of all children: "
        f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB"
    )
    if len(sys.argv) <= 2:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
