"""What is told of a run: its settings, the numbers of an epoch, and those that it ends with."""

from __future__ import annotations

from typing import Any

from ...experiments.resolve import RunConfig
from ..folder import RunFolder
from .base import Numbers, RunInfo

_NO_NUMBERS = ("epoch", "seconds")  # of a line: the step, and what is the machine's


def facts_of(run: RunConfig, folder: RunFolder) -> RunInfo:
    """The run's settings, flat: `loss`, `noise`, `recipe.lr`, `key` ... What it has not is left
    out.
    """
    about = {**run.facts, "nominal_rate": run.manifest.meta["nominal_rate"]}
    nested = {
        f"{part}.{name}": value
        for part in ("recipe", "init")
        for name, value in about.pop(part, {}).items()
    }
    config = {
        name: value
        for name, value in {**about, **nested}.items()
        if value not in (None, "") and name != "versions"
    }
    return RunInfo(folder.path.name, config.pop("title"), folder.path, config)


def epoch_numbers(line: dict[str, Any]) -> Numbers:
    """The numbers of a line of metrics.csv that it has."""
    return {
        name: float(value)
        for name, value in line.items()
        if name not in _NO_NUMBERS and value is not None
    }


def final_numbers(record: dict[str, Any]) -> Numbers:
    """What a record says of the run as a whole, under `final/`; the best epoch on test is called
    what it is.
    """
    metrics = record["metrics"]
    test_acc, test = metrics["test_acc"], metrics["test"]
    named = {
        "test_acc_last": test_acc["last"],
        "test_acc_mean_last10": test_acc["mean_last10"],
        "test_acc_at_noisy_val": test_acc["at_noisy_val"],
        "test_acc_best_optimistic": test_acc["best"],
        "nll": test["nll"],
        "ece": test["ece"],
        "memorised": metrics["memorised"],
        "detection_auroc": metrics["train"]["detection"]["auroc"],
    }
    return {f"final/{name}": float(value) for name, value in named.items() if value is not None}
