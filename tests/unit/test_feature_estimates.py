"""Runs on features that estimate their noise from the neighbours of each example, and the label
issues by the neighbours' votes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from noisebench.cli import main
from noisebench.errors import ConfigError, LanguageError
from noisebench.experiments import resolve
from noisebench.experiments.command import repro_command
from noisebench.experiments.resolve import RunConfig, RunRequest, price_of
from noisebench.labels.build import LabelRequest
from noisebench.labels.manifest import read_manifest
from noisebench.losses import LOSSES
from noisebench.metrics.feature_neighbours import (
    ESTIMATORS,
    hoc,
    nearest,
    simifeat_rank,
    simifeat_votes,
)
from noisebench.runs.checkpoint import RunOptions
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.session import execute_run, make_trainer
from noisebench.runs.workspace import Workspace, manifest_of
from tests.conftest import Case

BY_HOC, BY_NEIGHBOURS = "estimated(by=hoc)", "estimated(by=neighbours)"
NOISE = "symmetric(rate=0.3)"


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """Four separate clusters, each of one class."""
    rng = np.random.default_rng(0)
    labels = np.arange(1400) % 4
    features = (4 * np.eye(4, 12)[labels] + rng.normal(size=(1400, 12))).astype(np.float16)
    path = tmp_path / "blobs.npz"
    np.savez(
        path,
        train_features=features[:1000],
        train_labels=labels[:1000],
        test_features=features[1000:],
        test_labels=labels[1000:],
    )
    return path


Plan = Callable[..., RunConfig]


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / "data")


@pytest.fixture
def plan(space: Workspace, blobs: Path) -> Plan:
    def planned(noise: str = NOISE, **request: object) -> RunConfig:
        dataset = space.dataset(str(blobs))
        manifest, _ = space.make(dataset, LabelRequest(noise, val_fraction=0.1))
        changes = {"epochs": 4}
        return space.plan(RunRequest(changes=changes, **request), dataset, manifest)  # type: ignore[arg-type]

    return planned


def executed(space: Workspace, run: RunConfig) -> dict:
    images = space.training_images(run)
    folder = RunFolder(space.runs / run.folder_name)
    return execute_run(run, images, make_trainer(run, images, "cpu"), folder, RunOptions())


def test_the_estimator_is_part_of_the_word(case: Case) -> None:
    for text in (f"el(eps={BY_HOC})", "el(eps=estimated(by='hoc'))", f"el(eps='{BY_HOC}')"):
        with case(text=text):
            assert str(LOSSES.normal(text)) == f"el(eps={BY_HOC})"
            assert LOSSES.normal(str(LOSSES.normal(text))) == LOSSES.normal(text)
    for value in ("estimated(by=knn)", "estimated(hoc)", "estimated(by=hoc, k=2)"):
        with case(value=value), pytest.raises(LanguageError, match=r"estimated\(by=hoc\)"):
            LOSSES.normal(f"el(eps={value})")


def test_runs_estimate_rate_and_transition_without_networks(
    space: Workspace, plan: Plan, case: Case
) -> None:
    for word in ESTIMATORS:
        for loss in (f"el(eps={word})", f"forward(ce, T={word})"):
            with case(loss=loss):
                run = plan(loss=loss)
                assert not run.oracle and run.method == loss
                record = executed(space, run)
                rate = record["estimates"]["rate"]
                assert rate["truth"] == run.manifest.meta["realised_rate"]
                assert rate["estimate"] == pytest.approx(rate["truth"], abs=0.04)
                low, high = rate["interval"]
                assert 0 <= low < rate["estimate"] < high < 1
                assert "accuracy" not in record["estimates"]
                assert ("transition" in record["estimates"]) == ("T=" in loss)
                T = record["estimates"].get("transition")
                assert T is None or np.abs(np.subtract(T["estimate"], T["truth"])).max() < 0.1
    record = executed(space, plan(loss="ce", strategy=f"coteaching(rate={BY_HOC})"))
    assert record["estimates"]["rate"]["estimate"] == pytest.approx(0.3, abs=0.05)


def test_a_run_trains_with_the_estimate(space: Workspace, plan: Plan) -> None:
    found = executed(space, plan(loss=f"el(eps={BY_HOC})"))
    rate = found["estimates"]["rate"]["estimate"]
    typed = executed(space, plan(loss=f"el(eps={rate!r})"))
    assert found["metrics"]["test_acc"] == typed["metrics"]["test_acc"]
    assert found["key"] != typed["key"]


def test_only_the_labels_and_features_in_training_are_used(space: Workspace, plan: Plan) -> None:
    run = plan(loss=f"el(eps={BY_NEIGHBOURS})")
    training = run.manifest.in_training
    features = np.asarray(space.training_images(run).train_images)[training]
    expected = ESTIMATORS[BY_NEIGHBOURS](features, run.manifest.labels[training], 4)
    assert executed(space, run)["estimates"]["rate"]["estimate"] == expected.rate
    assert training.sum() == 900


def test_the_version_of_the_estimator_is_in_the_key(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, others = plan(loss=f"el(eps={BY_HOC})"), plan(loss="el(eps=estimated)")
    keys = {before.key, plan(loss=f"el(eps={BY_NEIGHBOURS})").key, others.key}
    assert len(keys) == 3 and "neighbours" not in others.versions
    monkeypatch.setattr(resolve, "NEIGHBOURS_VERSION", 99)
    assert plan(loss=f"el(eps={BY_HOC})").key != before.key
    assert plan(loss="el(eps=estimated)").key == others.key


def test_estimates_from_features_cost_no_training(plan: Plan) -> None:
    for word in ESTIMATORS:
        assert not price_of(f"el(eps={word})", "standard").estimates
        assert not plan(loss=f"el(eps={word})").trains_estimators
    assert plan(loss="el(eps=estimated)").trains_estimators


def test_images_and_two_estimates_are_refused(space: Workspace, plan: Plan) -> None:
    digits = space.dataset("digits")
    manifest, _ = space.make(digits, LabelRequest("symmetric(rate=0.4)"))
    for request in (RunRequest(loss=f"el(eps={BY_HOC})"),
                    RunRequest(strategy=f"coteaching(rate={BY_NEIGHBOURS})")):  # fmt: skip
        with pytest.raises(ConfigError, match="needs features"):
            space.plan(request, digits, manifest)
    with pytest.raises(ConfigError, match="one estimate"):
        plan(loss=f"forward(el(eps={BY_HOC}), T=estimated)")


def test_options_suites_and_repro_commands_take_the_word(
    blobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(blobs.parent)
    assert main(["train", str(blobs), "--sym", "0.3", "--loss", "el", "--eps", BY_HOC]) == 0
    (folder,) = run_folders([Path("runs")])
    assert "estimated noise rate" in capsys.readouterr().out
    command = repro_command(folder.about()).command
    assert main([*shlex.split(command)[1:], "--dry-run"]) == 0
    assert folder.record()["key"][:8] in capsys.readouterr().out
    Path("benchmarks.yaml").write_text(f"""
version: 1
suites:
  guess:
    defaults: {{dataset: {blobs.name}}}
    matrix: {{noise: [symmetric(rate=0.3)], loss: [el(eps={BY_HOC})]}}
""")
    assert main(["run", "guess", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["status"] == "done"


def listed(
    capsys: pytest.CaptureFixture[str], folder: RunFolder, *options: str
) -> tuple[dict, pd.DataFrame]:
    capsys.readouterr()
    arguments = ["evaluate", str(folder.path), "--suspects", "s.csv", *options, "--json"]
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)[0]["suspects"], pd.read_csv("s.csv")


def test_label_issues_by_neighbours_are_those_of_simifeat(
    blobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    monkeypatch.chdir(blobs.parent)
    made = ("corrupt", str(blobs), "--sym", "0.3", "--val-fraction", "0.1", "--trusted", "0.1")
    assert main([*made]) == 0 and main(["train", "--epochs", "2"]) == 0
    (folder,), (path,) = run_folders([Path("runs")]), Path("manifests").glob("*.csv")
    manifest, data = read_manifest(path), np.load(blobs)
    assert manifest.trusted is not None
    neighbours = nearest(data["train_features"], 10)
    found = hoc(neighbours, manifest.labels, 4)
    expected = {
        "simifeat": simifeat_votes(neighbours, manifest.labels, 4),
        "simifeat_rank": simifeat_rank(neighbours, manifest.labels, found.transition, found.prior),
    }
    for score, scored in expected.items():
        with case(score=score):
            facts, frame = listed(capsys, folder, "--score", score)
            issues = np.flatnonzero(scored.issues & ~manifest.trusted)
            order = issues[np.argsort(scored.quality[issues], kind="stable")]
            assert frame["index"].tolist() == order.tolist()
            np.testing.assert_allclose(frame["label_quality"], scored.quality[order], atol=1e-6)
            assert frame["predicted_label"].tolist() == scored.suggested[order].tolist()
            wrong = manifest.labels[order] != data["train_labels"][order]
            assert facts["by"] == score and facts["precision"] == pytest.approx(wrong.mean())
            assert facts["precision"] > 0.85 and facts["auroc"] > 0.95
            assert facts["listed"] == len(order) and facts["of"] == (~manifest.trusted).sum()
    drop = ["corrupt", "--manifest", str(path), "--suspects", "s.csv", "--drop"]
    assert main(drop) == 0 and main(["train", "--epochs", "2"]) == 0
    (after,) = (each for each in run_folders([Path("runs")]) if each.path != folder.path)
    _, remaining = listed(capsys, after, "--score", "simifeat")
    dropped = ~manifest_of(after, Workspace()).included
    assert dropped.any() and not dropped[remaining["index"]].any()


def test_a_score_by_neighbours_needs_features_and_makes_no_predictions(
    blobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    monkeypatch.chdir(blobs.parent)
    assert main(["train", "digits", "--sym", "0.4", "--epochs", "1"]) == 0
    for loss in ("ce", "gce"):
        assert main(["train", str(blobs), "--sym", "0.3", "--epochs", "1", "--loss", loss]) == 0
    ce, gce, images = sorted(str(folder.path) for folder in run_folders([Path("runs")]))
    for words, why in (
        ([images, "--suspects", "s.csv"], "needs a run on features"),
        ([ce, gce, "--suspects", "s.csv"], "needs one run"),
        ([ce, "--suspects", "s.csv", "--predictions", "p.npy"], "makes no predictions"),
        ([ce], "--suspects"),
    ):
        with case(words=words):
            capsys.readouterr()
            assert main(["evaluate", *words, "--score", "simifeat"]) != 0
            assert why in " ".join(capsys.readouterr().err.split())
