"""A report: tables of runs, rendered in every output format."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.progress import track
from ..errors import ConfigError, DataError
from ..runs.workspace import Workspace
from .aggregate import read_rows, where
from .ci import junit
from .comparison import add_differences
from .gate import Check
from .published import add_published
from .render.text import as_csv, as_json, as_list, document, fragment, latex, markdown
from .runs_csv import RunLike, runs_as_text, runs_at
from .table import Table, make_tables

SUFFIXES = {
    ".md": "md",
    ".csv": "csv",
    ".json": "json",
    ".html": "html",
    ".tex": "latex",
    ".xml": "junit",
}
FORMATS = ("table", *SUFFIXES.values(), "runs")
# formats in which --ranks adds a column; in the others every cell has its rank
RANKED = ("table", "md", "html", "latex")


@dataclass(frozen=True)
class TableLayout:
    """The axes of rows and columns, and the metrics of the cells; several are joined by commas."""

    rows: str = "method"
    cols: str = "noise"
    metric: str = "last"
    ranks: bool = False
    published: str | None = None  # a paper whose numbers are shown next to ours
    budget: str = "epochs"  # what the methods of a table have in common: epochs or compute
    # the method, loss or strategy that all other rows are compared with
    against: str | None = None

    @property
    def metrics(self) -> list[str]:
        """Raises ConfigError for a repeated one."""
        names = [name.strip() for name in self.metric.split(",")]
        if len(set(names)) < len(names):
            raise ConfigError(f"repeated metric in {self.metric!r}")
        return names


@dataclass(frozen=True)
class Report:
    """Tables of finished runs. `str()` gives plain text, a notebook shows HTML, `render(form)`
    gives any format.
    """

    tables: list[Table]
    shape: TableLayout = TableLayout()
    damaged: list[str] = field(default_factory=list)  # messages on skipped result files
    workspace: Workspace = field(default_factory=Workspace)  # of its runs and their data
    runs: tuple[RunLike, ...] = ()  # all runs in its tables

    @property
    def metric(self) -> str:
        return ",".join(self.shape.metrics)

    def document(self, verdict: Check | None = None) -> dict[str, Any]:
        """The JSON document, which can serve as a baseline."""
        content = document(self.tables, self.metric)
        return content if verdict is None else {**content, "check": verdict.document()}

    def render(self, form: str, verdict: Check | None = None) -> str:
        """Raises ConfigError for an unknown format."""
        ranks = self.shape.ranks
        texts: dict[str, Callable[[], str]] = {
            "table": lambda: str(self),
            "md": lambda: (
                markdown(self.tables, ranks=ranks)
                + ("\n" + as_list([verdict.summary, *verdict.troubles]) if verdict else "")
            ),
            "csv": lambda: as_csv(self.document()),
            "json": lambda: as_json(self.document(verdict)),
            "html": lambda: self._page(verdict),
            "latex": lambda: latex(self.tables, ranks=ranks),
            "junit": lambda: junit(self.tables, verdict or Check([])),
            "runs": lambda: runs_as_text(self.runs),
        }
        if form not in texts:
            raise ConfigError(f"unknown --format {form!r}; formats: {', '.join(FORMATS)}")
        return texts[form]()

    def _page(self, verdict: Check | None) -> str:
        # no other format needs these
        from .figures import page_figures
        from .page import page

        figures = page_figures(self.tables, self.workspace.tell)
        return page(
            self.tables,
            self.workspace,
            ranks=self.shape.ranks,
            verdict=verdict,
            damaged=self.damaged,
            figures=figures,
        )

    def __str__(self) -> str:
        from ..core.console import drawn
        from .render.terminal import draw_table

        return drawn(*(draw_table(table, ranks=self.shape.ranks) for table in self.tables))

    def _repr_html_(self) -> str:
        return fragment(self.tables, ranks=self.shape.ranks)


def report_of(
    runs: Sequence[RunLike],
    shape: TableLayout,
    conditions: Sequence[str] = (),
    pass_over: Callable[[DataError], None] | None = None,
    workspace: Workspace | None = None,
) -> Report:
    """The report of some runs; errors of damaged results go to `pass_over`, their runs are skipped.
    Raises ConfigError, UnknownName.
    """
    damaged: list[str] = []

    def note(error: DataError) -> None:
        damaged.append(str(error))
        if pass_over is not None:
            pass_over(error)

    workspace = workspace or Workspace()
    reported = track(runs, "reading runs", workspace.tell, total=len(runs), unit="runs")
    rows = where(read_rows(reported, shape.metrics, note), conditions)
    tables = make_tables(rows, shape.rows, shape.cols, shape.budget)
    if shape.published is not None:
        tables = add_published(tables, shape.published)
    if shape.against is not None:
        tables = add_differences(tables, shape.against)
    return Report(
        tables,
        shape,
        damaged,
        workspace,
        tuple(dict.fromkeys(row.run for row in rows if row.run)),
    )


def make_report(
    path: str | Path = "runs",
    *,
    rows: str = "method",
    cols: str = "noise",
    metric: str = "last",
    where: Sequence[str] = (),
    published: str | None = None,
    ranks: bool = False,
    budget: str = "epochs",
    against: str | None = None,
) -> Report:
    """The finished runs of a directory or a results CSV as tables: `nb.report("runs",
    metric="last,best", where=["dataset=digits"])`.

    Warns of damaged result files and skips them. Raises DataError if the path does not exist,
    ConfigError, UnknownName.
    """

    def warn(error: DataError) -> None:
        warnings.warn(str(error), stacklevel=4)

    root = Path(path) if Path(path).is_dir() and Path(path).name != "runs" else Path(path).parent
    shape = TableLayout(rows, cols, metric, ranks, published, budget, against)
    return report_of(runs_at([Path(path)]), shape, where, warn, Workspace(root))
