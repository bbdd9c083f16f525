"""The live table of a running suite: cells that fill in, several networks, throughput and failures."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from noisebench.cli.console import GridProgress
from noisebench.executors.job import Event
from noisebench.experiments.suite import Suite
from noisebench.runs.queue import plan_suite
from noisebench.runs.workspace import Workspace


@pytest.fixture
def grid(tmp_path: Path) -> GridProgress:
    """Two networks, one noise, one method, two seeds."""
    matrix = {"noise": ["symmetric(rate=0.4)"], "method": ["ce"], "model": ["mlp", "cnn4"]}
    suite = Suite.model_validate(
        {"defaults": {"dataset": "digits", "seeds": [0, 1], "precision": "fp32"}, "matrix": matrix}
    )
    return GridProgress(plan_suite(Workspace(str(tmp_path)), suite), 1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(grid: GridProgress, monkeypatch: pytest.MonkeyPatch, *events: Event) -> str:
    """What a terminal was sent: the table after these events."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal := Terminal())
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "200")
        with grid:
            for event in events:
                grid.update(event)
    return terminal.getvalue()


def test_cells_fill_in_and_networks_stand_apart(
    grid: GridProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(grid, monkeypatch)
    assert "mlp, ce" in text and "cnn4, ce" in text and "0/2" in text
    assert "25% 0/2" in shown(grid, monkeypatch, Event(0, "progress", {"epoch": 1, "epochs": 2}))
    assert " images/s" in grid.status() and "left" in grid.status()
    assert (
        "50.0 1/2" in shown(grid, monkeypatch, Event(0, "done", {"test_acc": 0.5, "seconds": 1.0}))
        and "runs/min" in grid.status()
    )


def test_a_failure_is_said_counted_and_shown(
    grid: GridProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(grid, monkeypatch, Event(1, "failed", {"message": "a NaN in [red]step[/red] 3"}))
    assert "error: a NaN in [red]step[/red] 3" in text
    assert "✗1" in text and "1 failed" in grid.status()


def test_without_a_terminal_the_end_is_said_in_a_line(
    grid: GridProgress, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        grid.update(Event(number, "done", {"test_acc": 0.5, "seconds": 1.0}))
    assert capsys.readouterr().err.splitlines()[-1].startswith("4/4 runs, ")
