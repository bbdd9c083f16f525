"""The findings of a check for CI systems: a suite for each table, a test case for each cell."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ...errors import printable
from ..metrics import METRICS
from ..render.grid import grids
from ..render.text import cell_document
from ..table import Table
from .gate import Check, Finding, cell_id

# what XML cannot hold
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAGS = {"regressed": "failure", "allowed": "skipped", "ok": ""}  # else an error


def junit(tables: list[Table], verdict: Check) -> str:
    """A regression is a failure, a cell with failed runs an error, one without a run skipped; each
    file that was passed over is an error.
    """
    root = Element("testsuites", name="noisebench")
    findings: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        findings.setdefault(finding.cell, []).append(finding)
    for table in tables:
        suite = SubElement(root, "testsuite", name=_clean(table.title or "report"))
        for row, texts in zip(table.rows, grids(table)[0].cells, strict=True):
            for col, text in zip(table.cols, texts, strict=True):
                name = f"{table.row_head(row)}, {table.col_head(col)}"
                case = _case(suite, suite.get("name", ""), name)
                cell = table.cells.get((row, col))
                if cell is None:
                    SubElement(case, "skipped", message="no run")
                    continue
                own = findings.pop(cell_id(cell_document(table, row, col, cell)), [])
                for finding in own:
                    _add_finding(case, finding)
                if cell.failed and not own:
                    message = f"{cell.failed} of {cell.failed + cell.n} runs failed"
                    SubElement(case, "error", message=message)
                metric = METRICS[cell.metric].describe(cell.epochs)
                output = f"{metric}: {text.text}, n = {cell.n}"
                SubElement(case, "system-out").text = _clean(output)
    rest = [finding for several in findings.values() for finding in several]
    if rest or verdict.damaged:
        suite = SubElement(root, "testsuite", name="baseline")
        for finding in rest:
            case = _case(suite, finding.names["dataset"], finding.title)
            _add_finding(case, finding)
        for path in verdict.damaged:
            SubElement(_case(suite, "files", path), "error", message=_clean(path))
    for node in (*root, root):
        node.set("tests", str(len(list(node.iter("testcase")))))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped",) * 2):
            node.set(attribute, str(len(list(node.iter(tag)))))
    indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _case(suite: Element, group: str, name: str) -> Element:
    return SubElement(suite, "testcase", classname=_clean(group), name=_clean(name))


def _add_finding(case: Element, finding: Finding) -> None:
    if tag := _TAGS.get(finding.status, "error"):
        SubElement(case, tag, message=_clean(f"{finding.status}: {finding.text}"))


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("?", printable(text))
