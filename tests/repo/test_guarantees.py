"""docs/reference/guarantees.md: each line names tests that show it, which `make test` runs, or, marked on the
page, `make lint`.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.pages import ROOT, read

LINES = re.split(r"\n\* ", read(ROOT / "docs" / "reference" / "guarantees.md"))[1:]
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
LEFT_OUT = re.compile(r"pytest\.mark\.(soak|skip\b|xfail)")
MAKE_TEST = next(
    line for line in read(ROOT / "Makefile").splitlines() if "--dist worksteal" in line
).split()


@cache
def marks_of(path: Path) -> dict[str, list[str]]:
    """Test of a file -> the marks, its own and its module's, that would leave it out as a whole."""
    tree = ast.parse(read(path))
    ours = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    tests = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    return {
        test.name: [
            mark
            for mark in map(ast.unparse, [*test.decorator_list, *ours])
            if LEFT_OUT.match(mark.strip("[("))
        ]
        for test in tests
    }


def test_the_tests_that_show_it_are_there_and_run(subtests: pytest.Subtests) -> None:
    """In a folder that `make test` names; a line on the repository is marked as checked by `make
    lint`.
    """
    for line in LINES:
        folders = set()
        for file, test in NAMED.findall(line):
            with subtests.test(file=file, test=test):
                (path,) = (ROOT / "tests").glob(f"*/{file}")
                assert marks_of(path)[test] == []
                folders.add(path.parent.name)
                assert path.parent.name == "repo" or f"tests/{path.parent.name}" in MAKE_TEST
        assert ("repo" in folders) == ("(`make lint`)" in line), line


def test_every_line_names_one() -> None:
    assert len(LINES) > 25
    assert not [line for line in LINES if not NAMED.search(line)]
