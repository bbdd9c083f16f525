"""How well doubts find wrong labels, of the training run and out of fold, beside cleanlab's scores
of the same probabilities; and what it helps to drop or relabel what is doubted.

    python tests/perf/bench_suspects.py digits [WORKSPACE]
    python tests/perf/bench_suspects.py loop [WORKSPACE]
    python tests/perf/bench_suspects.py cifar [WORKSPACE]     # cifar10.npz and
    CIFAR-10_human.pt in NOISEBENCH_DATA

What is in the workspace already is not trained again.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from itertools import product
from pathlib import Path

import numpy as np
from cleanlab.rank import get_normalized_margin_for_each_label, get_self_confidence_for_each_label

from noisebench.cli import main
from noisebench.datasets import read_human
from noisebench.labels.manifest import Manifest, read_manifest
from noisebench.metrics.scores import auroc, average_precision

SEEDS = range(4)
LAST, EARLY, FOLDS = "last epoch", "early epochs", "out of fold"
JUDGES = {LAST: ["--score", "last"], EARLY: ["--score", "early"], FOLDS: ["--cv-folds", "5"]}
NOISES = ("--sym 0.4", "--pair 0.4", "--asym 0.4 --map digits")
IMAGES, TEST = 10_000, 2_000  # of CIFAR-10, the first ones
CIFAR = ["--model", "cnn4", "--epochs", "20", "--lr", "0.05", "--schedule", "cosine"]
AUGMENTED, PLAIN = ["--crop", "4", "--hflip"], ["--crop", "0", "--no-hflip"]
# and whether out of fold too
METHODS = (
    ("ce", AUGMENTED, True),
    ("el", AUGMENTED, True),
    ("gce", AUGMENTED, False),
    ("ce", PLAIN, True),
)


def call(place: Path, *arguments: str) -> object:
    """A command's JSON."""
    out = StringIO()
    with redirect_stdout(out):
        code = main(["-q", "-C", str(place), *arguments, "--json"])
    if code:
        raise SystemExit(code)
    return json.loads(out.getvalue())


def train(place: Path, *arguments: str) -> tuple[str, float]:
    """The run's folder and its test accuracy."""
    record = call(place, "train", *arguments)
    return record["run"], record["test_acc"]["last"]


def judged(place: Path, run: str, judge: str) -> np.ndarray:
    """p (N, K) of one of the JUDGES."""
    file = place / "p.npy"
    call(place, "evaluate", run, "--predictions", str(file), *JUDGES[judge])
    return np.load(file)


def numbers(p: np.ndarray, manifest: Manifest) -> list[float]:
    """AUROC, average precision and the share that is wrong among the first as many as are wrong;
    then AUROC and average precision by cleanlab's two scores.
    """
    labels, wrong = manifest.labels, manifest.labels != manifest.true_labels
    ours = -np.log(np.maximum(p[np.arange(len(p)), labels], 1e-300))
    first = np.argsort(-ours, kind="stable")[: wrong.sum()]
    theirs = [
        -score(labels, p)
        for score in (get_self_confidence_for_each_label, get_normalized_margin_for_each_label)
    ]
    return [
        *_both(ours, wrong),
        float(wrong[first].mean()),
        *(value for score in theirs for value in _both(score, wrong)),
    ]


def _both(score: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    return auroc(score, wrong) or 0.0, average_precision(score, wrong) or 0.0


def spread(values: list[float], scale: float = 1.0, digits: int = 3) -> str:
    """Mean and sample standard deviation."""
    mean = f"{scale * statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {scale * statistics.stdev(values):.{digits}f}"


def table(title: str, rows: Iterator[tuple[str, list[list[float]]]]) -> None:
    print(
        f"\n| {title} | AUROC | average precision | wrong in the top n | self_confidence | "
        "normalized_margin |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name, found in rows:
        columns = [spread(list(column)) for column in zip(*found, strict=True)]
        cells = [*columns[:3], " / ".join(columns[3:5]), " / ".join(columns[5:7])]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def digits(place: Path) -> Iterator[tuple[str, list[list[float]]]]:
    for noise in NOISES:
        for loss in ("ce", "el", "gce"):
            runs = [
                train(
                    place,
                    "digits",
                    *noise.split(),
                    "--noise-seed",
                    str(s),
                    "--seed",
                    str(s),
                    "--loss",
                    loss,
                )[0]
                for s in SEEDS
            ]
            manifests = [
                read_manifest(
                    next((place / "manifests").glob(f"{Path(run).name.partition('_')[0]}.csv"))
                )
                for run in runs
            ]
            for judge in JUDGES:
                found = [
                    numbers(judged(place, run, judge), manifest)
                    for run, manifest in zip(runs, manifests, strict=True)
                ]
                yield f"{noise.lstrip('-')}, {loss}, {judge}", found


def cifar(place: Path) -> Iterator[tuple[str, list[list[float]]]]:
    for column in ("worse_label", "random_label1"):
        labels = subset(place, column)
        noise = [str(place / "cifar10k.npz"), "--labels", str(labels)]
        manifest = read_manifest(call(place, "corrupt", *noise)["manifest"])
        for loss, augment, too in METHODS:
            run, _ = train(place, *noise, "--loss", loss, *CIFAR, *augment)
            for judge in JUDGES if too else (LAST, EARLY):
                name = (
                    f"{column}, {loss}{' without augmentation' if augment is PLAIN else ''}, "
                    f"{judge}"
                )
                yield name, [numbers(judged(place, run, judge), manifest)]


def subset(place: Path, column: str) -> Path:
    """The first images with labels by people, as files; the path of the labels."""
    data = Path(os.environ["NOISEBENCH_DATA"]).expanduser()
    source, path = np.load(data / "cifar10.npz"), place / f"{column}.csv"
    clean = source["train_labels"].reshape(-1).astype(np.int64)
    recorded = read_human(column, "cifar10", clean, data, offline=True)
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "cifar10k.npz").exists():
        sizes = {"train": IMAGES, "test": TEST}
        np.savez(
            place / "cifar10k.npz",
            **{
                f"{p}_{x}": source[f"{p}_{x}"][:n]
                for p, n in sizes.items()
                for x in ("images", "labels")
            },
        )
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "label", "clean_label"])
        writer.writerows([at, int(recorded[at]), int(clean[at])] for at in range(IMAGES))
    return path


def loop(place: Path) -> None:
    """Train, list, drop or relabel all that is listed, train again: test accuracy of CE (%), and
    wrong labels (%).
    """
    print(
        "\n| noise, list by | as recorded | dropped | relabelled | all labels right |\n| --- | "
        "---: | ---: | ---: | ---: |",
        flush=True,
    )
    right = [train(place, "digits", "--labels", "own", "--seed", str(s))[1] for s in SEEDS]
    for noise in NOISES:
        for loss, judge in product(("ce", "el"), JUDGES):
            steps = zip(*(one_loop(place, noise, loss, judge, seed) for seed in SEEDS), strict=True)
            cells = [
                (
                    f"{spread([acc for acc, _ in step], 100, 1)} "
                    f"({100 * statistics.fmean(rate for _, rate in step):.1f})"
                )
                for step in steps
            ]
            name = f"{noise.lstrip('-')}, {loss} {judge}"
            print(f"| {name} | {' | '.join([*cells, spread(right, 100, 1)])} |", flush=True)


def one_loop(
    place: Path, noise: str, loss: str, judge: str, seed: int
) -> list[tuple[float, float]]:
    """Test accuracy and share of wrong labels as recorded, dropped, relabelled."""
    labels = ["digits", *noise.split(), "--noise-seed", str(seed)]
    made = call(place, "corrupt", *labels)
    found = [(train(place, *labels, "--seed", str(seed))[1], made["realised_rate"])]
    file = place / f"{loss}-{judge.replace(' ', '-')}-{seed}.csv"
    run, _ = train(place, *labels, "--seed", str(seed), "--loss", loss)
    call(place, "evaluate", run, "--suspects", str(file), *JUDGES[judge])
    for action in ("--drop", "--relabel"):
        after = call(
            place, "corrupt", "--manifest", made["manifest"], "--suspects", str(file), action
        )
        found.append(
            (
                train(place, "--manifest", after["manifest"], "--seed", str(seed))[1],
                after["realised_rate"],
            )
        )
    return found


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "suspects")
    if what == "loop":
        loop(where)
    else:
        table(what, {"digits": digits, "cifar": cifar}[what](where))
