"""`noisebench audit`: five answers about labels, without correct ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

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


def test_where_nothing_can_be_concluded_it_says_look_first(
    digits: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISEBENCH_DATA", str(tmp_path / "data"))
    pixels = digits.train_images.reshape(len(digits.train_images), -1).astype(np.float32)
    rng, true = np.random.default_rng(0), digits.train_labels[:400].astype(np.int64)
    one = np.where(true == 9, 8, true)
    one[0] = 9  # a class with one image
    cases = {
        "mostly_wrong": np.where(
            rng.random(400) < 0.8, (true + rng.integers(1, 10, 400)) % 10, true
        ),
        "single": one,
        "few": true[:12] % 2,
    }
    for name, labels in cases.items():
        np.savez(f"{name}.npz", train_features=pixels[: len(labels)], train_labels=labels)
        words = ["audit", f"{name}.npz", "--methods", "ce", "--epochs", "2", "--json"]
        assert main(["-q", *words]) == 0, name
        document = json.loads(capsys.readouterr().out)
        assert document["advice"]["decision"] == "look first", name
        assert document["issues"]["confident"] == 0, name


def test_a_flat_folder_with_a_label_file_is_audited_on_its_images(
    digits: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISEBENCH_DATA", str(tmp_path / "data"))
    Path("fotos").mkdir()
    rows = ["file,label,split"]
    for i, (pixels, label) in enumerate(
        zip(digits.train_images[:60], digits.train_labels[:60], strict=True)
    ):
        Image.fromarray(pixels.squeeze()).save(f"fotos/bild {i}.png")
        part = "test" if i % 5 == 0 else "train"
        rows.append(f"bild {i}.png,{'gerade' if label % 2 == 0 else 'größe'},{part}")
    Path("labels.csv").write_text("\n".join(rows), encoding="utf-8")
    words = ["audit", "fotos", "--labels", "labels.csv", "--methods", "ce", "--epochs", "2"]
    assert main(["-q", *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {entry["class"] for entry in document["data"]["classes"]} == {"gerade", "größe"}
    assert sum(entry["examples"] for entry in document["data"]["classes"]) == 48
    assert Path(document["files"]["page"]).is_file()


def test_data_and_labels_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit"]) == 2
    assert "name the data" in capsys.readouterr().err
