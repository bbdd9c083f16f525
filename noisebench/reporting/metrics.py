"""The numbers of a run that a table may hold: where in its record each lies, or how it is made of
what is known of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import NoisebenchError, UnknownName
from ..experiments.resolve import price_of

RunValues = dict[str, Any]
"""What `RunFolder.about` says of a run."""


@dataclass(frozen=True)
class Metric:
    """A number of a run: what it is called, whether it is a share shown in percent, and what one
    must know of it.

    of: its path in the metrics of a record, or how it is made of the facts; finer: how many digits
    more than a percentage one that is no share needs; spent: what a run took, not what came of it,
    so that no gate judges it; clocked: of a machine, and with no other's to be compared; unit: of
    its differences, and tolerance: which of these the gate takes for none; examples: how many a
    share is of, 0 where that is not kept, None for what is no count; last_epochs: of how many it is
    the mean, 0 for no mean.
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
        """Whether it is a count of examples, as a share of them, so that it moves in steps and may
        be equal by chance.
        """
        return self.examples is not None

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1; points a minute do not."""
        return self.percent and not self.spent

    @property
    def scale(self) -> int:
        """How many of the shown unit a value of 1 is."""
        return 100 if self.percent else 1

    def format(self, value: float, digits: int = 2, sign: str = "-") -> str:
        """A value as tables show it; `digits` after the point of a percentage."""
        digits += 0 if self.percent else self.finer
        return f"{self.scale * value:{sign}.{digits}f}"

    def describe(self, epochs: Collection[int] = ()) -> str:
        """`test accuracy (%), last epoch`; epochs: of the runs that have this number."""
        return f"{self.title}{' (%)' if self.percent else ''}, {self.selection_of(epochs)}"

    def selection_of(self, epochs: Collection[int]) -> str:
        """Which epoch or epochs count, of runs of these lengths: the last ten are all that a
        shorter run has.
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
        return f"{self.selection}, of a run of {counts} epoch{several} of all"

    def value(self, known: RunValues) -> float | None:
        """None for a failed run, and for a number that was not yet recorded when the run ended."""
        if known.get("metrics") is None:
            return None
        of = self.of
        number = value_at(known["metrics"], of) if isinstance(of, tuple) else of(known)
        return None if number is None else float(number)

    def num_examples(self, known: RunValues) -> int | None:
        """Of how many examples it is a share in this run; None where that is not known."""
        return known.get("test_images") if self.examples == "test_images" else self.examples or None


def value_at(facts: Any, path: Sequence[str]) -> Any:
    """The value at these names of mappings within one another; None where one is missing."""
    for name in path:
        facts = facts.get(name) if isinstance(facts, dict) else None
    return facts


def _minutes(known: RunValues) -> float | None:
    return known["seconds"] / 60 if known.get("seconds") else None


def _per_minute(known: RunValues) -> float | None:
    last, minutes = METRICS["last"].value(known), _minutes(known)
    return None if last is None or minutes is None else last / minutes


def _work(known: RunValues) -> float | None:
    try:
        return price_of(known["loss"], known["strategy"]).work(known["recipe"]["epochs"])
    except NoisebenchError:  # a strategy that says no cost, or of a plugin that is not loaded
        return None


_DETECTION = ("train", "detection")
_CLOCK = (
    "The run's training by the clock: its epochs, the test predictions after each, and what it "
    "estimated of its noise before; not reading "
    "the data or writing the results. It depends on the machine and on what else ran there. Of "
    "runs that train together as one network "
    "it is the run's share, which does not compare with the time of a run by itself."
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
        "epoch chosen on held-out noisy labels",
        examples="test_images",
    ),
    "best": Metric(
        ("test_acc", "best"),
        "test accuracy",
        "best epoch ON TEST, optimistic",
        examples="test_images",
    ),
    "top5": Metric(("test", "top5"), "top-5 test accuracy", "last epoch", examples="test_images"),
    "p_true": Metric(
        ("test", "p_true"),
        "probability of the right class",
        "last epoch",
        doc="The mean over the test images of the probability that the network gives the right "
        "class.",
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
        ("memorised",), "wrong labels memorised", "last epoch", True, False, examples=0
    ),
    "train_clean": Metric(
        ("train", "clean"), "training accuracy on clean labels", "last epoch", examples=0
    ),
    "auroc": Metric((*_DETECTION, "auroc"), "AUROC of finding wrong labels", "last epoch"),
    "average_precision": Metric(
        (*_DETECTION, "average_precision"),
        "average precision of finding wrong labels",
        "last epoch",
    ),
    "f1": Metric(
        (*_DETECTION, "f1"),
        "F1 of finding wrong labels, best threshold",
        "last epoch",
        examples=0,
    ),
    "precision_at_100": Metric(
        (*_DETECTION, "precision_at", "100"),
        "wrong labels among the 100 most doubtful",
        "last epoch",
        examples=100,
    ),
    "precision_at_1000": Metric(
        (*_DETECTION, "precision_at", "1000"),
        "wrong labels among the 1,000 most doubtful",
        "last epoch",
        examples=1000,
    ),
    "precision_at_wrong": Metric(
        (*_DETECTION, "precision_at", "wrong"),
        "wrong labels among the n most doubtful, n are wrong",
        "last epoch",
        examples=0,
    ),
    "per_minute": Metric(
        _per_minute,
        "test accuracy a minute of training",
        "last epoch, by the machine's clock",
        spent=True,
        clocked=True,
        unit="points a minute",
        doc="Points of the last epoch's test accuracy, divided by the minutes of training. "
        f"{_CLOCK}",
    ),
    "minutes": Metric(
        _minutes,
        "training time (minutes)",
        "by the machine's clock",
        False,
        False,
        spent=True,
        clocked=True,
        unit="minutes",
        doc=_CLOCK,
    ),
    "work": Metric(
        _work,
        "work of training (epochs of CE)",
        "counted in passes",
        False,
        False,
        finer=0,
        spent=True,
        unit="epochs of CE",
        doc="Epochs x the work of one beside CE's (noisebench list strategies), and the epochs of "
        "CE by which a run estimates its noise.",
    ),
}


RECORDED = {name: metric.of for name, metric in METRICS.items() if isinstance(metric.of, tuple)}
"""The numbers that a record holds, and where."""


def find_metric(name: str) -> Metric:
    """Raises UnknownName."""
    if name not in METRICS:
        raise UnknownName("metric", name, METRICS, "metrics")
    return METRICS[name]
