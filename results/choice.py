"""How good a method chosen without clean labels is, on CIFAR-10 with human annotations:
`python results/choice.py features --feature-weights FILE` or `python results/choice.py cnn8` runs
the methods, and writes results/choice.csv and results/choice.md.

A fifth of 5,000 images is a noisy validation split, another one for each seed. The chosen method has the
highest mean accuracy on the noisy validation labels in the last epoch, over three seeds or by one. Its
true accuracy, that on the test images, is compared with that of the method that is best there.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import mean

import numpy as np

from noisebench.cli import main as command

HERE = Path(__file__).parent
TABLE = HERE / "choice.csv"
COLUMNS = ("setup", "noise", "method", "seed", "val", "test")
SUITES = """version: 1
suites:
  features:
    defaults: {dataset: cifar10, subset: 5000, val_fraction: 0.2, model: linear, features: timm:tf_efficientnet_lite0,
      img_size: 128, seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8]}
    matrix:
      noise: [human(column='aggre_label'), human(column='random_label1'), human(column='random_label2'),
        human(column='random_label3'), human(column='worse_label')]
      method: [ce, lsr, sl, gce, elr, ni_erm]
  cnn8:
    defaults: {dataset: cifar10, subset: 5000, val_fraction: 0.2, model: cnn8, recipe: apl, epochs: 15, batch_size: 64,
      seeds: [0, 1, 2]}
    matrix:
      noise: [human(column='aggre_label'), human(column='random_label1'), human(column='random_label2'),
        human(column='random_label3'), human(column='worse_label')]
      method: [ce, lsr, sl, gce, elr]
"""
Scores = dict[tuple[str, str, int], tuple[float, float]]  # noise, method, seed -> val, test


def recorded(workspace: Path, setup: str) -> Iterator[dict[str, object]]:
    """A line for each finished run."""
    for path in sorted(workspace.glob("runs/*/result.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        with (path.parent / "metrics.csv").open(encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]
        yield {
            "setup": setup,
            "noise": record["noise"]["text"],
            "method": record["method"],
            "seed": record["seed"],
            "val": float(last["val_recorded"]),
            "test": record["metrics"]["test_acc"]["last"],
        }


def judged(scores: Scores, noise: str, seeds: tuple[int, ...]) -> tuple[str, str, float]:
    """The chosen method, the best one, and the accuracy lost by the choice."""
    methods = sorted({method for known, method, _ in scores if known == noise})
    val, test = (
        {m: mean(scores[noise, m, seed][part] for seed in seeds) for m in methods}
        for part in (0, 1)
    )
    chosen, best = max(methods, key=val.__getitem__), max(methods, key=test.__getitem__)
    return chosen, best, test[best] - test[chosen]


def page(lines: list[dict[str, str]]) -> str:
    """The page of results/."""
    text = ["# Choosing a method without clean labels", (__doc__ or "").split("\n\n", 1)[1].strip()]
    text.append(
        "Regenerate with `python results/choice.py features --feature-weights FILE`; the argument `cnn8` adds a network from scratch."
    )
    for setup in dict.fromkeys(line["setup"] for line in lines):
        scores: Scores = {
            (line["noise"], line["method"], int(line["seed"])): (
                float(line["val"]),
                float(line["test"]),
            )
            for line in lines
            if line["setup"] == setup
        }
        noises = list(dict.fromkeys(noise for noise, _, _ in scores))
        seeds = sorted({seed for _, _, seed in scores})
        methods = list(dict.fromkeys(method for _, method, _ in scores))
        rows = ["| labels | " + " | ".join(methods) + " |", "| --- |" + " ---: |" * len(methods)]
        for noise in noises:
            means = [
                " / ".join(
                    f"{100 * mean(scores[noise, method, seed][part] for seed in seeds):.1f}"
                    for part in (0, 1)
                )
                for method in methods
            ]
            rows.append(
                f"| {noise.removeprefix('human(column=').strip(chr(39) + ')')} | "
                + " | ".join(means)
                + " |"
            )
        groups = [tuple(seeds[i : i + 3]) for i in range(0, len(seeds) - 2, 3)]
        choices = [
            "| chosen by | choices | best method chosen | within one point of the best | mean loss, points | largest loss, points |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        of_ce = [
            max(mean(scores[n, m, s][1] for s in g) for m in methods)
            - mean(scores[n, "ce", s][1] for s in g)
            for n, g in product(noises, groups)
        ]
        for name, sets in (("one split", [(seed,) for seed in seeds]), ("three splits", groups)):
            found = [judged(scores, noise, part) for noise, part in product(noises, sets)]
            losses = np.array([loss for *_, loss in found])
            hits = sum(chosen == best for chosen, best, _ in found)
            choices.append(
                f"| {name} | {len(found)} | {hits} | {int((losses <= 0.01).sum())} | "
                f"{100 * losses.mean():.2f} | {100 * losses.max():.2f} |"
            )
        choices.append(
            f"| always CE | {len(of_ce)} | {sum(loss == 0 for loss in of_ce)} | "
            f"{sum(loss <= 0.01 for loss in of_ce)} | {100 * mean(of_ce):.2f} | {100 * max(of_ce):.2f} |"
        )
        text += [
            f"## {TITLES[setup]}",
            "Accuracy (%) on the noisy validation split / on the clean test images, means over "
            f"n = {len(seeds)} seeds:",
            "\n".join(rows),
            "The choices:",
            "\n".join(choices),
        ]
    return "\n\n".join(text) + "\n"


TITLES = {
    "features": "A linear head on frozen features",
    "cnn8": "A small network from scratch (cnn8, 15 epochs)",
}


def main() -> int:
    """The exit code: that of the command `run`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("setup", nargs="?", choices=list(TITLES))
    parser.add_argument("--feature-weights", help="weights of tf_efficientnet_lite0 (weights.py)")
    parser.add_argument("--workspace", type=Path, default=Path("evidence/choice"))
    args = parser.parse_args()
    lines: list[dict[str, str]] = []
    if TABLE.exists():
        with TABLE.open(encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    if args.setup:
        place = args.workspace / args.setup
        place.mkdir(parents=True, exist_ok=True)
        (place / "benchmarks.yaml").write_text(SUITES, encoding="utf-8")
        weights = ["--feature-weights", args.feature_weights] if args.setup == "features" else []
        code = command(["-C", str(place), "run", args.setup, *weights])
        if code:
            return code
        lines = [line for line in lines if line["setup"] != args.setup]
        lines += [
            {key: str(value) for key, value in line.items()} for line in recorded(place, args.setup)
        ]
        with TABLE.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
    TABLE.with_suffix(".md").write_text(page(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
