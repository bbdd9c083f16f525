"""The area under the margin, against a second derivation in loops, and in trainings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from noisebench.cli import main
from noisebench.core.files.arrays import packed_npz
from noisebench.errors import DataError, Interrupted
from noisebench.metrics.aum import (
    AreaUnderMargin,
    find_issues,
    margins,
    mean_p_margins,
    threshold_examples,
)
from noisebench.runs.checkpoint import RunOptions, load_state, read, save
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.session import make_trainer as trainer_of
from noisebench.training.state import OnlinePredictions
from tests.conftest import Case
from tests.support.suites import reseal
from tests.unit.test_runner import Desk


def by_hand(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    return [
        float(row[y]) - max(float(z) for k, z in enumerate(row) if k != y)
        for row, y in zip(logits, labels, strict=True)
    ]


def test_margins_against_loops_and_log_p() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(margins(logits, labels), by_hand(logits, labels))
    np.testing.assert_allclose(margins(log_p, labels), by_hand(logits, labels))
    np.testing.assert_allclose(mean_p_margins(np.exp(log_p), labels), by_hand(logits, labels))
    assert margins(np.zeros((1, 2)), np.array([1])) == 0
    with pytest.raises(DataError, match="two classes"):
        margins(np.zeros((3, 1)), np.zeros(3, int))


def test_the_mean_counts_only_the_epochs_in_which_an_example_was_seen() -> None:
    aum = AreaUnderMargin()
    for epoch in ([1.0, np.nan, np.nan], [3.0, -4.0, np.nan], [2.0, -2.0, np.nan]):
        aum.update(np.array(epoch))
    np.testing.assert_array_equal(aum.scores, [2, -3, np.nan])
    with pytest.raises(DataError, match="2 margins for 3"):
        aum.update(np.zeros(2))


def test_a_restored_sum_continues_as_if_uninterrupted() -> None:
    rng = np.random.default_rng(1)
    epochs = rng.normal(size=(6, 20))
    whole, first = AreaUnderMargin(), AreaUnderMargin()
    for epoch in epochs:
        whole.update(epoch)
    for epoch in epochs[:3]:
        first.update(epoch)
    state = first.state_dict()
    first.update(epochs[0])  # the state is a copy
    second = AreaUnderMargin.load(state)
    for epoch in epochs[3:]:
        second.update(epoch)
    np.testing.assert_array_equal(whole.scores, second.scores)
    np.testing.assert_allclose(whole.scores, epochs.mean(0))
    with pytest.raises(DataError, match="expected total and seen"):
        AreaUnderMargin.load({"total": np.zeros(3), "seen": np.zeros(2)})


def test_threshold_examples_are_two_disjoint_sets_of_the_size_of_a_class() -> None:
    first, second = threshold_examples(110, 10, np.random.default_rng(0))
    assert len(first) == len(second) == 10
    assert len({*first.tolist(), *second.tolist()}) == 20
    again, _ = threshold_examples(110, 10, np.random.default_rng(0))
    np.testing.assert_array_equal(first, again)
    with pytest.raises(DataError, match="too few"):
        threshold_examples(10, 10, np.random.default_rng(0))


def test_issues_lie_at_or_below_the_99th_percentile_of_the_threshold_examples() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=1000)
    threshold = rng.choice(1000, 101, replace=False)
    sorted_scores = sorted(scores[threshold])
    cut = sorted_scores[99]  # of 101 values, 99 % lie at or below the one at index 99
    expected = [bool(s <= cut) and n not in threshold for n, s in enumerate(scores)]
    np.testing.assert_array_equal(find_issues(scores, threshold), expected)
    for damaged in (np.array([], int), threshold):
        with pytest.raises(DataError, match="threshold"):
            find_issues(np.where(scores < 0, np.nan, scores), damaged)


def test_online_margins_and_classes_are_those_of_the_logits(case: Case) -> None:
    """Also where logits are equal: the class is the first of the largest."""
    rng = np.random.default_rng(0)
    for K in (2, 3, 10, 101):
        with case(K=K):
            runs, n, size = 3, 60, 20
            labels = torch.from_numpy(rng.integers(0, K, (runs, n)))
            order = torch.from_numpy(np.stack([rng.permutation(n) for _ in range(runs)]))
            online, whole = OnlinePredictions(labels, K), torch.zeros(runs, n, K)
            for start in range(0, n, size):
                index = order[:, start : start + size]
                logits = torch.from_numpy(rng.integers(-2, 3, (runs, size, K))).float()
                whole.scatter_(1, index[..., None].expand(-1, -1, K), logits)
                logits.requires_grad_().sum().backward()
                online.note(index, logits)
            for run in range(runs):
                of_run, numbers = online.of(run), whole[run].numpy()
                expected = by_hand(numbers, labels[run].numpy())
                np.testing.assert_array_equal(of_run.margin, expected)
                np.testing.assert_array_equal(of_run.predicted, numbers.argmax(1))
                p = whole[run].softmax(1).gather(1, labels[run][:, None])[:, 0]
                torch.testing.assert_close(of_run.p, p)


def test_a_run_keeps_the_mean_margin_of_its_training_examples(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    run = desk.plan()
    epochs = []
    trainer = trainer_of(run, desk.images, "cpu")
    for _ in range(run.recipe.epochs):
        epochs.append(trainer.run_epoch().train_margin)
    desk.execute(run)
    aum = desk.folder(run).read_arrays()["aum"]
    assert aum.dtype == np.float32 and aum.shape == (1297,)
    np.testing.assert_allclose(aum, np.mean(epochs, 0), rtol=1e-6, atol=1e-6)


def test_a_checkpoint_of_an_older_version_resumes_without_an_aum(tmp_path: Path) -> None:
    desk, steps = Desk(tmp_path), iter(range(1000))
    run = desk.plan()
    with pytest.raises(Interrupted):
        desk.execute(run, RunOptions(should_stop=lambda: next(steps) >= 30))
    saved = read(desk.folder(run))
    trainer = trainer_of(run, desk.images, "cpu")
    assert saved is not None
    state = load_state(desk.folder(run), saved, trainer.device)
    assert state.trainer_state is not None and state.aum is not None and state.aum.seen.all()
    del state.trainer_state["passed"]["margin"]
    trainer.load_state_dict(state.trainer_state)
    state.aum = None
    with desk.folder(run).locked() as folder:
        save(folder, trainer, state)
    desk.execute(run)
    assert "aum" not in desk.folder(run).read_arrays()


def listed(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    words = ["evaluate", str(folder.path), "--suspects", "s.csv", "--score", "aum", "--json"]
    assert main(words) == 0
    return json.loads(capsys.readouterr().out)[0]["suspects"]


def test_labels_with_a_negative_aum_are_listed_the_lowest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = ["train", "digits", "--sym", "0.4", "--epochs", "8", "--val-fraction", "0.2"]
    assert main(made) == 0
    (folder,) = run_folders([Path("runs")])
    facts, frame = listed(folder, capsys), pd.read_csv("s.csv")
    arrays = folder.read_arrays()
    aum, given, true = (arrays[name] for name in ("aum", "recorded_labels", "clean_labels"))
    assert np.array_equal(np.isnan(aum), ~arrays["in_training"]) and np.isnan(aum).any()
    issues = np.flatnonzero(aum < 0)
    order = issues[np.argsort(aum[issues], kind="stable")]
    assert frame["index"].tolist() == order.tolist() and (frame["split"] == "train").all()
    np.testing.assert_allclose(frame["label_quality"], aum[order], atol=1e-5)
    assert (frame["given_label"] != frame["predicted_label"]).all()
    assert facts["by"] == "aum" and facts["listed"] == len(order)
    assert facts["of"] == arrays["in_training"].sum()
    assert (
        facts["precision"] == pytest.approx((given != true)[order].mean())
        and facts["precision"] > 0.8
    )
    assert facts["auroc"] > 0.9
    for content, why in (({}, "has no AUM"), ({"aum": aum[:-1]}, "is damaged")):
        others = {name: array for name, array in arrays.items() if name != "aum"}
        folder.predictions.write_bytes(packed_npz({**others, **content}))
        reseal(folder)
        assert main(["evaluate", str(folder.path), "--suspects", "s.csv", "--score", "aum"]) != 0
        assert why in " ".join(capsys.readouterr().err.split())
