"""The record reader: a real run's folder with one file changed -> tables in every format, pages,
history, predictions, a gate.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from noisebench.cli import main
from noisebench.cli.evaluate import _evaluate, draw_run
from noisebench.cli.listing import _runs
from noisebench.cli.options import Globals
from noisebench.core.files.schema import check_form
from noisebench.core.files.untrusted import read_json
from noisebench.errors import NoisebenchError
from noisebench.experiments.command import repro_command
from noisebench.labels.issues import better_score, score_labels
from noisebench.reporting import Rules, TableLayout, check, read_baseline, report_of
from noisebench.runs.folder import RunFolder
from noisebench.runs.result import load_predictions
from noisebench.runs.workspace import Workspace

from .choices import Choices, changed, mutated
from .npz_target import npz_changed

_FORMS = ("table", "md", "csv", "json", "latex", "junit")
_METRICS = ("last", "last,best,nll", "per_minute,minutes,work", "auroc,precision_at_100,memorised")


def train(root: Path) -> Path:
    """A finished run's folder; made by another process where this one has not loaded torch, which
    takes much of the memory.
    """
    words = [
        "train",
        "digits",
        "--subset",
        "120",
        "--sym",
        "0.4",
        "--model",
        "mlp",
        "--epochs",
        "2",
    ]
    command = ["-q", "-C", str(root), *words]
    if "torch" in sys.modules:
        assert main(command) == 0
    else:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, "-m", "noisebench", *command],
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment,
        )
    return next((root / "runs").glob("*__*"))


def _failure(run: RunFolder) -> dict[str, Any]:
    about = {**run.about(), "metrics": None}
    return {
        "schema": 1,
        "about": about,
        "type": "RunFailed",
        "message": ("the cost is NaN in epoch 2"),
        "traceback": "",
    }


def prepare(folder: Path) -> Callable[[bytes], None]:
    """A copy of the run for each input, but for the file that is changed."""
    original = RunFolder(train(folder / "seed"))
    files = {
        path.name: path.read_bytes()
        for path in original.path.iterdir()
        if path.suffix != ".safetensors"
    }
    files["error.json"] = json.dumps(_failure(original)).encode()
    files["trackers.json"] = b'{"mlflow": "1", "wandb": "x"}'
    baseline = report_of([original], TableLayout()).render("json").encode()
    root = folder / "workspace"
    place = root / "runs" / original.path.name

    def attempt(data: bytes) -> None:
        choices = Choices(data)
        name = choices.of(["result.json"] * 6 + ["error.json", "config.yaml", "metrics.csv", "predictions.npz", "predictions.npz",
        "dynamics.npz",
                           "trackers.json", "baseline.json"])  # fmt: skip
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for other, content in files.items():
            if other != "error.json" or name == "error.json":
                (place / other).write_bytes(content)
        if name == "error.json":
            (place / "result.json").unlink()
        if name == "baseline.json":
            path = root / name
            path.write_bytes(_changed(choices, name, baseline))
            check(
                report_of([RunFolder(place)], TableLayout()).document(),
                read_baseline(path, "last"),
                Rules(tolerance=choices.of((0, 0.5))),
            ).document()
            return
        (place / name).write_bytes(_changed(choices, name, files[name]))
        _use(RunFolder(place), name, choices, root)

    return attempt


def _changed(choices: Choices, name: str, content: bytes) -> bytes:
    if name.endswith(".npz"):
        return npz_changed(choices, content)
    if choices.chance(4) or name == "metrics.csv":
        return mutated(choices, content)
    if name.endswith(".yaml"):
        return yaml.dump(changed(choices, yaml.safe_load(content))).encode("utf-8", "replace")
    return json.dumps(changed(choices, json.loads(content))).encode()


def _use(run: RunFolder, name: str, choices: Choices, root: Path) -> None:
    """What commands ask of a run, each by itself; at last what they would refuse."""
    _runs(Globals(root, None, True, (), True, False))
    form, metric, budget = (
        choices.of(_FORMS),
        choices.of(_METRICS),
        choices.of(("epochs", "compute")),
    )
    shown = [
        lambda: report_of(
            [run], TableLayout(metric=metric, budget=budget), workspace=Workspace(root)
        ).render(form)
    ]
    paged = (
        [lambda: report_of([run], TableLayout(), workspace=Workspace(root)).render("html")]
        if choices.chance(10)
        else []
    )
    readers = [
        lambda: draw_run(_evaluate(run)),
        lambda: [
            score_labels(arrays, better_score(arrays))
            for arrays in [load_predictions(run, 10).arrays]
        ],
    ]
    uses: dict[str, list[Callable[[], object]]] = {
        "result.json": [*shown, *paged, lambda: repro_command(run.about()).command, readers[0]],
        "error.json": [*shown, *paged, lambda: repro_command(run.about()).command, run.failure],
        "config.yaml": [run.configuration],
        "metrics.csv": [run.read_history, *paged],
        "predictions.npz": [*readers, *paged],
        "dynamics.npz": [lambda: run.read_dynamics().density(1)],
        "trackers.json": [lambda: _read_trackers(run)],
    }
    refused: NoisebenchError | None = None
    for use in uses[name]:
        try:
            use()
        except NoisebenchError as error:
            refused = error
    if refused is not None:
        raise refused


def _read_trackers(run: RunFolder) -> None:
    """As a logger reads the identities of an earlier session, and starts new ones without them."""
    with suppress(OSError, ValueError):
        check_form(read_json(run.trackers), dict[str, str])
