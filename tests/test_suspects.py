"""The list of doubted labels: in the order of doubt, by names, and of no clean label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from noisebench import metrics
from noisebench.cli import main
from noisebench.predictions import Predictions
from noisebench.suspects import doubted, write_suspects

P = np.array([[0.7, 0.2, 0.1], [0.125, 0.75, 0.125], [0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.25, 0.5, 0.25]])
RECORDED = np.array([0, 0, 1, 0, 2])


def said() -> Predictions:
    return Predictions.of(np.log(P).astype(np.float32), RECORDED, np.full(5, -1))


def test_only_labels_that_are_not_the_likeliest_are_doubted_the_least_likely_first_ties_by_index() -> None:
    assert doubted(said(), RECORDED).tolist() == [1, 3, 2, 4]


def test_the_file_names_classes_and_says_one_minus_p(tmp_path: Path) -> None:
    assert write_suspects(tmp_path / "s.csv", said(), RECORDED, ["cat", "dog, wild", "owl"]) == 4
    frame = pd.read_csv(tmp_path / "s.csv")
    assert frame["rank"].tolist() == [1, 2, 3, 4] and frame["index"].tolist() == [1, 3, 2, 4]
    assert frame["recorded"].tolist() == ["cat", "cat", "dog, wild", "owl"]
    assert frame["suggested"].tolist() == ["dog, wild", "owl", "cat", "dog, wild"]
    np.testing.assert_allclose(frame["score"], [0.875, 0.875, 0.75, 0.75], atol=1e-3)


def test_a_run_on_digits_doubts_the_wrong_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["-C", str(tmp_path)]
    assert main([*place, "train", "digits", "--sym", "0.4", "--loss", "el", "--epochs", "8", "--precision", "fp32"]) == 0
    file = tmp_path / "doubted.csv"
    assert main([*place, "evaluate", "digits", "--suspects", str(file)]) == 0
    assert "labels doubted; a network doubts no label that it has learned by heart" in capsys.readouterr().err
    frame = pd.read_csv(file)
    (run,) = (tmp_path / "runs").iterdir()
    arrays = np.load(run / "predictions.npz")
    wrong = arrays["recorded_labels"] != arrays["clean_labels"]
    assert wrong[frame["index"][: len(frame) // 2]].mean() > 0.95
    score = np.zeros(len(wrong))
    score[frame["index"]] = frame["score"]
    assert (metrics.auroc(score, wrong) or 0) > 0.9
    right = frame["suggested"] == arrays["clean_labels"][frame["index"]]
    assert right[wrong[frame["index"]]].mean() > 0.8


@pytest.mark.parametrize(("name", "why"), [("doubted.txt", "--suspects writes a .csv"), ("doubted", "--suspects writes a .csv")])
def test_another_kind_of_file_is_refused(name: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-C", str(tmp_path), "train", "digits", "--sym", "0.4", "--epochs", "1"]) == 0
    assert main(["-C", str(tmp_path), "evaluate", "digits", "--suspects", str(tmp_path / name)]) == 2
    assert why in capsys.readouterr().err and not (tmp_path / name).exists()
