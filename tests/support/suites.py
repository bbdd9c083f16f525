"""A small suite in a workspace, and the command that runs it as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from noisebench.runs.folder import RunFolder

LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
SUITE = """\
version: 1
suites:
  tiny:
    defaults: {{dataset: digits, subset: 400, model: cnn4, epochs: {epochs}, precision: fp32, seeds: {seeds}}}
    matrix:
      noise: [symmetric(rate=0.4)]
      method: {methods}
"""


def workspace(
    path: Path, epochs: int, seeds: Sequence[int] = (0,), methods: str = "[ce, el]"
) -> Path:
    """A folder with the suite `tiny`: digits and a small CNN, a run by itself for each seed and
    method.
    """
    path.mkdir()
    (path / "benchmarks.yaml").write_text(
        SUITE.format(epochs=epochs, seeds=list(seeds), methods=methods)
    )
    return path


def start(
    root: Path,
    *options: str,
    before: Sequence[str] = (),
    kilobytes: int | None = None,
    **popen: Any,
) -> subprocess.Popen[str]:
    """`noisebench BEFORE run tiny OPTIONS`. kilobytes: of address space (`ulimit -v`) for each
    process.
    """
    command = [sys.executable, "-m", "noisebench", *before, "run", "tiny", *options]
    limited = (
        ["sh", "-c", f'ulimit -v {kilobytes} && exec "$@"', "sh", *command]
        if kilobytes
        else command
    )
    environment = {
        **os.environ,
        **LOOPBACK,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.Popen(
        limited,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **popen,
    )


def wait_until(
    what: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120
) -> None:
    until = time.monotonic() + seconds
    while not what():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise AssertionError(f"waited in vain: {process.communicate()}")
        time.sleep(0.05)


def finish(process: subprocess.Popen[str], seconds: float = 120) -> tuple[str, str]:
    """What it wrote to stdout and stderr, once it has ended."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it does not end: {process.communicate()}") from None


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1 and Path(f"/proc/{pid}/stat").exists():
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def under_way(root: Path) -> list[Path]:
    """Runs that are claimed."""
    return [path.parent for path in root.glob("runs/*/claim")]


def numbers(root: Path) -> dict[str, Any]:
    """Of each run what does not depend on when and where it was made."""
    found = {}
    for path in root.glob("runs/*/result.json"):
        record = json.loads(path.read_text())
        found[path.parent.name] = (
            record["metrics"],
            (path.parent / "model.safetensors").read_bytes(),
        )
    return found


def reseal(folder: RunFolder) -> None:
    """The record's checksums made to fit what lies there, as who changes a file on purpose would."""
    record = folder.record()
    del record["path"]
    folder.write_json(folder.result, {**record, "files": folder.checksums()})


def left(place: Path) -> dict[str, Any]:
    """Everything below a workspace, by its path: bytes, but for what the clock says."""
    return {
        str(path.relative_to(place)): _content(path)
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


def _content(path: Path) -> Any:
    if path.name == "metrics.csv":
        return [line.rpartition(",")[0] for line in path.read_text().splitlines()]
    if path.name == "result.json":
        record = json.loads(path.read_text())
        for name in ("seconds", "images_per_second"):
            del record[name]
        del record["files"]["metrics.csv"]
        return record
    return path.read_bytes()
