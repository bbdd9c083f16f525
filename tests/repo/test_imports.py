"""Light commands load no torch, and only the command line prints. The layers are import-linter's,
in pyproject.toml.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import noisebench

ROOT = Path(noisebench.__file__).parent

LIGHT = (
    ("import noisebench", {"torch", "numpy", "pandas"}),
    ('main(["--help"])', {"torch", "pandas", "scipy", "yaml"}),
    ('main(["list", "losses"])', {"torch", "timm", "torchvision"}),
    ('main(["list", "strategies"])', {"torch", "timm", "torchvision"}),
    ('main(["list", "models"])', {"torch", "timm", "torchvision"}),
    ('main(["list", "suites"])', {"torch", "timm", "torchvision"}),
    ('main(["corrupt", "cifar10", "--asym", "0.3"])', {"torch", "timm", "torchvision"}),
    (
        "import noisebench.losses, noisebench.strategies, noisebench.noise, "
        "noisebench.experiments.resolve, noisebench.reporting",
        {"torch"},
    ),
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
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout.splitlines()[-1])
    for code, heavy in LIGHT:
        with subtests.test(code=code):
            assert not heavy & set(loaded[code])


def test_only_the_command_line_prints() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        functions = (node.func for node in nodes if isinstance(node, ast.Call))
        names = {function.id for function in functions if isinstance(function, ast.Name)}
        assert path.relative_to(ROOT).parts[0] == "cli" or "print" not in names, path
