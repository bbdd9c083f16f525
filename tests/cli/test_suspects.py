"""The list of doubted labels: in the order of doubt, by names, safe to open, and of no clean label."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cleanlab.rank import get_self_confidence_for_each_label
from hypothesis import given, settings
from hypothesis import strategies as st

from noisebench.cli import main
from noisebench.core.files.arrays import packed_npz
from noisebench.core.sanitize import as_cell, from_cell, path_as_cell
from noisebench.datasets import DATASETS, Labels
from noisebench.labels.build import make_manifest
from noisebench.labels.issues import (
    LabelQuality,
    better_score,
    label_issues,
    precision_text,
    verified_or_dropped,
    write_suspects,
)
from noisebench.labels.manifest import Manifest
from noisebench.metrics import scores
from noisebench.metrics.dynamics import Dynamics
from noisebench.metrics.predictions import Predictions
from noisebench.runs.folder import run_folders
from noisebench.training.trainer import Trainer
from tests.support.suites import reseal

P = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.125, 0.75, 0.125],
        [0.5, 0.25, 0.25],
        [0.125, 0.125, 0.75],
        [0.25, 0.5, 0.25],
    ]
)
RECORDED = np.array([0, 0, 1, 0, 2])


def said(p: np.ndarray = P, recorded: np.ndarray = RECORDED) -> Predictions:
    return Predictions.of(np.log(p).astype(np.float32), recorded, np.full(len(p), -1))


def doubted() -> LabelQuality:
    return LabelQuality.of(said(), RECORDED)


def manifest(classes: tuple[str, ...] = ("cat", "dog, wild", "owl"), **parts: Any) -> Manifest:
    """The five labels, of which nobody knows the truth."""
    meta = {
        "dataset": "five",
        "num_classes": len(classes),
        "classes": list(classes),
        "noise": "imported(file='own')",
    }
    return Manifest(meta, RECORDED, np.full(5, -1), **parts)


def mask(*which: int) -> np.ndarray:
    return np.isin(np.arange(5), which)


def written(path: Path, of: Manifest) -> list[dict[str, str]]:
    write_suspects(path, doubted(), of)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_only_labels_that_are_not_the_likeliest_are_doubted_the_least_likely_first_ties_by_index() -> (
    None
):
    assert label_issues(doubted()).tolist() == [1, 3, 2, 4]


def test_what_is_verified_or_dropped_is_not_doubted_and_what_is_held_out_is() -> None:
    assert label_issues(
        doubted(),
        verified_or_dropped(manifest(trusted=mask(3), dropped=mask(1), val=mask(4))),
    ).tolist() == [2, 4]


def test_the_file_names_classes_and_says_one_minus_p(tmp_path: Path) -> None:
    assert len(write_suspects(tmp_path / "s.csv", doubted(), manifest())) == 4
    frame = pd.read_csv(tmp_path / "s.csv")
    assert list(frame) == ["rank", "index", "given_label", "predicted_label", "label_quality"]
    assert frame["rank"].tolist() == [1, 2, 3, 4] and frame["index"].tolist() == [1, 3, 2, 4]
    assert frame["given_label"].tolist() == ["cat", "cat", "dog, wild", "owl"]
    assert frame["predicted_label"].tolist() == ["dog, wild", "owl", "cat", "dog, wild"]
    np.testing.assert_allclose(frame["label_quality"], [0.125, 0.125, 0.25, 0.25], atol=1e-3)


def test_files_are_named_by_path_and_held_out_ones_are_marked(tmp_path: Path) -> None:
    ids = tuple(f"train/a b/{at}.png" for at in range(5))
    rows = written(tmp_path / "s.csv", manifest(ids=ids, val=mask(3)))
    assert [row["path"] for row in rows] == [ids[at] for at in (1, 3, 2, 4)]
    assert [row["split"] for row in rows] == ["train", "val", "train", "train"]


def test_no_cell_is_computed_by_a_spreadsheet(tmp_path: Path) -> None:
    bad = '=HYPERLINK("http://x")'
    rows = written(
        tmp_path / "s.csv",
        manifest((bad, "@owl", "-1"), ids=tuple(f"{bad}/{at}" for at in range(5))),
    )
    assert (
        rows[0]["path"] == f"./{bad}/1"
        and rows[0]["given_label"] == f"'{bad}"
        and rows[0]["predicted_label"] == "'@owl"
    )
    assert rows[1]["predicted_label"] == "-1"  # a number is none


@settings(max_examples=50)
@given(st.text(max_size=6) | st.text("=+-@'\t1.", max_size=5))
def test_a_word_comes_back_from_its_cell_and_no_cell_begins_as_a_formula(word: str) -> None:
    assert from_cell(as_cell(word)) == word
    for cell in (as_cell(word), path_as_cell(word)):
        assert cell[:1] not in {"=", "+", "-", "@", "\t", "\r"} or float(cell) <= 0


def test_of_more_than_a_hundred_classes_the_top_five_are_enough(tmp_path: Path) -> None:
    p = np.full((5, 101), 0.001)
    p[np.arange(5), [100, 7, 1, 99, 2]] = 0.9
    of = replace(
        manifest(tuple(f"class {k}" for k in range(101))), labels=np.array([100, 0, 1, 98, 3])
    )
    many = said(p, of.labels)
    assert many.dense is None and label_issues(LabelQuality.of(many, of.labels)).tolist() == [
        1,
        3,
        4,
    ]


def test_with_known_labels_the_share_of_wrong_ones_is_said_and_without_it_is_not() -> None:
    known = replace(manifest(), clean_labels=np.array([0, 1, 1, 2, 2]))
    found = precision_text(doubted(), known)
    assert found["listed"] == 4 and found["of"] == 5 and found["precision"] == 0.5
    assert found["auroc"] == 1.0
    assert precision_text(doubted(), manifest())["precision"] is None


def test_the_order_is_cleanlabs_by_self_confidence_on_the_same_probabilities() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(10), 500)
    labels = make_manifest(Labels(DATASETS["digits"], np.arange(500) % 10), "symmetric(rate=0.4)")
    said_of = Predictions.of(np.log(p).astype(np.float32), labels.labels, labels.clean_labels)
    rounded = np.exp(np.asarray(said_of.dense, np.float64))
    theirs = get_self_confidence_for_each_label(labels.labels, rounded)
    listed = label_issues(LabelQuality.of(said_of, labels.labels), verified_or_dropped(labels))
    assert listed.tolist() == [
        at for at in np.argsort(theirs, kind="stable") if p[at].argmax() != labels.labels[at]
    ]


def test_a_run_on_digits_doubts_the_wrong_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["-C", str(tmp_path)]
    assert (
        main(
            [
                *place,
                "train",
                "digits",
                "--sym",
                "0.4",
                "--loss",
                "el",
                "--epochs",
                "8",
                "--precision",
                "fp32",
            ]
        )
        == 0
    )
    file = tmp_path / "doubted.csv"
    capsys.readouterr()
    assert (
        main([*place, "evaluate", "digits-sym0.4-s0_mlp_el", "--suspects", str(file), "--json"])
        == 0
    )
    out, err = capsys.readouterr()
    assert "label issues in 1,297 labels; predictions of the last epoch" in err
    frame, summary = pd.read_csv(file), json.loads(out)[0]["suspects"]
    (run,) = (tmp_path / "runs").iterdir()
    arrays = np.load(run / "predictions.npz")
    wrong = arrays["recorded_labels"] != arrays["clean_labels"]
    assert wrong[frame["index"][: len(frame) // 2]].mean() > 0.95
    score = np.zeros(len(wrong))
    score[frame["index"]] = 1 - frame["label_quality"]
    assert (scores.auroc(score, wrong) or 0) > 0.9
    right = frame["predicted_label"] == arrays["clean_labels"][frame["index"]]
    assert right[wrong[frame["index"]]].mean() > 0.8
    assert (
        summary["listed"] == len(frame)
        and summary["precision"] == wrong[frame["index"]].mean()
        and summary["by"] == "last"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    assert main(["-C", str(place), "train", "digits", "--sym", "0.4", "--epochs", "1"]) == 0
    return place


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--suspects", "doubted.txt"], "--suspects must end in .csv"),
        (["--suspects", "doubted"], "--suspects must end in .csv"),
        (["--predictions", "p.csv"], "--predictions must end in .npz or .npy"),
        (["digits-sym0.4-s0_mlp_ce", "--cv-folds", "2"], "--cv-folds needs one run, got 2"),
        (["--cv-folds", "1"], "--cv-folds must be from 2 to 1297 (the training examples), got 1"),
    ],
)
def test_what_cannot_be_written_is_refused(
    trained: Path, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().iterdir())
    assert main(["-C", str(trained), "evaluate", "digits-sym0.4-s0_mlp_ce", *arguments]) == 2
    assert why in capsys.readouterr().err and sorted(Path().iterdir()) == before


def test_a_run_elsewhere_finds_the_labels_of_its_own_workspace(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (run,) = (trained / "runs").iterdir()
    assert main(["-q", "evaluate", str(run), "--suspects", "doubted.csv"]) == 0
    assert len(pd.read_csv("doubted.csv")) > 100


def test_the_probabilities_are_what_other_tools_take(trained: Path, tmp_path: Path) -> None:
    assert (
        main(
            [
                "-q",
                "-C",
                str(trained),
                "evaluate",
                "digits-sym0.4-s0_mlp_ce",
                "--predictions",
                str(tmp_path / "p.npy"),
            ]
        )
        == 0
    )
    p = np.load(tmp_path / "p.npy")
    (run,) = (trained / "runs").iterdir()
    assert p.shape == (1297, 10) and p.dtype == np.float32
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert (p.argmax(1) == np.load(run / "predictions.npz")["train_classes"][:, 0]).mean() > 0.99


@pytest.fixture(scope="module")
def learned_by_heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("heart")
    assert (
        main(["-q", "-C", str(place), "train", "digits", "--sym", "0.4", "--precision", "fp32"])
        == 0
    )
    return place


def listed(place: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    capsys.readouterr()
    assert (
        main(
            [
                "-q",
                "-C",
                str(place),
                "evaluate",
                "digits-sym0.4-s0_mlp_ce",
                "--suspects",
                str(place / "s.csv"),
                *options,
                "--json",
            ]
        )
        == 0
    )
    return json.loads(capsys.readouterr().out)[0]["suspects"]


def test_early_a_network_doubts_what_it_later_learns_by_heart(
    learned_by_heart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    early, last = (
        listed(learned_by_heart, capsys),
        listed(learned_by_heart, capsys, "--score", "last"),
    )
    assert (early["by"], last["by"]) == ("early", "last")
    assert last["listed"] < 30 and early["listed"] > 350 and early["precision"] > 0.95
    assert early["auroc"] > 0.97 > 0.85 > last["auroc"]


def test_the_list_and_the_probabilities_of_one_command_are_of_the_same_epochs(
    learned_by_heart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = np.load(next((learned_by_heart / "runs").iterdir()) / "predictions.npz")[
        "recorded_labels"
    ]
    for options, by in (
        ((), "early"),
        (("--score", "last"), "last"),
        (("--score", "early"), "early"),
    ):
        arguments = [
            "--suspects",
            str(tmp_path / "s.csv"),
            "--predictions",
            str(tmp_path / "p.npy"),
            *options,
            "--json",
        ]
        capsys.readouterr()
        assert (
            main(["-C", str(learned_by_heart), "evaluate", "digits-sym0.4-s0_mlp_ce", *arguments])
            == 0
        )
        out, err = capsys.readouterr()
        assert json.loads(out)[0]["predictions"]["by"] == json.loads(out)[0]["suspects"]["by"] == by
        assert err.count(f"--score {by}") == 2  # each of the two files says it
        unlike = np.load(tmp_path / "p.npy").argmax(1) != given
        assert sorted(pd.read_csv(tmp_path / "s.csv")["index"]) == np.flatnonzero(unlike).tolist()


@pytest.mark.parametrize(
    ("late", "expected"), [(3, "early"), (4, "last"), (9, "last"), (0, "early")]
)
def test_a_run_that_has_forgotten_its_doubts_is_asked_what_it_said_early(
    late: int, expected: str
) -> None:
    recorded = np.zeros(20, int)
    arrays = {
        "recorded_labels": recorded,
        "early_classes": (np.arange(20) < 6)[:, None],
        "train_classes": (np.arange(20) < late)[:, None],
    }
    assert better_score(arrays) == expected
    assert (
        better_score({name: array for name, array in arrays.items() if name != "early_classes"})
        == "last"
    )


def test_what_is_kept_is_the_mean_of_the_first_half_of_the_epochs(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer, dynamics = make_trainer(epochs=3), Dynamics()
    first, second, third = (trainer.run_epoch().train_probs for _ in range(3))
    for each in (first, second):
        assert each.sum(1) == pytest.approx(np.ones(256), abs=1e-5)
        dynamics.add_early(each)
    assert third.shape == (256, 0)
    np.testing.assert_allclose(dynamics.early_p, (first + second) / 2, rtol=1e-5)


def test_an_older_run_says_that_it_kept_nothing_early(
    learned_by_heart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(learned_by_heart, tmp_path, dirs_exist_ok=True)
    (folder,) = run_folders([tmp_path])
    kept = {
        name: array for name, array in folder.read_arrays().items() if not name.startswith("early_")
    }
    folder.write(folder.predictions, packed_npz(kept))
    reseal(folder)
    assert listed(tmp_path, capsys)["by"] == "last"
    assert (
        main(
            [
                "-C",
                str(tmp_path),
                "evaluate",
                "digits-sym0.4-s0_mlp_ce",
                "--suspects",
                "s.csv",
                "--score",
                "early",
            ]
        )
        == 2
    )
    assert "--score last" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--score", "last"],
        ["--score", "early", "--cv-folds", "2"],
        ["--score", "first", "--suspects", "s.csv"],
    ],
)
def test_a_score_without_effect_is_refused(
    options: list[str], learned_by_heart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(learned_by_heart), "evaluate", "digits-sym0.4-s0_mlp_ce", *options]) == 2
    assert "--score " in capsys.readouterr().err


def test_a_list_by_several_runs_is_of_the_labels_that_were_trained_on_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second round, in which the runs of the first are there as well."""
    place, short = (
        ["-C", str(tmp_path)],
        ["--epochs", "3", "--batch-size", "128", "--precision", "fp32"],
    )
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    assert main([*place, "train", "digits", "--sym", "0.4", *short]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert main([*place, "evaluate", str(run), "--suspects", str(first)]) == 0
    manifest = str(tmp_path / "manifests" / "digits-sym0.4-s0.csv")
    assert (
        main([*place, "corrupt", "--manifest", manifest, "--suspects", str(first), "--drop"]) == 0
    )
    assert main([*place, "train", *short]) == 0
    cleaned = next(path for path in (tmp_path / "runs").iterdir() if path != run)
    capsys.readouterr()
    runs = sorted(map(str, (tmp_path / "runs").iterdir()))
    assert main([*place, "evaluate", *runs, "--suspects", str(second), "--json"]) == 0
    out, err = capsys.readouterr()
    assert f"finished last: {cleaned.name}; left out, on other labels: {run.name}" in err
    entries = {entry["run"]: entry for entry in json.loads(out)}
    assert "suspects" in entries[str(cleaned)] and "suspects" not in entries[str(run)]
    assert not set(pd.read_csv(second)["index"]) & set(pd.read_csv(first)["index"]), (
        "what was dropped is not listed again"
    )
    assert main([*place, "evaluate", str(cleaned), "--suspects", str(first)]) == 0
    assert first.read_bytes() == second.read_bytes(), "by that run alone it is the same list"
    assert main([*place, "train", *short, "--seed", "1"]) == 0
    capsys.readouterr()
    runs = sorted(map(str, (tmp_path / "runs").iterdir()))
    assert main([*place, "evaluate", *runs, "--suspects", str(second), "--json"]) == 0
    (found,) = (
        entry["suspects"] for entry in json.loads(capsys.readouterr().out) if "suspects" in entry
    )
    assert (
        len(found["runs"]) == 2
        and run.name not in found["runs"]
        and second.read_bytes() != first.read_bytes()
    )
    assert (
        main(
            [
                *place,
                "evaluate",
                *runs,
                "--suspects",
                str(second),
                "--predictions",
                str(tmp_path / "p.npz"),
            ]
        )
        == 2
    )
