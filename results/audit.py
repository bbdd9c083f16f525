"""How well `noisebench audit` finds incorrect labels: `python results/audit.py --feature-weights FILE`
audits data sets whose correct labels are known and writes results/audit.csv and results/audit.md.

Per set: AUROC and precision at 50 and 100 of the label quality, and the short list of confident issues
(rule and thresholds: docs/how-to/audit.md). Beside it cleanlab's `find_label_issues`, ranked by self-confidence,
on the same out-of-fold predictions. Digits are audited with a small network on the images, the others with linear heads on
frozen features (tf_efficientnet_lite0, 128 pixels). The rule and its thresholds were chosen on these digits, on Fashion-MNIST with
asymmetric noise, and on the columns aggre_label, random_label1 and worse_label; Fashion-MNIST with symmetric noise and the
columns random_label2 and random_label3 (other annotators, the same images) were not used for that.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from noisebench.experiments.features import FeatureNetwork
from noisebench.labels.build import LabelRequest
from noisebench.runs.audit import audit_labels, resolve_methods
from noisebench.runs.checkpoint import RunOptions
from noisebench.runs.workspace import Workspace

TABLE = Path(__file__).parent / "audit.csv"
SETS = (
    ("digits", "symmetric(rate=0.3)"),
    ("digits", "asymmetric(rate=0.3)"),
    ("fashionmnist", "symmetric(rate=0.3)"),
    ("fashionmnist", "asymmetric(rate=0.3)"),
    ("cifar10", "human(column='aggre_label')"),
    ("cifar10", "human(column='random_label1')"),
    ("cifar10", "human(column='random_label2')"),
    ("cifar10", "human(column='random_label3')"),
    ("cifar10", "human(column='worse_label')"),
)


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve of scores (N,), by ranks."""
    from scipy.stats import rankdata

    n = int(positive.sum())
    rank_sum = float(rankdata(score)[positive].sum())
    return (rank_sum - n * (n + 1) / 2) / (n * (len(score) - n))


def audited(
    workspace: Workspace, dataset: str, noise: str, args: argparse.Namespace
) -> dict[str, object]:
    """A line of the table. The true labels are used for the scores only."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    data = workspace.dataset(dataset)
    subset = None if dataset == "digits" else args.images
    manifest, path = workspace.make(data, LabelRequest(noise, subset=subset))
    workspace.keep(manifest, path)
    network: FeatureNetwork | None = None
    if dataset != "digits":
        network = workspace.feature_network("timm:tf_efficientnet_lite0", args.feature_weights)
    runs = resolve_methods(workspace, data, manifest, network, args.methods)
    result = audit_labels(workspace, runs, lambda stage: RunOptions())
    used = manifest.in_training
    labels = manifest.labels[used]
    wrong = labels != manifest.true_labels[used]
    p = np.exp(np.asarray(result.predictions.dense, np.float64)[used])
    p /= p.sum(1, keepdims=True)
    quality, confident = -result.quality.rank_by[used], result.confident[used]
    order = np.argsort(-quality, kind="stable")
    ranked = find_label_issues(labels, p, return_indices_ranked_by="self_confidence")
    estimates = result.estimates
    return {
        "dataset": dataset,
        "noise": noise,
        "n": len(labels),
        "methods": ",".join(score.method for score in result.methods),
        "true_rate": wrong.mean(),
        "estimated_rate": estimates.rate if estimates else "",
        "auroc": auroc(quality, wrong),
        "precision_50": wrong[order[:50]].mean(),
        "precision_100": wrong[order[:100]].mean(),
        "confident": confident.sum(),
        "confident_precision": wrong[confident].mean() if confident.any() else "",
        "confident_recall": (wrong & confident).sum() / wrong.sum(),
        "cleanlab_auroc": auroc(-get_label_quality_scores(labels, p), wrong),
        "cleanlab_precision_50": wrong[ranked[:50]].mean(),
        "cleanlab_precision_100": wrong[ranked[:100]].mean(),
        "cleanlab_issues": len(ranked),
        "cleanlab_precision": wrong[ranked].mean(),
        "cleanlab_recall": wrong[ranked].sum() / wrong.sum(),
    }


def page(lines: list[dict[str, str]]) -> str:
    """results/audit.md for the lines of the CSV."""

    def percent(text: str) -> str:
        return f"{100 * float(text):.1f}" if text else "–"

    columns = (
        "set | n | incorrect | estimated | AUROC | P@50 | P@100 | confident: number | precision | recall | "
        "cleanlab: AUROC | P@50 | P@100 | number | precision | recall"
    )
    rows = [f"| {columns} |", "| --- |" + " ---: |" * columns.count("|")]
    for line in lines:
        cells = [f"{line['dataset']}, {line['noise']}", line["n"]]
        cells += [
            value if key in ("confident", "cleanlab_issues") else percent(value)
            for key, value in line.items()
            if key not in ("dataset", "noise", "n", "methods")
        ]
        rows.append(f"| {' | '.join(cells)} |")
    methods = " and ".join(dict.fromkeys(line["methods"].replace(",", ", ") for line in lines))
    text = (
        "# Finding incorrect labels with `noisebench audit`",
        (__doc__ or "").split("\n\n", 1)[1].strip(),
        f"Percent; methods {methods}, one seed and one set of labels per row. n: audited labels, P@50: precision of "
        "the first 50 labels by quality. “incorrect” is the true share of incorrect labels, “estimated” that of the audit.",
        "\n".join(rows),
        "Regenerate with `python results/audit.py --feature-weights FILE`; cleanlab must be installed.",
    )
    return "\n\n".join(text) + "\n"


def main() -> int:
    """Audit each set and write the table after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--feature-weights", required=True, help="tf_efficientnet_lite0.safetensors"
    )
    parser.add_argument("--images", type=int, default=3000, help="of each set but digits")
    parser.add_argument("--methods", nargs="+", default=["ce", "gce"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--workspace", type=Path, default=Path("evidence/audit"))
    args = parser.parse_args()
    workspace = Workspace(args.workspace, args.data_dir)
    lines: list[dict[str, str]] = []
    for dataset, noise in SETS:
        line = audited(workspace, dataset, noise, args)
        lines.append({k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in line.items()})
        print(lines[-1], flush=True)
        with TABLE.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
        TABLE.with_suffix(".md").write_text(page(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
