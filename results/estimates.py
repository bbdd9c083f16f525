"""Compares estimated with true noise rates: `python results/estimates.py` writes
results/estimates.csv and prints its table.

Needs the extra `check` (cleanlab), and fashionmnist.npz, cifar10.npz and CIFAR-10_human.pt in
NOISEBENCH_DATA or the cache. Each case trains only the two networks of a run with `eps=estimated`;
their predictions are stored in out-of-fold/ and reused. About an hour on one core. Arguments such
as `digits photos` run these cases only, and keep the other lines of the CSV.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cleanlab import count

from noisebench.experiments.suite import SuiteRun
from noisebench.metrics.confident_learning import Estimates
from noisebench.runs import noise_estimation
from noisebench.runs.queue import resolve_suite_run
from noisebench.runs.session import find_device
from noisebench.runs.workspace import Workspace
from noisebench.training.trainer import Trainer

TABLE = Path(__file__).with_suffix(".csv")
COLUMNS = (
    "data",
    "noise",
    "seed",
    "n",
    "truth",
    "estimate",
    "low",
    "high",
    "confident_joint",
    "cleanlab_joint",
    "cleanlab_issues",
    "accuracy",
)
FASHION = {"dataset": "fashionmnist", "subset": 10000, "model": "cnn4", "recipe": "apl", "epochs": 15, "batch_size": 64, "lr": 0.05,
           "crop": 0, "flip": False}  # fmt: skip
CIFAR = {**FASHION, "dataset": "cifar10", "epochs": 20, "crop": 4, "flip": True}
SYM, ASYM = "symmetric(rate={})", "asymmetric(rate={})"
# settings as in benchmarks.yaml, noises, seeds
CASES: dict[str, tuple[dict[str, Any], list[str], int]] = {
    "digits": (
        {"dataset": "digits"},
        [*map(SYM.format, (0, 0.1, 0.15, 0.2, 0.4, 0.6, 0.8)), *map(ASYM.format, (0.2, 0.4)), "pairflip(rate=0.3)"],
        3,
    ),
    "digits, 4 epochs": ({"dataset": "digits", "epochs": 4}, [*map(SYM.format, (0, 0.15, 0.4))], 1),
    "fashion": (FASHION, [*map(SYM.format, (0, 0.1, 0.2, 0.4, 0.6)), *map(ASYM.format, (0.2, 0.4))], 1),
    "cifar10": (
        CIFAR,
        [*(f"human(column='{name}_label{end}')" for name, end in (("aggre", ""), ("random", "1"), ("worse", ""))),
         *map(SYM.format, (0, 0.1, 0.4))],
        1,
    ),
    "photos": ({"dataset": "photos/", "model": "cnn4", "epochs": 20}, ["imported(file='own')"], 1),
}  # fmt: skip


def out_of_fold(
    workspace: Workspace, settings: dict[str, Any], seed: int, kept: Path
) -> dict[str, np.ndarray]:
    """Out-of-fold log_p (n, K), given labels (n,) and clean labels (n,), -1 where unknown."""
    if not kept.exists():
        run = resolve_suite_run(
            workspace,
            SuiteRun({**settings, "loss": "el(eps=estimated)", "precision": "fp32"}, seed, seed),
        )
        training, predicted = run.manifest.in_training, list[np.ndarray]()
        noise_estimation.estimate_noise(
            run,
            workspace.training_images(run),
            find_device("cpu"),
            predicted,
            train,
        )
        which = noise_estimation.folds(run)
        log_p = np.empty((len(which), run.dataset.num_classes), np.float32)
        for fold, rows in enumerate(predicted):
            log_p[which == fold] = rows
        kept.parent.mkdir(exist_ok=True)
        np.savez(
            kept,
            log_p=log_p,
            labels=run.manifest.labels[training],
            clean=run.manifest.true_labels[training],
        )
    return dict(np.load(kept))


def train(trainer: Trainer) -> None:
    """To its last epoch, without checkpoints."""
    while trainer.state.epoch < trainer.task.recipe.epochs:
        trainer.run_epoch(lambda: None)


def true_labels_of_photos(workspace: Workspace) -> np.ndarray:
    """The file name of an image is its index in CIFAR-10, see results/photos.py."""
    ids = workspace.labels(workspace.dataset("photos/")).ids
    assert ids is not None
    true: np.ndarray = workspace.labels(workspace.dataset("cifar10")).labels[
        [int(Path(each).stem) for each in ids]
    ]
    return true


def confident_joint_rate(p: np.ndarray, labels: np.ndarray) -> float:
    """The share off the diagonal of the confident joint, rows scaled to the given labels (Northcutt
    et al. 2021).
    """
    num_classes = p.shape[1]
    thresholds = np.array(
        [p[labels == k, k].mean() if (labels == k).any() else np.inf for k in range(num_classes)]
    )
    confident = np.where(p >= thresholds, p, -1)
    sure = confident.max(1) > 0
    joint = np.zeros((num_classes, num_classes))
    np.add.at(joint, (labels[sure], confident[sure].argmax(1)), 1)
    shares = np.bincount(labels, minlength=num_classes) / len(labels)
    return float(shares.sum() - (joint.diagonal() / np.maximum(joint.sum(1), 1) * shares).sum())


def line(name: str, noise: str, seed: int, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """A line of the CSV: each estimator on the same predictions."""
    log_p, labels, clean = found["log_p"], found["labels"].astype(np.int64), found["clean"]
    p = np.exp(log_p.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    ours = Estimates.of(log_p, labels)
    numbers = {"truth": np.mean(labels != clean), "estimate": ours.rate, "low": ours.interval[0], "high": ours.interval[1],
               "confident_joint": confident_joint_rate(p, labels), "cleanlab_joint": 1 - np.trace(count.estimate_joint(labels, p)),
               "cleanlab_issues": count.num_label_issues(labels, p) / len(labels), "accuracy": ours.accuracy}  # fmt: skip
    return {
        "data": name,
        "noise": noise,
        "seed": seed,
        "n": len(labels),
        **{key: f"{value:.4f}" for key, value in numbers.items()},
    }


def lines(names: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of the CSV for these cases."""
    workspace = Workspace(".", os.environ.get("NOISEBENCH_DATA"))
    for name in names:
        settings, noises, seeds = CASES[name]
        for noise in noises:
            for seed in range(seeds):
                found = out_of_fold(
                    workspace,
                    {**settings, "noise": noise},
                    seed,
                    Path("out-of-fold", f"{name} {noise} {seed}.npz"),
                )
                if name == "photos":
                    found["clean"] = true_labels_of_photos(workspace)
                yield line(name, noise, seed, found)


def page(rows: list[dict[str, Any]]) -> str:
    """The table of the documentation, seed 0."""
    text = [("| data | noise | n | truth | estimate [95 % interval] | confident joint | cleanlab: "
            "joint, issues | accuracy |"),
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for row in rows:
        if str(row["seed"]) == "0":
            share = {key: f"{100 * float(row[key]):.1f}" for key in COLUMNS[4:]}
            interval = f"{share['estimate']} [{share['low']}, {share['high']}]"
            theirs = (
                f"{share['confident_joint']} | {share['cleanlab_joint']}, "
                f"{share['cleanlab_issues']}"
            )
            case = f"{row['data']} | {row['noise']} | {int(row['n']):,} | {share['truth']}"
            text.append(f"| {case} | {interval} | {theirs} | {share['accuracy']} |")
    for name in dict.fromkeys(row["data"] for row in rows):
        of = [row for row in rows if row["data"] == name]
        errors = [
            np.mean([abs(float(row[key]) - float(row["truth"])) for row in of])
            for key in ("estimate", *COLUMNS[8:11])
        ]
        held = sum(float(row["low"]) <= float(row["truth"]) <= float(row["high"]) for row in of)
        text.append(
            f"{name}: mean error {', '.join(f'{100 * error:.1f}' for error in errors)}; {held} of "
            f"{len(of)} intervals contain the truth"
        )
    return "\n".join(text)


def main(names: list[str]) -> int:
    """Returns the exit code: 2 for an unknown case."""
    if unknown := sorted(set(names) - set(CASES)):
        print(f"unknown case: {', '.join(unknown)}; known: {', '.join(CASES)}", file=sys.stderr)
        return 2
    wanted, before = names or list(CASES), list[dict[str, Any]]()
    if TABLE.exists():
        with TABLE.open(newline="", encoding="utf-8") as file:
            before = [row for row in csv.DictReader(file) if row["data"] not in wanted]
    rows = sorted([*before, *lines(wanted)], key=lambda row: list(CASES).index(row["data"]))
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
