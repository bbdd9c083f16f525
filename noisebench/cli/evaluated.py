"""What `evaluate` shows of a run: its numbers and classes, what it says of other data sets, and
whether it is reproduced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .console import estimated, percent

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_WORST = 10  # classes that are shown


def draw_run(entry: dict[str, Any]) -> Group:
    """All that is said of a run."""
    from rich.console import Group

    from ..core.console import Text

    title = Text(entry["title"] + (" (oracle)" if entry["oracle"] else ""), style="bold")
    others = [
        thing
        for name, found in entry.get("on", {}).items()
        for thing in _on(name, found, entry["classes"])
    ]
    return Group(
        title,
        _facts(_about(entry)),
        _classes(entry["test"], entry["confusion"], entry["classes"]),
        *others,
    )


def draw_checks(entry: dict[str, Any]) -> Group:
    """A line for each check of a run."""
    from rich.console import Group

    from ..core.console import Text

    style = {"same": "green", "differs": "bold red", "undecided": "yellow"}
    lines = _grid()
    for check in entry["recheck"]["checks"]:
        lines.add_row(
            Text(check["name"], style="dim"),
            Text(check["status"], style=style[check["status"]]),
            Text(check["detail"]),
        )
    return Group(Text(entry["title"], style="bold"), lines)


def _grid() -> Table:
    from rich.table import Table

    return Table.grid(padding=(0, 2))


def _facts(rows: Iterator[tuple[str, str]]) -> Table:
    from ..core.console import Text

    facts = _grid()
    for name, value in rows:
        facts.add_row(Text(name, style="dim"), Text(value))
    return facts


def _about(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    train = entry["train"]
    yield from _tested(entry["test"], "test accuracy")
    yield (
        "training accuracy",
        (
            f"{percent(train['recorded'])} on recorded labels, "
            f"{percent(train['clean'])} on clean ones"
        ),
    )
    if "val" in entry:
        yield (
            "held out",
            (f"{percent(entry['val']['recorded'])} of {entry['val']['n']} recorded labels"),
        )
    yield from _wrong(train)
    yield from _doubted(entry)
    if "estimates" in entry:
        yield "noise", estimated(entry)


def _doubted(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The line of the list, or of the folds."""
    if "suspects" not in entry:
        return
    found = entry["suspects"]
    text = f"{found['listed']} of {found['of']} labels"
    if found["precision"] is not None:
        text += f", {percent(found['precision'])} of them wrong"
    if found["auroc"] is not None:
        text += (
            f"; AUROC {found['auroc']:.4f}, average precision "
            f"{found['average_precision']:.4f}, F1 {found['f1']:.4f}"
        )
    yield (
        {"early": "doubted early", "last": "doubted at the end"}.get(
            found["by"], f"doubted by {found['by']}"
        ),
        text,
    )


def _tested(test: dict[str, Any], name: str) -> Iterator[tuple[str, str]]:
    yield (
        name,
        f"{percent(test['top1'])} of {test['n']}"
        + ("" if test["top5"] is None else f", top-5 {percent(test['top5'])}"),
    )
    brier = "not recorded" if test["brier"] is None else f"{test['brier']:.4f} of 2"
    yield "calibration", f"NLL {test['nll']:.4f} nats, Brier {brier}, ECE {percent(test['ece'])}"


def _wrong(train: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The wrong labels, and how well the loss finds them."""
    wrong, found = train["wrong_labels"], train["detection"]
    if not wrong:
        yield "wrong labels", "unknown" if wrong is None else "none"
    elif found["auroc"] is None:
        yield (
            "wrong labels",
            (f"all {wrong} that are known, {percent(train['memorised'])} memorised"),
        )
    else:
        scores = (
            f"AUROC {found['auroc']:.4f}, average precision "
            f"{found['average_precision']:.4f}, F1 {found['f1']:.4f}"
        )
        yield "wrong labels", f"{wrong} of {train['n']}, {percent(train['memorised'])} memorised"
        yield "found by loss", scores
        yield (
            "most doubtful",
            (
                f"wrong are {_first(found['precision_at'], wrong)}, by chance "
                f"{percent(found['chance'])}"
            ),
        )


def _first(shares: dict[str, float | None], wrong: int) -> str:
    """`97.00 % of the first 100, 91.00 % of the first 518 (as many as are wrong)`; of more than are
    wrong not all could be.
    """
    fixed = [
        f"{percent(share)} of the first {n}"
        for n, share in shares.items()
        if n != "wrong" and int(n) < wrong and share is not None
    ]
    return ", ".join(
        [*fixed, (f"{percent(shares['wrong'])} of the first {wrong} (as many as are wrong)")]
    )


def _classes(test: dict[str, Any], confusion: list[list[int]], names: list[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..core.console import Text

    classes = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("class", "accuracy", "most often taken for"):
        classes.add_column(head, justify="right" if head == "accuracy" else "left")
    for name, share, other in _worst(test["per_class"], confusion, names):
        classes.add_row(Text(name), percent(share), Text(other))
    return classes


def _worst(
    rates: list[float | None], confusion: list[list[int]], names: list[str]
) -> Iterator[tuple[str, float, str]]:
    """The classes with the lowest accuracy, and what they are taken for."""
    known = [(rate, k) for k, rate in enumerate(rates) if rate is not None]
    for rate, k in sorted(known)[:_WORST]:
        row = [0 if j == k else count for j, count in enumerate(confusion[k])]
        yield names[k], rate, names[row.index(max(row))] if max(row) else ""


def _on(name: str, found: dict[str, Any], classes: list[str]) -> Iterator[Any]:
    from ..core.console import Text

    yield Text(f"on {name}, classes by {found['classes_by']}", style="bold")
    images = [("images", sentence) for sentence in found["images"]]
    yield _facts(iter([*_tested(found, "accuracy"), *images, *_trained_on(found)]))
    yield _classes(found, found["confusion"], classes)


def _trained_on(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Whether the run was trained on these images, so that its accuracy on them is no test
    accuracy.
    """
    number = found["trained_on"]
    if number is None:
        yield (
            "trained on",
            "unknown: images are streamed, or the run's training images are not here",
        )
    elif number:
        yield (
            "trained on",
            (f"{number} of these {found['expected']} images: accuracy on them is no test accuracy"),
        )
