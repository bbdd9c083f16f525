"""How cost grows: `python tests/perf/bench_growth.py`. Each line in a process of its own: seconds,
and the peak of its memory.

Training is the MLP on random 8 x 8 images, by itself, one thread; its cost an epoch, an example, a
class. Reports read folders that hold the record of a real short run under other seeds and noises.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = {"epochs": 10, "n": 2000, "k": 10}
LINES = [
    *({**BASE, "epochs": e} for e in (1, 10, 100)), *({**BASE, "n": n} for n in (200, 2000, 20_000, 200_000)),
    *({**BASE, "k": k} for k in (10, 100, 1000)), *({"folders": count} for count in (10, 100, 1000, 10_000)),
]  # fmt: skip


def train(epochs: int, n: int, k: int) -> tuple[float, float]:
    """Seconds of a whole run, its files included, and the peak in MB."""
    import numpy as np
    import torch

    from noisebench.experiments.resolve import RunRequest, resolve_run
    from noisebench.labels.build import LabelRequest
    from noisebench.runs.checkpoint import RunOptions
    from noisebench.runs.folder import RunFolder
    from noisebench.runs.session import execute_run, make_trainer
    from noisebench.runs.workspace import Workspace

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        generator, labels = np.random.default_rng(0), np.arange(n) % k
        images = generator.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
        test = {"test_images": images[: 2 * k], "test_labels": labels[: 2 * k]}
        np.savez(Path(folder, "some.npz"), train_images=images, train_labels=labels, **test)
        workspace = Workspace(folder, folder)
        dataset = workspace.dataset("some.npz")
        manifest, _ = workspace.make(dataset, LabelRequest("symmetric(rate=0.4)"))
        whole = workspace.images(dataset)
        run = resolve_run(
            RunRequest(model="mlp", recipe="digits", changes={"epochs": epochs}),
            dataset,
            manifest,
            whole.fingerprint,
        )
        begun = time.perf_counter()
        execute_run(
            run,
            whole,
            make_trainer(run, whole, "cpu"),
            RunFolder(workspace.runs / run.folder_name),
            RunOptions(),
        )
        return time.perf_counter() - begun, resource.getrusage(
            resource.RUSAGE_SELF
        ).ru_maxrss / 1024


def report(folders: int) -> tuple[float, float]:
    """Seconds of `noisebench report` over so many run folders, as a process, and its peak in MB."""
    with tempfile.TemporaryDirectory() as place:
        words = [
            "-m",
            "noisebench",
            "-q",
            "-C",
            place,
            "train",
            "digits",
            "--sym",
            "0.4",
            "--epochs",
            "1",
        ]
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        (real,) = Path(place, "runs").iterdir()
        record, config = (
            json.loads((real / "result.json").read_text()),
            (real / "config.yaml").read_text(),
        )
        for number in range(folders):
            copy = real.parent / f"copy__{number:08x}"
            copy.mkdir()
            seed, method = number % 5, f"m{number // 5 % 20}"
            text = f"symmetric(rate={(1 + number // 100) / 1000:.3f})"
            changed = {
                **record,
                "key": f"{number:064x}",
                "seed": seed,
                "method": method,
                "noise": {**record["noise"], "text": text},
            }
            (copy / "result.json").write_text(json.dumps(changed))
            (copy / "config.yaml").write_text(config)
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "noisebench", "-C", place, "report"], stdout=subprocess.DEVNULL
        )
        _, _, usage = os.wait4(process.pid, 0)
        return time.perf_counter() - begun, usage.ru_maxrss / 1024


def main() -> None:
    """Print a table; with an argument, one line's numbers."""
    if len(sys.argv) > 1:
        line = json.loads(sys.argv[1])
        print(json.dumps(report(**line) if "folders" in line else train(**line)))
        return
    print(
        "| epochs | examples | classes | run folders | seconds | peak (MB) |\n| ---: | ---: | "
        "---: | ---: | ---: | ---: |"
    )
    for line in LINES:
        done = subprocess.run(
            [sys.executable, __file__, json.dumps(line)], check=True, capture_output=True, text=True
        )
        seconds, peak = json.loads(done.stdout)
        cells = [line.get(name, "") for name in ("epochs", "n", "k", "folders")]
        print(
            "| "
            + " | ".join(f"{cell:,}" if cell else "" for cell in cells)
            + f" | {seconds:.2f} | {peak:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
