"""The suite of those who have labels and know nothing of their noise: on their own data, from
trained weights, with a list at the end.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from noisebench.cli import main
from noisebench.datasets import Images
from noisebench.experiments.suite import read_suites
from noisebench.experiments.suite_file import packaged_suites
from noisebench.labels.issues import combine
from noisebench.labels.manifest import read_manifest
from noisebench.metrics.predictions import DENSE, TOP, Predictions
from noisebench.training.networks import make_network

SIDE = "--dataset mine.npz --model mlp --init-weights warm.pt --jobs 1"


@pytest.fixture
def desk(digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a set of somebody's own, a sixth of whose labels are wrong, and weights to
    begin from.
    """
    monkeypatch.chdir(tmp_path)
    arrays = {
        f"{part}_{kind}": getattr(digits, f"{part}_{kind}")[:120]
        for part in ("train", "test")
        for kind in ("images", "labels")
    }
    arrays["train_labels"] = np.where(
        np.arange(120) % 6 == 0, (arrays["train_labels"] + 1) % 10, arrays["train_labels"]
    )
    np.savez("mine.npz", **arrays)
    torch.save(make_network("mlp", 5, (8, 8, 1), 9).state_dict(), "warm.pt")
    return tmp_path


def run(*words: str) -> int:
    return main(["run", *words])


def test_the_suite_needs_no_noise_known_and_names_no_data_of_its_own(
    capsys: pytest.CaptureFixture[str], desk: Path
) -> None:
    suite = read_suites(packaged_suites())["practitioner"]
    assert (
        suite.defaults.init == "pretrained"
        and "el(eps=estimated)" in suite.matrix["loss"]
        and "ce" in suite.matrix["loss"]
    )
    assert run("practitioner") == 2
    assert (
        "has no dataset: add it to defaults or the matrix, or give --dataset NAME, FILE.npz or DIR"
    ) in capsys.readouterr().err


@pytest.mark.soak
def test_without_weights_it_fails_at_once_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(desk / "hub"))
    assert main(["--offline", "run", "practitioner", "--dataset", "mine.npz"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "give --init-weights FILE, or use --init-weights none" in said
    assert sorted(path.name for path in desk.iterdir()) == ["mine.npz", "warm.pt"], (
        "nothing was begun"
    )


def test_it_runs_on_ones_own_data_and_ends_with_the_labels_to_look_at(
    capsys: pytest.CaptureFixture[str], desk: Path
) -> None:
    assert run("practitioner", *SIDE.split(), "--shard", "1/5") == 0
    said = capsys.readouterr().err
    assert (
        not Path("doubted.csv").exists()
        and ("doubted.csv is not written: 8 of 10 runs are not finished") in said
    )
    assert run("practitioner", *SIDE.split()) == 0
    out, said = capsys.readouterr()
    assert "mlp, from warm" in out and "el" in out and "†" not in out, "nobody was told the truth"
    assert "its classifier has 5 classes, not 10: random classifier" in said
    listed = Path("doubted.csv").read_text().splitlines()
    assert (
        f"doubted.csv written: {len(listed) - 1} label issues in 120 labels, found by 10 runs together"
    ) in said
    assert listed[0] == "rank,index,given_label,predicted_label,label_quality" and len(listed) > 10
    words = (
        said[said.index("noisebench corrupt") :].splitlines()[0].partition(" (or")[0].split()[1:]
    )
    assert main(["-q", *words, "--out", "after.csv"]) == 0, "the next command is one"
    assert read_manifest(Path("after.csv")).included.sum() == 120 - (len(listed) - 1)
    Path("doubted.csv").write_text("worked on\n")
    assert run("practitioner", *SIDE.split()) == 0
    assert (
        Path("doubted.csv").read_text() == "worked on\n"
        and "exists already and is kept" in capsys.readouterr().err
    )


def test_a_list_of_several_labellings_is_refused_before_the_first_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(
        "version: 1\nsuites:\n  a:\n    defaults: {dataset: digits, epochs: 1, seeds: [0, 1]}\n"
        "    matrix: {noise: [symmetric(rate=0.4)], method: [ce]}\n    report: {suspects: "
        "doubted.csv}\n"
    )
    assert main(["-C", str(tmp_path), "run", str(tmp_path / "s.yaml")]) == 2
    assert (
        "but the suite has 2: fix noise, data set and noise_seed" in capsys.readouterr().err
        and not (tmp_path / "runs").exists()
    )


def said_of(n: int, K: int, seed: int) -> tuple[Predictions, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, K)).astype(np.float32) * 3
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = np.arange(n) % K
    return Predictions.of(log_p.astype(np.float32), labels, labels), labels, log_p


def test_together_is_the_mean_of_what_each_says() -> None:
    (first, labels, a), (second, _, b) = said_of(50, 10, 0), said_of(50, 10, 1)
    mean = (
        np.exp(a.astype(np.float16).astype(float)) + np.exp(b.astype(np.float16).astype(float))
    ) / 2
    both = combine([first, second], labels)
    assert np.array_equal(both.predicted, mean.argmax(1))
    np.testing.assert_allclose(np.exp(both.recorded_log_p), mean[np.arange(50), labels], rtol=5e-3)
    assert combine([first], labels) is first


def test_of_many_classes_the_likeliest_that_were_kept_are_added_up() -> None:
    K = DENSE + 20
    parts = [said_of(80, K, seed) for seed in range(3)]
    assert parts[0][0].dense is None
    kept = []
    for said, _, _ in parts:
        p = np.zeros((80, K))
        np.put_along_axis(p, said.classes, np.exp(said.log_p.astype(float)), 1)
        kept.append(p)
    mean, both = np.mean(kept, 0), combine([said for said, _, _ in parts], parts[0][1])
    assert both.classes.shape == (80, TOP) and np.array_equal(both.predicted, mean.argmax(1))
    np.testing.assert_allclose(np.exp(both.log_p), -np.sort(-mean, 1)[:, :TOP], rtol=1e-5)
    assert all(len(set(row)) == TOP for row in both.classes.tolist())
