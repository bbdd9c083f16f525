"""A run folder leads back to the run that made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noisebench.cli import main
from noisebench.errors import DataError
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.workspace import Workspace, rebuild

ASKED = (
    "--sym 0.4 --loss gce --q 0.5",
    "--asym 0.3 --map digits --method coteaching",
    "--sym 0.4 --loss el --eps estimated",
    "--labels own --loss lsr(ce) --lr 0.02",
    "--pair 0.3 --trusted 0.2 --val-fraction 0.1 --loss forward(ce) --strategy cleannet",
)


@pytest.mark.parametrize("asked", ASKED)
def test_a_folder_leads_back_to_its_run(tmp_path: Path, asked: str) -> None:
    assert (
        main(["-q", "-C", str(tmp_path), "train", "digits", *asked.split(), "--epochs", "1"]) == 0
    )
    (folder,) = run_folders([tmp_path])
    assert rebuild(folder, Workspace(tmp_path)).key == folder.record()["key"]


@pytest.fixture
def trained(tmp_path: Path) -> RunFolder:
    assert (
        main(["-q", "-C", str(tmp_path), "train", "digits", "--sym", "0.4", "--epochs", "1"]) == 0
    )
    return run_folders([tmp_path])[0]


def test_a_run_without_its_manifest_says_what_to_give(trained: RunFolder, tmp_path: Path) -> None:
    (path,) = (tmp_path / "manifests").glob("*.csv")
    elsewhere = path.rename(tmp_path / "elsewhere.csv")
    with pytest.raises(DataError, match="--manifest FILE"):
        rebuild(trained, Workspace(tmp_path))
    assert rebuild(trained, Workspace(tmp_path), elsewhere).key == trained.record()["key"]


def test_a_changed_component_is_named(trained: RunFolder, tmp_path: Path) -> None:
    record = json.loads(trained.result.read_text())
    record["versions"], record["key"] = {**record["versions"], "loss:ce": "0"}, "0" * 64
    trained.result.write_text(json.dumps(record))
    with pytest.raises(DataError, match="loss:ce changed since the run"):
        rebuild(trained, Workspace(tmp_path))
