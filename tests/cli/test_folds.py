"""Out of fold: every label is judged by a network of the run's own method that was trained without
it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from noisebench.cli import main
from noisebench.errors import Interrupted
from noisebench.experiments.resolve import RunConfig
from noisebench.runs.checkpoint import RunOptions
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.session import Fold, fold_of, judged, make_folds, make_trainer, train_folds
from noisebench.runs.workspace import Workspace, rebuild

HELD_OUT = "--pair 0.3 --trusted 0.2 --val-fraction 0.1 --loss forward(ce) --strategy cleannet"


def trained(place: Path, *asked: str, epochs: int = 1) -> tuple[RunConfig, RunFolder]:
    assert (
        main(
            [
                "-q",
                "-C",
                str(place),
                "train",
                "digits",
                *asked,
                "--epochs",
                str(epochs),
                "--precision",
                "fp32",
            ]
        )
        == 0
    )
    (folder,) = run_folders([place])
    return rebuild(folder, Workspace(place)), folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunFolder, Path]:
    place = tmp_path_factory.mktemp("plain")
    return (*trained(place, "--sym", "0.4", epochs=12), place)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunFolder, Path]:
    place = tmp_path_factory.mktemp("held_out")
    return (*trained(place, *HELD_OUT.split()), place)


def test_folds_are_even_and_hold_their_share_of_each_given_class(
    plain: tuple[RunConfig, RunFolder, Path], subtests: pytest.Subtests
) -> None:
    run = plain[0]
    for count in (2, 3, 7, 1297):
        with subtests.test(count=count):
            which = fold_of(run, count)
            assert np.ptp(np.bincount(which, minlength=count)) <= 1
            for k in range(10):
                assert np.ptp(np.bincount(which[run.manifest.labels == k], minlength=count)) <= 1
            np.testing.assert_array_equal(which, fold_of(run, count))


def test_every_example_is_judged_once_and_never_trained_on_by_who_judges_it(
    held_out: tuple[RunConfig, RunFolder, Path],
) -> None:
    run, folder, _ = held_out
    folds = make_folds(run, folder, 4)
    assert (np.sum([fold.held_out for fold in folds], axis=0) == 1).all()
    for fold in folds:
        assert not (
            fold.run.manifest.in_training & (fold.held_out | ~run.manifest.in_training)
        ).any()
        assert (fold.run.manifest.in_training | fold.held_out | ~run.manifest.in_training).all()


def test_what_is_trained_on_are_the_other_folds_and_the_verified_labels_go_with_them(
    held_out: tuple[RunConfig, RunFolder, Path],
) -> None:
    run, folder, place = held_out
    (fold, *_), images = make_folds(run, folder, 4), Workspace(place).images(run.dataset)
    task = make_trainer(fold.run, images, "cpu").task
    training = run.manifest.in_training & ~fold.held_out
    np.testing.assert_array_equal(task.images, images.train_images[training])
    np.testing.assert_array_equal(task.labels, run.manifest.labels[training])
    assert run.manifest.trusted is not None and task.trusted is not None
    np.testing.assert_array_equal(task.trusted, run.manifest.trusted[training])


def test_a_fold_is_the_run_but_for_its_labels(held_out: tuple[RunConfig, RunFolder, Path]) -> None:
    run, folder, _ = held_out
    folds = make_folds(run, folder, 3)
    assert len({fold.run.key for fold in folds} | {run.key}) == 4
    for fold in folds:
        assert {**fold.run.config, "manifest_sha256": ""} == {**run.config, "manifest_sha256": ""}
        assert fold.folder.path.parent == folder.path / "folds" / "3"


def test_what_is_said_of_a_label_is_what_its_own_fold_said(
    plain: tuple[RunConfig, RunFolder, Path],
) -> None:
    run, folder, place = plain
    folds = make_folds(run, folder, 2)
    train_folds(folds, Workspace(place).images(run.dataset), "cpu", lambda left: RunOptions())
    predictions = judged(folds)
    for fold in folds:
        np.testing.assert_array_equal(
            predictions.take(fold.held_out).dense,
            fold.folder.read_arrays()["train_log_p"][fold.held_out],
        )
    assert predictions.dense is not None and predictions.dense.shape == (1297, 10)


def test_the_list_out_of_fold_finds_more_than_a_network_that_learned_the_labels(
    plain: tuple[RunConfig, RunFolder, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder, place = plain
    capsys.readouterr()
    arguments = [
        "-C",
        str(place),
        "evaluate",
        str(folder.path),
        "--cv-folds",
        "3",
        "--suspects",
        str(tmp_path / "s.csv"),
        "--json",
    ]
    assert main([*arguments, "--predictions", str(tmp_path / "p.npy")]) == 0
    out, err = capsys.readouterr()
    (entry,) = json.loads(out)
    found, listed, p = (
        entry["suspects"],
        pd.read_csv(tmp_path / "s.csv"),
        np.load(tmp_path / "p.npy"),
    )
    assert found["auroc"] > entry["train"]["detection"]["auroc"] and found["by"] == "3 folds"
    assert "fold 3 of 3" in err and "not trained on the example" in err
    recorded = folder.read_arrays()["recorded_labels"][listed["index"]]
    np.testing.assert_allclose(p[listed["index"], recorded], listed["label_quality"], atol=2e-3)


def test_folds_are_never_done_twice_and_no_table_sees_them(
    plain: tuple[RunConfig, RunFolder, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder, place = plain
    before = [fold.folder.result.stat().st_mtime_ns for fold in _done(run, folder, place, 2)]
    capsys.readouterr()
    assert main(["-C", str(place), "evaluate", str(folder.path), "--cv-folds", "2"]) == 0
    assert "fold 1" not in capsys.readouterr().err
    assert [fold.folder.result.stat().st_mtime_ns for fold in make_folds(run, folder, 2)] == before
    assert [found.path for found in run_folders([place])] == [folder.path]


def _done(run: RunConfig, folder: RunFolder, place: Path, count: int) -> list[Fold]:
    folds = make_folds(run, folder, count)
    train_folds(folds, Workspace(place).images(run.dataset), "cpu", lambda left: RunOptions())
    return folds


def test_an_interrupted_fold_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    run, folder = trained(tmp_path, "--sym", "0.4", epochs=2)
    images, (first, second) = Workspace(tmp_path).images(run.dataset), make_folds(run, folder, 2)
    steps = len(make_trainer(first.run, images, "cpu").state.batches)
    stop = iter([False] * 3 * steps + [True])  # after an epoch of the second fold
    with pytest.raises(Interrupted, match="epoch 2 of 2; the same command resumes it"):
        train_folds(
            [first, second], images, "cpu", lambda left: RunOptions(should_stop=lambda: next(stop))
        )
    assert (first.folder.status(), second.folder.status()) == ("done", "resume")
    assert main(["-q", "-C", str(tmp_path), "evaluate", str(folder.path), "--cv-folds", "2"]) == 0
    for resumed, straight in zip(
        (first, second), _done(run, RunFolder(tmp_path / "straight"), tmp_path, 2), strict=True
    ):
        np.testing.assert_array_equal(
            *(fold.folder.read_arrays()["train_log_p"] for fold in (resumed, straight))
        )


def test_folds_of_a_run_that_estimates_its_noise_estimate_it_each_by_itself(tmp_path: Path) -> None:
    _, folder = trained(tmp_path, "--sym", "0.4", "--loss", "el(eps=estimated)", epochs=4)
    assert main(["-q", "-C", str(tmp_path), "evaluate", str(folder.path), "--cv-folds", "2"]) == 0
    rates = [
        json.loads(path.read_text())["estimates"]["rate"]["estimate"]
        for path in folder.path.glob("folds/2/*/result.json")
    ]
    assert len(set(rates)) == 2
