"""Records of runs -> tables in every output format, and the regression gate for CI."""

from __future__ import annotations

from .aggregate import AXES, read_rows, where
from .gate import Check, Rules, check, read_baseline, read_tolerance
from .metrics import METRICS, find_metric
from .published import add_published
from .render.text import document
from .report import FORMATS, RANKED, SUFFIXES, Report, TableLayout, make_report, report_of
from .runs_csv import RunLike, RunRecord, finished_runs, read_runs, runs_at
from .table import Table, make_tables

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
