"""`noisebench audit`: five answers about labels, without correct ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from noisebench.cli import main
from noisebench.datasets import Images
from noisebench.labels.manifest import read_manifest
from noisebench.runs.audit import confident_issues
from noisebench.runs.folder import run_folders


@pytest.fixture
def planted(digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A file of features without a test part, pixels of 1200 digits with names in Chinese, every
    tenth of which has the next class's label. Returns the correct labels by row.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISEBENCH_DATA", str(tmp_path / "data"))
    true = digits.train_labels[:1200]
    given = np.where(np.arange(1200) % 10 == 0, (true + 1) % 10, true)
    np.savez(
        "digits.npz",
        train_features=digits.train_images[:1200].reshape(1200, -1).astype(np.float32),
        train_labels=given,
        classes=np.array(list("零一二三四五六七八九")),
    )
    return true


def test_an_audit_finds_planted_labels_and_a_second_one_trains_nothing(
    planted: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-q", "audit", "digits.npz", "--methods", "ce,gce", "-o", "out"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {
        "schema", "data", "noise", "issues", "methods", "advice", "next", "files",
    }  # fmt: skip
    assert document["data"]["test_is_noisy"]
    assert [entry["method"] for entry in document["methods"]] == ["ce", "gce"]
    low, high = document["noise"]["interval"]
    assert low <= 0.1 <= high
    manifest = read_manifest(Path(document["files"]["manifest"]))
    rows = np.array([int(name.split()[1]) for name in manifest.ids])
    wrong = manifest.labels != planted[rows]
    issues = pd.read_csv("out/issues.csv")
    first = issues["index"][issues["confident"]]
    assert len(first) == document["issues"]["confident"] > 0
    assert wrong[first].mean() >= 0.9
    assert issues["confident"].is_monotonic_decreasing
    assert "七" in Path("out/review.html").read_text(encoding="utf-8")
    runs = {f.path: f.result.stat().st_mtime_ns for f in run_folders([Path("runs")])}
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert runs == {f.path: f.result.stat().st_mtime_ns for f in run_folders([Path("runs")])}
    review = ["--manifest", document["files"]["manifest"], "--suspects", "out/issues.csv"]
    assert main(["-q", "corrupt", *review, "--drop", "-o", "after.csv"]) == 0
    assert (~read_manifest(Path("after.csv")).included).sum() == len(issues)


def test_an_incorrect_label_is_confident_only_where_predictions_and_neighbours_agree() -> None:
    labels = np.repeat(np.arange(3), 10)
    sure = np.log(np.full((30, 3), 0.001) + 0.997 * np.eye(3)[labels])
    transition = 0.8 * np.eye(3) + 0.2 / 3
    assert not confident_issues(sure, labels, transition, sure).any()
    moved = labels.copy()
    moved[0] = 1
    assert confident_issues(sure, moved, transition, sure).nonzero()[0].tolist() == [0]
    against = np.log(np.full((30, 3), 0.001) + 0.997 * np.eye(3)[moved])
    assert not confident_issues(sure, moved, transition, against).any()


def test_data_and_labels_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit"]) == 2
    assert "name the data" in capsys.readouterr().err
