"""The comforts of the command line: options of plugins, the schema of suite files, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from noisebench.cli import main
from noisebench.experiments.recipes import RECIPE_FIELDS
from noisebench.experiments.suite import packaged_suites
from noisebench.experiments.suite_file import Defaults
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


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("train --loss gc", "gce"),
        ("train --strategy elr", "elr"),
        ("train --method gc", "gce"),
        ("corrupt digi", "digits"),
        ("corrupt --convention p", "patrini2017"),
        ("corrupt --map cifar10-t", "cifar10-two-way"),
        ("train --model ml", "mlp"),
        ("train --recipe ap", "apl"),
        ("run smo", "smoke"),
        ("report --metric la", "last"),
        ("report --figure los", "loss"),
        ("train --log-to wa", "wandb"),
        ("list sche", "schema"),
        ("train --manifest man", "manifests/a.csv"),
        ("evaluate runs/o", "runs/one"),
    ],
)
def test_bash_completes_names(place: Path, words: str, name: str) -> None:
    Path("runs/one").mkdir(parents=True)
    Path("manifests").mkdir()
    Path("manifests/a.csv").touch()
    code = (
        "import sys; sys.argv = ['noisebench']\nfrom noisebench.cli import main\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    asked = {
        "_NOISEBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": f"noisebench {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert name in done.stdout.split(), done.stderr
    assert done.stderr == ""
