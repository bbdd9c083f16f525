"""What it helps to begin from trained weights where labels are few and by people: CIFAR-10's second
five classes from a network that was trained on its first five; by recipe; and how well the suite's
runs together find the wrong labels.

python tests/perf/bench_init.py [WORKSPACE]     # cifar10.npz and CIFAR-10_human.pt in
NOISEBENCH_DATA

Half an hour on one core. What is in the workspace already is not trained again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from noisebench.cli import main
from noisebench.datasets import read_human
from noisebench.experiments.suite import find_suite
from noisebench.labels.issues import LabelQuality, better_score, combine, label_issues, score_labels
from noisebench.metrics.predictions import Predictions
from noisebench.metrics.scores import auroc, average_precision
from noisebench.runs.queue import plan_suite
from noisebench.runs.workspace import Workspace

PRETRAINED, LABELLED = 15_000, 2_000  # images
WARM = (
    "--labels own --model timm:test_resnet --recipe apl --epochs 8 --lr 0.05 --batch-size 64 "
    "--crop 4 --hflip"
)
COMMON = (
    "dataset: mine.npz, noise: imported(file='own'), model: timm:test_resnet, seeds: [0, 1], "
    "epochs: 8, batch_size: 64, clip: 0, "
    "crop: 4, flip: true"
)
SUITES = f"""
version: 1
suites:
  tune:
    defaults: {{{COMMON}, recipe: apl}}
    matrix:
      init: [none, warm-cb22a2-imported-own_timm-test_resnet_ce]
      method: [ce]
      recipe: [apl, finetune, finetune_frozen]
    override:
      - {{match: {{init: none, recipe: apl}}, set: {{lr: 0.05}}}}
      - {{match: {{init: warm-cb22a2-imported-own_timm-test_resnet_ce, recipe: apl}}, set: {{lr: 0.02}}}}
    report: {{rows: "init,recipe", cols: method}}
  doubts:
    defaults: {{{COMMON}, recipe: finetune, init: warm-cb22a2-imported-own_timm-test_resnet_ce}}
    matrix:
      loss: [ce, gce, el(eps=estimated)]
"""


def make_data(place: Path, data: Path) -> np.ndarray:
    """warm.npz and mine.npz; the clean labels (N,) of the second."""
    arrays = np.load(data / "cifar10.npz")
    images, test = arrays["train_images"], arrays["test_images"]
    labels, of_test = (
        arrays[f"{part}_labels"].reshape(-1).astype(np.int64) for part in ("train", "test")
    )
    worse, rng = (
        read_human("worse_label", "cifar10", labels, data, offline=True),
        np.random.default_rng(0),
    )
    first, seen = (
        rng.permutation(np.flatnonzero(labels < 5))[:PRETRAINED],
        np.flatnonzero(of_test < 5)[:2000],
    )
    mine, held = (
        rng.permutation(np.flatnonzero((labels >= 5) & (worse >= 5)))[:LABELLED],
        np.flatnonzero(of_test >= 5)[:2500],
    )
    _save(place / "warm.npz", images[first], labels[first], test[seen], of_test[seen])
    _save(place / "mine.npz", images[mine], worse[mine] - 5, test[held], of_test[held] - 5)
    return labels[mine] - 5


def _save(path: Path, *arrays: np.ndarray) -> None:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(path, **dict(zip(names, arrays, strict=True)))


def show(name: str, said: Predictions, recorded: np.ndarray, clean: np.ndarray) -> None:
    """How well doubts find what is wrong."""
    score, wrong = -said.recorded_log_p, recorded != clean
    found = label_issues(LabelQuality.of(said, recorded))
    share = (recorded[found] != clean[found]).mean()
    print(f"{name}: AUROC {auroc(score, wrong):.3f}, average precision "
          f"{average_precision(score, wrong):.3f}, "
          f"{len(found)} listed, {100 * share:.1f} % of them wrong")  # fmt: skip


def run() -> None:
    place, data = (
        Path(sys.argv[1] if len(sys.argv) > 1 else "bench_init"),
        Path(os.environ["NOISEBENCH_DATA"]),
    )
    place.mkdir(exist_ok=True)
    clean = make_data(place, data)
    (place / "suites.yaml").write_text(SUITES)
    recorded = np.load(place / "mine.npz")["train_labels"]
    print(f"{100 * (recorded != clean).mean():.1f} % of {len(clean)} labels are wrong")
    words = ["-q", "-C", str(place)]
    for command in (
        ["train", "warm.npz", *WARM.split()],
        *(["run", f"{place}/suites.yaml:{name}"] for name in ("tune", "doubts")),
    ):
        if code := main([*words, *command]):
            raise SystemExit(code)
    items = plan_suite(Workspace(place), find_suite(f"{place}/suites.yaml:doubts", place)[1])
    arrays = [item.folder.read_arrays() for item in items]
    said = [score_labels(each, better_score(each)) for each in arrays]
    for item, each, one in zip(items, arrays, said, strict=True):
        show(f"{item.run.method}, seed {item.run.seed}, {better_score(each)}", one, recorded, clean)
    show("together", combine(said, recorded), recorded, clean)


if __name__ == "__main__":
    run()
