"""The order of the layers: a module imports from rows above its own, never from below; light parts load no torch."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import noisebench

ROOT = Path(noisebench.__file__).parent
ROWS = (
    {"errors", "spec", "registry", "parameters", "plugins", "storing", "environment", "classes", "arrays", "nesting", "precision"}
    | {"holder", "claim", "processes", "harmless", "screen", "saved", "bounded", "form"},
    {"estimates", "datasets", "noise", "losses", "strategies", "metrics", "predictions", "dynamics", "spreadsheet", "backbones", "recipes"}
    | {"initial", "pretrained"},
    {"manifest", "rows", "parquet", "labelling", "methods", "published", "conventions", "truth", "suspects", "review", "budget", "subset"}
    | {"header"},
    {"suite", "places", "runfolder", "reproduce", "workspace", "plan", "agenda", "packing", "rebuild", "evaluation"}
    | {"recordform", "conditions", "workload", "settings"},
    {"report"},
    {"training"},
    {"runner", "warmup", "sitting", "record", "lockstep", "forecast", "executors", "folds", "reevaluate", "recheck"},
    {"trackers"},
    {"cli"},
)
SIDEWAYS = {"noise", "datasets"}  # of the same row, and neither knows the other
SHELL = {"__init__", "__main__", "api"}  # the library's front door reaches for everything, when asked


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def row(name: str) -> int:
    return next(number for number, names in enumerate(ROWS) if name in names)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(path: Path) -> set[str]:
    """The parts of noisebench that a file imports at run time, wherever in the file."""
    package = ["noisebench", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for top in tree_of(path).body:
        if isinstance(top, ast.If) and isinstance(top.test, ast.Name) and top.test.id == "TYPE_CHECKING":
            continue
        for node in ast.walk(top):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
                targets = [base] if len(base) > 1 else [[*base, alias.name] for alias in node.names]
                found |= {target[1] for target in targets}
    return found


FILES = [path for path in sorted(ROOT.rglob("*.py")) if part(path) not in SHELL]


def test_imports_point_upwards(subtests: pytest.Subtests) -> None:
    for path in FILES:
        with subtests.test(file=str(path.relative_to(ROOT))):
            own = part(path)
            below = {name for name in imported(path) - {own} - SHELL if row(name) > row(own)}
            assert not below, f"{own} imports from below: {below}"


def test_noise_knows_no_dataset_and_datasets_know_no_noise() -> None:
    for path in FILES:
        if part(path) in SIDEWAYS:
            assert not (imported(path) & (SIDEWAYS - {part(path)})), path


def test_every_part_has_its_row() -> None:
    assert {part(path) for path in FILES} == set().union(*ROWS)


LIGHT = (
    ("import noisebench", {"torch", "numpy", "pandas"}),
    ('main(["--help"])', {"torch", "pandas", "numpy", "pydantic", "yaml"}),
    ('main(["list", "losses"])', {"torch", "timm", "torchvision"}),
    ('main(["list", "strategies"])', {"torch", "timm", "torchvision"}),
    ('main(["list", "models"])', {"torch", "timm", "torchvision"}),
    ('main(["list", "suites"])', {"torch", "timm", "torchvision"}),
    ('main(["corrupt", "cifar10", "--asym", "0.3"])', {"torch", "timm", "torchvision"}),
    ("import noisebench.losses, noisebench.strategies, noisebench.noise, noisebench.experiments.resolve, noisebench.reporting", {"torch"}),
)
EACH = """
import json, sys
loaded = {}
def main(words):
    from noisebench.cli import main
    assert main(words) == 0
for code in json.loads(sys.argv[1]):
    exec(code)
    loaded[code] = sorted({name.partition(".")[0] for name in sys.modules})
print("\\n" + json.dumps(loaded))
"""


def test_light_commands_load_nothing_heavy(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """One after the other in one interpreter: what a later one may load, an earlier one must not."""
    command = [sys.executable, "-c", EACH, json.dumps([code for code, _ in LIGHT])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    for code, heavy in LIGHT:
        with subtests.test(code=code):
            assert not heavy & set(loaded[code])


def test_only_the_command_line_prints() -> None:
    for path in FILES:
        calls = [node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
        names = {function.id for function in calls if isinstance(function, ast.Name)}
        assert part(path) == "cli" or "print" not in names, path
