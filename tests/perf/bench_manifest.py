"""How long manifests take, and how much memory: `python tests/perf/bench_manifest.py [--small]`.

Every line runs in a process of its own, so that the peak of its memory is its own. The ratio is to
the plain loop that draws one label after the other with NumPy, timed on a part of the same labels
and scaled up.
"""

from __future__ import annotations

import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGENET = 1_281_167
LOOPED = 20_000  # examples that the plain loop is timed on
REPEATS = 3  # of the draw and of the loop; the median counts
CASES = [
    (IMAGENET, 1000, "symmetric(rate=0.4)", ".csv"),
    (IMAGENET, 1000, "asymmetric(rate=0.3, map='next')", ".csv"),
    (IMAGENET, 1000, "symmetric(rate=0.4, exact=False)", ".csv"),
    (IMAGENET, 1000, "symmetric(rate=0.4)", ".csv.gz"),
]


def main() -> None:
    """Print one line a case."""
    share = 100 if "--small" in sys.argv else 1
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}"
    )
    print(
        "| labels | classes | noise | file | draw (s) | made (s) | written (s) | peak (MB) | "
        "file (MB) | plain loop (s) | draw : loop |"
    )
    print("| ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for n, num_classes, noise, suffix in CASES:
        found = in_own_process(n // share, num_classes, noise, suffix)
        seconds = [f"{found[name]:.2f}" for name in ("draw", "made", "written")]
        sizes = [f"{found['peak_mb']:.0f}", f"{found['file_mb']:.0f}", f"{found['loop']:.0f}"]
        cells = [
            f"{n // share:,}",
            str(num_classes),
            noise,
            suffix,
            *seconds,
            *sizes,
            f"1 : {found['loop'] / found['draw']:.0f}",
        ]
        print("| " + " | ".join(cells) + " |")


def in_own_process(*case: Any) -> dict[str, float]:
    """What `measure` says, in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, __file__, json.dumps(case)], check=True, capture_output=True, text=True
    )
    return json.loads(run.stdout)  # type: ignore[no-any-return]


def measure(n: int, num_classes: int, noise: str, suffix: str) -> dict[str, float]:
    """Seconds to draw, to make the manifest and to write it, the peak of memory, and the plain
    loop's seconds.
    """
    from noisebench.datasets import Dataset, Labels
    from noisebench.labels.build import make_manifest
    from noisebench.noise import build_noise

    labels = np.resize(
        np.arange(num_classes, dtype=np.uint8 if num_classes <= 256 else np.int64), n
    )
    data = Labels(
        Dataset("many", "", tuple(map(str, range(num_classes))), (1, 1, 1), n, 0, "mlp", "apl"),
        labels,
    )
    model = build_noise(noise, num_classes)
    draw = statistics.median(timed(lambda: model.sample(labels, 0)) for _ in range(REPEATS))
    with tempfile.TemporaryDirectory() as place:
        path, made = Path(place) / f"m{suffix}", time.perf_counter()
        manifest = make_manifest(data, noise)
        made = time.perf_counter() - made
        written = timed(lambda: manifest.write(path))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            1 << 20 if sys.platform == "darwin" else 1 << 10
        )
        size = path.stat().st_size / 1e6
    return {
        "draw": draw,
        "made": made,
        "written": written,
        "peak_mb": peak,
        "file_mb": size,
        "loop": plain_loop(labels, model.transition),
    }


def plain_loop(labels: np.ndarray, transition: np.ndarray) -> float:
    """Seconds that one multinomial draw an example takes, as published code mostly has it."""
    random, recorded = np.random.RandomState(0), labels[:LOOPED].copy()

    def loop() -> None:
        for at, label in enumerate(labels[:LOOPED]):
            drawn = random.multinomial(1, transition[label, :], 1)[0]
            recorded[at] = np.where(drawn == 1)[0][0]

    return statistics.median(timed(loop) for _ in range(REPEATS)) * len(labels) / len(recorded)


def timed(work: Any) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("["):
        print(json.dumps(measure(*json.loads(sys.argv[1]))))
    else:
        main()
