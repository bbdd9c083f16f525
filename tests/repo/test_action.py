"""The scripts of action.yml, run as GitHub runs them: exit codes, outputs, summary and comment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from noisebench.cli import main
from tests.support.pages import ROOT
from tests.unit.test_report import add

STEPS: list[dict[str, Any]] = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
SCRIPTS = {step["name"]: step["run"] for step in STEPS if "run" in step}


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """A runner's directories, with a baseline of one cell and the same results in runs/."""
    for folder in ("bin", "temp", "work"):
        (tmp_path / folder).mkdir()
    for seed in range(3):
        add(tmp_path / "work/runs", seed=seed, last=0.8)
    baseline = str(tmp_path / "work/baseline.json")
    assert main(["-C", str(tmp_path / "work"), "report", "--save-baseline", baseline]) == 0
    command(tmp_path, "noisebench", f'exec "{sys.executable}" -m noisebench "$@"')
    return tmp_path


def command(runner: Path, name: str, script: str) -> None:
    """Puts a command into the runner's PATH."""
    path = runner / "bin" / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def step(runner: Path, name: str, **variables: str) -> int:
    """The exit code of a step's script."""
    env = {
        **os.environ,
        "PATH": f"{runner / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RUNNER_TEMP": str(runner / "temp"),
        "GITHUB_OUTPUT": str(runner / "output"),
        "GITHUB_STEP_SUMMARY": str(runner / "summary.md"),
        "GITHUB_REPOSITORY": "owner/name",
        **variables,
    }
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", SCRIPTS[name]]
    return subprocess.run(shell, cwd=runner / "work", env=env, check=False).returncode


def test_no_script_contains_an_expression_of_github() -> None:
    assert SCRIPTS and not [name for name, script in SCRIPTS.items() if "${{" in script]


def test_the_suite_is_one_argument_and_failed_runs_do_not_stop_the_action(runner: Path) -> None:
    command(runner, "noisebench", 'printf "%s\\n" "$@" > args; exit "$CODE"')
    suite = '--help"; touch hacked; $(touch hacked)'
    assert [step(runner, "run", SUITE=suite, CODE=code) for code in "0235"] == [0, 2, 0, 5]
    assert (runner / "work/args").read_text() == f"run\n--\n{suite}\n"
    assert not (runner / "work/hacked").exists()


def test_the_check_ends_with_the_exit_code_of_the_report(runner: Path) -> None:
    assert step(runner, "check", BASELINE="baseline.json", TOLERANCE="") == 0
    summary, table = runner / "summary.md", runner / "temp/noisebench.md"
    assert summary.read_text().count("| ce |") == 1 and "| ce |" in table.read_text()

    baseline = runner / "work/baseline.json"
    document = json.loads(baseline.read_text())
    document["cells"][0] |= {"mean": 0.81, "values": dict.fromkeys("012", 0.81)}
    baseline.write_text(json.dumps(document))
    assert step(runner, "check", BASELINE="baseline.json", TOLERANCE="0") == 4
    assert summary.read_text().count("| ce |") == 2 and "1 regressed" in table.read_text()

    assert step(runner, "check", BASELINE="missing.json", TOLERANCE="") == 5
    assert not table.exists()  # nor is the last table commented
    assert (runner / "output").read_text() == "code=0\ncode=4\ncode=5\n"


def test_the_comment_of_an_earlier_push_is_edited(runner: Path) -> None:
    command(
        runner,
        "gh",
        'echo "$@" >> calls; case "$*" in *--jq*) printf "%s" "$EARLIER" ;; esac',
    )
    calls, comments = runner / "work/calls", "repos/owner/name/issues/7/comments"
    assert step(runner, "comment", NUMBER="7", SUITE="smoke", EARLIER="") == 0
    assert not calls.exists()  # without a table there is no comment

    (runner / "temp/noisebench.md").write_text("a table\n")
    body = runner / "temp/comment.md"
    for earlier, sent in (
        ("", f"api --silent {comments}"),
        ("5\n8\n", "api --silent --method PATCH repos/owner/name/issues/comments/8"),
    ):
        assert step(runner, "comment", NUMBER="7", SUITE="smoke", EARLIER=earlier) == 0
        assert calls.read_text().splitlines()[-1] == f"{sent} --field body=@{body}"
    assert body.read_text() == "<!-- noisebench smoke -->\na table\n"
