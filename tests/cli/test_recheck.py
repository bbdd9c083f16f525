"""A finished run is reproduced; none that was tampered with passes."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisebench.cli import main
from noisebench.core.files.arrays import packed_npz
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.result import load_predictions
from noisebench.runs.verify import (
    DIFFERS,
    SAME,
    TOLERANCE,
    UNDECIDED,
    Check,
    verify_run,
    worst_status,
)
from noisebench.runs.workspace import Workspace

EPOCHS = ("--epochs", "2")
KINDS = {
    "plain": "--sym 0.4 --loss el",
    "fp32": "--sym 0.4 --precision fp32",
    "two networks, held out": "--pair 0.3 --strategy coteaching --val-fraction 0.1",
    "verified": "--sym 0.4 --trusted 0.2 --strategy distill",
    "estimated": "--sym 0.4 --loss el --eps estimated",
    "T found": "--asym 0.3 --map digits --strategy forward_estimated(first=0.5)",
    "nobody knows": "--labels own",
    "batch norm": "--sym 0.4 --model cnn8 --subset 300",
}


def train(root: Path, asked: str) -> RunFolder:
    assert main(["-q", "-C", str(root), "train", "digits", *asked.split(), *EPOCHS]) == 0
    (folder,) = run_folders([root])
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(tmp_path_factory.mktemp("original"), KINDS["two networks, held out"])


@pytest.fixture
def copy(original: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the run, in a workspace of its own."""
    shutil.copytree(original.path.parent.parent, tmp_path, dirs_exist_ok=True)
    return run_folders([tmp_path])[0]


@pytest.fixture
def fresh_copy(original: RunFolder, tmp_path: Path) -> Callable[[], RunFolder]:
    """Makes a copy of the workspace for each case of a test."""

    def make() -> RunFolder:
        place = shutil.copytree(
            original.path.parent.parent, tmp_path / str(len(list(tmp_path.iterdir())))
        )
        return run_folders([place])[0]

    return make


def outcomes(folder: RunFolder) -> dict[str, str]:
    return {check.name: check.status for check in checks(folder)}


def checks(folder: RunFolder) -> list[Check]:
    return verify_run(folder, Workspace(folder.path.parent.parent, offline=True))


def change(folder: RunFolder, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit result.json."""
    record = json.loads(folder.result.read_text())
    edit(record)
    folder.result.write_text(json.dumps(record))


def repredict(
    folder: RunFolder, edit: Callable[[dict[str, np.ndarray]], object], *, sealed: bool
) -> None:
    """Edit predictions.npz; `sealed`: with the checksum made to fit, as who tampers on purpose
    would.
    """
    arrays = folder.read_arrays()
    edit(arrays)
    folder.write(folder.predictions, packed_npz(arrays))
    if sealed:
        change(folder, lambda record: record.update(files=folder.checksums()))


def edit_both(folder: RunFolder, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Edit the predictions, and the numbers that follow from them, so that inference with the
    networks alone can tell.
    """
    repredict(folder, edit, sealed=True)
    K = folder.record()["data"]["num_classes"]
    made = load_predictions(folder, K).metrics(K)
    change(
        folder, lambda record: record["metrics"].update(made, memorised=made["train"]["memorised"])
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_every_kind_is_reproduced(kind: str, tmp_path: Path) -> None:
    found = checks(train(tmp_path, KINDS[kind]))
    assert worst_status(found) == SAME, found
    assert [check.name for check in found][:8] == [
        "settings",
        "files",
        "predictions",
        "examples",
        "numbers",
        "epochs",
        "noise",
        "labels",
    ]
    assert all("0 of" in check.detail and "at most 0," in check.detail for check in found[8:]), (
        "on one machine bit for bit"
    )


def test_a_run_out_of_a_pack_is_reproduced(tmp_path: Path) -> None:
    matrix = "{noise: ['symmetric(rate=0.4)'], method: [ce, el]}"
    suite = (
        "{defaults: {dataset: digits, recipe: digits, epochs: 2, seeds: [0, 1, 2]}, "
        f"matrix: {matrix}}}"
    )
    (tmp_path / "benchmarks.yaml").write_text(f"version: 1\nsuites: {{small: {suite}}}\n")
    assert main(["-q", "-C", str(tmp_path), "run", "small", "--jobs", "1"]) == 0
    folders = run_folders([tmp_path])
    assert {folder.record()["environment"]["packed"] for folder in folders} == {16}
    assert {worst_status(checks(folder)) for folder in folders} == {SAME}


def test_a_run_of_more_than_a_hundred_classes_is_reproduced_its_brier_score_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, labels = np.random.default_rng(0), np.arange(480) % 120
    images = np.clip(
        rng.integers(0, 255, (120, 8, 8))[labels] + rng.normal(0, 40, (480, 8, 8)), 0, 255
    ).astype(np.uint8)
    parts = {"train": slice(0, 360), "test": slice(360, 480)}
    arrays = {
        f"{part}_{what}": values[at]
        for part, at in parts.items()
        for what, values in (("images", images), ("labels", labels))
    }
    np.savez(tmp_path / "many.npz", **arrays)
    assert (
        main(
            [
                "-q",
                "-C",
                str(tmp_path),
                "train",
                str(tmp_path / "many.npz"),
                "--sym",
                "0.3",
                "--precision",
                "fp32",
                *EPOCHS,
            ]
        )
        == 0
    )
    (folder,) = run_folders([tmp_path])
    assert (
        set(outcomes(folder).values()) == {SAME}
        and 0 < folder.record()["metrics"]["test"]["brier"] < 2
    )
    for edit in (lower, forget_the_likeliest):
        other = RunFolder(
            shutil.copytree(
                folder.path, tmp_path / "runs" / f"{edit.__name__}__{folder.path.name[-8:]}"
            )
        )
        edit_both(other, edit)
        assert outcomes(other)["networks on test"] == DIFFERS, edit.__name__
    repredict(
        folder, lambda arrays: arrays.update(test_squared=arrays["test_squared"] / 2), sealed=True
    )
    assert outcomes(folder)["numbers"] == DIFFERS
    capsys.readouterr()
    # as an older version wrote it
    repredict(folder, lambda arrays: arrays.pop("test_squared"), sealed=True)
    assert (
        main(["-C", str(tmp_path), "evaluate", str(folder.path)]) == 0
        and ("nats, Brier not recorded, ECE") in capsys.readouterr().out
    )


NUMBERS = (
    "test.nll", "test.p_true", "test.brier", "train.detection.precision_at.wrong", "val.recorded", "memorised", "test.per_class.3",
)  # fmt: skip


def test_one_number_edited_differs_and_is_named(
    fresh_copy: Callable[[], RunFolder], subtests: pytest.Subtests
) -> None:
    for path in NUMBERS:
        with subtests.test(path):
            copy = fresh_copy()
            record = json.loads(copy.result.read_text())
            at: Any = record["metrics"]
            *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
            for key in way:
                at = at[key]
            at[last] += 1e-9
            copy.result.write_text(json.dumps(record))
            assert [
                (check.name, check.detail.split()[0])
                for check in checks(copy)
                if check.status != SAME
            ] == [("numbers", path)]


EDITED = [
    *(("epochs", lambda record, rule=rule: record["metrics"]["test_acc"].update({rule: 0.999}))
      for rule in ("last", "mean_last10", "at_noisy_val", "best")),
    *(("settings", lambda record, key=key, value=value: record.update({key: value}))
      for key, value in (("seed", 7), ("loss", "mae"), ("precision", "other"), ("key", "0" * 64))),
    *(("noise", lambda record, key=key, value=value: record["noise"].update({key: value}))
      for key, value in (("realised_rate", 0.1), ("seed", 3), ("known", 0.5), ("labels_sha256", "0"))),
    ("examples", lambda record: record["expected"].update(test=499)),
]  # fmt: skip


def test_an_edited_fact_differs_in_the_check_that_is_for_it(
    fresh_copy: Callable[[], RunFolder], subtests: pytest.Subtests
) -> None:
    for number, (name, edit) in enumerate(EDITED):
        with subtests.test(name, number=number):
            copy = fresh_copy()
            change(copy, edit)
            assert outcomes(copy)[name] == DIFFERS


def swap(arrays: dict[str, np.ndarray]) -> None:
    """One test image is predicted as the class that was second."""
    arrays["test_classes"][3, :2] = arrays["test_classes"][3, 1::-1]


def shift(arrays: dict[str, np.ndarray]) -> None:
    """One training image's probabilities are handed on by one class, ranking and all."""
    arrays["train_log_p"][5] = np.roll(arrays["train_log_p"][5], 1)
    arrays["train_classes"][5] = (arrays["train_classes"][5] + 1) % 10


def relabel(arrays: dict[str, np.ndarray]) -> None:
    arrays["recorded_labels"][0] = (arrays["recorded_labels"][0] + 1) % 10


def lower(arrays: dict[str, np.ndarray]) -> None:
    """The likeliest five classes of one test image become less likely; that leaves more to the
    others, which are not stored.
    """
    arrays["test_top_log_p"][7] -= 1


def forget_the_likeliest(arrays: dict[str, np.ndarray]) -> None:
    """The likeliest class of one test image is not stored, and the true class is in its place as
    the fifth; each log p is right.
    """
    classes, log_p = arrays["test_classes"], arrays["test_top_log_p"]
    outside = (classes != arrays["test_labels"][:, None]).all(1)
    at = int(np.where(outside, log_p[:, 0].astype(float) - log_p[:, 1], -1).argmax())
    classes[at] = *classes[at, 1:], arrays["test_labels"][at]
    log_p[at] = *log_p[at, 1:], arrays["test_clean_log_p"][at]


def blur(arrays: dict[str, np.ndarray]) -> None:
    arrays["test_log_p"][0] = np.nan


def test_one_prediction_or_label_changed_differs(
    fresh_copy: Callable[[], RunFolder], subtests: pytest.Subtests
) -> None:
    for edit, sealed in itertools.product((swap, shift, relabel, blur), (False, True)):
        with subtests.test(edit.__name__, sealed=sealed):
            copy = fresh_copy()
            repredict(copy, edit, sealed=sealed)
            found = outcomes(copy)
            assert found["files"] == (SAME if sealed else DIFFERS)
            assert DIFFERS in {status for name, status in found.items() if name != "files"}


def test_predictions_and_numbers_changed_together_are_found_by_the_networks(
    copy: RunFolder,
) -> None:
    edit_both(copy, shift)
    assert {name for name, status in outcomes(copy).items() if status != SAME} in (
        {"networks on training"},
        {"networks on the others"},
    )


@pytest.mark.parametrize("sealed", [False, True])
def test_another_runs_weights_differ(sealed: bool, copy: RunFolder, tmp_path: Path) -> None:
    other = train(tmp_path / "other", KINDS["two networks, held out"] + " --seed 1")
    shutil.copy(other.weights, copy.weights)
    if sealed:
        change(copy, lambda record: record.update(files=copy.checksums()))
    found = outcomes(copy)
    assert found["networks on test"] == found["networks on training"] == DIFFERS
    assert found["files"] == (SAME if sealed else DIFFERS)


FILES = ("predictions.npz", "model.safetensors", "metrics.csv", "config.yaml", "result.json")


def test_a_truncated_file_does_not_pass(
    fresh_copy: Callable[[], RunFolder],
    capsys: pytest.CaptureFixture[str],
    subtests: pytest.Subtests,
) -> None:
    for name, with_checksums in itertools.product(FILES, (True, False)):
        with subtests.test(name, with_checksums=with_checksums):
            copy = fresh_copy()
            if not with_checksums:
                change(copy, lambda record: record.pop("files"))
            path = copy.path / name
            path.write_bytes(path.read_bytes()[:-200])
            code = main(
                ["-q", "-C", str(copy.path.parent.parent), "evaluate", copy.path.name, "--verify"]
            )
            assert code in (4, 5) and "error: " in capsys.readouterr().err
            assert worst_status(checks(copy)) == (DIFFERS if code == 4 else UNDECIDED)


def test_a_missing_file_cannot_be_decided(
    fresh_copy: Callable[[], RunFolder], subtests: pytest.Subtests
) -> None:
    for name in FILES[:-1]:
        with subtests.test(name):
            copy = fresh_copy()
            (copy.path / name).unlink()
            found = checks(copy)
            assert worst_status(found) == UNDECIDED and any(
                name in check.detail for check in found if check.status == UNDECIDED
            )


def test_without_its_manifest_a_run_cannot_be_decided_and_says_what_to_give(
    copy: RunFolder, tmp_path: Path
) -> None:
    (path,) = (tmp_path / "manifests").glob("*.csv")
    elsewhere = path.rename(tmp_path / "elsewhere.csv")
    assert (
        checks(copy)[-1].detail.endswith("give it by --manifest FILE")
        and worst_status(checks(copy)) == UNDECIDED
    )
    assert worst_status(verify_run(copy, Workspace(tmp_path), elsewhere)) == SAME
    place = ["-q", "-C", str(tmp_path), "evaluate", copy.path.name, "--verify"]
    assert [
        main([*place, "--manifest", str(path)]) for path in (elsewhere, tmp_path / "nothing.csv")
    ] == [0, 2]


def test_an_older_record_is_checked_by_what_it_says(copy: RunFolder) -> None:
    def age(record: dict[str, Any]) -> None:
        for key in ("shape", "normalisation"):
            del record["data"][key]
        for part in ("train", "val"):
            for key in ("precision_at", "chance"):
                del record["metrics"][part]["detection"][key]
        del record["files"], record["metrics"]["test"]["brier"], record["metrics"]["test"]["p_true"]

    change(copy, age)
    assert set(outcomes(copy).values()) == {SAME} and "files" not in outcomes(copy)


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r["metrics"].pop("train"),
        lambda r: r.update(metrics=3),
        lambda r: r["data"].pop("num_classes"),
    ],
)
def test_a_record_that_lacks_something_cannot_be_decided(
    damage: Callable[[dict[str, Any]], object], copy: RunFolder
) -> None:
    change(copy, damage)
    assert "is damaged" in checks(copy)[-1].detail and worst_status(checks(copy)) == UNDECIDED


def test_the_answer_is_a_line_a_check_and_an_exit_code(
    copy: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-C", str(copy.path.parent.parent), "evaluate", copy.path.name, "--verify"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == copy.path.name
        and [line.split()[-1] for line in lines[1:]].count("differs") == 0
        and len(lines) == 12
    )
    change(copy, lambda record: record["metrics"]["test"].update(nll=0.5))
    assert main([*command, "--json"]) == 4
    captured = capsys.readouterr()
    (found,) = json.loads(captured.out)
    assert found["recheck"]["verdict"] == DIFFERS and captured.err == (
        f"error: not reproduced: {copy.path.name}\n"
    )
    assert [set(check) for check in found["recheck"]["checks"]] == [
        {"name", "status", "detail"}
    ] * 11


def test_of_several_runs_the_worst_counts(copy: RunFolder, original: RunFolder) -> None:
    copy.weights.unlink()
    both = [
        "-q",
        "-C",
        str(copy.path.parent.parent),
        "evaluate",
        str(original.path),
        str(copy.path),
        "--verify",
    ]
    assert main(both) == 5
    change(copy, lambda record: record["metrics"]["test"].update(nll=0.5))
    assert main(both) == 4


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    assert main(["-C", str(tmp_path), "evaluate", str(tmp_path), "--verify"]) == 2


@pytest.mark.parametrize(("off", "status"), [(0.5, SAME), (3.0, DIFFERS)])
def test_networks_may_be_off_by_the_tolerance_and_no_more(
    off: float, status: str, copy: RunFolder
) -> None:
    factor = 1 + off * TOLERANCE[copy.record()["precision"]]

    def sharpen(arrays: dict[str, np.ndarray]) -> None:
        """The logits of one test image times a factor: log p, relative to the smallest, is off by
        about as much; no rank changes.
        """
        logits = arrays["test_log_p"][0].astype(np.float64) * factor
        arrays["test_log_p"][0] = logits - np.log(np.exp(logits).sum())

    edit_both(copy, sharpen)
    found = outcomes(copy)
    differing = {name for name, result in found.items() if result != SAME}
    assert found["networks on test"] == status and differing <= {"networks on test"}


@pytest.mark.parametrize(
    ("choose", "status"), [(np.argmin, SAME), (np.argmax, DIFFERS)], ids=["near", "far"]
)
def test_another_class_is_predicted_only_where_two_are_as_near(
    choose: Callable[..., Any], status: str, copy: RunFolder
) -> None:
    def exchange(arrays: dict[str, np.ndarray]) -> None:
        """The two likeliest classes of one test image."""
        log_p, classes = arrays["test_log_p"], arrays["test_classes"]
        ranked = -np.sort(-log_p, axis=1)
        at = int(choose(ranked[:, 0] - ranked[:, 1]))
        first, second = classes[at, :2]
        log_p[at, [first, second]] = log_p[at, [second, first]]
        classes[at, :2] = second, first

    edit_both(copy, exchange)
    assert outcomes(copy)["networks on test"] == status
