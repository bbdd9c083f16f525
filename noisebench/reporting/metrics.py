"""The axes of tables, and the metrics of runs that they can show: each is a path in the record of a
run, or a function of its facts. Importing this module is cheap, for shell completion.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import NoisebenchError, UnknownName

AXES = (
    "dataset",
    "subset",
    "model",
    "init",
    "features",
    "recipe",
    "epochs",
    "precision",
    "noise",
    "method",
    "loss",
    "strategy",
    "metric",
)

RunValues = dict[str, Any]
"""The facts of a run, from `RunFolder.about`."""


@dataclass(frozen=True)
class Metric:
    """A number of a run: its title, the epoch that it is from, and how it is shown and compared.

    of: its path in the metrics of a record, or a function of the facts; percent: whether it is
    shown in percent; finer: extra digits if it is not; spent: whether it is a cost, which the gate
    does not check; clocked: whether it depends on the machine; unit: of its differences;
    tolerance: the gate's default; examples: the number of examples of a share, 0 where it is not
    recorded, None if the metric is not a count; last_epochs: how many epochs it is the mean of, 0
    for no mean.
    """

    of: tuple[str, ...] | Callable[[RunValues], float | None]
    title: str
    selection: str
    percent: bool = True
    higher_is_better: bool = True
    finer: int = 2
    spent: bool = False
    clocked: bool = False
    doc: str = ""
    unit: str = "points"
    tolerance: float = 0.5
    examples: Literal["test_images"] | int | None = None
    last_epochs: int = 0

    @property
    def counted(self) -> bool:
        """Whether it is a number of examples divided by their total, so that it has steps and can
        be equal by chance.
        """
        return self.examples is not None

    @property
    def is_share(self) -> bool:
        """Whether it is between 0 and 1; points per minute are not."""
        return self.percent and not self.spent

    @property
    def scale(self) -> int:
        """The value 1 in the unit shown."""
        return 100 if self.percent else 1

    def format(self, value: float, digits: int = 2, sign: str = "-") -> str:
        """A value as tables show it; digits: decimals of a percentage."""
        digits += 0 if self.percent else self.finer
        return f"{self.scale * value:{sign}.{digits}f}"

    def describe(self, epochs: Collection[int] = ()) -> str:
        """`test accuracy (%), last epoch`; epochs: the lengths of the runs."""
        return f"{self.title}{' (%)' if self.percent else ''}, {self.selection_of(epochs)}"

    def selection_of(self, epochs: Collection[int]) -> str:
        """Which epochs count in runs of these lengths: runs of fewer than ten epochs have all in
        their mean of the last ten.
        """
        short = sorted({length for length in epochs if length < self.last_epochs})
        if not short:
            return self.selection
        counts = ", ".join(map(str, short))
        several = "" if short == [1] else "s"
        if short == [1] == sorted(set(epochs)):
            return "the only epoch"
        if all(length < self.last_epochs for length in epochs):
            return f"mean of all {counts} epoch{several}"
        return f"{self.selection} (of all epochs in runs of {counts} epoch{several})"

    def value(self, known: RunValues) -> float | None:
        """None for a failed run, and for a metric that its version did not record."""
        if known.get("metrics") is None:
            return None
        of = self.of
        number = value_at(known["metrics"], of) if isinstance(of, tuple) else of(known)
        return None if number is None else float(number)

    def num_examples(self, known: RunValues) -> int | None:
        """The number of examples of the share in this run; None where unknown."""
        return known.get("test_images") if self.examples == "test_images" else self.examples or None


def value_at(facts: Any, path: Sequence[str]) -> Any:
    """The value at a path of keys in nested mappings; None where one is missing."""
    for name in path:
        facts = facts.get(name) if isinstance(facts, dict) else None
    return facts


def _minutes(known: RunValues) -> float | None:
    return known["seconds"] / 60 if known.get("seconds") else None


def _per_minute(known: RunValues) -> float | None:
    last, minutes = METRICS["last"].value(known), _minutes(known)
    return None if last is None or minutes is None else last / minutes


def _work(known: RunValues) -> float | None:
    from ..experiments.resolve import price_of

    try:
        return price_of(known["loss"], known["strategy"]).work(known["recipe"]["epochs"])
    except NoisebenchError:  # a strategy without a cost, or of a plugin that is not loaded
        return None


_DETECTION = ("train", "detection")
_CLOCK = (
    "Wall-clock time of training: the epochs, the test predictions after each, and the noise "
    "estimation before; without reading the data and writing the results. It depends on the "
    "machine and its other load. For runs that train together as one network it is the run's "
    "share, which is not comparable with the time of a single run."
)
METRICS = {
    "last": Metric(("test_acc", "last"), "test accuracy", "last epoch", examples="test_images"),
    "mean_last10": Metric(
        ("test_acc", "mean_last10"),
        "test accuracy",
        "mean of the last ten epochs",
        examples="test_images",
        last_epochs=10,
    ),
    "at_noisy_val": Metric(
        ("test_acc", "at_noisy_val"),
        "test accuracy",
        "epoch chosen on a noisy validation split",
        examples="test_images",
    ),
    "best": Metric(
        ("test_acc", "best"),
        "test accuracy",
        "best epoch on the test set (optimistic)",
        examples="test_images",
    ),
    "top5": Metric(("test", "top5"), "top-5 test accuracy", "last epoch", examples="test_images"),
    "p_true": Metric(
        ("test", "p_true"),
        "probability of the correct class",
        "last epoch",
        doc="The mean predicted probability of the correct class over the test images.",
    ),
    "nll": Metric(
        ("test", "nll"),
        "test negative log-likelihood (nats)",
        "last epoch",
        False,
        False,
        unit="nats",
        tolerance=0.005,
    ),
    "ece": Metric(("test", "ece"), "expected calibration error", "last epoch", True, False),
    "brier": Metric(
        ("test", "brier"),
        "Brier score of the test set (0 to 2)",
        "last epoch",
        False,
        False,
        unit="",
        tolerance=0.005,
    ),
    "memorised": Metric(
        ("memorised",), "incorrect labels memorized", "last epoch", True, False, examples=0
    ),
    "train_clean": Metric(
        ("train", "clean"), "training accuracy on clean labels", "last epoch", examples=0
    ),
    "auroc": Metric((*_DETECTION, "auroc"), "AUROC of detecting incorrect labels", "last epoch"),
    "average_precision": Metric(
        (*_DETECTION, "average_precision"),
        "average precision of detecting incorrect labels",
        "last epoch",
    ),
    "f1": Metric(
        (*_DETECTION, "f1"),
        "F1 of detecting incorrect labels, best threshold",
        "last epoch",
        examples=0,
    ),
    "precision_at_100": Metric(
        (*_DETECTION, "precision_at", "100"),
        "precision@100 of the label issues",
        "last epoch",
        examples=100,
    ),
    "precision_at_1000": Metric(
        (*_DETECTION, "precision_at", "1000"),
        "precision@1000 of the label issues",
        "last epoch",
        examples=1000,
    ),
    "precision_at_wrong": Metric(
        (*_DETECTION, "precision_at", "wrong"),
        "precision@n of the label issues, n = number of incorrect labels",
        "last epoch",
        examples=0,
    ),
    "per_minute": Metric(
        _per_minute,
        "test accuracy per minute of training",
        "last epoch, wall-clock time",
        spent=True,
        clocked=True,
        unit="points per minute",
        doc="Test accuracy of the last epoch in points, divided by the minutes of training. "
        f"{_CLOCK}",
    ),
    "minutes": Metric(
        _minutes,
        "training time (minutes)",
        "wall-clock time",
        False,
        False,
        spent=True,
        clocked=True,
        unit="minutes",
        doc=_CLOCK,
    ),
    "work": Metric(
        _work,
        "training compute (epochs of CE)",
        "counted in forward and backward passes",
        False,
        False,
        finer=0,
        spent=True,
        unit="epochs of CE",
        doc="Epochs x compute per epoch relative to CE (noisebench list strategies), plus the "
        "epochs of CE for noise estimation.",
    ),
}


RECORDED = {name: metric.of for name, metric in METRICS.items() if isinstance(metric.of, tuple)}
"""The metrics that a record holds, with their paths."""


def find_metric(name: str) -> Metric:
    """Raises UnknownName."""
    if name not in METRICS:
        raise UnknownName("metric", name, METRICS, "metrics")
    return METRICS[name]
