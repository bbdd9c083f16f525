"""A run -> a record: what is written, what is skipped, what resumes, what fails, and that no method
can peek.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from noisebench.datasets import fingerprint
from noisebench.errors import (
    DataError,
    Interrupted,
    LanguageError,
    ManifestError,
    NoisebenchError,
    RunFailed,
)
from noisebench.experiments.resolve import RunConfig, RunRequest, resolve_run
from noisebench.labels.build import LabelRequest
from noisebench.labels.manifest import Manifest
from noisebench.runs import session
from noisebench.runs.checkpoint import Progress, RunOptions
from noisebench.runs.folder import RunFolder, results
from noisebench.runs.session import execute_run, make_trainer
from noisebench.runs.workspace import Workspace

SHORT = {"epochs": 3}


class Desk:
    """A workspace and a way to run something in it."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.dataset = self.workspace.dataset("digits")
        self.images = self.workspace.images(self.dataset)

    def plan(self, noise: str = "symmetric(rate=0.4)", **wish: object) -> RunConfig:
        manifest, _ = self.workspace.make(self.dataset, LabelRequest(noise))
        return resolve_run(
            RunRequest(**{"changes": SHORT, "precision": "fp32", **wish}),
            self.dataset,
            manifest,
            self.images.fingerprint,
        )  # type: ignore[arg-type]

    def folder(self, run: RunConfig) -> RunFolder:
        return RunFolder(self.workspace.runs / run.folder_name)

    def execute(self, run: RunConfig, conduct: RunOptions | None = None) -> dict:
        return execute_run(
            run,
            self.images,
            make_trainer(run, self.images, "cpu"),
            self.folder(run),
            conduct or RunOptions(),
        )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, RunConfig, dict]:
    """A run, for tests that only read it."""
    desk = Desk(tmp_path_factory.mktemp("finished"))
    run = desk.plan()
    return desk, run, desk.execute(run)


def test_a_finished_run_leaves_its_six_files_and_nothing_else(
    finished: tuple[Desk, RunConfig, dict],
) -> None:
    desk, run, _ = finished
    assert {path.name for path in desk.folder(run).path.iterdir()} == {
        "config.yaml", "metrics.csv", "dynamics.npz", "predictions.npz", "model.safetensors", "result.json",
    }  # fmt: skip


def test_the_record_says_all_that_was_decided(desk: Desk) -> None:
    record = desk.execute(desk.plan(loss="el", seed=3))
    assert (record["loss"], record["method"], record["oracle"]) == ("el(eps=0.4)", "el", True)
    assert (record["seed"], record["noise"]["seed"], record["precision"]) == (3, 0, "fp32")
    assert record["recipe"]["epochs"] == 3 and record["recipe"]["name"] == "digits"
    assert record["expected"] == {"train": 1297, "test": 500}
    assert record["metrics"]["test"]["n"] == 500 and record["metrics"]["train"]["n"] == 1297
    assert record["environment"]["threads"] == 1 and record["environment"]["torch"]


def test_the_record_agrees_with_the_predictions_and_the_curve(
    finished: tuple[Desk, RunConfig, dict],
) -> None:
    desk, run, record = finished
    folder = desk.folder(run)
    arrays = folder.read_arrays()
    accuracy = (arrays["test_classes"][:, 0] == desk.images.test_labels).mean()
    curve = np.genfromtxt(folder.path / "metrics.csv", delimiter=",", names=True)
    test_acc = record["metrics"]["test_acc"]
    assert test_acc["last"] == accuracy == curve["test_acc"][-1]
    assert test_acc["best"] == curve["test_acc"].max() and test_acc["mean_last10"] == pytest.approx(
        curve["test_acc"].mean()
    )
    assert list(curve["epoch"]) == [1, 2, 3]


def test_memorised_is_the_share_of_wrong_labels_that_are_predicted(desk: Desk) -> None:
    run = desk.plan(changes={"epochs": 20})
    record, arrays = desk.execute(run), desk.folder(run).read_arrays()
    wrong = arrays["recorded_labels"] != arrays["clean_labels"]
    predicted = arrays["train_classes"][:, 0]
    assert record["metrics"]["memorised"] == pytest.approx(
        (predicted == arrays["recorded_labels"])[wrong].mean()
    )
    assert record["metrics"]["memorised"] > 0.3


def test_the_same_run_twice_has_the_same_weights_and_predictions(
    finished: tuple[Desk, RunConfig, dict], desk: Desk
) -> None:
    desk.execute(desk.plan())
    contents = [(each.folder(run).weights.read_bytes(), each.folder(run).predictions.read_bytes()) for each, run, _ in
                (finished, (desk, desk.plan(), {}))]  # fmt: skip
    assert contents[0] == contents[1]


def test_an_interrupted_run_ends_as_if_it_had_not_been(
    finished: tuple[Desk, RunConfig, dict], desk: Desk
) -> None:
    straight, run, _ = finished
    steps = iter(range(1000))
    with pytest.raises(Interrupted, match="the same command resumes it"):
        desk.execute(run, RunOptions(should_stop=lambda: next(steps) >= 30))
    folder = desk.folder(run)
    assert folder.status() == "resume" and not folder.claim.exists()
    desk.execute(run)
    assert folder.weights.read_bytes() == straight.folder(run).weights.read_bytes()
    assert [
        line.rpartition(",")[0] for line in (folder.path / "metrics.csv").read_text().splitlines()
    ] == [
        line.rpartition(",")[0]
        for line in (straight.folder(run).path / "metrics.csv").read_text().splitlines()
    ]


def test_the_seconds_of_a_run_are_not_those_of_who_listens(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour after each epoch, by a clock that is told so."""
    hours, clock = 0, time.monotonic

    def listen(progress: Progress) -> None:
        nonlocal hours
        hours += 1

    monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600 * hours)
    record = desk.execute(desk.plan(changes={"epochs": 2}), RunOptions(on_epoch_end=listen))
    assert hours == 2 and record["seconds"] < 3600


def test_no_resume_starts_anew(desk: Desk) -> None:
    run, steps = desk.plan(), iter(range(1000))
    with pytest.raises(Interrupted):
        desk.execute(run, RunOptions(should_stop=lambda: next(steps) >= 30))
    epochs: list[int] = []
    desk.execute(
        run, RunOptions(resume=False, on_epoch_end=lambda progress: epochs.append(progress.epoch))
    )
    assert epochs == [1, 2, 3]


def test_a_checkpoint_that_cannot_be_read_is_named(desk: Desk) -> None:
    run = desk.plan()
    folder = desk.folder(run)
    folder.path.mkdir(parents=True)
    folder.resume.write_bytes(b"not a checkpoint")
    with pytest.raises(NoisebenchError, match=r"resume.pt cannot be resumed .*--no-resume"):
        desk.execute(run)


def test_a_nan_fails_the_run_naming_step_and_method(desk: Desk) -> None:
    run = desk.plan(changes={"epochs": 3, "lr": 1e30})
    with pytest.raises(
        RunFailed,
        match=r"ce on digits.* failed: the cost became (nan|inf) at "
        r"epoch 1, step \d+",
    ):
        desk.execute(run)
    error = json.loads(desk.folder(run).error.read_text())
    assert "epoch 1, step" in error["message"] and desk.folder(run).status() == "failed"
    assert not desk.folder(run).result.exists() and not desk.folder(run).resume.exists()


def test_a_failed_run_is_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run = desk.plan()
    monkeypatch.setattr(session, "finalize_run", lambda *anything: 1 / 0)
    with pytest.raises(RunFailed, match="ZeroDivisionError"):
        desk.execute(run)
    monkeypatch.undo()
    desk.execute(run)
    assert desk.folder(run).status() == "done" and not desk.folder(run).error.exists()


def test_no_method_can_peek_at_clean_or_test_labels(desk: Desk, tmp_path: Path) -> None:
    run, other = desk.plan(loss="gce", strategy="bootstrap"), Desk(tmp_path / "other")
    manifest = run.manifest
    lying = np.roll(manifest.clean_labels, 1)
    meta = {**manifest.meta, "labels_sha256": fingerprint(lying)}
    other.images = replace(
        other.images, train_labels=lying, test_labels=np.roll(other.images.test_labels, 1)
    )
    blind = replace(run, manifest=Manifest(meta, manifest.labels, lying))
    desk.execute(run)
    other.execute(blind)
    assert desk.folder(run).weights.read_bytes() == other.folder(blind).weights.read_bytes()


def test_a_manifest_of_other_data_is_refused_before_anything_is_written(desk: Desk) -> None:
    run = desk.plan()
    other = replace(desk.images, train_labels=np.roll(desk.images.train_labels, 1))
    with pytest.raises(ManifestError, match="is for other data"):
        make_trainer(run, other, "cpu")
    assert not desk.workspace.runs.exists()


def test_two_at_once_do_not_share_a_folder(desk: Desk) -> None:
    run = desk.plan()
    with desk.folder(run).locked(), pytest.raises(DataError, match=r"is being run by process \d+"):
        desk.execute(run)


def test_the_claim_of_a_dead_process_is_taken_over(desk: Desk) -> None:
    import socket
    import subprocess
    import sys

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    run = desk.plan()
    desk.folder(run).path.mkdir(parents=True)
    desk.folder(run).claim.write_text(json.dumps({"host": socket.gethostname(), "pid": dead.pid}))
    assert desk.execute(run)["metrics"]["test"]["n"] == 500


@pytest.mark.parametrize(
    ("wish", "row"),
    [
        ({"loss": "el(eps=0.4)"}, "el"), ({"loss": "el(eps=0.3)"}, "el(eps=0.3)"), ({"loss": "forward(ce)"}, "forward"),
        ({"loss": "sl"}, "sl"), ({"loss": "lsr(el(eps=0.4))"}, "lsr_el"),
        ({"loss": "lsr(el(eps=0.4), alpha=0.2)"}, "lsr(el(eps=auto), alpha=0.2)"), ({"strategy": "bootstrap"}, "bootstrap"),
        ({"loss": "gce", "strategy": "bootstrap"}, "gce, bootstrap"),
        ({"loss": "gce", "strategy": "bootstrap(kind='soft')"}, "gce, bootstrap(kind='soft')"),
        ({"loss": "gce", "strategy": "mentornet(kind='predefined', width=2)"}, "gce, mentornet(kind='predefined', width=2)"),
    ],
)  # fmt: skip
def test_one_key_has_one_name_and_one_folder(wish: dict, row: str, desk: Desk) -> None:
    run = desk.plan(**wish)
    assert run.method == row and run.folder_name.count("__") == 1


@pytest.mark.parametrize(
    ("strategy", "oracle"),
    [("coteaching", True), ("coteaching(rate=estimated)", False), ("coteaching(rate=0.3)", False)],
)
def test_who_was_told_the_rate_is_an_oracle_and_who_found_it_is_none(
    strategy: str, oracle: bool, desk: Desk
) -> None:
    assert desk.plan(strategy=strategy).oracle is oracle


def test_a_matrix_for_other_classes_is_refused_before_anything_is_written(desk: Desk) -> None:
    with pytest.raises(LanguageError, match="forward: T has 2 classes, the data 10"):
        desk.plan(loss="forward(ce, T=[[1, 0], [0, 1]])")


def test_a_damaged_predictions_file_is_named(desk: Desk) -> None:
    run = desk.plan()
    desk.execute(run)
    desk.folder(run).predictions.write_bytes(b"PK half")
    with pytest.raises(DataError, match=r"predictions.npz cannot be read as .npz"):
        RunFolder(desk.folder(run).path, checked=False).read_arrays()


def test_a_finished_run_is_just_read_unless_it_is_wanted_anew(desk: Desk) -> None:
    run = desk.plan()
    first = desk.execute(run)
    seen: list[int] = []
    assert (
        desk.execute(run, RunOptions(on_epoch_end=lambda progress: seen.append(progress.epoch)))[
            "seconds"
        ]
        == first["seconds"]
    )
    assert seen == [] and desk.execute(run, RunOptions(force=True))["seconds"] != first["seconds"]


def test_the_last_look_between_epochs_comes_before_the_test_set(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from noisebench.strategies import Strategy

    order: list[str] = []
    run = desk.plan()
    trainer = make_trainer(run, desk.images, "cpu")
    inner = trainer.predict
    monkeypatch.setattr(
        Strategy, "on_epoch_end", lambda self, epoch, whole: order.append("between")
    )
    monkeypatch.setattr(trainer, "predict", lambda pixels: order.append("predict") or inner(pixels))
    trainer.run_epoch()
    assert order == ["between", "predict"]


def test_a_set_has_one_name_and_one_key_wherever_it_lies(desk: Desk, tmp_path: Path) -> None:
    images, keys = desk.images, []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        np.savez(tmp_path / place / "set.npz", train_images=images.train_images[:60], train_labels=images.train_labels[:60],
                 test_images=images.test_images[:20], test_labels=images.test_labels[:20])  # fmt: skip
        dataset = desk.workspace.dataset(str(tmp_path / place / "set.npz"))
        manifest, path = desk.workspace.make(dataset, LabelRequest("symmetric(rate=0.2)"))
        desk.workspace.keep(manifest, path)
        run = resolve_run(
            RunRequest(), dataset, manifest, desk.workspace.images(dataset).fingerprint
        )
        keys.append((dataset.name, path.name, run.key, run.folder_name))
    assert keys[0] == keys[1] and str(tmp_path) not in "".join(keys[0])


def test_the_key_of_a_plain_run_does_not_move(desk: Desk) -> None:
    # Pinned so that keys, and with them everybody's finished runs, change only on purpose: with
    # PROTOCOL or a component's version.
    assert desk.plan(method="el", changes={}).key[:16] == "90a3be45153553e5"


def test_the_config_is_plain_yaml_with_the_key(finished: tuple[Desk, RunConfig, dict]) -> None:
    desk, run, _ = finished
    config = yaml.safe_load((desk.folder(run).path / "config.yaml").read_text())
    assert (
        config["key"] == run.key
        and config["recipe"]["epochs"] == 3
        and config["title"] == run.title
    )


def test_results_are_a_tidy_frame_with_one_row_a_run(desk: Desk) -> None:
    for loss in ("ce", "mae"):
        desk.execute(desk.plan(loss=loss))
    frame = results(desk.workspace.runs)
    assert list(frame["loss"]) == ["ce", "mae"] and (frame["metrics.test_acc.last"] > 0).all()


def test_a_damaged_result_is_warned_of_and_left_out_of_the_frame(desk: Desk) -> None:
    runs = [desk.plan(seed=seed) for seed in (0, 1)]
    for run in runs:
        desk.execute(run)
    path = desk.folder(runs[0]).result
    path.write_text(path.read_text()[:100])
    with pytest.warns(UserWarning, match=r"result.json is damaged"):
        frame = results(desk.workspace.runs)
    assert list(frame["seed"]) == [1]


def test_a_damaged_result_is_named(desk: Desk) -> None:
    run = desk.plan()
    desk.execute(run)
    desk.folder(run).result.write_text('{"schema": 1')
    with pytest.raises(DataError, match=r"result.json is damaged"):
        desk.folder(run).record()


def test_a_forward_run_is_an_oracle_and_knows_its_transition(desk: Desk) -> None:
    record = desk.execute(desk.plan(method="forward"))
    assert record["oracle"] and record["loss"] == "forward(ce, T='true')"


def test_an_image_folder_and_a_foreign_npz_train(tmp_path: Path) -> None:
    from PIL import Image

    desk = Desk(tmp_path)
    images = desk.images
    np.savez(tmp_path / "small.npz", train_images=images.train_images[:200, ..., 0], train_labels=images.train_labels[:200, None],
             test_images=images.test_images[:50, ..., 0], test_labels=images.test_labels[:50, None])  # fmt: skip
    for part, pictures, labels in (
        ("train", images.train_images[:40], images.train_labels),
        ("test", images.test_images[:20], images.test_labels),
    ):
        for number, picture in enumerate(pictures):
            place = tmp_path / "folder" / part / f"digit #{labels[number]}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture[..., 0]).save(place / f"{number}.png")
    for name, n in (("small.npz", 200), ("folder", 40)):
        dataset = desk.workspace.dataset(str(tmp_path / name))
        manifest, path = desk.workspace.make(dataset, LabelRequest("symmetric(rate=0.2)"))
        desk.workspace.keep(manifest, path)
        run = resolve_run(
            RunRequest(changes={"epochs": 1}),
            dataset,
            manifest,
            desk.workspace.images(dataset).fingerprint,
        )
        trainer = make_trainer(run, desk.workspace.images(dataset), "cpu")
        record = execute_run(
            run, desk.workspace.images(dataset), trainer, desk.folder(run), RunOptions()
        )
        assert record["expected"]["train"] == n and path.exists()
