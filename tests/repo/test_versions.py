"""Versions: each library has one lower bound in pyproject.toml, what is installed keeps it, and `make matrix` says what it ran."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import spread_cases
from tests.support import versions

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAMED = [Requirement(text) for text in [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]]
LIBRARIES = [named for named in NAMED if named.name not in {"noisebench", "pandas-stubs", "types-PyYAML"}]  # types follow their library


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
def test_a_library_has_one_lower_bound_and_no_upper_one(library: Requirement) -> None:
    assert [written.operator for written in library.specifier] == [">="]


def test_no_library_has_two_bounds() -> None:
    names = [library.name.lower() for library in LIBRARIES]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
def test_what_is_installed_keeps_the_bound(library: Requirement) -> None:
    try:
        installed = version(library.name)
    except PackageNotFoundError:
        pytest.skip(f"{library.name} is not here")
    assert Version(installed) >= versions.bounds(*EXTRAS)[library.name.lower()]


def test_the_pythons_named_are_from_the_oldest_allowed_on() -> None:
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if text.startswith("Programming Language :: Python :: 3.")]
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_the_oldest_are_the_bounds_and_what_is_newer_is_said() -> None:
    oldest = {name: str(low) for name, low in versions.bounds("check", "parquet", "plot").items()}
    assert set(oldest) >= {"torch", "torchvision", "timm", "pandas", "typer", "numpy", "pyarrow", "matplotlib", "pytest"}
    assert versions.above(oldest) == []
    assert versions.above(oldest | {"pandas": "1000.1"}) == [f"pandas 1000.1 (>={oldest['pandas']})"]


def test_exact_versions_are_read_as_uv_writes_them() -> None:
    text = "# made by uv\ntorch==2.11.0\nscikit-learn==1.5.0\n    # via x\npandas==2.2.0 ; python_version < '4'\n"
    assert versions.pinned(text) == {"torch": "2.11.0", "scikit-learn": "1.5.0", "pandas": "2.2.0"}


@pytest.mark.parametrize(
    ("last", "counts"),
    [
        ("3 failed, 1200 passed, 31 skipped, 2 errors in 20.31s", (1200, 3, 2, 31)),
        ("1 passed, 1 error in 0.1s", (1, 0, 1, 0)),
        ("!!! Interrupted: 30 errors during collection !!!\n30 errors in 9s", (0, 0, 30, 0)),
        ("no tests ran in 0.01s", (0, 0, 0, 0)),
    ],
)
def test_the_counts_are_of_the_closing_line(last: str, counts: tuple[int, ...]) -> None:
    found = versions.counted(f"7 passed\n{last}\n")
    assert tuple(found.values()) == counts
    outcome = versions.Outcome("3.11.7", "oldest", counts=found)
    assert not outcome.good


def test_a_combination_is_good_where_something_passed_and_nothing_failed() -> None:
    assert versions.Outcome("3.11.7", "oldest", counts=versions.counted("1200 passed, 31 skipped in 20.31s")).good


def test_a_python_that_is_missing_is_said_and_alone_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(versions, "PLACE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["versions.py", "python3.999"])
    assert versions.main() == 1
    assert capsys.readouterr().out.count("| python3.999 |") == 2


def test_with_cases_every_test_runs_with_so_many_at_most() -> None:
    def items(*names: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(nodeid=name) for name in names]

    several = [f"a.py::many[{case}]" for case in range(5)]
    assert [item.nodeid for item in spread_cases(items("a.py::one", *several, "a.py::two[x]"), 2)] == [
        "a.py::one", several[0], several[3], "a.py::two[x]",
    ]  # fmt: skip


def test_the_table_says_what_each_combination_had_and_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    oldest = {name: str(low) for name, low in versions.bounds("check", "parquet", "plot").items()} | {"numpy": "1000.1"}

    def install(python: str, which: str, place: Path) -> Path:
        place.mkdir()
        (tmp_path / f"{place.name}.txt").write_text("".join(f"{name}=={number}\n" for name, number in oldest.items()))
        own = place / "python"
        own.write_text(f"#!/bin/sh\necho '{'1 failed, ' if which == 'newest' else ''}1200 passed, 31 skipped in 20s'\n")
        own.chmod(0o755)
        return own

    monkeypatch.setattr(versions, "PLACE", tmp_path)
    monkeypatch.setattr(versions, "install", install)
    monkeypatch.setattr(sys, "argv", ["versions.py", sys.executable, "--which", "oldest"])
    assert versions.main() == 0
    said = capsys.readouterr().out
    assert f"| oldest | {oldest['torch']} | {oldest['timm']} | {oldest['pandas']} | {oldest['typer']} | 1200 | 0 | 0 | 31 |" in said
    assert "no older wheel for this Python: numpy 1000.1 (>=" in said
    monkeypatch.setattr(sys, "argv", ["versions.py", sys.executable])
    assert versions.main() == 1
