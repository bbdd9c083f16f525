"""What the tests of the commands share: an empty workspace, and one with two finished runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from noisebench.cli import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace, which is the current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def two_finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with finished runs of CE and MAE on one manifest, to read from."""
    root = tmp_path_factory.mktemp("two_finished_runs")
    for loss in ("ce", "mae"):
        assert (
            main(
                [
                    "-q",
                    "-C",
                    str(root),
                    "train",
                    "digits",
                    "--sym",
                    "0.4",
                    "--loss",
                    loss,
                    "--epochs",
                    "2",
                ]
            )
            == 0
        )
    return root


@pytest.fixture
def finished(two_finished_runs: Path, place: Path) -> Path:
    """A copy of that workspace, which is the current directory."""
    return shutil.copytree(two_finished_runs, place, dirs_exist_ok=True)
