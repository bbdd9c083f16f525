"""Records of runs -> tables in every output format, and the regression gate for CI.

Names are imported when they are first used, since shell completion needs only the light modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aggregate import read_rows, where
    from .gate import Check, Rules, check, read_baseline, read_tolerance
    from .metrics import AXES, METRICS, find_metric
    from .published import add_published
    from .render.text import document
    from .report import FORMATS, RANKED, SUFFIXES, Report, TableLayout, make_report, report_of
    from .runs_csv import RunLike, RunRecord, finished_runs, read_runs, runs_at
    from .table import Table, make_tables

_SOURCES = {  # module -> its names
    "aggregate": "read_rows where",
    "gate": "Check Rules check read_baseline read_tolerance",
    "metrics": "AXES METRICS find_metric",
    "published": "add_published",
    "render.text": "document",
    "report": "FORMATS RANKED SUFFIXES Report TableLayout make_report report_of",
    "runs_csv": "RunLike RunRecord finished_runs read_runs runs_at",
    "table": "Table make_tables",
}

__all__ = [
    "AXES",
    "FORMATS",
    "METRICS",
    "RANKED",
    "SUFFIXES",
    "Check",
    "Report",
    "Rules",
    "RunLike",
    "RunRecord",
    "Table",
    "TableLayout",
    "add_published",
    "check",
    "document",
    "find_metric",
    "finished_runs",
    "make_report",
    "make_tables",
    "read_baseline",
    "read_rows",
    "read_runs",
    "read_tolerance",
    "report_of",
    "runs_at",
    "where",
]


def __getattr__(name: str) -> Any:
    for module, names in _SOURCES.items():
        if name in names.split():
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
