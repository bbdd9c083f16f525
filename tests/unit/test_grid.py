"""The live table of a running suite: cells that fill in, several networks, throughput and failures."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from noisebench.agenda import make_agenda
from noisebench.cli.grid import GridProgress
from noisebench.executors.job import Event
from noisebench.suite import Suite
from noisebench.workspace import Workspace


@pytest.fixture
def grid(tmp_path: Path) -> GridProgress:
    """Two networks, one noise, one method, two seeds."""
    matrix = {"noise": ["symmetric(rate=0.4)"], "method": ["ce"], "model": ["mlp", "cnn4"]}
    suite = Suite.model_validate({"defaults": {"dataset": "digits", "seeds": [0, 1], "precision": "fp32"}, "matrix": matrix})
    return GridProgress(make_agenda(Workspace(str(tmp_path)), suite), 1)


def drawn(grid: GridProgress) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(grid._drawn())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_cells_fill_in_and_networks_stand_apart(grid: GridProgress) -> None:
    assert "mlp, ce" in drawn(grid) and "cnn4, ce" in drawn(grid) and "0/2" in drawn(grid)
    grid.update(Event(0, "progress", {"epoch": 1, "epochs": 2}))
    assert "25% 0/2" in drawn(grid) and " images/s" in grid.status() and "left" in grid.status()
    grid.update(Event(0, "done", {"test_acc": 0.5, "seconds": 1.0}))
    assert "50.0 1/2" in drawn(grid) and "runs/min" in grid.status()


def test_a_failure_is_said_counted_and_shown(grid: GridProgress, capsys: pytest.CaptureFixture[str]) -> None:
    grid.update(Event(1, "failed", {"message": "a NaN in [red]step[/red] 3"}))
    assert "error: a NaN in [red]step[/red] 3" in capsys.readouterr().err
    assert "✗1" in drawn(grid) and "1 failed" in grid.status()


def test_without_a_terminal_the_end_is_said_in_a_line(grid: GridProgress, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        grid.update(Event(number, "done", {"test_acc": 0.5, "seconds": 1.0}))
    assert capsys.readouterr().err.splitlines()[-1].startswith("4/4 runs, ")
