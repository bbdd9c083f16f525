"""What `evaluate` says of finished runs, and what their networks say of other data sets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from noisebench.cli import main
from noisebench.core.classes import same_classes
from noisebench.datasets import Images
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.strategies import STRATEGIES, Strategy, build_strategy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("trained")
    assert (
        main(
            [
                "-q",
                "-C",
                str(root),
                "train",
                "digits",
                "--sym",
                "0.4",
                "--strategy",
                "coteaching",
                "--epochs",
                "3",
            ]
        )
        == 0
    )
    return run_folders([root])[0]


def answer(capsys: pytest.CaptureFixture[str], folder: RunFolder, *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert (
        main(
            [
                "-q",
                "-C",
                str(folder.path.parent.parent),
                "evaluate",
                str(folder.path),
                *words,
                "--json",
            ]
        )
        == 0
    )
    found: dict[str, Any] = json.loads(capsys.readouterr().out)[0]
    return found


def refusal(capsys: pytest.CaptureFixture[str], folder: RunFolder, *words: str) -> str:
    assert (
        main(["-q", "-C", str(folder.path.parent.parent), "evaluate", str(folder.path), *words])
        == 2
    )
    return capsys.readouterr().err


def as_npz(path: Path, digits: Images, **arrays: np.ndarray) -> str:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(path, **{name: arrays.get(name, getattr(digits, name)) for name in names})  # type: ignore[arg-type]
    return str(path)


def test_on_its_own_data_set_a_run_says_what_it_said_of_its_test_set(
    trained: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, trained, "--eval-on", "digits")
    assert found["on"]["digits"] == {
        "dataset": "digits", "classes_by": "number", "expected": 500, **found["test"], "confusion": found["confusion"],
        "images": ["used unchanged"], "trained_on": 0,
    }  # fmt: skip


def test_on_other_images_it_says_what_these_are_like(
    trained: RunFolder, digits: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = as_npz(
        tmp_path / "turned.npz",
        digits,
        test_images=digits.test_images[:200, ::-1],
        test_labels=digits.test_labels[:200],
    )
    cut = as_npz(
        tmp_path / "cut.npz",
        digits,
        test_images=digits.test_images[:200],
        test_labels=digits.test_labels[:200],
    )
    found = answer(capsys, trained, "--eval-on", turned, "--eval-on", cut)
    predicted = trained.read_arrays()["test_classes"][:200, 0]
    assert list(found["on"]) == [turned, cut] and {each["n"] for each in found["on"].values()} == {
        200
    }
    assert (
        found["on"][cut]["top1"]
        == (predicted == digits.test_labels[:200]).mean()
        > found["on"][turned]["top1"]
    )
    assert np.trace(found["on"][turned]["confusion"]) == found["on"][turned]["top1"] * 200


def test_the_normalisation_is_that_of_the_training_set(
    trained: RunFolder, digits: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark = as_npz(tmp_path / "dark.npz", digits, train_images=digits.train_images // 4)
    found = answer(capsys, trained, "--eval-on", dark)
    assert found["on"][dark]["top1"] == found["test"]["top1"]
    written = trained.record()["data"]["normalisation"]
    pixels = digits.train_images.astype(np.float64)
    assert [written["mean"][0], written["std"][0]] == pytest.approx([pixels.mean(), pixels.std()])


def test_weights_and_record_are_enough(
    trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = RunFolder(tmp_path / "runs" / "alone__1")
    alone.path.mkdir(parents=True)
    for path in (trained.result, trained.weights, trained.predictions):
        (alone.path / path.name).write_bytes(path.read_bytes())
    found = answer(capsys, alone, "--eval-on", "digits")
    assert found["on"]["digits"]["nll"] == found["test"]["nll"]


def test_an_older_run_needs_the_images_that_it_was_trained_on(
    trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = trained.path.parent.parent
    old = RunFolder(tmp_path / "old__1")
    old.path.mkdir()
    for path in (trained.weights, trained.predictions):
        (old.path / path.name).write_bytes(path.read_bytes())
    record = json.loads(trained.result.read_text())
    del record["data"]["normalisation"], record["data"]["shape"]
    old.result.write_text(json.dumps(record))
    (manifest,) = (root / "manifests").glob("*.csv")
    assert "give it by --manifest FILE" in refusal(capsys, old, "--eval-on", "digits")
    found = answer(capsys, old, "--eval-on", "digits", "--manifest", str(manifest))
    assert found["on"]["digits"]["nll"] == found["test"]["nll"]


def pictures(root: Path, digits: Images, names: list[str], parts: tuple[str, ...]) -> None:
    """A folder of colour images: ten of each class, in train/ of the training images."""
    for part in parts:
        images, labels = (
            (digits.train_images, digits.train_labels)
            if part == "train"
            else (digits.test_images, digits.test_labels)
        )
        for number, name in enumerate(names):
            (root / part / name).mkdir(parents=True)
            for i in np.flatnonzero(labels == number)[:10]:
                Image.fromarray(np.repeat(images[i], 3, 2)).save(root / part / name / f"{i}.png")


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory, digits: Images) -> RunFolder:
    root = tmp_path_factory.mktemp("pictures")
    pictures(root / "set", digits, ["nil", "one", "two"], ("train", "test"))
    assert (
        main(["-q", "-C", str(root), "train", str(root / "set"), "--sym", "0.2", "--epochs", "2"])
        == 0
    )
    return run_folders([root])[0]


def test_classes_are_matched_by_name(
    of_pictures: RunFolder, digits: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["nil", "one", "two"]
    pictures(tmp_path / "set", digits, names, ("train", "test"))
    (tmp_path / "set" / "train" / "one").rename(tmp_path / "set" / "train" / "x")
    (tmp_path / "set" / "test" / "one").rename(tmp_path / "set" / "test" / "x")
    assert "only one of them has one; x" in refusal(
        capsys, of_pictures, "--eval-on", str(tmp_path / "set")
    )
    pictures(tmp_path / "same", digits, names, ("train", "test"))
    found = answer(capsys, of_pictures, "--eval-on", str(tmp_path / "same"))
    assert found["on"][str(tmp_path / "same")] == {
        **found["on"][str(tmp_path / "same")], **found["test"], "classes_by": "name", "confusion": found["confusion"],
    }  # fmt: skip


def test_the_test_images_of_a_folder_may_lie_elsewhere(
    of_pictures: RunFolder, digits: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "set", digits, ["nil", "one", "two"], ("train", "elsewhere"))
    place = str(tmp_path / "set")
    found = answer(
        capsys, of_pictures, "--eval-on", place, "--test", str(tmp_path / "set" / "elsewhere")
    )
    assert found["on"][place]["nll"] == found["test"]["nll"]
    assert "has no test images" in refusal(capsys, of_pictures, "--eval-on", place)


def test_classes_are_matched_by_name_where_both_have_names() -> None:
    for own, others, numbers in (
        ("abc", "abc", [0, 1, 2]), ("abc", "cab", [2, 0, 1]), ("abc", "012", [0, 1, 2]), ("012", "abc", [0, 1, 2]),
        ("012", "012", [0, 1, 2]),
    ):  # fmt: skip
        assert same_classes(list(own), list(others)) == numbers, (own, others)


def test_classes_that_do_not_match_are_named() -> None:
    for own, others, why in (
        ("abc", "abd", "only one of them has c; d"),
        ("abc", "ab", "only one of them has c"),
        ("abc", "01", r"3 classes \(a, b, c\), but 2 \(0, 1\)"),
    ):
        with pytest.raises(ValueError, match=why):
            same_classes(list(own), list(others))


def test_images_of_another_size_are_brought_to_the_runs_as_its_own_would_be(
    trained: RunFolder,
    of_pictures: RunFolder,
    digits: Images,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each pixel four times, so that a bilinear reduction to half gives back the digit but for its
    edges; grey for a run in colour.
    """
    large = {
        f"{part}_images": getattr(digits, f"{part}_images").repeat(4, 1).repeat(4, 2)
        for part in ("train", "test")
    }
    larger, coloured = as_npz(tmp_path / "larger.npz", digits, **large), tmp_path / "set"
    found = answer(capsys, trained, "--eval-on", larger)["on"][larger]
    assert (
        found["images"] == ["all images of 32x32: resized to 8x8 pixels (crop)"]
        and found["n"] == 500
    )
    assert found["top1"] > 0.9 * answer(capsys, trained)["test"]["top1"]
    pictures(coloured, digits, ["nil", "one", "two"], ("train", "test"))
    for path in coloured.rglob("*.png"):
        Image.open(path).resize((34, 34), Image.Resampling.NEAREST).save(path)
    for reader, said in (
        ("", "30 of 30 test images: resized to 8x8 pixels (crop)"),
        ("folder:", "evaluated at 8x8 pixels (crop)"),
    ):
        name = f"{reader}{coloured}"
        found = answer(capsys, of_pictures, "--eval-on", name)
        assert (
            found["on"][name]["images"] == [said]
            and found["on"][name]["top1"] > 0.9 * found["test"]["top1"]
        )


def test_images_of_another_number_of_classes_are_refused(
    trained: RunFolder, digits: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ("train", "test")
    few = as_npz(
        tmp_path / "few.npz",
        digits,
        **{f"{part}_labels": getattr(digits, f"{part}_labels") // 2 for part in parts},
    )
    assert "10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), but 5" in refusal(
        capsys, trained, "--eval-on", few
    )
    assert "unknown dataset 'digit': did you mean 'digits'?" in refusal(
        capsys, trained, "--eval-on", "digit"
    )


WITHOUT_EFFECT = [
    (["--test", "somewhere"], "give exactly one --eval-on"),
    (
        ["--device", "cpu"],
        "--device has an effect with --eval-on, --verify, --cv-folds and --score",
    ),
    (
        ["--manifest", "m.csv"],
        "--manifest has an effect with --eval-on, --verify, --cv-folds and --suspects only",
    ),
    (["--verify", "--eval-on", "digits"], "--verify writes no file"),
    (["--verify", "--cv-folds", "2"], "--verify writes no file"),
    (["--verify", "--suspects", "s.csv"], "--verify writes no file"),
    (["--eval-on", "digits", "--device", "abacus"], "device 'abacus' is not available"),
    (["--verify", "--device", "abacus"], "device 'abacus' is not available"),
]


def test_an_option_without_effect_is_refused(
    trained: RunFolder, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    for words, why in WITHOUT_EFFECT:
        with subtests.test(" ".join(words)):
            assert why in refusal(capsys, trained, *words)


def test_missing_weights_are_said(
    trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = RunFolder(tmp_path / "bare__1")
    bare.path.mkdir()
    for path in (trained.result, trained.predictions):
        (bare.path / path.name).write_bytes(path.read_bytes())
    assert "predictions need the weights" in refusal(capsys, bare, "--eval-on", "digits")


def test_without_a_question_to_the_networks_torch_is_not_loaded(trained: RunFolder) -> None:
    command = (
        f"from noisebench.cli import main\nassert main(['evaluate', {str(trained.path)!r}]) == 0"
    )
    script = f"import sys\n{command}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_the_text_says_each_number_in_a_line_of_its_own(
    trained: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, trained)
    assert main(["evaluate", str(trained.path), "--eval-on", "digits"]) == 0
    text = capsys.readouterr().out
    test, detection = found["test"], found["train"]["detection"]
    assert (
        f"NLL {test['nll']:.4f} nats, Brier {test['brier']:.4f} (0 to 2), ECE {100 * test['ece']:.2f} %"
    ) in text
    first, wrong = (f"{100 * detection['precision_at'][n]:.2f} %" for n in ("100", "wrong"))
    assert (
        f"precision@100 {first}, @518 (number of incorrect labels) {wrong}, chance 39.94 %" in text
    )
    assert text.count("most common mistake") == 2 and "on digits, classes by number" in text


def test_report_shows_what_evaluate_prints(
    trained: RunFolder, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    evaluated = answer(capsys, trained)
    detection = evaluated["train"]["detection"]
    known = {
        **evaluated["test"],
        **detection,
        **{f"precision_at_{n}": share for n, share in detection["precision_at"].items()},
    }
    for name in (
        "brier",
        "p_true",
        "average_precision",
        "f1",
        "precision_at_100",
        "precision_at_1000",
        "precision_at_wrong",
    ):
        with subtests.test(name):
            assert (
                main(["-C", str(trained.path.parent.parent), "report", "--metric", name, "--json"])
                == 0
            )
            assert json.loads(capsys.readouterr().out)["cells"][0]["mean"] == known[name]


def test_what_networks_say_together_depends_on_no_state_of_their_strategy() -> None:
    """So that networks can be asked again without the training that made them."""
    ours = [entry for entry in STRATEGIES if entry.build.__module__.startswith("noisebench.")]
    assert {entry.name for entry in ours} > {
        "coteaching",
        "joint",
        "distill",
        "mentornet",
        "forward_estimated",
    }
    built = [
        build_strategy(
            f"{entry.name}(rate=0.2)" if any(p.auto for p in entry.parameters) else entry.name
        )
        for entry in ours
    ]
    assert {type(strategy).predict for strategy in built} == {Strategy.predict} and not any(
        strategy.state for strategy in built
    )
