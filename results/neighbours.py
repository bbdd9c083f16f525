"""Compares what frozen features say about CIFAR-10N with the truth: `python results/neighbours.py
FEATURES` writes results/neighbours.csv and results/neighbours.md.

FEATURES is an .npz with train_features (N, D), or an .npy, of the first N CIFAR-10 training images in
the order of cifar10.npz. Needs the extra `check` (cleanlab), and CIFAR-10_human.pt in NOISEBENCH_DATA
or the cache. neighbours.csv is of the first 6,000 images, EfficientNet-Lite0 with its ImageNet weights at
128 pixels (1,280 features): half a minute on a core, most of it the logistic regressions.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanlab import count, filter
from platformdirs import user_cache_path
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from noisebench.metrics import feature_neighbours as neighbours
from noisebench.metrics.confident_learning import Estimates, class_shares
from noisebench.metrics.scores import auroc

TABLE = Path(__file__).with_suffix(".csv")
LABELS = [
    "clean_label",
    "aggre_label",
    "random_label1",
    "random_label2",
    "random_label3",
    "worse_label",
]
OF_RATES = ["rate", "low", "high", "t_error"]
OF_DETECTION = ["issues", "auroc", "precision", "recall", "f1"]
COLUMNS = ["labels", "n", "truth", "method", *OF_RATES, *OF_DETECTION, "seconds"]
K, NUM_CLASSES, FOLDS = 10, 10, 4


def rated(
    rate: float,
    interval: tuple[float, float] | None,
    transition: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray],
) -> dict[str, str]:
    """A rate, and the mean over classes of the sum of |T - T of the given and true labels|."""
    given, true = labels
    realised = np.zeros((NUM_CLASSES, NUM_CLASSES))
    np.add.at(realised, (true, given), 1)
    realised /= realised.sum(1, keepdims=True)
    error = np.abs(transition - realised).sum(1).mean()
    low, high = ("", "") if interval is None else (f"{end:.4f}" for end in interval)
    return {"rate": f"{rate:.4f}", "low": low, "high": high, "t_error": f"{error:.3f}"}


def detection(quality: np.ndarray, issues: np.ndarray, wrong: np.ndarray) -> dict[str, str]:
    """How well the issues and the label quality find incorrect labels, where there are any."""
    numbers, hits = {"issues": str(int(issues.sum()))}, int((issues & wrong).sum())
    area = auroc(-quality, wrong)
    if area is None:
        return numbers
    precision, recall = hits / max(int(issues.sum()), 1), hits / int(wrong.sum())
    f1 = 2 * hits / int(issues.sum() + wrong.sum())
    values = zip(OF_DETECTION[1:], (area, precision, recall, f1), strict=True)
    return {**numbers, **{name: f"{value:.4f}" for name, value in values}}


def compared(
    features: np.ndarray, found: neighbours.Neighbours, given: np.ndarray, true: np.ndarray
) -> Iterator[tuple[str, dict[str, str]]]:
    """The name and the numbers of each estimator and of each detector."""
    wrong, labels = given != true, (given, true)
    hoc = neighbours.hoc(found, given, NUM_CLASSES)
    yield "HOC", rated(hoc.rate, hoc.interval, hoc.transition, labels)
    of = Estimates.of(neighbours.neighbour_log_p(found, given, NUM_CLASSES), given)
    yield "Estimates, neighbours", rated(of.rate, of.interval, of.transition, labels)
    voted = neighbours.simifeat_votes(found, given, NUM_CLASSES)
    yield "SimiFeat-V", detection(voted.quality, voted.issues, wrong)
    ranked = neighbours.simifeat_rank(found, given, hoc.transition, hoc.prior)
    yield "SimiFeat-R", detection(ranked.quality, ranked.issues, wrong)
    prior = class_shares(of.transition, np.bincount(given, minlength=NUM_CLASSES) / len(given))
    ranked = neighbours.simifeat_rank(found, given, of.transition, prior)
    yield "SimiFeat-R, Estimates", detection(ranked.quality, ranked.issues, wrong)

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=200))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    rows = features.astype(np.float32)
    p = cross_val_predict(probe, rows, given, cv=folds, method="predict_proba").astype(np.float64)
    p /= p.sum(1, keepdims=True)
    of = Estimates.of(np.log(np.maximum(p, 1e-30)), given)
    yield "Estimates, linear probe", rated(of.rate, of.interval, of.transition, labels)
    joint = count.estimate_joint(given, p)  # rows: given
    transition = joint.T / joint.sum(0)[:, None]
    yield "cleanlab, linear probe", rated(1 - float(np.trace(joint)), None, transition, labels)
    issues = filter.find_label_issues(given, p, n_jobs=1)
    yield "cleanlab", detection(p[np.arange(len(given)), given], issues, wrong)


def lines(features: np.ndarray, human: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of the CSV; seconds are those of the method alone, without finding neighbours."""
    n, started = len(features), time.perf_counter()
    found = neighbours.nearest(features, K)
    seconds = time.perf_counter() - started
    true = np.asarray(human["clean_label"])[:n].astype(np.int64)
    same = 100 * (true[found.indices[:, :2]] == true[:, None]).all(1).mean()
    print(f"{n} images, {same:.1f} % have the class of both nearest neighbours", file=sys.stderr)
    print(f"neighbours in {seconds:.1f} s", file=sys.stderr)
    for column in LABELS:
        given, started = np.asarray(human[column])[:n].astype(np.int64), time.perf_counter()
        truth = f"{np.mean(given != true):.4f}"
        for method, numbers in compared(features, found, given, true):
            line = {"labels": column, "n": n, "truth": truth, "method": method, **numbers}
            yield {**line, "seconds": f"{time.perf_counter() - started:.1f}"}
            started = time.perf_counter()


INTRO = """# neighbours

Compares estimates of the noise and lists of label issues on CIFAR-10N from frozen features, without training a network.

{n} training images of CIFAR-10, features of EfficientNet-Lite0 at 128 pixels ([weights](weights.py)), {k} nearest neighbours by cosine similarity.
*HOC*: Zhu, Song, Liu 2021. *SimiFeat-V*, *SimiFeat-R*: Zhu, Dong, Liu 2022, the second with the T of HOC, or with that of the estimates from the
neighbours' votes. *Linear probe*: out-of-fold predictions of logistic regression. *cleanlab*: `estimate_joint` and `find_label_issues` on
these predictions. `t_error`: mean over the classes of the sum of |estimated T - T|. `seconds` do not include finding the neighbours.
"""


def page(table: list[dict[str, Any]]) -> str:
    """The page of results/: a table of the estimates, and one of the detectors."""
    text = [INTRO.format(n=f"{int(table[0]['n']):,}", k=K)]
    for title, first, keys in (
        ("Noise rate and transition matrix", "rate", OF_RATES),
        ("Label issues", "issues", OF_DETECTION),
    ):
        shown = ["labels", "truth", "method", *keys, "seconds"]
        numbers = " | ---:" * (len(keys) + 1)
        text += [f"## {title}\n", f"| {' | '.join(shown)} |", f"| --- | ---: | ---{numbers} |"]
        for row in table:
            if row.get(first):
                text.append("| " + " | ".join(row.get(key) or "–" for key in shown) + " |")
        text.append("")
    return "\n".join([*text, "```sh\npython results/neighbours.py features.npy\n```\n"])


def read() -> list[dict[str, Any]]:
    """The lines of the CSV."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(arguments: list[str]) -> int:
    """Returns the exit code: 2 without a file of features."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    loaded = np.load(arguments[0])
    features = loaded if isinstance(loaded, np.ndarray) else loaded["train_features"]
    data = Path(os.environ.get("NOISEBENCH_DATA", user_cache_path("noisebench")))
    human = torch.load(data / "CIFAR-10_human.pt", weights_only=False)
    table = list(lines(features, human))
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    TABLE.with_suffix(".md").write_text(page(read()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
