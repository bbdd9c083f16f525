"""Every reader of untrusted files with some random input; `make soak` tries each for minutes, by
coverage where atheris is installed.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.security.fuzz.__main__ import TARGETS
from tests.security.fuzz.engine import Engine, Tally

_INPUTS = {
    "language": 300,
    "manifest": 100,
    "suite": 60,
    "record": 25,
    "npz": 300,
    "labels": 300,
    "runs": 150,
}
_MINUTES = 600  # seconds of each in `make soak`


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tally]:
    def tried(target: str) -> Tally:
        folder = tmp_path_factory.mktemp(target)
        attempt = importlib.import_module(f"tests.security.fuzz.{target}_target").prepare(folder)
        return Engine(attempt, folder / "failed").by_chance(1, count=_INPUTS[target])

    return tried


@pytest.mark.filterwarnings("default::RuntimeWarning")
@pytest.mark.parametrize("target", TARGETS)
def test_random_input_is_taken_or_refused_by_an_error_of_ours(
    target: str, prepared: Callable[[str], Tally]
) -> None:
    tally = prepared(target)
    assert not tally.failed, "\n\n".join(f"{what}: {trace}" for what, trace in tally.failed.items())
    assert tally.inputs == _INPUTS[target]
    assert tally.taken and tally.refused, "inputs that are all taken, or all refused, try nothing"


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
def test_ten_minutes_of_input_find_no_other_error(target: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.security.fuzz",
        target,
        "--seconds",
        str(_MINUTES),
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
