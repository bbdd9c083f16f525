"""The page of guarantees: each names tests that show it, and those are there and run."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.pages import ROOT, read

PAGE = read(ROOT / "docs" / "guarantees.md")
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)


_LEFT_OUT = re.compile(r"pytest\.mark\.(soak|skip\b|xfail)")


def marks_of(name: str) -> dict[str, list[str]]:
    """Test of a file -> the marks that would leave it out whole."""
    (path,) = (ROOT / "tests").glob(f"*/{name}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {test.name: [mark for mark in map(ast.unparse, test.decorator_list) if _LEFT_OUT.match(mark)] for test in found}


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_the_test_that_shows_it_is_there_and_runs(file: str, test: str) -> None:
    assert marks_of(file)[test] == []


def test_every_line_names_one() -> None:
    lines = re.split(r"\n\* ", PAGE)[1:]
    assert len(lines) > 25
    assert not [line for line in lines if not re.search(r"`test_\w+\.py::test_\w+`", line)]
