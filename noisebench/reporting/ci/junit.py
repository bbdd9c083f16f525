"""Tables for CI systems: a test suite for each, a test case for each cell. By a check a regression
is a failure.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ...errors import printable
from ..metrics import METRICS
from ..render.text import cell_document, cell_text, col_head, row_head
from ..table import Table
from .gate import Check, Finding, place_of

# what XML cannot say
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(tables: list[Table], verdict: Check | None = None) -> str:
    """A cell with failed runs is an error, one without a run skipped; a file that was passed over
    is an error of its own.
    """
    root = Element("testsuites", name="noisebench")
    findings: dict[str, list[Finding]] = {}
    for finding in verdict.findings if verdict else ():
        findings.setdefault(finding.place, []).append(finding)
    for table in tables:
        suite = SubElement(root, "testsuite", name=_clean(table.title or "report"))
        for row in table.rows:
            for col in table.cols:
                cell = table.cells.get((row, col))
                _case(
                    suite,
                    table,
                    row,
                    col,
                    findings.pop(place_of(cell_document(table, row, col, cell)), [])
                    if cell
                    else [],
                )
    if findings or (verdict and verdict.damaged):
        suite = SubElement(root, "testsuite", name="baseline")
        for finding in (one for several in findings.values() for one in several):
            _verdict(
                SubElement(
                    suite,
                    "testcase",
                    classname=_clean(finding.names["dataset"]),
                    name=_clean(finding.title),
                ),
                finding,
            )
        for text in verdict.damaged if verdict else ():
            SubElement(
                SubElement(suite, "testcase", classname="files", name=_clean(text)),
                "error",
                message=_clean(text),
            )
    for suite in root:
        _count(suite)
    _count(root)
    indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _case(suite: Element, table: Table, row: str, col: str, findings: list[Finding]) -> None:
    name = f"{row_head(table, row)}, {col_head(table, col)}"
    case = SubElement(suite, "testcase", classname=suite.get("name", ""), name=_clean(name))
    cell = table.cells.get((row, col))
    for finding in findings:
        _verdict(case, finding)
    if cell is None:
        SubElement(case, "skipped", message="no run")
    elif cell.failed and not findings:
        SubElement(case, "error", message=f"{cell.failed} of {cell.failed + cell.n} runs failed")
    if cell is not None:
        metric = METRICS[cell.metric].said(cell.epochs)
        SubElement(case, "system-out").text = _clean(
            f"{metric}: {cell_text(table, row, col)}, n = {cell.n}"
        )


def _verdict(case: Element, finding: Finding) -> None:
    kind = {"regressed": "failure", "allowed": "skipped", "ok": ""}.get(finding.status, "error")
    if kind:
        SubElement(case, kind, message=_clean(f"{finding.status}: {finding.said}"))


def _count(node: Element) -> None:
    node.set("tests", str(len(list(node.iter("testcase")))))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        node.set(attribute, str(len(list(node.iter(tag)))))


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("?", printable(text))
