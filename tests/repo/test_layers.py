"""The order of the layers: a module imports from rows above its own, never from below; light parts load no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
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


def imported(path: Path) -> set[str]:
    """The parts of noisebench that a file imports at run time, wherever in the file."""
    package = ["noisebench", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(_without_type_checking(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            targets = [base] if len(base) > 1 else [[*base, alias.name] for alias in node.names]
            found |= {target[1] for target in targets}
    return found


def _without_type_checking(tree: ast.Module) -> ast.Module:
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and isinstance(n.test, ast.Name) and n.test.id == "TYPE_CHECKING")]
    return tree


FILES = [path for path in sorted(ROOT.rglob("*.py")) if part(path) not in SHELL]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_upwards(path: Path) -> None:
    own = part(path)
    below = {name for name in imported(path) - {own} - SHELL if row(name) > row(own)}
    assert not below, f"{own} imports from below: {below}"


def test_noise_knows_no_dataset_and_datasets_know_no_noise() -> None:
    for path in FILES:
        if part(path) in SIDEWAYS:
            assert not (imported(path) & (SIDEWAYS - {part(path)})), path


def test_every_part_has_its_row() -> None:
    assert {part(path) for path in FILES} == set().union(*ROWS)


def loaded(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return {line.partition(".")[0] for line in out.splitlines()}


RUN = "from noisebench.cli import main\nimport os\nos.chdir({place!r})\ncode = main({arguments!r})\nassert code == 0, code"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list", "losses"],
        ["list", "strategies"],
        ["list", "models"],
        ["list", "suites"],
        ["corrupt", "cifar10", "--asym", "0.3"],
    ],
)
def test_light_commands_load_no_torch(arguments: list[str], tmp_path: Path) -> None:
    assert not loaded(RUN.format(place=str(tmp_path), arguments=arguments)) & {"torch", "timm", "torchvision"}


def test_help_loads_neither_pandas_nor_numpy(tmp_path: Path) -> None:
    assert not loaded(RUN.format(place=str(tmp_path), arguments=["--help"])) & {"pandas", "numpy", "pydantic", "yaml"}


def test_importing_noisebench_loads_nothing_heavy() -> None:
    assert not loaded("import noisebench") & {"torch", "numpy", "pandas"}


def test_losses_strategies_and_noise_load_no_torch() -> None:
    assert "torch" not in loaded("import noisebench.losses, noisebench.strategies, noisebench.noise, noisebench.plan, noisebench.report")


def test_only_the_command_line_prints() -> None:
    for path in FILES:
        names = {
            node.func.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert part(path) == "cli" or "print" not in names, path
