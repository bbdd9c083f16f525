"""The findings of a check for CI systems: JUnit XML, and summary and annotations of GitHub jobs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ..core.sanitize import printable_lines
from ..errors import printable
from .gate import Check, Finding, cell_id
from .metrics import METRICS
from .render.grid import grids
from .render.text import as_list, cell_document, markdown
from .table import Table

SUMMARY_LIMIT = 1_048_576  # bytes per GitHub step; a larger summary is rejected
_NOTE = 200  # bytes of it reserved for the note on omitted tables
_MOST_ERRORS = 9  # GitHub shows ten annotations per step
# not allowed in XML
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAGS = {"regressed": "failure", "allowed": "skipped", "ok": ""}  # else an error


def junit(tables: list[Table], verdict: Check) -> str:
    """JUnit XML: a suite per table, a test case per cell. A regression is a failure, a cell with
    failed runs an error, a cell without runs skipped; each damaged file is an error.
    """
    root = Element("testsuites", name="noisebench")
    findings_of: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        findings_of.setdefault(finding.cell, []).append(finding)
    for table in tables:
        suite = SubElement(root, "testsuite", name=_clean(table.title or "report"))
        for row, texts in zip(table.rows, grids(table)[0].cells, strict=True):
            for col, text in zip(table.cols, texts, strict=True):
                name = f"{table.row_head(row)}, {table.col_head(col)}"
                cell = table.cells.get((row, col))
                if cell is None:
                    case = _add_case(suite, suite.get("name", ""), name)
                    SubElement(case, "skipped", message="no run")
                    continue
                findings = findings_of.pop(cell_id(cell_document(table, row, col, cell)), [])
                case = _add_case(suite, suite.get("name", ""), name, findings)
                if cell.failed and not findings:
                    message = f"{cell.failed} of {cell.failed + cell.n} runs failed"
                    SubElement(case, "error", message=message)
                metric = METRICS[cell.metric].describe(cell.epochs)
                output = f"{metric}: {text.text}, n = {cell.n}"
                SubElement(case, "system-out").text = _clean(output)
    rest = [finding for findings in findings_of.values() for finding in findings]
    if rest or verdict.damaged:
        suite = SubElement(root, "testsuite", name="baseline")
        for finding in rest:
            _add_case(suite, finding.names["dataset"], finding.title, [finding])
        for path in verdict.damaged:
            SubElement(_add_case(suite, "files", path), "error", message=_clean(path))
    for node in (*root, root):
        node.set("tests", str(len(list(node.iter("testcase")))))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped",) * 2):
            node.set(attribute, str(len(list(node.iter(tag)))))
    indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _add_case(suite: Element, group: str, name: str, findings: Sequence[Finding] = ()) -> Element:
    case = SubElement(suite, "testcase", classname=_clean(group), name=_clean(name))
    for finding in findings:
        if tag := _TAGS.get(finding.status, "error"):
            SubElement(case, tag, message=_clean(f"{finding.status}: {finding.text}"))
    return case


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("?", printable(text))


def step_summary(
    tables: Sequence[Table], lines: Sequence[str] = (), *, used: int = 0, ranks: bool = False
) -> str:
    """The summary of a GitHub step: the lines, then as many tables as fit after the `used` bytes,
    and the number of omitted ones. Empty if nothing fits.
    """
    room = SUMMARY_LIMIT - used - _NOTE
    text, shown = "", 0
    for block in (as_list(lines), *(markdown([table], ranks=ranks) + "\n" for table in tables)):
        if len((text + block).encode()) > room:
            break
        text, shown = text + block, shown + 1
    left = len(tables) + 1 - shown
    if left:
        text += (
            f"\n{left} of {len(tables) + 1} parts omitted because the summary would be too long; "
            "noisebench report --format md shows all.\n"
        )
    return text if len(text.encode()) + used < SUMMARY_LIMIT else ""


def error_lines(troubles: Sequence[str]) -> list[str]:
    """At most nine `::error` lines of a GitHub job, and the number of omitted ones."""
    texts = [printable_lines(text).replace("%", "%25") for text in troubles[:_MOST_ERRORS]]
    lines = [f"::error title=noisebench::{text}".replace("\n", "%0A") for text in texts]
    more = len(troubles) - _MOST_ERRORS
    return [*lines, f"and {more} more"] if more > 0 else lines
