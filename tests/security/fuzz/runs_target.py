"""The reader of a file of runs: an honest file with cells, columns or bytes changed -> tables in
every format, and the file again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noisebench.reporting import METRICS, TableLayout, read_runs, report_of
from noisebench.reporting.runs_csv import COLUMNS
from noisebench.runs.folder import RunFolder
from noisebench.runs.workspace import Workspace

from .choices import VALUES, Choices, changed, mutated

_FORMS = ("table", "md", "csv", "json", "html", "latex", "junit")
_RECORD = Path(__file__).parents[2] / "data" / "records" / "v1.json"


def _folder(place: Path, number: int) -> RunFolder:
    """A run, of which every fourth failed."""
    record = json.loads(_RECORD.read_text(encoding="utf-8"))
    record |= {
        "key": f"{number:064x}",
        "seed": number % 2,
        "method": ("ce", "=el", "my::own", "\u202eel")[number % 4],
    }
    record["noise"] |= {"subset": 200} if number % 3 else {}
    folder = RunFolder(place / f"run__{number:08x}")
    folder.path.mkdir(parents=True)
    folder.write_json(folder.result, record)
    if number % 4 == 3:
        folder.write_error({**folder.about(), "metrics": None}, "RunFailed", "the cost became nan")
        folder.result.unlink()
    return folder


def _cell(choices: Choices, cell: str) -> str:
    if cell[:1] == "{" and not choices.chance(4):
        return json.dumps(changed(choices, json.loads(cell)))
    if choices.chance(2):
        value = choices.of(VALUES)
        return (
            str(value).encode("utf-8", "replace").decode()
            if choices.chance(2)
            else json.dumps(value)
        )
    return mutated(choices, cell.encode()).decode("utf-8", "replace")


def _made(choices: Choices, seed: bytes) -> bytes:
    way = choices.below(8)
    if way == 0:
        return mutated(choices, seed)
    rows = list(csv.reader(io.StringIO(seed.decode(), newline="")))
    for _ in range(1 + choices.below(2)):
        at, column = (
            choices.below(len(rows)) if way == 1 else 1 + choices.below(len(rows) - 1),
            choices.below(len(COLUMNS)),
        )
        rows[at][column] = _cell(choices, rows[at][column])
    if way == 2:
        rows[choices.below(len(rows))].append("1")
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


def prepare(folder: Path) -> Callable[[bytes], None]:
    """The file of eight runs, changed."""
    seed = (
        report_of([_folder(folder / "runs", number) for number in range(8)], TableLayout())
        .render("runs")
        .encode()
    )
    path = folder / "runs.csv"

    def attempt(data: bytes) -> None:
        choices = Choices(data)
        path.write_bytes(_made(choices, seed))
        lines = read_runs(path)
        metric, budget = choices.of(tuple(METRICS)), choices.of(("epochs", "compute"))
        made: Any = report_of(
            lines, TableLayout(metric=metric, budget=budget), workspace=Workspace(folder)
        )
        made.render(choices.of(_FORMS))
        text = made.render("runs")
        path.write_text(text, encoding="utf-8")
        assert report_of(read_runs(path), TableLayout()).render("runs") == text, (
            "what is read is what was written"
        )

    return attempt
