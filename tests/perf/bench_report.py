"""A thousand finished runs as a table: `python tests/perf/bench_report.py [RUNS]`. The records are
copies of a real one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECORD = Path(__file__).parent.parent / "data" / "records" / "v1.json"
NOISES = [f"symmetric(rate={rate})" for rate in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)]
METHODS = ("ce", "lsr", "bootstrap", "forward", "sl", "d2l", "gce", "el")


def make(root: Path, count: int) -> None:
    """Folders over methods, noises and seeds."""
    text = RECORD.read_text(encoding="utf-8")
    for number in range(count):
        record = json.loads(text)
        seed, place = divmod(number, len(NOISES) * len(METHODS))
        record["noise"].update(text=NOISES[place % len(NOISES)], seed=seed)
        record.update(method=METHODS[place // len(NOISES)], seed=seed, key=f"{number:064x}")
        folder = root / "runs" / f"{number:04d}__{number:08x}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(record, indent=1))


def main() -> None:
    """Print one line a format."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), count)
        print(f"{count} run folders\n| report --format | seconds |\n| --- | ---: |")
        for form in ("table", "md", "json", "html", "latex", "junit", "runs"):
            spent = []
            for _ in range(3):
                begun = time.perf_counter()
                command = [
                    sys.executable,
                    "-m",
                    "noisebench",
                    "-C",
                    place,
                    "report",
                    "--format",
                    form,
                ]
                subprocess.run(command, check=True, capture_output=True)
                spent.append(time.perf_counter() - begun)
            print(f"| {form} | {statistics.median(spent):.2f} |", flush=True)


if __name__ == "__main__":
    main()
