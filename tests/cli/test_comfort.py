"""The comforts of the command line: options of plugins, the schema of suite files, completion,
progress.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from PIL import Image

from noisebench.cli import console, main
from noisebench.datasets import Fitting
from noisebench.errors import ConfigError
from noisebench.experiments.recipes import RECIPE_FIELDS, RECIPE_TYPES, option_name
from noisebench.experiments.suite import Suite, read_suites
from noisebench.experiments.suite_file import Defaults, packaged_suites
from noisebench.experiments.suite_schema import suite_schema
from noisebench.labels.build import LabelRequest
from noisebench.losses import LOSSES
from noisebench.noise import NOISES
from noisebench.runs.queue import plan_suite
from noisebench.runs.workspace import Workspace
from noisebench.strategies import STRATEGIES
from tests.conftest import Case
from tests.support.pages import ROOT

NOISE = '''
import numpy as np
from noisebench import register_noise
from noisebench.core.parameters import Rate
from noisebench.noise import NoiseOption

@register_noise(option=NoiseOption("--nearby", "RATE", "The next class."), paper="mine, 2026")
def nearby(num_classes: int, rate: Rate) -> np.ndarray:
    """Class i becomes i + 1."""
    eye = np.eye(num_classes)
    return (1 - rate) * eye + rate * np.roll(eye, 1, 1)
'''


def test_a_plugins_noise_has_its_short_option_and_breaks_no_other(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my_noise.py").write_text(NOISE)
    assert main(["--plugin", "my_noise.py", "corrupt", "digits", "--nearby", "0.3"]) == 0
    assert "nearby(rate=0.3)" in capsys.readouterr().out
    for words in (["--sym", "0.4"], ["--nearby", "0.2"]):
        assert main(["corrupt", "digits", *words]) == 0


def test_list_schema_accepts_our_suites_and_refuses_what_the_code_refuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator: Any = jsonschema.Draft202012Validator(schema)
    pages = [ROOT / "docs" / name for name in ("tutorials/publish.md", "how-to/features.md")]
    examples = [page.read_text().partition("```yaml\n")[2].partition("```")[0] for page in pages]
    for text in (packaged_suites().read_text(), *examples):
        validator.validate(yaml.safe_load(text))
    keys = schema["$defs"]["Defaults"]["properties"]
    assert {*RECIPE_FIELDS, *Defaults.model_json_schema()["properties"]} == set(keys)
    assert all("description" in value for value in keys.values())
    for wrong in ({"epoch": 3}, {"epochs": "3"}, {"epochs": 0}, {"hflip": 1}, {"budget": "x"}):
        suite = {"matrix": {"noise": "sym 0.4"}, "defaults": wrong}
        assert not validator.is_valid({"version": 1, "suites": {"a": suite}}), wrong
    for matrix in ({}, {"noises": "sym 0.4"}, {"noise": 3}, {"subset": "3"}, {"noise": []}):
        assert not validator.is_valid({"version": 1, "suites": {"a": {"matrix": matrix}}}), matrix


BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "const")


def bounds_in(schema: Any) -> Iterator[float]:
    """All bounds in a part of a schema."""
    for word, part in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if word in BOUNDS:
            yield part
        elif isinstance(part, dict | list):
            yield from bounds_in(part)


def test_the_schema_and_the_reader_accept_the_same_values_at_the_bounds(
    tmp_path: Path, case: Case
) -> None:
    schema = suite_schema()
    validator: Any = jsonschema.Draft202012Validator(schema)
    properties = schema["$defs"]["Defaults"]["properties"]
    bounds = {name: {*bounds_in(facts)} for name, facts in properties.items()}
    unbounded = {name for name, values in bounds.items() if not values}
    numeric = {name for name, kind in RECIPE_TYPES.items() if kind in (int, float)}
    assert not {option_name(name) for name in numeric} & unbounded
    path = tmp_path / "suites.yaml"
    for name, bound in ((name, bound) for name, values in bounds.items() for bound in values):
        is_float = {"type": "number"} in properties[name].get("anyOf", ())
        below, above = bound - 1, bound + 1
        if is_float:
            below, above = math.nextafter(bound, -math.inf), math.nextafter(bound, math.inf)
        for value in (below, bound, above):
            with case(name=name, value=value):
                settings = {"nesterov": False, name: [value] if name == "seeds" else value}
                readable = []
                for dataset in ("digits", "imagenet"):  # some settings are for streamed sets only
                    suite = {"matrix": {"noise": "sym 0.4"}, "defaults": settings}
                    document = {"version": 1, "suites": {"a": suite}}
                    settings["dataset"] = dataset
                    path.write_text(yaml.safe_dump(document))
                    with suppress(ConfigError):
                        readable += read_suites(path)
                assert validator.is_valid(document) == bool(readable)


COMPLETE = """
import contextlib, io, json, os, sys
from noisebench.cli import main

sys.argv = ["noisebench"]
answers = []
for words in json.load(sys.stdin):
    os.environ |= {"COMP_WORDS": f"noisebench {words}", "COMP_CWORD": str(len(f"{words}|".split()))}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = main()
        except SystemExit as end:
            code = end.code
    answers.append([code, out.getvalue().split()])
assert "torch" not in sys.modules
print(json.dumps(answers))
"""


def completions(*lines: str) -> list[set[str]]:
    """What bash offers at the end of each command line. Nothing may be printed besides."""
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        env={**os.environ, "_NOISEBENCH_COMPLETE": "complete_bash"},
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    answers = json.loads(done.stdout)
    assert [code for code, _ in answers] == [0] * len(lines)
    return [set(names) for _, names in answers]


@pytest.fixture
def workspace(place: Path) -> Path:
    Path("runs/one").mkdir(parents=True)
    Path("manifests").mkdir()
    for name in ("manifests/a.csv", "results.csv", "notes.txt"):
        Path(name).touch()
    return place


def test_bash_completes_names(workspace: Path, subtests: pytest.Subtests) -> None:
    cases = {
        "train --loss gc": {"gce"},
        "train --strategy elr_": {"elr_plus"},
        "train --method gce_": {"gce_tuned"},
        "corrupt digi": {"digits"},
        "corrupt --convention patrini": {"patrini2017"},
        "corrupt --map cifar10-t": {"cifar10-two-way"},
        "train --model ml": {"mlp"},
        "train --init-weights ": {"none", "pretrained", "runs/one"},
        "train --recipe ap": {"apl"},
        "run smo": {"smoke"},
        "run --filter lo": {"loss="},
        "report --filter ep": {"epochs="},
        "report --metric las": {"last"},
        "report --metric best,las": {"best,last"},
        "report --figure los": {"loss"},
        "report --rows see": set(),
        "report --rows dat": {"dataset"},
        "report --cols noise,mod": {"noise,model"},
        "report --published cifar": {"cifar-n"},
        "report ": {"manifests", "results.csv", "runs", "runs/one"},
        "report manifests/": {"manifests/a.csv"},
        "train --log-to wa": {"wandb"},
        "list sche": {"schema"},
        "list metrics las": {"last"},
        "list runs ": {"one"},
        "train --manifest man": {"manifests/a.csv"},
        "evaluate runs/o": {"runs/one"},
        f"-C {workspace} evaluate {workspace}/r": {f"{workspace}/runs/one"},
    }
    for (line, names), offered in zip(cases.items(), completions(*cases), strict=True):
        with subtests.test(line):
            assert offered == names


def test_list_completes_the_names_that_it_lists(
    place: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    # other tests of this process may have loaded plugins
    added = {
        entry.name
        for registry in (LOSSES, NOISES, STRATEGIES)
        for entry in registry
        if entry.code or not entry.build.__module__.startswith("noisebench.")
    }
    kinds = sorted(completions("list ")[0] - {"env", "schema"})
    offered = completions(*(f"list {kind} " for kind in kinds))
    for kind, names in zip(kinds, offered, strict=True):
        with subtests.test(kind):
            assert main(["list", kind, "--json"]) == 0
            listed = {row["name"] for row in json.loads(capsys.readouterr().out)}
            assert names == listed - {"timm:NAME", *added}


def test_completion_knows_the_names_and_options_of_plugins(place: Path) -> None:
    Path("mine.py").write_text(f"print('hello')\n{NOISE}")
    plugin = "--plugin mine.py"
    names, options = completions(f"{plugin} list noises near", f"{plugin} corrupt digits --near")
    assert names == {"nearby"}
    assert options == {"--nearby"}


def test_completion_neither_prints_nor_fails(place: Path) -> None:
    Path("benchmarks.yaml").write_text("suites: [")
    Path("broken.py").write_text("raise SystemExit('no')")
    lines = (
        *(
            "run ",
            "list nothing ",
            "-C missing evaluate ",
            "report missing/",
            "train --epochs x --loss ",
        ),
        *(
            "report --where method=el --loss ",
            "--plugin broken.py train --loss ",
            "--version ",
            "'",
        ),
    )
    assert "gce" in completions(*lines)[-3]


# Progress


class Reports:
    """A `ProgressCallback` that checks that operations are nested and counts rise to the total."""

    def __init__(self) -> None:
        self.open: list[tuple[str, int, int, str]] = []
        self.ended: list[tuple[str, int, str]] = []

    def __call__(self, text: str, done: int, total: int, unit: str) -> None:
        if not text:
            name, done, total, unit = self.open.pop()
            assert done == total
            self.ended.append((name, total, unit))
        elif self.open and self.open[-1][0] == text:
            _, before, *of = self.open.pop()
            assert before <= done <= total and of == [total, unit]
            self.open.append((text, done, total, unit))
        else:
            assert done == 0 and total > 0
            self.open.append((text, done, total, unit))


def test_what_lasts_reports_counts_that_rise_to_the_total(place: Path) -> None:
    for part, count in (("train", 24), ("test", 6)):
        for number in range(count):
            pixels = np.random.default_rng([count, number]).integers(0, 256, (8, 8, 3), np.uint8)
            path = place / "set" / part / f"class{number % 3}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    tell = Reports()
    workspace = Workspace(place, offline=True, tell=tell)
    dataset = workspace.dataset("set")
    workspace.make(dataset, LabelRequest("pdn(rate=0.3)", subset=12))
    workspace.images(dataset, Fitting(6, 6))
    digits = workspace.images(workspace.dataset("digits"), Fitting(6, 6))
    suite = Suite.model_validate({"defaults": {"dataset": "set"}, "matrix": {"noise": ["sym 0.2"]}})
    plan_suite(workspace, suite)
    assert tell.open == []
    ended = [(total, unit) for _, total, unit in tell.ended]
    for count in (12, 24, 6, len(digits.train_labels)):
        assert (count, "images") in ended
    assert (1, "runs") in ended


def test_off_a_terminal_progress_is_lines_on_stderr_and_quiet_hides_them(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["corrupt", "digits", "--idn", "0.3", "--force"]
    assert main(["--quiet", *command]) == 0
    quiet = capsys.readouterr()
    assert main(command) == 0
    short = capsys.readouterr()
    monkeypatch.setattr(console, "_EVERY", 0.0)  # as if each report came after ten seconds
    assert main(command) == 0
    long = capsys.readouterr()
    assert main(["--quiet", *command]) == 0
    assert capsys.readouterr() == quiet
    assert quiet.out == short.out == long.out
    assert "images" not in quiet.err + short.err
    assert len(re.findall(r" of [\d,]+ images$", long.err, re.MULTILINE)) > 1


def test_an_error_ends_the_operations_within(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_EVERY", 0.0)
    tell = console.TaskProgress()
    tell("planning", 0, 3, "runs")
    tell("reading", 0, 5_000, "images")  # fails
    tell("planning", 1, 3, "runs")
    tell("downloading", 500_000, 2_000_000, "bytes")
    tell("", 0, 0, "")
    tell("planning", 2, 3, "runs")
    tell("", 0, 0, "")
    assert capsys.readouterr().err.splitlines() == [
        "planning: 0 of 3 runs; reading: 0 of 5,000 images",
        "planning: 1 of 3 runs",
        "planning: 1 of 3 runs; downloading: 0.5 of 2.0 MB",
        "planning: 2 of 3 runs",
    ]


SLOW = """
import time
from noisebench.cli import console
from noisebench.core.progress import track
console._DELAY = 0.0
tell = console.TaskProgress()
for _ in track(range(2), "planning", tell, total=2, unit="runs"):
    for _ in track(range(20), "reading", tell, total=20, unit="images"):
        time.sleep(0.05)
    console.say("a warning")
print("data")
"""


def _screen(written: str) -> list[str]:
    """The lines of a terminal after it has received some text."""
    lines, row, column = [""], 0, 0
    for control, text in re.findall(r"(\x1b\[[?\d;]*[a-zA-Z]|[\r\n])|([^\x1b\r\n]+)", written):
        if control == "\r":
            column = 0
        elif control == "\n":
            row, lines = row + 1, [*lines, ""]
        elif control.endswith("A"):
            row -= int(control[2:-1])
        elif control.endswith("K"):
            lines[row] = ""
        elif text:
            before = lines[row].ljust(column)
            lines[row] = before[:column] + text + before[column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("columns", [40, 80])
def test_on_a_terminal_a_bar_is_drawn_and_erased(columns: int) -> None:
    terminal, stderr = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm"},
    )
    os.close(stderr)
    written = b""
    with suppress(OSError):  # on Linux the end
        while part := os.read(terminal, 1 << 16):
            written += part
    os.close(terminal)
    out, _ = process.communicate(timeout=60)
    drawn = written.decode()
    assert (process.returncode, out) == (0, "data\n")
    assert "of 2 runs" in drawn and "of 20 images" in drawn
    assert _screen(drawn) == ["a warning", "a warning"]
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")  # the cursor is shown again
