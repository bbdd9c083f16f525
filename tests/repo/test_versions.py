"""pyproject.toml: each library has one lower bound and no upper one, and what is installed keeps
it.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.pages import ROOT, read

PROJECT = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAMED = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]
]
# types follow their library
LIBRARIES = [
    named for named in NAMED if named.name not in {"noisebench", "pandas-stubs", "types-PyYAML"}
]


def test_a_library_has_one_lower_bound_and_what_is_installed_keeps_it(
    subtests: pytest.Subtests,
) -> None:
    names = [library.name.lower() for library in LIBRARIES]
    assert sorted(names) == sorted(set(names)), "a library has its bound in one place"
    for library in LIBRARIES:
        with subtests.test(library=str(library)):
            (bound,) = library.specifier
            assert bound.operator == ">="
            try:
                assert Version(version(library.name)) >= Version(bound.version)
            except PackageNotFoundError:
                pytest.skip(f"{library.name} is not installed")


def test_the_pythons_named_are_from_the_oldest_allowed_on() -> None:
    named = [
        text.rpartition(" ")[2]
        for text in PROJECT["classifiers"]
        if text.startswith("Programming Language :: Python :: 3.")
    ]
    assert PROJECT["requires-python"] == f">={named[0]}"
