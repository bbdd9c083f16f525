"""The comforts of the command line: options of plugins, the schema of suite files, completion."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from noisebench.cli import main
from noisebench.errors import ConfigError
from noisebench.experiments.recipes import RECIPE_FIELDS, RECIPE_TYPES, option_name
from noisebench.experiments.suite import read_suites
from noisebench.experiments.suite_file import Defaults, packaged_suites
from noisebench.experiments.suite_schema import suite_schema
from noisebench.losses import LOSSES
from noisebench.noise import NOISES
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
    page = (ROOT / "docs/reference/suite-file.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    for text in (packaged_suites().read_text(), example):
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
    added = {e.name for registry in (LOSSES, NOISES, STRATEGIES) for e in registry if e.code}
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
