"""A stated subset of the training images: the same ones for every noise and seed, noise on these
alone, and no table that mixes sizes.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import noisebench as nb
from noisebench.cli import main
from noisebench.datasets import DATASETS, Dataset, Images, Labels
from noisebench.errors import ConfigError, DataError, ManifestError
from noisebench.experiments.command import repro_command
from noisebench.experiments.methods import find_method
from noisebench.experiments.resolve import RunRequest, resolve_run
from noisebench.experiments.run_facts import key_of
from noisebench.labels.build import DatasetInputs, LabelRequest, make_manifest
from noisebench.labels.issues import better_score, review_manifest
from noisebench.labels.manifest import Manifest, file_name, read_manifest
from noisebench.labels.subset import SubsetInputs, subset_of
from noisebench.noise import transition
from noisebench.noise.sampling import expected
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.session import make_folds
from noisebench.runs.workspace import Workspace, rebuild
from tests.unit.test_report import add

DIGITS = Workspace().labels(DATASETS["digits"])
UNEVEN = Labels(
    Dataset("uneven", "", tuple("abc"), (8, 8, 1), 100, 0, "mlp", "digits"),
    np.repeat([0, 1, 2], [50, 33, 17]),
)


def made(
    noise: str = "symmetric(rate=0.4)",
    data: Labels = DIGITS,
    *,
    subset: int | None = 300,
    **wish: Any,
) -> Manifest:
    return make_manifest(data, LabelRequest(noise, subset=subset, **wish))


def outside(data: Labels = DIGITS) -> DatasetInputs:
    return DatasetInputs(data, Path(), True, DATASETS.__getitem__)


# Which images


@pytest.mark.parametrize("count", [12, 37, 50, 99])
def test_each_class_has_its_share_by_the_largest_remainder(count: int) -> None:
    places = subset_of(UNEVEN, count)
    assert places is not None
    shares = [count * size // 100 for size in (50, 33, 17)]
    for k in sorted(range(3), key=lambda k: -(count * (50, 33, 17)[k] % 100))[
        : count - sum(shares)
    ]:
        shares[k] += 1
    assert np.bincount(UNEVEN.labels[places], minlength=3).tolist() == shares
    assert (np.diff(places) > 0).all()


def test_it_is_the_same_for_every_noise_seed_and_split() -> None:
    wishes = (
        {},
        {"seed": 7},
        {"noise": "pairflip(rate=0.2)"},
        {"val_fraction": 0.2},
        {"trusted": 0.1},
        {"noise": "imported(own)"},
    )
    kept = [made(**wish).included for wish in wishes]
    assert kept[0].sum() == 300 and all((one == kept[0]).all() for one in kept)


def test_a_smaller_one_lies_within_a_larger_one_but_for_one_example_a_class() -> None:
    found = [
        set((subset_of(DIGITS, count) if count < 1297 else np.arange(1297)).tolist())
        for count in range(100, 1298, 19)
    ]
    for small, large in pairwise(found):
        lost = np.bincount(DIGITS.labels[sorted(small - large)], minlength=10)
        assert lost.max() <= 1
    even = Labels(DIGITS.dataset, np.arange(1000) % 10)
    assert set(subset_of(even, 105)) < set(subset_of(even, 300))  # type: ignore[arg-type]


def test_the_images_do_not_lie_by_the_words_that_the_noise_is_drawn_by() -> None:
    wrong = [
        (made(seed=seed).labels != DIGITS.labels)[made().included].nonzero()[0] for seed in (0, 47)
    ]
    first = [(place < 150).mean() for place in wrong]
    assert np.allclose(first, 0.5, atol=0.15)


def test_all_images_are_no_subset_and_leave_every_byte() -> None:
    assert made(subset=1297).content == made(subset=None).content
    assert (
        made(subset=None).sha256
        == "a25fee6aeeaa777c50b45b25b2141a89f583455b2113e064d36a5a40bb37b139"
    )
    split = made(subset=None, seed=3, val_fraction=0.1, trusted=0.1)
    assert split.sha256 == "427f1cbccee644104b3b13f34546536439a60d0179b939b97b247715b59867cf"
    run = resolve_run(RunRequest("ce", precision="fp32"), DATASETS["digits"], split, "data")
    assert run.key == "496a7f24dc54f4ae8708972741e5cf09a031f1eb7de19f4fa63986543c462704"
    # held-out images were mixed up in packs: the one thing that is new in the key
    assert run.config["versions"].pop("pictures") == "2"
    assert key_of(run.config) == "363c7855a0bb0d5f898c274392f6737f09c55728569ff3a5be1504876b8246d7"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "--subset must be a positive number of training images, got 0"),
        (1298, "--subset 1298: digits has 1297 training images"),
        (5, "--subset 5 of 1297 leaves no image of the class 0: use 11 or more"),
    ],
)
def test_a_subset_that_cannot_be_is_refused(count: int, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        made(subset=count)


# Noise on these alone


@pytest.mark.parametrize(
    "text", ["symmetric(rate=0.4)", "asymmetric(rate=0.3, map='digits')", "pairflip(rate=0.45)"]
)
def test_counts_are_exact_in_the_subset(text: str) -> None:
    manifest = made(text)
    T, counts = transition(text, 10), manifest.confusion
    sizes = np.bincount(DIGITS.labels[manifest.included], minlength=10)
    assert counts.sum(1).tolist() == sizes.tolist()
    assert [counts[k].sum() - counts[k, k] for k in range(10)] == [
        expected(1 - T[k, k], int(sizes[k])) for k in range(10)
    ]
    assert (
        manifest.meta["realised_rate"]
        == (manifest.labels != DIGITS.labels)[manifest.included].mean()
    )
    np.testing.assert_allclose(manifest.transition, T)


@pytest.mark.parametrize(
    "text", ["symmetric(rate=0.4, exact_over='set')", "symmetric(rate=0.4, exact_over='pair')"]
)
def test_counts_over_set_and_pairs_are_those_of_as_large_a_data_set(text: str) -> None:
    manifest = made(text)
    alone = make_manifest(DIGITS.take(np.flatnonzero(manifest.included)), text)
    np.testing.assert_array_equal(manifest.labels[manifest.included], alone.labels)


def test_the_others_keep_their_rows_and_their_labels_and_are_dropped() -> None:
    manifest = made(val_fraction=0.2, trusted=0.2)
    assert (
        len(manifest.labels) == 1297
        and manifest.dropped is not None
        and manifest.dropped.sum() == 997
    )
    np.testing.assert_array_equal(
        manifest.labels[manifest.dropped], DIGITS.labels[manifest.dropped]
    )
    np.testing.assert_array_equal(manifest.clean_labels, DIGITS.labels)
    manifest.verify(DIGITS.labels)


@pytest.mark.parametrize("when", ["after", "before"])
def test_shares_that_are_set_apart_are_of_the_subset(when: str) -> None:
    manifest = made(val_fraction=0.2, val_split=when, trusted=0.25)
    assert manifest.val is not None and manifest.trusted is not None
    assert (
        manifest.val.sum() == 60
        and manifest.trusted.sum() == 60
        and manifest.in_training.sum() == 240
    )
    assert (
        not (manifest.val & ~manifest.included).any()
        and not (manifest.trusted & ~manifest.in_training).any()
    )
    wrong = (manifest.labels != DIGITS.labels)[manifest.val].sum()
    assert wrong == pytest.approx(24, abs=5 if when == "before" else 12)


def test_part_dependent_noise_looks_at_the_images_of_the_subset() -> None:
    manifest = make_manifest(DIGITS, LabelRequest("pdn(rate=0.4)", subset=300), outside=outside())
    again = make_manifest(DIGITS, LabelRequest("pdn(rate=0.4)", subset=300), outside=outside())
    whole = make_manifest(DIGITS, LabelRequest("pdn(rate=0.4)"), outside=outside())
    assert (
        manifest.sha256 == again.sha256
        and manifest.meta["images_sha256"] == whole.meta["images_sha256"]
    )
    assert manifest.meta["realised_rate"] == pytest.approx(0.4, abs=0.09)


def test_a_teachers_factor_is_solved_for_the_subset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    i, k = np.ogrid[:1297, :10]
    scores = (i * 37 + k * k * 11) % 97 + 1 + np.where(k == DIGITS.labels[:, None], i * 13 % 200, 0)
    np.save("t.npy", scores / scores.sum(1, keepdims=True))
    rates, factors = zip(*((m.meta["realised_rate"], m.meta["factor"]) for m in (
        make_manifest(DIGITS, LabelRequest("plc(predictions='t.npy', rate=0.35)", subset=n), outside=outside()) for n in (300, None)
    )), strict=True)  # fmt: skip
    assert rates[0] == pytest.approx(0.35, abs=0.09) and factors[0] != factors[1]


def test_peoples_labels_are_there_for_all_and_counted_in_the_subset(tmp_path: Path) -> None:
    theirs = np.roll(DIGITS.labels, 1)
    np.save(tmp_path / "theirs.npy", theirs)
    manifest = make_manifest(
        DIGITS,
        LabelRequest(f"imported(file={str(tmp_path / 'theirs.npy')!r})", subset=300),
        outside=outside(),
    )
    np.testing.assert_array_equal(manifest.labels, theirs)
    assert (
        manifest.included.sum() == 300
        and manifest.meta["realised_rate"] == (theirs != DIGITS.labels)[manifest.included].mean()
    )
    own = made("imported(own)")
    assert (
        own.known_fraction == 0
        and own.meta["realised_rate"] is None
        and (own.clean_labels == -1).all()
    )


def test_images_of_another_set_come_into_the_subset_alone(
    digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space = Workspace(tmp_path)
    manifest, _ = space.make(
        DATASETS["digits"],
        LabelRequest("openset(symmetric(0.2), rate=0.3, source='fashionmnist')", subset=300),
    )
    assert manifest.source is not None
    replaced = manifest.source >= 0
    sizes = np.bincount(DIGITS.labels[manifest.included], minlength=10)
    assert not (replaced & ~manifest.included).any()
    assert np.bincount(DIGITS.labels[replaced], minlength=10).tolist() == [
        expected(0.3, int(n)) for n in sizes
    ]
    assert (manifest.clean_labels[manifest.dropped] >= 0).all()


def test_python_has_the_labels_of_the_command() -> None:
    manifest = made(seed=2)
    found = nb.corrupt(DIGITS.labels, "symmetric(rate=0.4)", num_classes=10, seed=2, subset=300)
    np.testing.assert_array_equal(found >= 0, manifest.included)
    np.testing.assert_array_equal(found[found >= 0], manifest.labels[manifest.included])
    with pytest.raises(ConfigError, match="positive number of training images"):
        nb.corrupt(DIGITS.labels, "symmetric(rate=0.4)", num_classes=10, subset=0)


# The manifest


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_manifest_of_a_subset_is_read_back(suffix: str, tmp_path: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="a .parquet manifest needs pyarrow")
    manifest = made(val_fraction=0.1, trusted=0.1)
    manifest.write(tmp_path / f"m{suffix}")
    back = read_manifest(tmp_path / f"m{suffix}")
    assert back.sha256 == manifest.sha256 and back.meta["subset"] == 300
    np.testing.assert_array_equal(back.included, manifest.included)
    assert (
        file_name(back, DIGITS.dataset) == "digits-300-sym0.4-val0.1-trusted0.1-s0.csv"
        and back.dataset_text == "digits, of which 300"
    )
    assert file_name(made(convention="sl2019"), DIGITS.dataset) == "digits-300-sym0.4-sl2019-s0.csv"


def test_files_keep_their_names_and_a_review_by_path_works_on_a_subset(tmp_path: Path) -> None:
    names = tuple(f"train/{number}.png" for number in range(100))
    data = Labels(UNEVEN.dataset, UNEVEN.labels, names)
    manifest = make_manifest(data, LabelRequest("symmetric(rate=0.4)", subset=50))
    assert manifest.ids == names and data.take(np.array([3, 7])).ids == (
        "train/3.png",
        "train/7.png",
    )
    wrong = np.flatnonzero(manifest.labels != data.labels)[:5]
    frame = {"path": [names[at] for at in wrong], **{key: [data.dataset.classes[k] for k in labels[wrong]] for key, labels in (
        ("recorded", manifest.labels), ("suggested", data.labels))}}  # fmt: skip
    pd.DataFrame(frame).to_csv(tmp_path / "s.csv", index=False)
    text = f"reviewed(symmetric(rate=0.4), action='relabel', suspects={str(tmp_path / 's.csv')!r})"
    again = make_manifest(data, LabelRequest(text, subset=50), outside=outside(data))
    assert (
        again.labels[wrong] == data.labels[wrong]
    ).all() and again.num_wrong == manifest.num_wrong - 5  # type: ignore[operator]


def test_a_header_that_says_another_subset_is_refused(tmp_path: Path) -> None:
    manifest = made()
    manifest.meta["subset"] = 299
    manifest.write(tmp_path / "m.csv")
    with pytest.raises(ManifestError, match="disagree about the subset"):
        read_manifest(tmp_path / "m.csv")


def listing(path: Path, manifest: Manifest, which: np.ndarray) -> Path:
    frame = {"index": which, "recorded": manifest.labels[which], "suggested": DIGITS.labels[which]}
    pd.DataFrame(frame).to_csv(path, index=False)
    return path


def test_a_subset_can_be_reviewed_and_made_again(tmp_path: Path) -> None:
    manifest = made()
    wrong = np.flatnonzero(manifest.labels != DIGITS.labels)
    path = listing(tmp_path / "s.csv", manifest, wrong[:50])
    after = review_manifest(DIGITS, manifest, path, "drop", outside()).after
    again = make_manifest(
        DIGITS,
        LabelRequest(
            f"reviewed(symmetric(rate=0.4), action='drop', suspects={str(path)!r})", subset=300
        ),
        outside=outside(),
    )
    assert (
        after.sha256 == again.sha256
        and after.in_training.sum() == 250
        and after.meta["subset"] == 300
    )
    listing(path, manifest, np.flatnonzero(manifest.dropped)[:1])
    with pytest.raises(DataError, match="is not in the subset"):
        SubsetInputs(outside(), DIGITS.labels, np.flatnonzero(manifest.included)).review(
            str(path), None, manifest.labels[manifest.included]
        )


def test_presets_by_data_set_hold_and_the_key_is_another() -> None:
    keys = set()
    for subset in (300, 600, None):
        run = resolve_run(
            RunRequest("dividemix", precision="fp32"),
            DIGITS.dataset,
            made("symmetric(rate=0.2)", subset=subset),
            "data",
        )
        assert run.method == "dividemix"
        assert (
            str(run.strategy).startswith("dividemix")
            and "lambda_u" in find_method("dividemix").preset("digits", "symmetric", 0.2).strategy
        )
        keys.add(run.key)
    assert len(keys) == 3


# On the command line


def only(place: Path) -> tuple[RunFolder, dict[str, Any], dict[str, np.ndarray]]:
    (folder,) = run_folders([place])
    return folder, folder.record(), folder.read_arrays()


WISH = "--sym 0.4 --subset 300 --val-fraction 0.1 --epochs 3 --precision fp32"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    assert main(["-q", "-C", str(place), "train", "digits", *WISH.split()]) == 0
    return place


def test_what_is_counted_of_a_run_is_in_training(trained: Path) -> None:
    folder, record, arrays = only(trained)
    assert folder.path.name.startswith("digits-300-sym0.4-val0.1-s0_mlp_ce_seed0__")
    assert (
        record["expected"]["train"] == record["metrics"]["train"]["n"] == 270
        and record["metrics"]["val"]["n"] == 30
    )
    assert (
        record["metrics"]["train"]["wrong_labels"] + record["metrics"]["val"]["wrong_labels"]
        == made().num_wrong
    )
    assert (
        record["title"].startswith("ce on digits, of which 300, symmetric")
        and record["noise"]["subset"] == 300
    )
    assert (
        arrays["in_training"].sum() == 270
        and arrays["dropped"].sum() == 997
        and len(arrays["train_log_p"]) == 1297
    )
    assert folder.read_history()[-1]["val_recorded"] == record["metrics"]["val"]["recorded"]


def test_a_run_is_rechecked_rebuilt_and_its_command_makes_it_again(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, record, _ = only(trained)
    assert main(["-q", "-C", str(trained), "evaluate", str(folder.path), "--verify"]) == 0
    assert rebuild(folder, Workspace(trained)).key == record["key"]
    command = repro_command(folder.about())
    assert "--subset 300" in command.command
    capsys.readouterr()
    assert main(["-C", str(tmp_path), *command.words[1:], "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == record["key"]


def test_folds_are_of_the_subset(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _, _ = only(trained)
    run = rebuild(folder, Workspace(trained))
    folds = make_folds(run, folder, 3)
    assert [int(fold.run.manifest.in_training.sum()) for fold in folds] == [180] * 3
    assert folds[0].run.manifest.meta["val_fraction"] == pytest.approx(120 / 300, abs=0.01)
    assert all(not (fold.run.manifest.val & ~run.manifest.included).any() for fold in folds)
    capsys.readouterr()
    assert (
        main(
            [
                "-q",
                "-C",
                str(trained),
                "evaluate",
                str(folder.path),
                "--cv-folds",
                "2",
                "--suspects",
                str(trained / "s.csv"),
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)[0]["suspects"]["of"] == 300
    assert run.manifest.included[pd.read_csv(trained / "s.csv")["index"]].all()


def test_a_run_that_is_interrupted_goes_on_as_if_it_had_not_been(
    trained: Path, tmp_path: Path
) -> None:
    from noisebench.errors import Interrupted
    from noisebench.runs.checkpoint import RunOptions
    from noisebench.runs.session import execute_run, make_trainer

    run = rebuild(only(trained)[0], Workspace(trained))
    images, folder = (
        Workspace(trained).training_images(run),
        RunFolder(tmp_path / "again"),
    )
    stop = iter([False] * 7 + [True])
    with pytest.raises(Interrupted):
        execute_run(
            run,
            images,
            make_trainer(run, images, "cpu"),
            folder,
            RunOptions(should_stop=lambda: next(stop)),
        )
    execute_run(run, images, make_trainer(run, images, "cpu"), folder, RunOptions())
    for name in ("train_log_p", "test_log_p"):
        np.testing.assert_array_equal(folder.read_arrays()[name], only(trained)[2][name])


def test_when_a_network_doubts_more_is_asked_of_the_subset_alone() -> None:
    recorded, other = np.zeros(100, np.int32), np.ones((100, 1), np.int32)
    late, early = (
        np.where(np.arange(100)[:, None] < 2, other, 0),
        np.where(np.arange(100)[:, None] < 10, other, 0),
    )
    beyond = np.arange(100) >= 50
    late[beyond] = early[beyond] = 1  # what no network was trained on it doubts early and late
    arrays = {"recorded_labels": recorded, "train_classes": late, "early_classes": early}
    assert better_score(arrays) == "last" and better_score({**arrays, "dropped": beyond}) == "early"


def test_the_commands_say_the_subset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "-C",
        str(tmp_path),
        "corrupt",
        "fashionmnist",
        "--sym",
        "0.4",
        "--subset",
        "10000",
    ]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert (
        "10,000 of 60,000 in 10 classes" in out
        and "40.00 % of these 10,000" in out
        and "dropped" not in out
    )
    assert "fashionmnist-10000-sym0.4-s0.csv written" in err
    assert (
        main([*arguments, "--json"]) == 0 and json.loads(capsys.readouterr().out)["subset"] == 10000
    )
    assert main(["-C", str(tmp_path), "list", "manifests", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["n"] == 60000 and row["subset"] == 10000


@pytest.mark.parametrize(
    "arguments",
    [
        ["corrupt", "--subset", "9", "--manifest", "m.csv", "--suspects", "s.csv", "--drop"],
        ["train", "--subset", "9"],
    ],
)
def test_without_a_noise_a_subset_has_no_effect(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(tmp_path), *arguments]) == 2
    assert "--subset has an effect with a noise only" in capsys.readouterr().err


# Suites and tables

SUITE = """
version: 1
suites:
  sizes:
    defaults: {dataset: digits, epochs: 2, seeds: [0, 1], precision: fp32, strategy: standard}
    matrix: {noise: [symmetric(rate=0.4)], loss: [ce, mae], subset: [300, 600]}
    exclude: [{subset: 600, loss: mae}]
"""


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sizes")
    (place / "benchmarks.yaml").write_text(SUITE)
    assert main(["-q", "-C", str(place), "run", "sizes", "--jobs", "1"]) == 0
    assert main(["-q", "-C", str(place), "run", "sizes", "--jobs", "1"]) == 0
    assert (
        main(
            [
                "-q",
                "-C",
                str(place),
                "train",
                "digits",
                "--sym",
                "0.4",
                "--epochs",
                "2",
                "--precision",
                "fp32",
            ]
        )
        == 0
    )
    return place


def cells(place: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["-C", str(place), "report", "--format", "json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)["cells"]


def test_every_size_of_a_suite_is_a_table_of_its_own(
    sizes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {(cell["method"], cell.get("subset")): cell["n"] for cell in cells(sizes, capsys)}
    assert found == {("ce", 300): 2, ("mae", 300): 2, ("ce", 600): 2, ("ce", None): 1}
    assert main(["-C", str(sizes), "report", "--format", "md"]) == 0
    out = capsys.readouterr().out
    assert (
        "**digits, of which 300, mlp" in out
        and "**digits, of which 600, mlp" in out
        and "**digits, mlp" in out
    )


def test_sizes_stand_side_by_side_where_they_are_asked_for(
    sizes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(sizes), "report", "--rows", "method,subset", "--format", "md"]) == 0
    out = capsys.readouterr().out
    heads = re.findall(r"^\| ((?:ce|mae), [^|]*?) \|", out, re.M)
    assert (
        heads == ["ce, of which 300", "ce, of which 600", "ce, all", "mae, of which 300"]
        and "**9" not in out.partition("\n|")[2]
    )
    assert {
        cell["subset"]
        for cell in cells(sizes, capsys, "--cols", "subset", "--filter", "subset=300")
    } == {300}
    assert {cell.get("subset") for cell in cells(sizes, capsys, "--filter", "subset=all")} == {None}


def test_the_gate_compares_a_size_with_itself(
    sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = str(tmp_path / "b.json")
    check = ["-C", str(sizes), "report", "--check", "--baseline", baseline, "--tolerance", "0"]
    assert main(["-C", str(sizes), "report", "--save-baseline", baseline]) == 0
    assert main([*check, "-o", str(tmp_path / "r.xml")]) == 0
    assert "baseline" not in (tmp_path / "r.xml").read_text()
    capsys.readouterr()
    assert main([*check, "--filter", "subset=600"]) == 5
    assert "missing: last of ce on digits, of which 300, symmetric" in capsys.readouterr().err


def test_the_page_and_the_published_numbers_say_it(sizes: Path, tmp_path: Path) -> None:
    assert main(["-q", "-C", str(sizes), "report", "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert (
        "of which 300" in page
        and "--subset 300" in page
        and re.search(r"label issues in 300 labels", page)
    )


def test_another_number_of_images_is_another_experiment_than_the_published_one(
    tmp_path: Path,
) -> None:
    about = {
        "data": {"name": "cifar10", "sha256": "d"},
        "model": {"name": "cnn8"},
        "recipe": {"name": "apl", "epochs": 120},
    }
    mismatches = []
    for subset in ({}, {"subset": 10_000}):
        folder = add(tmp_path / f"runs{len(subset)}", **about)
        noise = {"text": "symmetric(rate=0.4)", "seed": 0, "realised_rate": 0.4, **subset}
        folder.write_json(folder.result, {**json.loads(folder.result.read_text()), "noise": noise})
        (cell,) = nb.report(folder.path.parent, published="eps-softmax").document()["cells"]
        mismatches.append(
            [text for text in cell["published"]["mismatches"] if "training images" in text]
        )
    assert mismatches == [[], ["ours with 10,000 of the training images"]]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "subset: [300, 600]",
            "subset: [300, x]",
            "6:75: matrix.subset.1: Input should be a valid integer",
        ),
        ("subset: [300, 600]", "subset: [300, 0]", "positive number of training images, got 0"),
        (
            "subset: [300, 600]",
            "subset: [300, 600, 1300]",
            "--subset 1300: digits has 1297 training images",
        ),
        ("loss: [ce, mae]", "loss: [ce, 3]", "matrix.loss.1: Input should be a valid string"),
        (
            "strategy: standard",
            "strategy: standard, subset: 0",
            "positive number of training images, got 0",
        ),
    ],
)
def test_a_wrong_size_in_a_suite_is_said(old: str, new: str, said: str, tmp_path: Path) -> None:
    from noisebench.experiments.suite import read_suites

    path = tmp_path / "s.yaml"
    path.write_text(SUITE.replace(old, new))
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_suites(path)
