"""docs/reference/guarantees.md: the tables name tests of each guarantee, which `make test` runs or,
where the row names it, `make lint`.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.pages import ROOT, read

SECTIONS = re.split(r"^## ", read(ROOT / "docs" / "reference" / "guarantees.md"), flags=re.M)[1:]
ROWS = re.compile(r"^\| (\d+) \| (.+) \|$", re.M)  # number of a guarantee, its tests
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


def test_the_named_tests_exist_and_run(subtests: pytest.Subtests) -> None:
    for number, row in (pair for section in SECTIONS for pair in ROWS.findall(section)):
        folders = set()
        for file, test in NAMED.findall(row):
            with subtests.test(file=file, test=test):
                (path,) = (ROOT / "tests").glob(f"*/{file}")
                assert marks_of(path)[test] == []
                folders.add(path.parent.name)
                assert path.parent.name == "repo" or f"tests/{path.parent.name}" in MAKE_TEST
        assert ("repo" in folders) == ("`make lint`" in row), (number, row)


def test_every_guarantee_names_a_test() -> None:
    assert len(SECTIONS) > 5
    for section in SECTIONS:
        numbers = re.findall(r"^(\d+)\. ", section, re.M)
        named = [number for number, row in ROWS.findall(section) if NAMED.search(row)]
        assert named == numbers == [str(n + 1) for n in range(len(numbers))] != [], section
