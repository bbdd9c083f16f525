"""Metrics against torchmetrics, scikit-learn and numbers made by hand; predictions as they lie on disk."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from noisebench import metrics
from noisebench.predictions import TOP, Predictions

torch.set_num_threads(1)


def a_table(n, K, seed=0, spread=2.0):
    """log_p (N, K), float32, and labels (N,) that it predicts more often than chance."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    logits = spread * rng.standard_normal((n, K))
    logits[np.arange(n), labels] += spread
    return torch.tensor(logits, dtype=torch.float32).log_softmax(1).numpy(), labels


def scores_with_ties(n=400, seed=0, values=15):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.3
    return (rng.integers(0, values, n) + 3 * positive) / values, positive


def test_accuracy_is_the_share_of_equal_labels():
    assert metrics.accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75


def test_the_accuracy_of_nothing_is_none():
    assert metrics.accuracy(np.array([], int), np.array([], int)) is None


def test_memorised_counts_wrong_recorded_labels_alone():
    clean, recorded = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 2, 0, 2])
    predicted = np.array([0, 1, 1, 0, 2])
    assert metrics.memorised(predicted, recorded, clean) == pytest.approx(2 / 3)


def test_memorised_leaves_out_examples_whose_clean_label_is_unknown():
    assert metrics.memorised(np.array([1, 1]), np.array([1, 1]), np.array([-1, 0])) == 1.0


def test_nothing_is_memorised_where_no_label_is_wrong():
    assert metrics.memorised(np.array([1, 0]), np.array([1, 1]), np.array([1, 1])) is None


@pytest.mark.parametrize("K", [2, 10, 200])
def test_ece_is_that_of_torchmetrics(K):
    log_p, labels = a_table(2000, K)
    predicted = log_p.argmax(1)
    ours = metrics.ece(log_p.max(1), predicted == labels)
    theirs = multiclass_calibration_error(torch.tensor(np.exp(log_p)), torch.tensor(labels), K, n_bins=metrics.ECE_BINS, norm="l1")
    assert ours == pytest.approx(float(theirs), abs=1e-5)


def test_ece_of_certain_and_right_is_zero_and_of_certain_and_wrong_is_one():
    certain = np.zeros(5, np.float32)
    assert metrics.ece(certain, np.ones(5, bool)) == 0
    assert metrics.ece(certain, np.zeros(5, bool)) == 1


def test_ece_of_two_bins_by_hand():
    confidence, right = np.array([0.5, 0.5, 0.9, 0.9]), np.array([True, False, True, False])
    assert metrics.ece(np.log(confidence), right) == pytest.approx((0 + 2 * 0.4) / 4)


def test_ece_keeps_neighbouring_bins_apart():
    confidence = (np.arange(metrics.ECE_BINS) + 0.5) / metrics.ECE_BINS
    right = np.arange(metrics.ECE_BINS) % 2 == 0
    assert metrics.ece(np.log(confidence), right) == pytest.approx(np.abs(right - confidence).mean())


@pytest.mark.parametrize("values", [3, 15, 100_000])
def test_auroc_is_that_of_scikit_learn_ties_included(values):
    score, positive = scores_with_ties(values=values)
    assert metrics.auroc(score, positive) == pytest.approx(reference.roc_auc_score(positive, score), abs=1e-12)


@pytest.mark.parametrize("values", [3, 15, 100_000])
def test_average_precision_is_that_of_scikit_learn_ties_included(values):
    score, positive = scores_with_ties(values=values)
    assert metrics.average_precision(score, positive) == pytest.approx(reference.average_precision_score(positive, score), abs=1e-12)


@pytest.mark.parametrize("values", [3, 15, 100_000])
def test_best_f1_is_the_best_of_scikit_learn_over_thresholds(values):
    score, positive = scores_with_ties(values=values)
    best = max(reference.f1_score(positive, score >= threshold) for threshold in np.unique(score))
    assert metrics.best_f1(score, positive) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("measure", [metrics.auroc, metrics.average_precision, metrics.best_f1])
def test_ties_make_the_order_of_examples_irrelevant(measure):
    score, positive = scores_with_ties(values=4)
    order = np.random.default_rng(1).permutation(len(score))
    assert measure(score[order], positive[order]) == pytest.approx(measure(score, positive), abs=1e-12)


@pytest.mark.parametrize("measure", [metrics.auroc, metrics.average_precision, metrics.best_f1])
@pytest.mark.parametrize("n", [0, 4])
def test_without_a_positive_there_is_nothing_to_detect(measure, n):
    assert measure(np.linspace(0, 1, n), np.zeros(n, bool)) is None


def test_without_a_negative_there_is_no_auroc():
    assert metrics.auroc(np.arange(3.0), np.ones(3, bool)) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_auroc_is_the_share_of_pairs_in_the_right_order(pairs):
    score, positive = np.array([s for s, _ in pairs], float), np.array([p for _, p in pairs])
    wins = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    expected = pytest.approx(np.mean(wins)) if wins else None
    assert metrics.auroc(score, positive) == expected


def test_confusion_is_that_of_scikit_learn():
    log_p, labels = a_table(500, 7)
    expected = reference.confusion_matrix(labels, log_p.argmax(1), labels=range(7))
    np.testing.assert_array_equal(metrics.confusion(log_p.argmax(1), labels, 7), expected)


def test_accuracy_per_class_is_that_of_torchmetrics():
    log_p, labels = a_table(500, 7)
    predicted = log_p.argmax(1)
    theirs = multiclass_accuracy(torch.tensor(predicted), torch.tensor(labels), 7, average="none")
    assert metrics.per_class(predicted, labels, 7) == pytest.approx(theirs.tolist(), abs=1e-6)


def test_a_class_without_examples_has_no_accuracy():
    assert metrics.per_class(np.array([0, 2, 2]), np.array([0, 0, 2]), 3) == [0.5, None, 1.0]


@pytest.mark.parametrize("K", [10, 200])
def test_top5_is_that_of_scikit_learn(K):
    log_p, labels = a_table(600, K)
    said = metrics.of_test(Predictions.of(log_p, labels, labels), labels, K)
    assert said["top5"] == pytest.approx(reference.top_k_accuracy_score(labels, log_p, k=5, labels=range(K)))


@pytest.mark.parametrize("K", [2, 5])
def test_there_is_no_top5_among_five_classes_or_fewer(K):
    log_p, labels = a_table(50, K)
    assert metrics.of_test(Predictions.of(log_p, labels, labels), labels, K)["top5"] is None


@pytest.mark.parametrize("K", [2, 10, 200])
def test_top1_and_nll_of_a_test_set_are_those_of_torch(K):
    log_p, labels = a_table(600, K)
    said = metrics.of_test(Predictions.of(log_p, labels, labels), labels, K)
    nll = torch.nn.functional.nll_loss(torch.tensor(log_p), torch.tensor(labels))
    assert said["top1"] == pytest.approx(float(np.mean(log_p.argmax(1) == labels)))
    assert said["nll"] == pytest.approx(float(nll), rel=1e-3)  # float16 on disk


def test_a_test_set_says_how_many_examples_were_counted():
    log_p, labels = a_table(37, 10)
    assert metrics.of_test(Predictions.of(log_p, labels, labels), labels, 10)["n"] == 37


def of_training(recorded, clean, K=10):
    log_p, _ = a_table(len(recorded), K)
    return metrics.of_training(Predictions.of(log_p, recorded, clean), recorded, clean)


def test_detection_ranks_by_minus_log_p_of_the_recorded_label():
    rng = np.random.default_rng(0)
    log_p, clean = a_table(300, 10)
    recorded = np.where(rng.random(300) < 0.4, rng.integers(0, 10, 300), clean)
    said = metrics.of_training(Predictions.of(log_p, recorded, clean), recorded, clean)
    suspicion = -log_p[np.arange(300), recorded].astype(np.float16)
    assert said["detection"]["auroc"] == pytest.approx(reference.roc_auc_score(recorded != clean, suspicion))


def test_training_accuracy_is_said_for_recorded_and_for_clean_labels():
    recorded, clean = np.array([0, 1, 2, 3]), np.array([0, 1, 2, -1])
    log_p = np.log(np.full((4, 4), 0.1) + 0.6 * np.eye(4)[[0, 1, 3, 3]]).astype(np.float32)
    said = metrics.of_training(Predictions.of(log_p, recorded, clean), recorded, clean)
    assert (said["recorded"], said["clean"], said["n"]) == (0.75, pytest.approx(2 / 3), 4)


def test_nothing_wrong_means_nothing_memorised_and_nothing_detected():
    said = of_training(np.arange(8), np.arange(8))
    assert said["wrong_labels"] == 0
    assert said["memorised"] is None
    assert said["detection"] == {"auroc": None, "average_precision": None, "f1": None}


def test_without_clean_labels_only_the_recorded_ones_count():
    said = of_training(np.arange(8), np.full(8, -1))
    assert said["recorded"] is not None
    assert (said["clean"], said["memorised"], said["wrong_labels"], said["detection"]["auroc"]) == (None, None, None, None)


def stored(log_p, recorded, clean):
    """Predictions and the same out of a .npz's arrays."""
    before = Predictions.of(log_p, recorded, clean)
    return before, Predictions.load(before.arrays("train"), "train", recorded, clean)


@pytest.mark.parametrize("K", [2, 10, 100, 101, 200])
def test_predictions_come_back_from_disk_unchanged(K):
    log_p, recorded = a_table(60, K)
    clean = np.where(np.arange(60) % 3 == 0, -1, (recorded + 1) % K)
    before, after = stored(log_p, recorded, clean)
    for name in ("classes", "log_p", "recorded_log_p", "clean_log_p"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)


@pytest.mark.parametrize(("K", "dense"), [(10, True), (100, True), (101, False), (200, False)])
def test_every_class_is_kept_up_to_a_hundred(K, dense):
    log_p, labels = a_table(20, K)
    before, after = stored(log_p, labels, labels)
    assert [p.dense is not None for p in (before, after)] == [dense, dense]


@pytest.mark.parametrize("K", [10, 200])
def test_metrics_from_disk_are_those_from_memory(K):
    log_p, recorded = a_table(200, K)
    clean = np.where(np.arange(200) % 4 == 0, (recorded + 1) % K, recorded)
    before, after = stored(log_p, recorded, clean)
    assert metrics.of_training(after, recorded, clean) == metrics.of_training(before, recorded, clean)
    assert metrics.of_test(after, clean, K) == metrics.of_test(before, clean, K)


@pytest.mark.parametrize("K", [10, 200])
def test_the_arrays_on_disk_are_half_precision(K):
    log_p, labels = a_table(20, K)
    kinds = {array.dtype for array in Predictions.of(log_p, labels, labels).arrays("test").values()}
    assert kinds == {np.dtype(np.uint16), np.dtype(np.float16)}


def test_an_unknown_clean_label_has_no_log_p():
    log_p, recorded = a_table(5, 10)
    assert np.isnan(Predictions.of(log_p, recorded, np.full(5, -1)).clean_log_p).all()


def test_classes_are_ranked_before_rounding():
    log_p = np.full((1, 10), -9, np.float32)
    log_p[0, 3], log_p[0, 7] = -0.69314, -0.69313
    assert Predictions.of(log_p, np.array([0]), np.array([0])).predicted[0] == 7


def test_classes_are_listed_likeliest_first():
    log_p, labels = a_table(30, 20)
    expected = np.argsort(-log_p, 1)[:, :TOP]
    np.testing.assert_array_equal(Predictions.of(log_p, labels, labels).classes, expected)


def test_log_p_beyond_half_precision_stays_finite():
    log_p = np.array([[0, -1e6, -9e9]], np.float32)
    assert np.isfinite(Predictions.of(log_p, np.array([1]), np.array([2])).dense).all()


def test_a_missing_array_is_a_key_error():
    log_p, labels = a_table(5, 200)
    arrays = Predictions.of(log_p, labels, labels).arrays("train")
    del arrays["train_top_log_p"]
    with pytest.raises(KeyError, match="top_log_p"):
        Predictions.load(arrays, "train", labels, labels)


def test_the_numbers_of_a_run_are_those_of_its_parts():
    log_p, labels = a_table(50, 10)
    said = Predictions.of(log_p, labels, labels)
    first, rest = np.arange(50) < 40, np.arange(50) >= 40
    run = metrics.of_run(said, said, {"recorded": labels, "clean": labels, "test": labels}, 10, {"train": first, "val": rest})
    assert run == {
        "test": metrics.of_test(said, labels, 10),
        "train": metrics.of_training(said.take(first), labels[first], labels[first]),
        "val": metrics.of_training(said.take(rest), labels[rest], labels[rest]),
    }
