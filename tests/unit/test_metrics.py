"""Metrics against torchmetrics, scikit-learn and numbers made by hand; predictions as they lie on
disk.
"""

from inspect import signature

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from noisebench.metrics import scores
from noisebench.metrics.predictions import TOP, Predictions

torch.set_num_threads(1)


NOTHING_FOUND = {
    **dict.fromkeys(("auroc", "average_precision", "f1", "chance")),
    "precision_at": dict.fromkeys(("100", "1000", "wrong")),
}


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
    assert scores.accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75


def test_the_accuracy_of_nothing_is_none():
    assert scores.accuracy(np.array([], int), np.array([], int)) is None


def test_memorised_counts_wrong_recorded_labels_alone():
    clean, recorded = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 2, 0, 2])
    predicted = np.array([0, 1, 1, 0, 2])
    assert scores.memorised(predicted, recorded, clean) == pytest.approx(2 / 3)


def test_memorised_leaves_out_examples_whose_clean_label_is_unknown():
    assert scores.memorised(np.array([1, 1]), np.array([1, 1]), np.array([-1, 0])) == 1.0


def test_nothing_is_memorised_where_no_label_is_wrong():
    assert scores.memorised(np.array([1, 0]), np.array([1, 1]), np.array([1, 1])) is None


def test_ece_is_that_of_torchmetrics(case):
    for K in [2, 10, 200]:
        with case(K=K):
            log_p, labels = a_table(2000, K)
            predicted = log_p.argmax(1)
            ours = scores.ece(log_p.max(1), predicted == labels)
            theirs = multiclass_calibration_error(
                torch.tensor(np.exp(log_p)),
                torch.tensor(labels),
                K,
                n_bins=scores.ECE_BINS,
                norm="l1",
            )
            assert ours == pytest.approx(float(theirs), abs=1e-5)


def test_ece_of_certain_and_right_is_zero_and_of_certain_and_wrong_is_one():
    certain = np.zeros(5, np.float32)
    assert scores.ece(certain, np.ones(5, bool)) == 0
    assert scores.ece(certain, np.zeros(5, bool)) == 1


def test_ece_of_two_bins_by_hand():
    confidence, right = np.array([0.5, 0.5, 0.9, 0.9]), np.array([True, False, True, False])
    assert scores.ece(np.log(confidence), right) == pytest.approx((0 + 2 * 0.4) / 4)


def test_ece_keeps_neighbouring_bins_apart():
    confidence = (np.arange(scores.ECE_BINS) + 0.5) / scores.ECE_BINS
    right = np.arange(scores.ECE_BINS) % 2 == 0
    assert scores.ece(np.log(confidence), right) == pytest.approx(np.abs(right - confidence).mean())


def test_auroc_is_that_of_scikit_learn_ties_included(case):
    for values in [3, 15, 100_000]:
        with case(values=values):
            score, positive = scores_with_ties(values=values)
            assert scores.auroc(score, positive) == pytest.approx(
                reference.roc_auc_score(positive, score), abs=1e-12
            )


def test_average_precision_is_that_of_scikit_learn_ties_included(case):
    for values in [3, 15, 100_000]:
        with case(values=values):
            score, positive = scores_with_ties(values=values)
            assert scores.average_precision(score, positive) == pytest.approx(
                reference.average_precision_score(positive, score), abs=1e-12
            )


def test_best_f1_is_the_best_of_scikit_learn_over_thresholds(case):
    for values in [3, 15, 100_000]:
        with case(values=values):
            score, positive = scores_with_ties(values=values)
            best = max(
                reference.f1_score(positive, score >= threshold) for threshold in np.unique(score)
            )
            assert scores.best_f1(score, positive) == pytest.approx(best, abs=1e-12)


def test_ties_make_the_order_of_examples_irrelevant(case):
    for measure in [scores.auroc, scores.average_precision, scores.best_f1]:
        with case(measure=measure):
            score, positive = scores_with_ties(values=4)
            order = np.random.default_rng(1).permutation(len(score))
            assert measure(score[order], positive[order]) == pytest.approx(
                measure(score, positive), abs=1e-12
            )


def test_without_a_positive_there_is_nothing_to_detect(case):
    for n in [0, 4]:
        for measure in [scores.auroc, scores.average_precision, scores.best_f1]:
            with case(measure=measure, n=n):
                assert measure(np.linspace(0, 1, n), np.zeros(n, bool)) is None


def test_without_a_negative_there_is_no_auroc():
    assert scores.auroc(np.arange(3.0), np.ones(3, bool)) is None


def test_average_precision_and_f1_are_those_of_scikit_learns_whole_curve(case):
    for values in [3, 15, 100_000]:
        with case(values=values):
            score, positive = scores_with_ties(values=values)
            precision, recall, _ = reference.precision_recall_curve(positive, score)
            assert scores.average_precision(score, positive) == pytest.approx(
                -np.sum(np.diff(recall) * precision[:-1]), abs=1e-12
            )
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            assert scores.best_f1(score, positive) == pytest.approx(f1.max(), abs=1e-12)


def test_precision_at_n_is_scikit_learns_precision_of_the_first_n_without_ties(case):
    for n in [1, 100, 122, 400]:
        with case(n=n):
            score, positive = scores_with_ties(values=10**12)
            assert len(np.unique(score)) == len(score)
            expected = reference.precision_score(positive, score >= np.sort(score)[-n])
            assert scores.precision_at(n, score, positive) == pytest.approx(expected, abs=1e-12)


def test_of_equal_scores_the_first_examples_count():
    score, positive = (
        np.array([1.0, 2.0, 1.0, 1.0, 1.0]),
        np.array([False, True, True, False, True]),
    )
    assert [scores.precision_at(n, score, positive) for n in range(7)] == [
        None,
        1,
        1 / 2,
        2 / 3,
        2 / 4,
        3 / 5,
        None,
    ]


def test_precision_at_the_number_of_positives_is_where_precision_and_recall_meet():
    score, positive = scores_with_ties(values=10**12)
    precision, recall, _ = reference.precision_recall_curve(positive, score)
    meeting = precision[np.abs(precision - recall).argmin()]
    assert scores.detection(score, positive)["precision_at"]["wrong"] == pytest.approx(
        meeting, abs=1e-12
    )


def test_chance_is_the_share_of_positives_and_every_precision_over_all_examples():
    score, positive = scores_with_ties(n=1000)
    said = scores.detection(score, positive)
    assert said["chance"] == said["precision_at"]["1000"] == positive.mean()
    assert scores.detection(score[:999], positive[:999])["precision_at"]["1000"] is None, (
        "there are fewer examples"
    )


def test_where_every_label_is_wrong_each_first_one_is():
    said = scores.detection(np.arange(120.0), np.ones(120, bool))
    assert said == {
        "auroc": None, "average_precision": 1.0, "f1": 1.0, "precision_at": {"100": 1.0, "1000": None, "wrong": 1.0}, "chance": 1.0,
    }  # fmt: skip


def test_without_a_wrong_label_nothing_is_found():
    assert scores.detection(np.arange(120.0), np.zeros(120, bool)) == NOTHING_FOUND


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 12),
)
def test_precision_at_n_counts_the_first_n_of_the_order_by_score_then_index(pairs, n):
    score, positive = np.array([s for s, _ in pairs], float), np.array([p for _, p in pairs])
    first = sorted(range(len(pairs)), key=lambda i: (-score[i], i))[:n]
    expected = (
        pytest.approx(np.mean(positive[first])) if len(pairs) >= n and positive.any() else None
    )
    assert scores.precision_at(n, score, positive) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_auroc_is_the_share_of_pairs_in_the_right_order(pairs):
    score, positive = np.array([s for s, _ in pairs], float), np.array([p for _, p in pairs])
    wins = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    expected = pytest.approx(np.mean(wins)) if wins else None
    assert scores.auroc(score, positive) == expected


def test_a_confidence_at_an_edge_counts_to_the_bin_below_it():
    edges = np.repeat(np.arange(1, scores.ECE_BINS + 1) / scores.ECE_BINS, 3)
    right = np.arange(len(edges)) % 7 < 4
    # of 16 classes the first is the likeliest, by a hair less
    below = np.repeat(((1 - edges + 1e-7) / 15)[:, None], 16, axis=1)
    below[:, 0] = edges - 1e-7
    theirs = multiclass_calibration_error(
        torch.tensor(below), torch.tensor(np.where(right, 0, 1)), 16, n_bins=scores.ECE_BINS
    )
    assert scores.ece(np.log(edges), right) == pytest.approx(float(theirs), abs=1e-6)
    assert scores.calibration(edges, right)[0].tolist() == [3] * scores.ECE_BINS


@pytest.mark.skipif(
    "labels" not in signature(reference.brier_score_loss).parameters,
    reason="scikit-learn knows no classes here yet",
)
@pytest.mark.parametrize("K", [2, 10, 200])
def test_the_brier_score_is_that_of_scikit_learn(K):
    log_p, labels = a_table(600, K)
    p = np.exp(log_p.astype(np.float64))
    theirs = reference.brier_score_loss(
        labels, p / p.sum(1, keepdims=True), labels=range(K), scale_by_half=False
    )
    assert scores.brier((p**2).sum(1), log_p[np.arange(600), labels]) == pytest.approx(
        theirs, abs=1e-6
    )
    said = scores.of_test(Predictions.of(log_p, labels, labels), labels, K)
    assert said["brier"] == pytest.approx(theirs, abs=2e-4)  # float16 on disk


def test_brier_is_0_for_certain_and_right_and_2_for_certain_and_wrong(case):
    for p, score in [((0, 1, 0), 0), ((1, 0, 0), 2), ((1 / 3, 1 / 3, 1 / 3), 2 / 3)]:
        with case(p=p, score=score):
            with np.errstate(divide="ignore"):
                log_p, labels = np.log(np.array([p], np.float32)), np.array([1])
            assert scores.of_test(Predictions.of(log_p, labels, labels), labels, 3)[
                "brier"
            ] == pytest.approx(score, abs=1e-3)


def test_the_probability_of_the_right_class_is_a_mean_over_images(case):
    for K in [3, 200]:
        with case(K=K):
            log_p, labels = a_table(400, K)
            said = scores.of_test(Predictions.of(log_p, labels, labels), labels, K)
            # float16 on disk
            assert said["p_true"] == pytest.approx(
                np.exp(log_p)[np.arange(400), labels].mean(), rel=2e-3
            )
            assert abs(said["p_true"] - said["top1"]) > 0.01 and said["p_true"] >= np.exp(
                -said["nll"]
            )


def test_of_an_older_file_of_many_classes_there_is_no_brier_score():
    log_p, labels = a_table(20, 200)
    arrays = Predictions.of(log_p, labels, labels).arrays("test")
    del arrays["test_squared"]
    said = scores.of_test(Predictions.load(arrays, "test", labels, labels), labels, 200)
    assert said["brier"] is None and said["nll"] > 0


def test_confusion_is_that_of_scikit_learn():
    log_p, labels = a_table(500, 7)
    expected = reference.confusion_matrix(labels, log_p.argmax(1), labels=range(7))
    np.testing.assert_array_equal(scores.confusion(log_p.argmax(1), labels, 7), expected)


def test_accuracy_per_class_is_that_of_torchmetrics():
    log_p, labels = a_table(500, 7)
    predicted = log_p.argmax(1)
    theirs = multiclass_accuracy(torch.tensor(predicted), torch.tensor(labels), 7, average="none")
    assert scores.per_class(predicted, labels, 7) == pytest.approx(theirs.tolist(), abs=1e-6)


def test_a_class_without_examples_has_no_accuracy():
    assert scores.per_class(np.array([0, 2, 2]), np.array([0, 0, 2]), 3) == [0.5, None, 1.0]


def test_top5_is_that_of_scikit_learn(case):
    for K in [10, 200]:
        with case(K=K):
            log_p, labels = a_table(600, K)
            said = scores.of_test(Predictions.of(log_p, labels, labels), labels, K)
            assert said["top5"] == pytest.approx(
                reference.top_k_accuracy_score(labels, log_p, k=5, labels=range(K))
            )


def test_there_is_no_top5_among_five_classes_or_fewer(case):
    for K in [2, 5]:
        with case(K=K):
            log_p, labels = a_table(50, K)
            assert scores.of_test(Predictions.of(log_p, labels, labels), labels, K)["top5"] is None


def test_top1_and_nll_of_a_test_set_are_those_of_torch(case):
    for K in [2, 10, 200]:
        with case(K=K):
            log_p, labels = a_table(600, K)
            said = scores.of_test(Predictions.of(log_p, labels, labels), labels, K)
            nll = torch.nn.functional.nll_loss(torch.tensor(log_p), torch.tensor(labels))
            assert said["top1"] == pytest.approx(float(np.mean(log_p.argmax(1) == labels)))
            assert said["nll"] == pytest.approx(float(nll), rel=1e-3)  # float16 on disk


def test_a_test_set_says_how_many_examples_were_counted():
    log_p, labels = a_table(37, 10)
    assert scores.of_test(Predictions.of(log_p, labels, labels), labels, 10)["n"] == 37


def of_training(recorded, clean, K=10):
    log_p, _ = a_table(len(recorded), K)
    return scores.of_training(Predictions.of(log_p, recorded, clean), recorded, clean)


def test_detection_ranks_by_minus_log_p_of_the_recorded_label():
    rng = np.random.default_rng(0)
    log_p, clean = a_table(300, 10)
    recorded = np.where(rng.random(300) < 0.4, rng.integers(0, 10, 300), clean)
    said = scores.of_training(Predictions.of(log_p, recorded, clean), recorded, clean)
    suspicion = -log_p[np.arange(300), recorded].astype(np.float16)
    assert said["detection"]["auroc"] == pytest.approx(
        reference.roc_auc_score(recorded != clean, suspicion)
    )


def test_unknown_clean_labels_are_left_out_and_images_of_no_class_are_wrong():
    log_p, labels = a_table(300, 10)
    clean = labels.copy()
    clean[:90], clean[90:130] = scores.UNKNOWN, -2
    found = of_training(labels, clean)["detection"]
    known = slice(90, None)
    suspicion, wrong = -log_p[np.arange(300), labels].astype(np.float16)[known], clean[known] == -2
    assert found["chance"] == 40 / 210
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(wrong, suspicion))
    assert found["average_precision"] == pytest.approx(
        reference.average_precision_score(wrong, suspicion)
    )
    assert (
        found["precision_at"]["wrong"] == wrong[np.argsort(-suspicion, kind="stable")[:40]].mean()
    )


def test_training_accuracy_is_said_for_recorded_and_for_clean_labels():
    recorded, clean = np.array([0, 1, 2, 3]), np.array([0, 1, 2, -1])
    log_p = np.log(np.full((4, 4), 0.1) + 0.6 * np.eye(4)[[0, 1, 3, 3]]).astype(np.float32)
    said = scores.of_training(Predictions.of(log_p, recorded, clean), recorded, clean)
    assert (said["recorded"], said["clean"], said["n"]) == (0.75, pytest.approx(2 / 3), 4)


def test_nothing_wrong_means_nothing_memorised_and_nothing_detected():
    said = of_training(np.arange(8), np.arange(8))
    assert said["wrong_labels"] == 0
    assert said["memorised"] is None
    assert said["detection"] == NOTHING_FOUND


def test_without_clean_labels_only_the_recorded_ones_count():
    said = of_training(np.arange(8), np.full(8, -1))
    assert said["recorded"] is not None
    assert (said["clean"], said["memorised"], said["wrong_labels"], said["detection"]["auroc"]) == (
        None,
        None,
        None,
        None,
    )


def stored(log_p, recorded, clean):
    """Predictions and the same out of a .npz's arrays."""
    before = Predictions.of(log_p, recorded, clean)
    return before, Predictions.load(before.arrays("train"), "train", recorded, clean)


def test_predictions_come_back_from_disk_unchanged(case):
    for K in [2, 10, 100, 101, 200]:
        with case(K=K):
            log_p, recorded = a_table(60, K)
            clean = np.where(np.arange(60) % 3 == 0, -1, (recorded + 1) % K)
            before, after = stored(log_p, recorded, clean)
            for name in ("classes", "log_p", "recorded_log_p", "clean_log_p", "squared"):
                np.testing.assert_array_equal(
                    getattr(after, name), getattr(before, name), err_msg=name
                )


def test_every_class_is_kept_up_to_a_hundred(case):
    for K, dense in [(10, True), (100, True), (101, False), (200, False)]:
        with case(K=K, dense=dense):
            log_p, labels = a_table(20, K)
            before, after = stored(log_p, labels, labels)
            assert [p.dense is not None for p in (before, after)] == [dense, dense]


def test_metrics_from_disk_are_those_from_memory(case):
    for K in [10, 200]:
        with case(K=K):
            log_p, recorded = a_table(200, K)
            clean = np.where(np.arange(200) % 4 == 0, (recorded + 1) % K, recorded)
            before, after = stored(log_p, recorded, clean)
            assert scores.of_training(after, recorded, clean) == scores.of_training(
                before, recorded, clean
            )
            assert scores.of_test(after, clean, K) == scores.of_test(before, clean, K)


def test_the_arrays_on_disk_are_half_precision(case):
    for K in [10, 200]:
        with case(K=K):
            log_p, labels = a_table(20, K)
            kinds = {
                array.dtype
                for array in Predictions.of(log_p, labels, labels).arrays("test").values()
            }
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
    run = scores.of_run(
        said,
        said,
        {"recorded": labels, "clean": labels, "test": labels},
        10,
        {"train": first, "val": rest},
    )
    assert run == {
        "test": scores.of_test(said, labels, 10),
        "train": scores.of_training(said.take(first), labels[first], labels[first]),
        "val": scores.of_training(said.take(rest), labels[rest], labels[rest]),
    }
